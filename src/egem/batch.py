"""What the model receives and returns, with shapes. A leaf module: it knows torch and nothing else of egem.

`Sample` is one packed-able sequence (all turns about one group of images); `Batch` is what `GEM.forward`
takes; `Losses` is what it returns.
"""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

IGNORE_LABEL = -100
"""Label of a token that is not supervised."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthMap:
    """The encoded depth of one image of a sample, as the depth codec sees it."""

    image_index: int
    """Which image of the sample (or, after collation, of the batch) it belongs to."""
    pixels: Float[Tensor, "channel height width"]
    """Encoded depth in [-1, 1] (see `egem.data.depth`); missing readings are filled, never trusted."""
    valid: Bool[Tensor, "height width"]
    """True where a reading exists; nothing else enters a loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One sequence: the images, all turns about them, and the depth maps to draw."""

    record_ids: tuple[str, ...]
    input_ids: Int[Tensor, "token"]
    labels: Int[Tensor, "token"]
    """`input_ids` where the assistant speaks (including its <|im_end|>), IGNORE_LABEL elsewhere. Not shifted."""
    position_ids: Int[Tensor, "3 token"]
    """Qwen3-VL's multimodal positions: time, height, width."""
    patches: Float[Tensor, "patch patch_dim"]
    """Flattened image patches of all images, in the image processor's merge order."""
    image_grid: Int[Tensor, "image 3"]
    """Time (always 1), rows and columns of patches of each image."""
    depth_maps: tuple[DepthMap, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthTargets:
    """Depth maps of one size, to be generated in one call of the depth head."""

    pixels: Float[Tensor, "depth_image channel height width"]
    valid: Bool[Tensor, "depth_image height width"]
    image_index: Int[Tensor, "depth_image"]
    """Row of `Batch.image_grid` whose visual tokens are the condition."""
    weight: Float[Tensor, "depth_image"]
    """1, or 0 for the placeholder of a batch without depth (every rank always runs the head)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Several samples, right-padded to one length (a row may later hold several packed samples)."""

    record_ids: tuple[str, ...]
    input_ids: Int[Tensor, "sample token"]
    labels: Int[Tensor, "sample token"]
    position_ids: Int[Tensor, "3 sample token"]
    segment_ids: Int[Tensor, "sample token"]
    """0 = padding; tokens see only earlier tokens of their own segment."""
    patches: Float[Tensor, "patch patch_dim"]
    image_grid: Int[Tensor, "image 3"]
    """Stays on the CPU: sizes are read from it without waiting for an accelerator."""
    depth: tuple[DepthTargets, ...]
    """One entry per depth map size; never empty."""

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on another device, `image_grid` excepted."""
        moved = {f.name: _move(getattr(self, f.name), device) for f in fields(self) if f.name != "image_grid"}
        return replace(self, **moved)


@dataclass(frozen=True, kw_only=True, slots=True)
class Losses:
    """Sums with their counts, so that accumulation and data parallelism never change a value."""

    language_sum: Float[Tensor, ""]
    """Cross entropy summed over supervised tokens (0 when language is not asked for)."""
    language_count: Int[Tensor, ""]
    depth_sum: Float[Tensor, ""]
    """Per-map mean squared velocity error over valid latent values, summed over maps."""
    depth_count: Float[Tensor, ""]
    """Number of depth maps with at least one valid reading."""


def _move(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple):
        return tuple(_move(item, device) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _move(getattr(value, f.name), device) for f in fields(value)})
    return value
