"""Floating-point operations of a batch by part of the model: 2 for each multiplication of a matrix product.

Only matrix products, convolutions and attention count, and only what has to be computed: no padding, no
logits without a label, half of the square of causal attention. A training pass is three forward passes (the
usual 6 operations per weight and token; Kaplan et al. 2020, arXiv 2001.08361); what is computed again to
save memory does not count.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from egem.batch import Batch
from egem.models.backbone import Backbone, supervised_targets
from egem.models.depth_head import DepthHead
from egem.models.gem import GEM
from egem.models.segments import segments_of

TRAINING_PASSES = 3
"""A forward pass, and a backward pass for inputs and for weights."""


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations of forward passes, by part."""

    text: float = 0.0
    """Text layers and output layer."""
    vision: float = 0.0
    depth: float = 0.0
    """Connector and depth head; the codec, which is frozen, is not counted."""

    @property
    def total(self) -> float:
        """Of all parts."""
        return self.text + self.vision + self.depth

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(
            text=self.text + other.text, vision=self.vision + other.vision, depth=self.depth + other.depth
        )


def forward_flops(model: GEM, batch: Batch, *, depth: bool = True) -> Flops:
    """Operations of one forward pass.

    Args:
        model: its sizes count.
        batch: what is computed, on the CPU.
        depth: whether the depth head runs.
    """
    return Flops(
        text=_text(model.backbone, batch),
        vision=_vision(model.backbone, batch),
        depth=_depth(model, batch) if depth else 0.0,
    )


def _text(backbone: Backbone, batch: Batch) -> float:
    lengths = segments_of(batch.segment_ids, batch.segment_ids.device).lengths
    config = backbone.config.text_config
    layers = backbone.qwen.model.language_model.layers
    products = 2.0 * _weights(layers) * sum(lengths)
    pairs = sum(length * (length + 1) / 2 for length in lengths)
    attention = 4.0 * pairs * config.head_dim * config.num_attention_heads * len(layers)  # pyright: ignore
    places, _ = supervised_targets(batch)
    return products + attention + 2.0 * backbone.qwen.lm_head.weight.numel() * len(places)


def _vision(backbone: Backbone, batch: Batch) -> float:
    vision = backbone.qwen.model.visual
    patches = batch.image_grid.prod(dim=1).tolist()
    tokens = sum(patches) / backbone.merge_size**2
    per_patch = vision.patch_embed.proj.weight.numel() + _weights(vision.blocks)
    per_token = _weights(vision.merger) + _weights(vision.deepstack_merger_list)
    width = vision.config.hidden_size
    attention = 4.0 * sum(count**2 for count in patches) * width * len(vision.blocks)
    return 2.0 * per_patch * sum(patches) + 2.0 * per_token * tokens + attention


def _depth(model: GEM, batch: Batch) -> float:
    counts = model.backbone.image_token_counts(batch.image_grid)
    total = 0.0
    for targets in batch.depth:
        height, width = targets.valid.shape[-2:]
        latents = height * width // (model.depth_codec.factor**2 if targets.latents is None else 1)
        for image, weight in zip(targets.image_index.tolist(), targets.weight.tolist(), strict=True):
            if weight > 0:
                context = counts[image] if counts else 1
                total += 2.0 * _weights(model.connector) * context
                total += _sana(model.depth_head, latents, context)
    return total


def _sana(head: DepthHead, latents: int, context: int) -> float:
    """One map of so many latent tokens with so many context tokens."""
    sana = head.sana
    per_context = _weights(sana.caption_projection)
    total: Any = 2.0 * _weights(sana.time_embed)
    per_latent = sana.patch_embed.proj.weight.numel() + _weights(sana.proj_out)
    for block in sana.transformer_blocks:
        keys_values = _weights(block.attn2.to_k) + _weights(block.attn2.to_v)  # pyright: ignore
        per_context += keys_values
        per_latent += _weights(block) - keys_values
        linear, cross = block.attn1, block.attn2
        width = linear.inner_dim // linear.heads  # pyright: ignore
        # Linear attention sums keys times values with their weight beside them, then multiplies by the queries.
        total += 4.0 * latents * linear.heads * width * (width + 1)  # pyright: ignore
        total += 4.0 * latents * context * cross.inner_dim  # pyright: ignore
    return total + 2.0 * per_latent * latents + 2.0 * per_context * context


def _weights(module: nn.Module) -> int:
    """Values of the matrices and kernels inside a module: each is multiplied once for each token."""
    kinds = (nn.Linear, nn.Conv2d)
    return sum(child.weight.numel() for child in module.modules() if isinstance(child, kinds))
