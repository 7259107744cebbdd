"""Samples to one batch: text padded or packed into rows, images one after another, depth maps by size."""

from collections.abc import Sequence

import torch
from torch import Tensor

from egem.batch import IGNORE_LABEL, ActionTargets, Batch, DepthMap, DepthTargets, Sample
from egem.data.packing import fill_rows


def collate(
    samples: Sequence[Sample],
    *,
    pad_id: int,
    depth_placeholder: DepthTargets | None,
    row_tokens: int | None = None,
) -> Batch:
    """Put samples together.

    Args:
        samples: at least one.
        pad_id: input id of padding.
        depth_placeholder: the one map of weight 0 that stands in where no sample has depth, so that the depth
            head runs on every rank and step; None for prompts, where it is not run.
        row_tokens: pack samples into rows of about this many tokens (see `fill_rows`); None gives each
            sample a row.

    Returns:
        Images in the order of the samples; depth maps in groups of one size and kind, in the order in which
        they first occur.
    """
    lengths = [len(sample.input_ids) for sample in samples]
    rows = [[n] for n in range(len(samples))] if row_tokens is None else fill_rows(lengths, row_tokens)
    shape = (len(rows), max(sum(lengths[n] for n in members) for members in rows))
    ids = torch.full(shape, pad_id, dtype=torch.int64)
    labels = torch.full(shape, IGNORE_LABEL, dtype=torch.int64)
    positions = torch.zeros((3, *shape), dtype=torch.int64)
    segments = torch.zeros(shape, dtype=torch.int64)
    for row, members in enumerate(rows):
        start = 0
        for segment, n in enumerate(members, start=1):
            place = slice(start, start + lengths[n])
            ids[row, place] = samples[n].input_ids
            labels[row, place] = samples[n].labels
            positions[:, row, place] = samples[n].position_ids
            segments[row, place] = segment
            start = place.stop
    return Batch(
        record_ids=tuple(record_id for sample in samples for record_id in sample.record_ids),
        input_ids=ids,
        labels=labels,
        position_ids=positions,
        segment_ids=segments,
        patches=torch.cat([sample.patches for sample in samples]),
        patch_scale=samples[0].patch_scale,
        image_grid=torch.cat([sample.image_grid for sample in samples]),
        depth=_depth_targets(samples, depth_placeholder),
        row_images=tuple(sum(len(samples[n].image_grid) for n in members) for members in rows),
        actions=_action_targets(samples),
    )


def _action_targets(samples: Sequence[Sample]) -> ActionTargets | None:
    found = [sample.action for sample in samples if sample.action is not None]
    if not found:
        return None
    if len(found) != len(samples):
        raise ValueError("a batch with actions needs them in all samples.")
    return ActionTargets(
        state=torch.stack([action.state for action in found]),
        actions=torch.stack([action.actions for action in found]),
        valid=torch.stack([action.valid for action in found]),
    )


def _depth_targets(samples: Sequence[Sample], placeholder: DepthTargets | None) -> tuple[DepthTargets, ...]:
    by_size: dict[tuple[bool, torch.Size], list[tuple[int, DepthMap]]] = {}
    first_image = 0
    for sample in samples:
        for depth in sample.depth_maps:
            members = by_size.setdefault((depth.pixels is None, depth.valid.shape), [])
            members.append((first_image + depth.image_index, depth))
        first_image += len(sample.image_grid)
    found = tuple(map(_targets, by_size.values()))
    return found or (() if placeholder is None else (placeholder,))


def _targets(members: Sequence[tuple[int, DepthMap]]) -> DepthTargets:
    maps = [depth for _, depth in members]
    return DepthTargets(
        pixels=_stacked([depth.pixels for depth in maps]),
        latents=_stacked([depth.latents for depth in maps]),
        valid=torch.stack([depth.valid for depth in maps]),
        image_index=torch.tensor([index for index, _ in members], dtype=torch.int64),
        weight=torch.ones(len(members)),
    )


def _stacked(tensors: Sequence[Tensor | None]) -> Tensor | None:
    """All of them as one, or None if they are not there."""
    given = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(given) if given else None
