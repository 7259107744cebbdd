"""Samples to one batch: text padded on the right, images one after another, depth maps grouped by size."""

from collections.abc import Sequence

import torch
from torch import Tensor

from egem.batch import IGNORE_LABEL, Batch, DepthMap, DepthTargets, Sample


def collate(samples: Sequence[Sample], *, pad_id: int, depth_placeholder: tuple[int, int, int]) -> Batch:
    """Put samples together.

    Args:
        samples: at least one.
        pad_id: input id of padding.
        depth_placeholder: channels, height and width of the one map of weight 0 that stands in where no
            sample has depth, so that the depth head runs on every rank and step.

    Returns:
        Images in the order of the samples; depth maps in groups of one size, in the order in which the sizes
        first occur.
    """
    length = max(len(sample.input_ids) for sample in samples)
    ids = torch.full((len(samples), length), pad_id, dtype=torch.int64)
    labels = torch.full((len(samples), length), IGNORE_LABEL, dtype=torch.int64)
    positions = torch.zeros((3, len(samples), length), dtype=torch.int64)
    segments = torch.zeros((len(samples), length), dtype=torch.int64)
    for row, sample in enumerate(samples):
        end = len(sample.input_ids)
        ids[row, :end] = sample.input_ids
        labels[row, :end] = sample.labels
        positions[:, row, :end] = sample.position_ids
        segments[row, :end] = 1
    return Batch(
        record_ids=tuple(record_id for sample in samples for record_id in sample.record_ids),
        input_ids=ids,
        labels=labels,
        position_ids=positions,
        segment_ids=segments,
        patches=torch.cat([sample.patches for sample in samples]),
        image_grid=torch.cat([sample.image_grid for sample in samples]),
        depth=_depth_targets(samples, depth_placeholder),
    )


def _depth_targets(samples: Sequence[Sample], placeholder: tuple[int, int, int]) -> tuple[DepthTargets, ...]:
    by_size: dict[tuple[int, ...], list[tuple[int, DepthMap]]] = {}
    first_image = 0
    for sample in samples:
        for depth in sample.depth_maps:
            members = by_size.setdefault(tuple(depth.pixels.shape), [])
            members.append((first_image + depth.image_index, depth))
        first_image += len(sample.image_grid)
    if not by_size:
        return (_targets(torch.zeros(1, *placeholder), torch.ones(1, *placeholder[1:]).bool(), [0], 0.0),)
    return tuple(
        _targets(
            torch.stack([depth.pixels for _, depth in members]),
            torch.stack([depth.valid for _, depth in members]),
            [index for index, _ in members],
            1.0,
        )
        for members in by_size.values()
    )


def _targets(pixels: Tensor, valid: Tensor, image_index: list[int], weight: float) -> DepthTargets:
    return DepthTargets(
        pixels=pixels,
        valid=valid,
        image_index=torch.tensor(image_index, dtype=torch.int64),
        weight=torch.full((len(image_index),), weight),
    )
