"""What the model receives and returns, with shapes. A leaf module: it knows torch and nothing else of egem.

`Sample` is one packed-able sequence (all turns about one group of images); `Batch` is what `GEM.forward`
takes; `Losses` is what it returns.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

IGNORE_LABEL = -100
"""Label of a token that is not supervised."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthMap:
    """The depth of one image of a sample: what the depth codec sees, or what it made of that."""

    image_index: int
    """Which image of the sample (or, after collation, of the batch) it belongs to."""
    pixels: Float[Tensor, "channel height width"] | None = None
    """Encoded depth in [-1, 1] (see `egem.data.depth`); missing readings are filled, never trusted."""
    latents: Float[Tensor, "latent_channel latent_height latent_width"] | None = None
    """Instead of `pixels`: the codec's latents of them, computed before (see `egem.data.latents`)."""
    valid: Bool[Tensor, "*place"]
    """True where a reading exists, nothing else enters a loss: (height, width) of `pixels`, or (weight_channel,
    latent_height, latent_width) of `latents`."""

    def __post_init__(self) -> None:
        _require_one_kind(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionTarget:
    """What a robot does from one moment on; everything normalised, float32 (see the checkpoint's statistics)."""

    state: Float[Tensor, "state_dim"]
    """Proprioception at that moment."""
    actions: Float[Tensor, "horizon action_dim"]
    """The chunk to be generated, the action of that moment first."""
    valid: Bool[Tensor, "horizon"]
    """False after the episode's end: those actions are padding and enter no loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchScale:
    """How bytes of image patches become the vision tower's values; only bytes travel from the loader to a device."""

    levels: Float[Tensor, "channel 256"]
    """The value of each byte."""
    repeats: int
    """Frames in one patch; a still image is all of them."""

    def values(self, patches: UInt8[Tensor, "patch pixel"]) -> Float[Tensor, "patch patch_dim"]:
        """Looked up, so that they are the image processor's to the bit on every device."""
        channels, num_levels = self.levels.shape
        first = torch.arange(channels, dtype=torch.int32, device=patches.device) * num_levels
        places = patches.unflatten(1, (channels, -1)).int() + first[:, None]
        found = self.levels.flatten().index_select(0, places.flatten()).view_as(places)
        return found[:, :, None].expand(-1, -1, self.repeats, -1).flatten(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One sequence: the images, all turns about them, and the depth maps to draw."""

    record_ids: tuple[str, ...]
    input_ids: Int[Tensor, "token"]
    labels: Int[Tensor, "token"]
    """`input_ids` where the assistant speaks (including its <|im_end|>), IGNORE_LABEL elsewhere. Not shifted."""
    position_ids: Int[Tensor, "3 token"]
    """Qwen3-VL's multimodal positions: time, height, width."""
    patches: UInt8[Tensor, "patch pixel"] | Float[Tensor, "patch patch_dim"]
    """Flattened patches of all images, in the image processor's merge order; bytes if there is a `patch_scale`."""
    image_grid: Int[Tensor, "image 3"]
    """Time (always 1), rows and columns of patches of each image."""
    patch_scale: PatchScale | None = None
    depth_maps: tuple[DepthMap, ...] = ()
    action: ActionTarget | None = None
    """In robot data: the state and the actions that follow the images and the instruction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthTargets:
    """Depth maps of one size, to be generated in one call of the depth head; see `DepthMap`."""

    pixels: Float[Tensor, "depth_image channel height width"] | None = None
    latents: Float[Tensor, "depth_image latent_channel latent_height latent_width"] | None = None
    valid: Bool[Tensor, "depth_image *place"]
    image_index: Int[Tensor, "depth_image"]
    """Row of `Batch.image_grid` whose visual tokens are the condition."""
    weight: Float[Tensor, "depth_image"]
    """1, or 0 for the placeholder of a batch without depth (every rank always runs the head)."""

    def __post_init__(self) -> None:
        _require_one_kind(self)

    def placeholder(self) -> "DepthTargets":
        """One map of this size and kind with a weight of 0, said to be of the first image."""
        one = _map_tensors(self, lambda tensor: tensor[:1])
        return replace(
            one, image_index=torch.zeros_like(one.image_index), weight=torch.zeros_like(one.weight)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionTargets:
    """`ActionTarget` of every sample of a batch, in the samples' order (row after row, segment after segment)."""

    state: Float[Tensor, "sample state_dim"]
    actions: Float[Tensor, "sample horizon action_dim"]
    valid: Bool[Tensor, "sample horizon"]

    def repeated(self, times: int) -> "ActionTargets":
        """Each sample so many times in a row."""
        values = (self.state, self.actions, self.valid)
        state, actions, valid = (value.repeat_interleave(times, dim=0) for value in values)
        return ActionTargets(state=state, actions=actions, valid=valid)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Several samples: one to a row, padded on the right, or several packed into each row."""

    record_ids: tuple[str, ...]
    input_ids: Int[Tensor, "sample token"]
    labels: Int[Tensor, "sample token"]
    position_ids: Int[Tensor, "3 sample token"]
    segment_ids: Int[Tensor, "sample token"]
    """1, 2, ... = the samples of a row in turn, 0 = padding; tokens see only earlier tokens of their segment."""
    patches: UInt8[Tensor, "patch pixel"] | Float[Tensor, "patch patch_dim"]
    """As in `Sample`; `pixel_values` are what the vision tower takes."""
    image_grid: Int[Tensor, "image 3"]
    depth: tuple[DepthTargets, ...]
    """One entry per depth map size; empty in prompts alone."""
    patch_scale: PatchScale | None = None
    row_images: tuple[int, ...] = ()
    """Images of each row, for `rows`."""
    left_out: int = 0
    """Depth maps and turns of these samples that could not be used when they were prepared."""
    actions: ActionTargets | None = None
    """Of robot data: one chunk per sample; None elsewhere."""

    def pixel_values(self) -> Float[Tensor, "patch patch_dim"]:
        """The patches as the image processor normalises them."""
        return self.patches if self.patch_scale is None else self.patch_scale.values(self.patches)

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on another device, but for what `_ON_HOST` names."""
        moved = {f.name: _move(getattr(self, f.name), device) for f in fields(self) if f.name not in _ON_HOST}
        return replace(self, **moved)

    def rows(self) -> "tuple[Batch, ...]":
        """Each row as a batch of its own, so that memory is that of one row.

        Sums of losses over them are those of the whole; every one but `record_ids` is cut, which name them all.
        """
        if len(self.input_ids) == 1:
            return (self,)
        sizes = self.image_grid.prod(dim=1).tolist()
        cut: list[Batch] = []
        first_image = first_patch = first_sample = 0
        for row, num_images in enumerate(self.row_images):
            end_sample = first_sample + int(self.segment_ids[row].max())
            length = int((self.segment_ids[row] > 0).sum())
            end_image = first_image + num_images
            end_patch = first_patch + sum(sizes[first_image:end_image])
            cut.append(
                replace(
                    self,
                    input_ids=self.input_ids[row : row + 1, :length],
                    labels=self.labels[row : row + 1, :length],
                    position_ids=self.position_ids[:, row : row + 1, :length],
                    segment_ids=self.segment_ids[row : row + 1, :length],
                    patches=self.patches[first_patch:end_patch],
                    image_grid=self.image_grid[first_image:end_image],
                    depth=_depth_of_images(self.depth, first_image, end_image),
                    row_images=(num_images,),
                    actions=_actions_of_samples(self.actions, first_sample, end_sample),
                )
            )
            first_image, first_patch, first_sample = end_image, end_patch, end_sample
        return tuple(cut)


_ON_HOST = frozenset({"labels", "segment_ids", "image_grid"})
"""Stay on the CPU: what to compute is read from them, for which an accelerator would have to be waited for."""


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
    action_sum: Float[Tensor, ""]
    """Squared velocity error, averaged over an action's dimensions and summed over valid actions."""
    action_count: Int[Tensor, ""]
    """Number of valid actions; 0 where there is no action expert."""


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on another device; from the CPU to a GPU by way of pinned memory, which nobody waits for."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu" and tensor.numel() > 0:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _depth_of_images(depth: tuple[DepthTargets, ...], first: int, end: int) -> tuple[DepthTargets, ...]:
    """The maps of images `first` to `end - 1`, or one map of weight 0."""
    found = []
    for targets in depth:
        inside = (targets.image_index >= first) & (targets.image_index < end) & (targets.weight > 0)
        if bool(inside.any()):
            chosen = _map_tensors(targets, lambda tensor, inside=inside: tensor[inside])
            found.append(replace(chosen, image_index=chosen.image_index - first))
    return tuple(found) or (depth[0].placeholder(),)


def _actions_of_samples(actions: ActionTargets | None, first: int, end: int) -> ActionTargets | None:
    if actions is None:
        return None
    return ActionTargets(
        state=actions.state[first:end], actions=actions.actions[first:end], valid=actions.valid[first:end]
    )


def _map_tensors(targets: DepthTargets, function: Callable[[Tensor], Tensor]) -> DepthTargets:
    values = {f.name: getattr(targets, f.name) for f in fields(targets)}
    return replace(targets, **{name: function(v) for name, v in values.items() if isinstance(v, Tensor)})


def _require_one_kind(depth: DepthMap | DepthTargets) -> None:
    if (depth.pixels is None) == (depth.latents is None):
        raise ValueError("depth is given as pixels or as latents, one of the two.")


def _move(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return to_device(value, device)
    if isinstance(value, tuple):
        return tuple(_move(item, device) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _move(getattr(value, f.name), device) for f in fields(value)})
    return value
