"""GEM-VLA: a GEM whose backbone also drives a robot, through an action expert on its attention layers.

Enters: a `Batch` with `actions` (training) or `Sample`s and states (inference). Leaves: `Losses` with the action loss
beside GEM's, or chunks of normalised actions. Everything a GEM does, it does too.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from egem.batch import ActionTargets, Batch, Losses, Sample, to_device
from egem.core.errors import ConfigError
from egem.models.action_expert import ActionExpert, Condition, initialize_expert
from egem.models.action_flow import ChunkDraws, Continuation, chunk_error, draw_chunks, sample_chunks
from egem.models.config import ActionExpertConfig
from egem.models.flow_matching import Draws, interpolate
from egem.models.gem import GEM
from egem.models.generation import prompt_batch
from egem.models.key_values import HiddenStateTap, KeyValueTap, keep_reachable
from egem.models.segments import real_tokens, segments_of


class GEMVLA(GEM):
    """A `GEM` with an `action_expert`, which a training stage freezes or trains under that name."""

    def __init__(
        self, gem: GEM, action_expert: ActionExpert, *, policy_files: dict[str, bytes] | None = None
    ):
        """Add an expert to a model, whose parts are taken over, not copied.

        Args:
            gem: what the expert is to look at.
            action_expert: of sizes that fit.
            policy_files: by name, what a robot needs besides weights (normalisation, action space, cameras): they
                travel with the checkpoint in `policy/`, unread here.

        Raises:
            ConfigError: the expert looks at layers that the backbone has not, or at other shapes.
        """
        super().__init__(
            gem.config,
            backbone=gem.backbone,
            connector=gem.connector,
            depth_head=gem.depth_head,
            depth_codec=gem.depth_codec,
            processor_files=gem.processor_files,
        )
        config, text = action_expert.config, gem.backbone.config.text_config
        wanted = (config.condition_size, config.condition_heads, config.condition_head_dim)
        there = (text.hidden_size, text.num_key_value_heads, text.head_dim)  # pyright: ignore
        deepest = text.num_hidden_layers - (config.conditioning == "keys_values")  # pyright: ignore
        if wanted != there or max(config.layers) > deepest:
            raise ConfigError(
                f"misfit: the action expert looks at width, heads and head width {wanted} and at layers up to "
                f"{max(config.layers)}; the backbone has {there} and layers up to {deepest}. Take the expert that was "
                "trained on it, or a new one (`expert_config`)."
            )
        self.action_expert = action_expert
        self.policy_files = dict(policy_files or {})
        self.train(gem.training)

    def forward(
        self,
        batch: Batch,
        *,
        language: bool = True,
        depth: bool = True,
        generator: torch.Generator | None = None,
        draws: Sequence[Draws] | None = None,
        action: bool = True,
        action_draws: int = 1,
        chunk_draws: ChunkDraws | None = None,
    ) -> Losses:
        """All losses of a batch, as sums with their counts.

        Args:
            batch: on the model's device, with `actions` if the action loss is asked for.
            language: compute logits and cross entropy.
            depth: run the depth head.
            generator: CPU generator of everything random, depth maps first, then chunks.
            draws: of the depth maps, instead.
            action: run the action expert.
            action_draws: noises and noise levels of each chunk; their losses' mean counts, once.
            chunk_draws: of the chunks, instead: those of the first chunk, then those of the second.

        Raises:
            ConfigError: the batch has no actions, or of another size than the expert's.
        """
        if not action:
            return super().forward(batch, language=language, depth=depth, generator=generator, draws=draws)
        targets = self._targets(batch)
        with self.backbone_gradients():
            hidden, condition = self.look(batch)
        losses = self.losses(hidden, batch, language=language, depth=depth, generator=generator, draws=draws)
        condition = self._adapted(condition)
        if action_draws > 1:
            targets, condition = targets.repeated(action_draws), condition.repeated(action_draws)
        if chunk_draws is None:
            chunk_draws = self.chunk_draws(targets, generator=generator)
        noisy = interpolate(targets.actions, chunk_draws.noise, chunk_draws.time)
        velocity = self.action_expert(noisy, chunk_draws.time, targets.state, condition)
        action_sum = chunk_error(velocity, targets.actions, chunk_draws.noise, targets.valid) / action_draws
        action_count = targets.valid.sum() // action_draws
        return replace(losses, action_sum=keep_reachable(action_sum, hidden), action_count=action_count)

    def chunk_draws(self, targets: ActionTargets, *, generator: torch.Generator | None) -> ChunkDraws:
        """Noise levels and noise for chunks, drawn chunk after chunk from a CPU generator."""
        return draw_chunks(
            targets.actions.shape,
            distribution=self.action_expert.config.time_distribution,
            generator=generator,
            device=targets.actions.device,
        )

    def look(
        self, batch: Batch, *, token_multiple: int = 1
    ) -> tuple[Float[Tensor, "row token hidden"], Condition]:
        """Run the backbone once: its final hidden states, and what it offers to the expert.

        Args:
            batch: in any layout: padded on either side, or packed.
            token_multiple: pad what is offered to a multiple of so many tokens, so that few lengths occur.

        Returns:
            Hidden states as the backbone gives them; the condition of every sample, row after row, not yet adapted
            (`hidden_states` in the backbone's width).
        """
        config = self.action_expert.config
        if config.conditioning == "keys_values":
            tap = KeyValueTap(config.layers)
            hidden = self.backbone(batch, keys_values=tap)
        else:
            states = HiddenStateTap(config.layers)
            hidden = self.backbone(batch, hidden_states=states)
        lengths = segments_of(batch.segment_ids.cpu(), torch.device("cpu")).lengths
        places, mask = _padded_places(lengths, token_multiple)
        shape, places = places.shape, to_device(places.flatten(), hidden.device)
        mask = None if mask is None else to_device(mask, hidden.device)
        if config.conditioning == "hidden_states":
            picked = {layer: tokens[0].index_select(0, places) for layer, tokens in states.states.items()}
            offered = tuple(picked[layer].unflatten(0, shape) for layer in config.layers)
            return hidden, Condition(layers=offered, mask=mask, rotation=None)

        def of_samples(flat: Tensor) -> Tensor:
            return flat[0].index_select(1, places).unflatten(1, shape).transpose(0, 1)

        kept = {layer: (of_samples(k), of_samples(v)) for layer, (k, v) in tap.keys_values.items()}
        positions = _next_positions(batch, places, shape)
        cosine, sine = self.backbone.qwen.model.language_model.rotary_emb(hidden.float(), positions)
        return hidden, Condition(
            layers=tuple(kept[layer] for layer in config.layers),
            mask=mask,
            rotation=(cosine[:, None], sine[:, None]),
        )

    @torch.no_grad()
    def prefix(self, samples: Sequence[Sample], *, token_multiple: int = 1) -> Condition:
        """What all flow steps share: the backbone's offer for some prompts, projected for every block."""
        _, condition = self.look(prompt_batch(samples, self.device), token_multiple=token_multiple)
        return self.action_expert.precomputed(self._adapted(condition))

    @torch.no_grad()
    def sample_actions(
        self,
        samples: Sequence[Sample],
        states: Float[Tensor, "sample state_dim"],
        *,
        num_steps: int | None = None,
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "sample horizon action_dim"] | None = None,
        previous: Sequence[Float[Tensor, "kept action_dim"] | None] | None = None,
        committed: Sequence[int] | None = None,
    ) -> Float[Tensor, "sample horizon action_dim"]:
        """A chunk of normalised actions for each prompt; the backbone runs once, whatever the number of steps.

        Args:
            samples: images and instruction (labels are not looked at).
            states: normalised.
            num_steps: of the sampler; the checkpoint's default otherwise.
            generator: CPU generator of the noise, drawn chunk after chunk.
            noise: where each chunk starts, instead.
            previous: for each sample, what is left of its previous chunk from now on, or None; the new chunk
                continues it (see `action_flow.sample_chunks`).
            committed: how many of those are executed in any case and come out unchanged; None means all.

        Raises:
            ConfigError: shapes that do not fit, or values that are not finite.
        """
        states, noise, continuation = self.sampling_inputs(
            len(samples), states, generator=generator, noise=noise, previous=previous, committed=committed
        )
        prefix = self.prefix(samples)
        return sample_chunks(
            lambda chunk, time: self.action_expert(chunk, time, states, prefix),
            noise,
            num_steps=self.action_expert.config.sampling_steps if num_steps is None else num_steps,
            continuation=continuation,
        )

    def sampling_inputs(
        self,
        num_samples: int,
        states: Float[Tensor, "sample state_dim"],
        *,
        generator: torch.Generator | None,
        noise: Float[Tensor, "sample horizon action_dim"] | None,
        previous: Sequence[Float[Tensor, "kept action_dim"] | None] | None,
        committed: Sequence[int] | None,
    ) -> tuple[Tensor, Tensor, Continuation | None]:
        """States, noise and continuation of `sample_actions`, checked, on the model's device.

        Raises:
            ConfigError: shapes that do not fit, or values that are not finite.
        """
        config = self.action_expert.config
        shape = (num_samples, config.horizon, config.action_dim)
        if noise is None:
            noise = torch.stack([torch.randn(shape[1:], generator=generator) for _ in range(num_samples)])
        if previous is None:
            previous = [None] * num_samples
        fits = states.shape == (num_samples, config.state_dim) and noise.shape == shape
        if not fits or len(previous) != num_samples:
            raise ConfigError(
                f"{num_samples} samples with states {tuple(states.shape)}, noise {tuple(noise.shape)} and "
                f"{len(previous)} previous chunks; states must be {(num_samples, config.state_dim)}, noise {shape}."
            )
        if not bool(states.isfinite().all()):
            raise ConfigError("the state is not finite; check the robot's sensors and the normalisation.")
        continuation = Continuation.of(
            previous, committed, horizon=config.horizon, action_dim=config.action_dim
        )
        if continuation is not None:
            continuation = continuation.to(self.device)
        return states.to(self.device), noise.to(self.device).float(), continuation

    @classmethod
    def from_pretrained(
        cls, folder: Path | str, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
    ) -> "GEMVLA":
        """Read a checkpoint folder that holds an action expert; see `GEM.from_pretrained`.

        Raises:
            CheckpointError: it holds none, or is not whole.
        """
        from egem.models.pretrained import load_vla

        return load_vla(Path(folder), dtype=dtype).to(device)

    def _targets(self, batch: Batch) -> ActionTargets:
        """The batch's actions, if they are the expert's."""
        config, targets = self.action_expert.config, batch.actions
        if targets is None:
            raise ConfigError(
                "the batch has no actions; read robot episodes, or give the action loss a weight of 0."
            )
        num_samples = int(batch.segment_ids.amax(dim=1).sum())
        wanted = (num_samples, config.horizon, config.action_dim)
        if targets.actions.shape != wanted or targets.state.shape != (num_samples, config.state_dim):
            raise ConfigError(
                f"actions {tuple(targets.actions.shape)} and states {tuple(targets.state.shape)} in a batch of "
                f"{num_samples} samples for an expert of horizon {config.horizon}, {config.action_dim} action and "
                f"{config.state_dim} state numbers; the data and the checkpoint are of different robots or chunks."
            )
        return targets

    def _adapted(self, condition: Condition) -> Condition:
        """Hidden states in the expert's width; keys and values as they are."""
        if self.action_expert.config.conditioning == "keys_values":
            return condition
        adapted = tuple(self.action_expert.adapt(states) for states in condition.layers)  # pyright: ignore
        return replace(condition, layers=adapted)


def add_action_expert(gem: GEM, config: ActionExpertConfig, *, seed: int = 0) -> GEMVLA:
    """A model with a new expert; torch's global generator is left as it was.

    Args:
        gem: with any weights; its parts are taken over.
        config: of the expert; `egem.models.presets.expert_config` makes one that fits.
        seed: of the expert's weights.

    Raises:
        ConfigError: it does not fit the backbone.
    """
    with torch.random.fork_rng(devices=[]), torch.device(gem.device):
        torch.manual_seed(seed)
        expert = ActionExpert(config)
        initialize_expert(expert)
    return GEMVLA(gem, expert)


def _padded_places(
    lengths: Sequence[int], multiple: int
) -> tuple[Int[Tensor, "sample token"], Bool[Tensor, "sample token"] | None]:
    """Where each sample's tokens lie in a flat row, padded on the right by its last; which are real (None: all)."""
    ends = torch.tensor(lengths).cumsum(0)
    starts = ends - torch.tensor(lengths)
    longest = -(-max(lengths) // multiple) * multiple
    offsets = torch.arange(longest)[None]
    places = torch.minimum(starts[:, None] + offsets, ends[:, None] - 1)
    mask = offsets < torch.tensor(lengths)[:, None]
    return places, None if bool(mask.all()) and multiple == 1 else mask


def _next_positions(
    batch: Batch, places: Int[Tensor, "flat"], shape: torch.Size
) -> Int[Tensor, "3 sample 1"]:
    """The position of the text token that would follow each sample."""
    positions = batch.position_ids.flatten(1)
    real = real_tokens(batch.segment_ids.cpu())
    if real is not None:
        positions = positions[:, to_device(real, positions.device)]
    last = positions[:, places].unflatten(1, shape).amax(dim=(0, 2))
    return (last + 1)[None, :, None].expand(3, -1, -1)
