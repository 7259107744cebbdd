"""Flow matching of action chunks: what chance decides, the error, and sampling that continues an earlier chunk.

The convention is `egem.models.flow_matching`'s: `x_t = (1 - t) * actions + t * noise`, velocity = noise - actions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from egem.batch import to_device
from egem.core.errors import ConfigError
from egem.models.flow_matching import integrate

Velocity = Callable[[Tensor, Tensor], Tensor]
"""From noisy chunks (sample, horizon, action_dim) and one noise level a sample to the velocity, float32."""

MAX_GUIDANCE = 5.0
"""Largest weight of the guidance, beta in the paper on real-time chunking."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkDraws:
    """What chance decides for some chunks: noise level and noise."""

    time: Float[Tensor, "sample"]
    noise: Float[Tensor, "sample horizon action_dim"]


def draw_chunks(
    shape: Sequence[int],
    *,
    distribution: Literal["uniform", "logistic-normal", "beta"],
    generator: torch.Generator | None,
    device: torch.device | str = "cpu",
) -> ChunkDraws:
    """Draw a noise level and noise ~ N(0, 1) for each chunk in turn.

    Args:
        shape: (sample, horizon, action_dim).
        distribution: of the noise level; see `ActionExpertConfig.time_distribution`.
        generator: a CPU generator; None uses torch's global one.
        device: where the results go.
    """
    times, noises = [], []
    for _ in range(shape[0]):
        if distribution == "logistic-normal":
            times.append(torch.randn((), generator=generator).sigmoid())
        else:
            # rand is in [0, 1): a level of exactly 0 would have nothing to learn.
            uniform = 1.0 - torch.rand((), generator=generator)
            # The distribution function of Beta(1.5, 1) is t ** 1.5.
            times.append(uniform ** (2 / 3) if distribution == "beta" else uniform)
        noises.append(torch.randn(*shape[1:], generator=generator))
    return ChunkDraws(
        time=to_device(torch.stack(times), device), noise=to_device(torch.stack(noises), device)
    )


def chunk_error(
    velocity: Float[Tensor, "sample horizon action_dim"],
    actions: Float[Tensor, "sample horizon action_dim"],
    noise: Float[Tensor, "sample horizon action_dim"],
    valid: Bool[Tensor, "sample horizon"],
) -> Float[Tensor, ""]:
    """Squared error of the velocity, averaged over an action's numbers and summed over valid actions, in float32."""
    error = (velocity.float() - (noise.float() - actions.float())).square().mean(dim=-1)
    return error.masked_fill(~valid, 0.0).sum()


@dataclass(frozen=True, kw_only=True, slots=True)
class Continuation:
    """What of an earlier chunk the new one has to continue, in the new one's time."""

    actions: Float[Tensor, "sample horizon action_dim"]
    """The earlier chunk's remaining actions, anything where there are none left."""
    frozen: Bool[Tensor, "sample horizon"]
    """True for those that the robot executes whatever comes out: they come out as they are."""
    weight: Float[Tensor, "sample horizon"]
    """How much the new chunk is held to each: 1 where frozen, falling to 0 at the earlier chunk's end."""

    def to(self, device: torch.device | str) -> "Continuation":
        """The same on another device."""
        return Continuation(
            actions=self.actions.to(device), frozen=self.frozen.to(device), weight=self.weight.to(device)
        )

    @classmethod
    def of(
        cls,
        previous: Sequence[Float[Tensor, "kept action_dim"] | None],
        committed: Sequence[int] | None,
        *,
        horizon: int,
        action_dim: int,
    ) -> "Continuation | None":
        """Check what is left of each sample's earlier chunk and lay it out; None if nothing is left of any.

        Args:
            previous: from now on; None where there was no earlier chunk.
            committed: how many of each are executed in any case; None means all.
            horizon: actions in a chunk.
            action_dim: numbers in an action.

        Raises:
            ConfigError: the numbers do not fit, or are not finite.
        """
        if committed is None:
            committed = [0 if actions is None else len(actions) for actions in previous]
        if len(committed) != len(previous):
            raise ConfigError(f"{len(committed)} counts of committed actions for {len(previous)} samples.")
        laid = torch.zeros(len(previous), horizon, action_dim)
        weight = torch.zeros(len(previous), horizon)
        frozen = torch.zeros(len(previous), horizon, dtype=torch.bool)
        for sample, (actions, count) in enumerate(zip(previous, committed, strict=True)):
            if actions is None:
                continue
            kept = len(actions)
            if actions.shape != (kept, action_dim) or not 0 <= count <= kept <= horizon:
                raise ConfigError(
                    f"sample {sample}: previous actions of shape {tuple(actions.shape)} with {count} committed; at "
                    f"most {horizon} actions of {action_dim} numbers fit, and no more can be committed than are given."
                )
            if not bool(actions.isfinite().all()):
                raise ConfigError(
                    f"sample {sample}: previous actions are not finite; give what was executed."
                )
            laid[sample, :kept] = actions.cpu().float()
            frozen[sample, :count] = True
            weight[sample, :kept] = _soft_mask(kept, count)
        if not bool(weight.any()):
            return None
        return cls(actions=laid, frozen=frozen, weight=weight)


def sample_chunks(
    velocity: Velocity,
    noise: Float[Tensor, "sample horizon action_dim"],
    *,
    num_steps: int,
    continuation: Continuation | None = None,
) -> Float[Tensor, "sample horizon action_dim"]:
    """Integrate from noise to actions with Euler's method.

    With a continuation the flow is guided as in real-time chunking (Black, Galliker and Levine 2025, "Real-Time
    Execution of Action Chunking Flow Policies", arXiv 2506.07339, eqs. 2 to 5): at each step the clean chunk that the
    velocity points at is compared with the earlier one, and the weighted difference, taken back through the network,
    corrects the velocity. In the convention used here (t = 1 - tau):

        x0 = x - t v,    v' = v - min(beta, ((1 - t)^2 + t^2) / (t (1 - t))) * (W (Y - x0))^T dx0/dx

    Beyond the paper, frozen actions run straight from their noise to what they are: the rest sees them as they will be.

    Args:
        velocity: of the expert; with a continuation it must be differentiable by its first argument.
        noise: where each chunk starts.
        num_steps: of Euler's method.
        continuation: on the device of `noise`.
    """

    def levels(time: float) -> Tensor:
        return noise.new_full((len(noise),), time)

    if continuation is None:
        return integrate(lambda chunk, time: velocity(chunk, levels(time)), noise, num_steps=num_steps)
    frozen = continuation.frozen[..., None]

    def guided(chunk: Tensor, time: float) -> Tensor:
        with torch.enable_grad():
            chunk = chunk.detach().requires_grad_()
            found = velocity(chunk, levels(time))
            clean = chunk - time * found
            wanted = ((continuation.actions - clean) * continuation.weight[..., None]).detach()
            (correction,) = torch.autograd.grad(clean, chunk, wanted)
        strength = MAX_GUIDANCE
        if time < 1.0:
            strength = min(strength, ((1 - time) ** 2 + time**2) / (time * (1 - time)))
        found = found.detach() - strength * correction
        return torch.where(frozen, noise - continuation.actions, found)

    drawn = integrate(guided, noise, num_steps=num_steps)
    return torch.where(frozen, continuation.actions, drawn)  # nothing is left of rounding


def _soft_mask(kept: int, committed: int) -> Float[Tensor, "kept"]:
    """1 for committed actions, then `c (e^c - 1) / (e - 1)` with c falling linearly towards the end (eq. 5)."""
    places = torch.arange(kept, dtype=torch.float64)
    falling = (kept - places) / (kept - committed + 1)
    weight = falling * torch.expm1(falling) / math.expm1(1.0)
    return torch.where(places < committed, 1.0, weight).float()
