"""Flow matching in one convention: `x_t = (1 - t) * data + t * noise`, velocity = noise - data.

`t` in (0, 1] is the noise level. A network predicts the velocity, whose mean squared error is the loss
(Lipman et al. 2023, arXiv 2210.02747, with straight paths); sampling integrates it from t = 1 to 0.
Everything random is drawn from a CPU generator, one map after another, so that neither the device nor the
size of a batch changes what is drawn.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from egem.batch import to_device
from egem.core.errors import ConfigError

T = TypeVar("T", float, Tensor)

TIME_SCALE = 1000.0
"""Sana was trained with the time running from 0 to 1000; the network is given `TIME_SCALE * t`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """What chance decides for some maps: noise level, noise, and whether the condition is dropped."""

    time: Float[Tensor, "map"]
    noise: Float[Tensor, "map channel height width"]
    drop: Bool[Tensor, "map"]


def draw(
    shape: Sequence[int],
    *,
    dropout: float,
    generator: torch.Generator | None,
    device: torch.device | str = "cpu",
    time_shift: float = 1.0,
) -> Draws:
    """Draw time, noise ~ N(0, 1) and condition dropout for each map in turn; time is a shifted U(0, 1].

    Args:
        shape: (map, channel, height, width) of the latents.
        dropout: probability that a map's condition is dropped.
        generator: a CPU generator; None uses torch's global one.
        device: where the results go.
        time_shift: see `shifted`; 1 leaves the time uniform.
    """
    times, drops, noises = [], [], []
    for _ in range(shape[0]):
        uniform = torch.rand(2, generator=generator)
        # rand is in [0, 1): a time of exactly 0 would have nothing to learn.
        times.append(shifted(1.0 - uniform[0], time_shift))
        drops.append(uniform[1] < dropout)
        noises.append(torch.randn(*shape[1:], generator=generator))
    return Draws(
        time=to_device(torch.stack(times), device),
        noise=to_device(torch.stack(noises), device),
        drop=to_device(torch.stack(drops), device),
    )


def no_draws(shape: Sequence[int], *, device: torch.device | str = "cpu") -> Draws:
    """Regression in the terms of flow matching: at t = 1 and noise 0, the velocity is minus the data.

    Args:
        shape: (map, channel, height, width) of the latents.
        device: where the results go.
    """
    return Draws(
        time=torch.ones(shape[0], device=device),
        noise=torch.zeros(*shape, device=device),
        drop=torch.zeros(shape[0], dtype=torch.bool, device=device),
    )


def shifted(time: T, shift: float) -> T:
    """`shift * t / (1 + (shift - 1) * t)`: above 1, more of [0, 1] lies at high noise.

    The flow shift of Stable Diffusion 3 (Esser et al. 2024, arXiv 2403.03206, eq. 23) and Sana: neighbouring values
    of a smooth map tell each other, so its outline shows through all but the highest noise levels.
    """
    return shift * time / (1.0 + (shift - 1.0) * time)  # pyright: ignore[reportReturnType]


def interpolate(
    data: Float[Tensor, "sample *place"], noise: Float[Tensor, "sample *place"], time: Float[Tensor, "sample"]
) -> Float[Tensor, "sample *place"]:
    """`x_t`: data at t = 0, noise at t = 1."""
    level = time.view(-1, *[1] * (data.ndim - 1))
    return (1.0 - level) * data + level * noise


def velocity_error(
    velocity: Float[Tensor, "map channel height width"],
    data: Float[Tensor, "map channel height width"],
    noise: Float[Tensor, "map channel height width"],
    weight: Float[Tensor, "map weight_channel height width"],
) -> Float[Tensor, "map"]:
    """Squared error of the velocity, averaged in float32 over each map's latent values of non-zero weight.

    Args:
        velocity: the network's prediction.
        data: latents at t = 0.
        noise: latents at t = 1.
        weight: 1 where a latent value counts, 0 elsewhere; one channel stands for all.

    Returns:
        One mean per map; 0 for a map without any counting value.
    """
    error = (velocity.float() - (noise.float() - data.float())).square()
    weight = weight.float().expand_as(error)
    count = weight.sum(dim=(1, 2, 3))
    return (error * weight).sum(dim=(1, 2, 3)) / count.clamp(min=1.0)


def euler_times(num_steps: int, time_shift: float = 1.0) -> list[float]:
    """Noise levels at which the Euler sampler evaluates the network: `shifted` 1, ..., 1 / num_steps."""
    if num_steps < 1:
        raise ConfigError(f"{num_steps} sampling steps; at least one is needed.")
    return [shifted(1.0 - step / num_steps, time_shift) for step in range(num_steps)]


def integrate(
    velocity: Callable[[Tensor, float], Tensor],
    noise: Float[Tensor, "sample *place"],
    *,
    num_steps: int,
    time_shift: float = 1.0,
) -> Float[Tensor, "sample *place"]:
    """Euler's method from t = 1 (noise) to t = 0 (data).

    Args:
        velocity: function of (x_t, t), called once per step.
        noise: where to start.
        num_steps: any number; the last step ends at exactly t = 0.
        time_shift: where the steps lie, see `shifted`.
    """
    times = [*euler_times(num_steps, time_shift), 0.0]
    state = noise
    for now, after in itertools.pairwise(times):
        state = state + (after - now) * velocity(state, now)
    return state


def guide(conditional: Tensor, null: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022): move away from the unconditional prediction."""
    return null + guidance * (conditional - null)
