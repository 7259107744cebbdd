"""The forward and backward passes of one step, as many on every process.

A sharded model is gathered block by block by all processes together. If one of them ran a module once more or
once less than the others (another row of packed samples, maps of one more size), all would wait for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from egem.batch import IGNORE_LABEL, Batch
from egem.training.distributed import World, largest_over_ranks


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One forward and backward pass."""

    batch: Batch
    batch_index: int
    """Which of the step's micro-batches it is part of."""
    begins_batch: bool
    """Whether it is the first of them."""
    num_own_maps: int
    """Entries of `batch.depth` that are the batch's own; later ones were added for the sake of other processes."""


def even_passes(parts: Sequence[Sequence[Batch]], world: World) -> list[Pass]:
    """This process's passes, and some that count for nothing where others have more.

    Args:
        parts: of each micro-batch, at least one.
        world: all processes; each calls this once a step.
    """
    passes = [
        Pass(
            batch=part,
            batch_index=index,
            begins_batch=number == 0,
            num_own_maps=len(part.depth),
        )
        for index, batch in enumerate(parts)
        for number, part in enumerate(batch)
    ]
    if world.size == 1:
        return passes
    (most,) = largest_over_ranks([len(passes)], world)
    smallest = min(passes, key=lambda each: each.batch.input_ids.numel() + each.batch.patches.numel())
    idle = replace(smallest, batch=_silent(smallest.batch), begins_batch=False, num_own_maps=0)
    passes += [idle] * (most - len(passes))
    groups = largest_over_ranks([len(each.batch.depth) for each in passes], world)
    return [_with_groups(each, number) for each, number in zip(passes, groups, strict=True)]


def _with_groups(each: Pass, number: int) -> Pass:
    depth = each.batch.depth
    missing = number - len(depth)
    if missing == 0:
        return each
    smallest = min(depth, key=lambda targets: targets.valid[0].numel())
    return replace(each, batch=replace(each.batch, depth=(*depth, *[smallest.placeholder()] * missing)))


def _silent(batch: Batch) -> Batch:
    """A batch whose losses are sums over nothing."""
    labels = torch.full_like(batch.labels, IGNORE_LABEL)
    actions = batch.actions
    if actions is not None:
        actions = replace(actions, valid=torch.zeros_like(actions.valid))
    return replace(batch, labels=labels, depth=(batch.depth[0].placeholder(),), actions=actions)
