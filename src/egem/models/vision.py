"""Qwen3-VL's vision tower, run without Python loops over images.

The modules and parameters are transformers' own; only the order of computation differs: patches are embedded
by a matrix product instead of a strided Conv3d, images of one size attend in one batched call (on a GPU in half
precision all images in one), and what depends on an image's size alone (positions) is computed once per size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLVisionAttention,
    Qwen3VLVisionModel,
    Qwen3VLVisionPatchEmbed,
)

from egem.batch import to_device
from egem.models.attention import attend, attend_segments, lowered, variable_length_kernel
from egem.models.blocks import Checkpointing, run_block, uncompiled
from egem.models.segments import Segments
from egem.models.swap import swap_class

_MAX_CACHED_SIZES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRun:
    """Consecutive images of one size."""

    rows: int
    columns: int
    num_images: int

    @property
    def num_patches(self) -> int:
        """Patches of one image."""
        return self.rows * self.columns


class MatmulPatchEmbed(Qwen3VLVisionPatchEmbed):
    """The patch embedding as a matrix product: same parameters, same result, several times faster.

    The kernel is as large as its stride, so the convolution sees every patch once.
    """

    def forward(self, hidden_states: Float[Tensor, "patch patch_dim"]) -> Float[Tensor, "patch hidden"]:
        """Embed flattened patches."""
        weight = self.proj.weight.flatten(1)
        return functional.linear(hidden_states.to(weight.dtype), weight, self.proj.bias)


class BatchedVisionAttention(Qwen3VLVisionAttention):
    """Attention within each image, one call for each run of equal images."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        hidden_states: Float[Tensor, "patch hidden"],
        cu_seqlens: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        *,
        runs: tuple[ImageRun, ...] | None = None,
        segments: Segments | None = None,
        **others: Any,
    ) -> Float[Tensor, "patch hidden"]:
        """Rotate queries and keys, attend, project.

        Args:
            hidden_states: patches of all images.
            cu_seqlens: used by transformers' own forward alone.
            position_embeddings: cosine and sine of each patch's position.
            runs: sizes of the images, in order; without them this is transformers' own forward.
            segments: the images as sequences of patches, for a kernel that takes all at once.
            others: what transformers' own forward takes besides.
        """
        if runs is None or position_embeddings is None:
            return super().forward(hidden_states, cu_seqlens, position_embeddings, **others)  # pyright: ignore
        num_patches = len(hidden_states)
        query, key, value = self.qkv(hidden_states).view(num_patches, 3, self.num_heads, -1).unbind(1)
        cosine, sine = position_embeddings
        query, key = _rotate(query, cosine, sine), _rotate(key, cosine, sine)
        if segments is not None and variable_length_kernel(query.device.type, lowered(query).dtype):
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
            attended = attend_segments(query, key, value, segments, scale=self.scaling, causal=False)
            return self.proj(attended.flatten(1))
        return self.proj(_attend_runs(query, key, value, runs, self.scaling))


@uncompiled
def _attend_runs(
    query: Float[Tensor, "patch head head_dim"],
    key: Float[Tensor, "patch head head_dim"],
    value: Float[Tensor, "patch head head_dim"],
    runs: tuple[ImageRun, ...],
    scale: float,
) -> Float[Tensor, "patch hidden"]:
    """Within each image, all images of one size at once."""
    outputs = []
    start = 0
    for run in runs:
        stop = start + run.num_images * run.num_patches
        per_image = (run.num_images, run.num_patches, query.shape[1], -1)
        attended = attend(
            query[start:stop].view(per_image).transpose(1, 2),
            key[start:stop].view(per_image).transpose(1, 2),
            value[start:stop].view(per_image).transpose(1, 2),
            scale=scale,
        )
        outputs.append(attended.transpose(1, 2).reshape(stop - start, -1))
        start = stop
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _rotate(
    states: Float[Tensor, "patch head head_dim"],
    cosine: Float[Tensor, "patch 1 head_dim"],
    sine: Float[Tensor, "patch 1 head_dim"],
) -> Float[Tensor, "patch head head_dim"]:
    first, second = states.float().chunk(2, dim=-1)
    return (states * cosine + torch.cat((-second, first), dim=-1) * sine).to(states.dtype)


class VisionTower:
    """Runs a `Qwen3VLVisionModel` on many images. Holds no parameters: those stay in the model."""

    def __init__(self, model: Qwen3VLVisionModel):
        self.model = model
        self._positions: dict[tuple[int, int, torch.device], tuple[Tensor, ...]] = {}
        swap_class(model.patch_embed, MatmulPatchEmbed)
        for block in model.blocks:
            swap_class(block.attn, BatchedVisionAttention)

    def __call__(
        self,
        patches: Float[Tensor, "patch patch_dim"],
        image_grid: Int[Tensor, "image 3"],
        *,
        checkpointing: Checkpointing = "none",
    ) -> tuple[Float[Tensor, "image_token hidden"], list[Float[Tensor, "image_token hidden"]]]:
        """Image tokens for the text model's input, and the deepstack features for its first layers.

        Args:
            patches: of all images, in merge order.
            image_grid: time (1), rows and columns of each image, on the CPU.
            checkpointing: which activations of the blocks are kept.
        """
        model, merge = self.model, self.model.spatial_merge_size
        sizes = [(rows, columns) for _, rows, columns in image_grid.tolist()]
        order = sorted(range(len(sizes)), key=lambda image: sizes[image])
        in_order = order == list(range(len(sizes)))
        if not in_order:
            patches = patches[to_device(_rearrangement(sizes, order, 1), patches.device)]
        runs = _runs([sizes[image] for image in order])
        segments = Segments.of([sizes[image][0] * sizes[image][1] for image in order], patches.device)
        embeddings, cosines, sines = [], [], []
        for run in runs:
            embedding, cosine, sine = self._position(run.rows, run.columns, patches.device)
            embeddings.append(embedding.repeat(run.num_images, 1))
            cosines.append(cosine.repeat(run.num_images, 1, 1))
            sines.append(sine.repeat(run.num_images, 1, 1))
        hidden = model.patch_embed(patches)
        hidden = hidden + torch.cat(embeddings).to(hidden.dtype)
        rotary = torch.cat(cosines), torch.cat(sines)
        deepstack = []
        for index, block in enumerate(model.blocks):
            hidden = run_block(
                checkpointing,
                block,
                hidden,
                cu_seqlens=None,
                position_embeddings=rotary,
                runs=runs,
                segments=segments,
            )
            if index in model.deepstack_visual_indexes:
                merger = model.deepstack_merger_list[list(model.deepstack_visual_indexes).index(index)]
                deepstack.append(merger(hidden))
        tokens = model.merger(hidden)
        if in_order:
            return tokens, deepstack
        back = _rearrangement([sizes[image] for image in order], _inverse(order), merge**2)
        back = to_device(back, tokens.device)
        return tokens[back], [features[back] for features in deepstack]

    def _position(self, rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Position embedding, rotary cosine and sine of the patches of one image, in merge order."""
        key = (rows, columns, device)
        if key not in self._positions:
            if len(self._positions) >= _MAX_CACHED_SIZES:
                self._positions.pop(next(iter(self._positions)))
            self._positions[key] = self._tables(rows, columns, device)
        corners, weights, cosine, sine = self._positions[key]
        embedding = self.model.pos_embed(corners)  # patch corner hidden
        return (embedding * weights.to(embedding.dtype)).sum(dim=1), cosine, sine

    @torch.no_grad()
    def _tables(self, rows: int, columns: int, device: torch.device) -> tuple[Tensor, ...]:
        side, merge = self.model.num_grid_per_side, self.model.spatial_merge_size
        grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"))
        blocks = grid.view(2, rows // merge, merge, columns // merge, merge)
        row, column = blocks.transpose(2, 3).reshape(2, -1)
        # Bilinear resampling of the square table of learned positions, corner aligned with corner.
        y = row * (side - 1) / max(rows - 1, 1)
        x = column * (side - 1) / max(columns - 1, 1)
        top, left = y.floor().long(), x.floor().long()
        bottom, right = (top + 1).clamp(max=side - 1), (left + 1).clamp(max=side - 1)
        down, across = y - top, x - left
        corners = torch.stack(
            [top * side + left, top * side + right, bottom * side + left, bottom * side + right]
        )
        weights = torch.stack(
            [(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across]
        )
        # The frequencies stay where they are: reading them would wait for an accelerator.
        inverse_frequency = self.model.rotary_pos_emb.inv_freq.float()
        places = (to_device(place[:, None], inverse_frequency.device) for place in (row, column))
        angles = torch.cat([place * inverse_frequency for place in places], dim=-1)
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        tables = corners.T.contiguous(), weights.T[..., None].contiguous(), angles.cos(), angles.sin()
        return tuple(table.to(device) for table in tables)


def _runs(sizes: list[tuple[int, int]]) -> tuple[ImageRun, ...]:
    runs: list[ImageRun] = []
    for rows, columns in sizes:
        count = 1
        if runs and (runs[-1].rows, runs[-1].columns) == (rows, columns):
            count = runs.pop().num_images + 1
        runs.append(ImageRun(rows=rows, columns=columns, num_images=count))
    return tuple(runs)


def _rearrangement(sizes: list[tuple[int, int]], order: list[int], divisor: int) -> Int[Tensor, "row"]:
    """Rows of the given images' patches (or, divided, tokens) when the images stand in another order."""
    lengths = [rows * columns // divisor for rows, columns in sizes]
    starts = [sum(lengths[:image]) for image in range(len(lengths))]
    return torch.cat([torch.arange(starts[image], starts[image] + lengths[image]) for image in order])


def _inverse(order: list[int]) -> list[int]:
    inverse = [0] * len(order)
    for position, image in enumerate(order):
        inverse[image] = position
    return inverse
