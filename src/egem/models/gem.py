"""GEM: the backbone answers questions, the depth head draws depth from the backbone's visual tokens.

Enters: a `Batch` (training) or `Sample`s (inference). Leaves: `Losses`, token ids, or depth in the codec's
encoding, which `draw_depth` turns into metres where the encoding allows.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from egem.batch import Batch, DepthTargets, Losses, Sample
from egem.core.errors import ConfigError
from egem.data.depth import DecodedDepth, decode, target_size
from egem.models.backbone import Backbone
from egem.models.config import GEMConfig
from egem.models.connector import Connector
from egem.models.depth_codec import DepthCodec, target_latents, target_shape, target_weight
from egem.models.depth_head import DepthHead
from egem.models.flow_matching import Draws, draw, no_draws
from egem.models.generation import generate, prompt_batch

MODULES = ("backbone", "connector", "depth_head")
"""What a training stage can freeze or train; the depth codec is never trained."""


class GEM(nn.Module):
    """Backbone, connector and depth head, with a frozen depth codec at their side.

    The codec is not a submodule: it is in no state dict and no optimizer, and follows its input's device.
    """

    def __init__(
        self,
        config: GEMConfig,
        *,
        backbone: Backbone,
        connector: Connector,
        depth_head: DepthHead,
        depth_codec: DepthCodec,
        processor_files: dict[str, bytes] | None = None,
    ):
        """Put the parts together; weights are whatever the parts hold.

        Args:
            config: what is not in the parts.
            backbone: Qwen3-VL.
            connector: from the backbone's width to the depth head's context.
            depth_head: Sana.
            depth_codec: between encoded depth and latents.
            processor_files: tokenizer and processor files by name, which travel with the checkpoint.
        """
        super().__init__()
        sana = depth_head.sana.config
        fits = (
            connector.hidden_size == backbone.hidden_size
            and connector.context_size == sana["caption_channels"]
            and sana["in_channels"] == depth_codec.latent_channels
            and config.depth.num_channels == depth_codec.channels
            and config.depth.multiple % depth_codec.factor == 0
        )
        if not fits:
            raise ConfigError(
                f"misfit: backbone {backbone.hidden_size} wide, connector {connector.hidden_size} to "
                f"{connector.context_size}, depth head for {sana['caption_channels']} and "
                f"{sana['in_channels']} channels; codec {depth_codec.channels} to "
                f"{depth_codec.latent_channels} channels, factor {depth_codec.factor}; encoding "
                f"'{config.depth.encoding}' with {config.depth.num_channels} channels, sizes in multiples of "
                f"{config.depth.multiple}."
            )
        self.config = config
        self.backbone = backbone
        self.connector = connector
        self.depth_head = depth_head
        self.depth_codec = depth_codec
        self.processor_files = dict(processor_files or {})

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        return next(self.parameters()).device

    def forward(
        self,
        batch: Batch,
        *,
        language: bool = True,
        depth: bool = True,
        generator: torch.Generator | None = None,
        draws: Sequence[Draws] | None = None,
    ) -> Losses:
        """Both losses of a batch, as sums with their counts.

        Args:
            batch: on the model's device.
            language: compute logits and cross entropy (stages 1 and 2 do not need them).
            depth: run the depth head.
            generator: CPU generator of noise, time and condition dropout.
            draws: use these instead, one per entry of `batch.depth`.
        """
        with self.backbone_gradients():
            hidden = self.backbone(batch)
        return self.losses(hidden, batch, language=language, depth=depth, generator=generator, draws=draws)

    def backbone_gradients(self) -> torch.set_grad_enabled:
        """A context in which the backbone's graph is recorded only where something in it learns."""
        trained = any(parameter.requires_grad for parameter in self.backbone.parameters())
        return torch.set_grad_enabled(torch.is_grad_enabled() and trained)

    def losses(
        self,
        hidden: Float[Tensor, "sample token hidden"],
        batch: Batch,
        *,
        language: bool,
        depth: bool,
        generator: torch.Generator | None,
        draws: Sequence[Draws] | None,
    ) -> Losses:
        """What follows the backbone in `forward`."""
        zero = hidden.new_zeros((), dtype=torch.float32)
        language_sum, language_count = zero, zero.long()
        if language:
            language_sum, language_count = self.backbone.language_loss(hidden, batch)
        depth_sum, depth_count = zero, zero
        if depth:
            depth_sum, depth_count = self.depth_loss(hidden, batch, generator=generator, draws=draws)
        return Losses(
            language_sum=language_sum,
            language_count=language_count,
            depth_sum=depth_sum,
            depth_count=depth_count,
            action_sum=zero,
            action_count=zero.long(),
        )

    def depth_loss(
        self,
        hidden: Float[Tensor, "sample token hidden"],
        batch: Batch,
        *,
        generator: torch.Generator | None = None,
        draws: Sequence[Draws] | None = None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Flow-matching loss summed over depth maps, and their number.

        The condition is dropped in training only. A map without any valid latent value counts for nothing.
        """
        tokens, token_mask = self.backbone.image_tokens(hidden, batch)
        total = count = hidden.new_zeros((), dtype=torch.float32)
        if draws is None:
            draws = self.draws(batch.depth, generator=generator, device=hidden.device)
        for targets, chance in zip(batch.depth, draws, strict=True):
            latents = target_latents(self.depth_codec, targets)
            weight = target_weight(self.depth_codec, targets)
            condition = tokens[targets.image_index]
            condition = condition.masked_fill(chance.drop[:, None, None], 0.0)
            context = self.connector(condition)
            errors = self.depth_head.loss(latents, weight, context, token_mask[targets.image_index], chance)
            map_weight = targets.weight * (weight.flatten(1).sum(dim=1) > 0)
            total = total + (errors * map_weight).sum()
            count = count + map_weight.sum()
        return total, count

    def draws(
        self, depth: Sequence[DepthTargets], *, generator: torch.Generator | None, device: torch.device
    ) -> tuple[Draws, ...]:
        """Noise, time and dropped conditions for maps of several sizes, drawn map after map.

        A head trained by regression has none of these.

        Args:
            depth: the maps; the condition is dropped in training only.
            generator: a CPU generator; None uses torch's global one.
            device: where the results go.
        """
        if self.config.objective == "regression":
            return tuple(no_draws(target_shape(self.depth_codec, t), device=device) for t in depth)
        return tuple(
            draw(
                target_shape(self.depth_codec, targets),
                dropout=self.config.condition_dropout if self.training else 0.0,
                generator=generator,
                device=device,
                time_shift=self.config.time_shift,
            )
            for targets in depth
        )

    @torch.no_grad()
    def generate_text(
        self,
        samples: Sequence[Sample],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> list[list[int]]:
        """Continue each prompt until <|im_end|> (not included) or `max_new_tokens`.

        Args:
            samples: prompts that end with the assistant's header.
            max_new_tokens: at most so many tokens each.
            temperature: 0 takes the likeliest token each time.
            top_p: sample from the smallest set of tokens with at least this probability.
            generator: CPU generator for temperature > 0; each prompt draws once per step, in order.
        """
        return generate(
            self.backbone,
            prompt_batch(samples, self.device),
            max_new_tokens=max_new_tokens,
            stop_ids=self.stop_ids,
            temperature=temperature,
            top_p=top_p,
            generator=generator,
        )

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Token ids that end an answer."""
        end: int | list[int] | None = self.backbone.qwen.generation_config.eos_token_id  # pyright: ignore
        if end is None:
            raise ConfigError(
                "the backbone's generation_config.json names no eos_token_id; add <|im_end|>'s id."
            )
        return tuple(end) if isinstance(end, list) else (end,)

    @torch.no_grad()
    def sample_depth(
        self,
        samples: Sequence[Sample],
        *,
        sizes: Sequence[Sequence[tuple[int, int]]] | None = None,
        num_steps: int | None = None,
        guidance: float | None = None,
        generator: torch.Generator | None = None,
        noise: Sequence[Sequence[Float[Tensor, "latent_channel _ _"]]] | None = None,
    ) -> list[list[Float[Tensor, "channel _ _"]]]:
        """Draw the depth of every image of every sample, in the codec's encoding, values in [-1, 1].

        Args:
            samples: the images and some text (labels are not looked at).
            sizes: (height, width) of each map; by default what the policy makes of the image's size.
            num_steps: of the sampler; the checkpoint's default otherwise.
            guidance: classifier-free guidance; the checkpoint's default otherwise.
            generator: CPU generator of the noise, drawn map after map.
            noise: where each map starts, instead.

        A head trained by regression says its map at once: the last four change nothing.
        """
        if self.config.objective == "regression":
            num_steps, guidance, noise = 1, 1.0, None
        batch = prompt_batch(samples, self.device)
        tokens, mask = self.backbone.image_tokens(self.backbone(batch), batch)
        context = self.connector(tokens)
        null_context = self.connector(torch.zeros_like(tokens[:1, :1]))
        flat_sizes = list(self._map_sizes(samples, sizes))
        flat_noise = list(self._map_noise(flat_sizes, noise, generator))
        drawn: dict[int, Tensor] = {}
        for size in sorted(set(flat_sizes)):
            maps = [index for index, other in enumerate(flat_sizes) if other == size]
            latents = self.depth_head.sample(
                torch.stack([flat_noise[index] for index in maps]).to(self.device),
                context[maps],
                mask[maps],
                null_context,
                num_steps=self.config.sampling_steps if num_steps is None else num_steps,
                guidance=self.config.guidance if guidance is None else guidance,
                time_shift=self.config.time_shift,
            )
            drawn.update(zip(maps, self.depth_codec.decode(latents), strict=True))
        in_order = iter(range(len(flat_sizes)))
        return [[drawn[next(in_order)] for _ in sample.image_grid] for sample in samples]

    def draw_depth(
        self,
        samples: Sequence[Sample],
        *,
        sizes: Sequence[Sequence[tuple[int, int]]] | None = None,
        num_steps: int | None = None,
        guidance: float | None = None,
        generator: torch.Generator | None = None,
        noise: Sequence[Sequence[Float[Tensor, "latent_channel _ _"]]] | None = None,
    ) -> list[list[DecodedDepth]]:
        """`sample_depth`, decoded: values with their kind, and scale and shift where they are known."""
        drawn = self.sample_depth(
            samples, sizes=sizes, num_steps=num_steps, guidance=guidance, generator=generator, noise=noise
        )
        return [
            [decode(pixels.float().cpu().numpy(), self.config.depth) for pixels in maps] for maps in drawn
        ]

    def _map_sizes(
        self, samples: Sequence[Sample], sizes: Sequence[Sequence[tuple[int, int]]] | None
    ) -> Iterator[tuple[int, int]]:
        patch, multiple = self.backbone.patch_size, self.depth_codec.factor
        for index, sample in enumerate(samples):
            given = None if sizes is None else sizes[index]
            if given is not None and len(given) != len(sample.image_grid):
                raise ConfigError(f"sample {index}: {len(given)} sizes for {len(sample.image_grid)} images.")
            for image, (_, rows, columns) in enumerate(sample.image_grid.tolist()):
                if given is None:
                    yield target_size(rows * patch, columns * patch, self.config.depth)
                    continue
                height, width = given[image]
                if height % multiple or width % multiple or min(height, width) < multiple:
                    raise ConfigError(f"depth of {height} x {width}: both must be multiples of {multiple}.")
                yield height, width

    def _map_noise(
        self,
        sizes: Sequence[tuple[int, int]],
        noise: Sequence[Sequence[Tensor]] | None,
        generator: torch.Generator | None,
    ) -> Iterator[Tensor]:
        if noise is not None:
            for maps in noise:
                yield from maps
            return
        factor = self.depth_codec.factor
        for height, width in sizes:
            shape = (self.depth_codec.latent_channels, height // factor, width // factor)
            regression = self.config.objective == "regression"
            yield torch.zeros(shape) if regression else torch.randn(shape, generator=generator)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the checkpoint folder; see `egem.models.pretrained`."""
        from egem.models.pretrained import save

        save(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls, folder: Path | str, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
    ) -> "GEM":
        """Read a checkpoint folder; see `egem.models.pretrained`. One with an action expert comes as a `GEMVLA`.

        Args:
            folder: what `save_pretrained` wrote.
            dtype: of the parameters; None keeps what is stored.
            device: where the model goes.
        """
        from egem.models.pretrained import load

        return load(Path(folder), dtype=dtype).to(device)


def parameter_report(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Name of each direct submodule -> (parameters, trainable parameters); tied weights count once."""
    return {
        name: (
            sum(p.numel() for p in module.parameters()),
            sum(p.numel() for p in module.parameters() if p.requires_grad),
        )
        for name, module in model.named_children()
    }
