"""Batches for training: prepared by worker processes ahead of the step that needs them.

The batch of a step is a function of (seed, step) and the data alone, whatever the number of workers. A group
that cannot be read is left out of its batch, logged, and written to `quarantine.jsonl` with the reason;
nothing takes its place. Too many of them stop the run.
"""

import json
import logging
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from egem.batch import Batch, DepthTargets, Sample
from egem.core.errors import RecordError
from egem.data.collate import collate
from egem.data.latents import DepthLatents
from egem.data.order import Order
from egem.data.prepare import Preparer
from egem.records import IMAGE_MARK, Message
from egem.shards import RecordGroups

logger = logging.getLogger(__name__)

_GRACE = 100
"""The bad fraction is taken of at least this many groups, so that one early bad group does not stop a run."""


@dataclass(frozen=True, slots=True)
class _BadGroup:
    group: int
    reason: str


def batches(
    groups: RecordGroups,
    preparer: Preparer,
    order: Order,
    *,
    batch_size: int,
    start_step: int = 0,
    num_steps: int,
    workers: int = 1,
    max_turns: int | None = None,
    row_tokens: int | None = None,
    max_bad_fraction: float = 0.01,
    with_depth: bool = True,
    latents: DepthLatents | None = None,
    quarantine: Path | None = None,
) -> Iterator[Batch]:
    """The batches of steps `start_step` to `start_step + num_steps - 1`.

    Args:
        groups: the data.
        preparer: of the checkpoint that is trained.
        order: of `len(groups)` groups (or this process's share of it).
        batch_size: samples a batch.
        start_step: 0, or where a run goes on.
        num_steps: how many batches.
        workers: processes that prepare batches ahead; 0 prepares in this one.
        max_turns: question-answer turns a sample, chosen and ordered anew each time a group comes up.
        row_tokens: pack the samples of a batch into rows of about so many tokens, see `collate`.
        max_bad_fraction: share of unreadable groups above which to stop.
        with_depth: encode depth maps; without, every batch has the placeholder.
        latents: take these instead of encoding depth maps, which then are not even read.
        quarantine: JSON lines file to which bad groups are added.

    Raises:
        RecordError: too many groups cannot be read; names the last reason.
    """
    latents = latents if with_depth else None
    task = _Steps(
        groups=groups.for_training(with_depth=with_depth and latents is None),
        preparer=preparer,
        order=order,
        batch_size=batch_size,
        max_turns=max_turns,
        row_tokens=row_tokens,
        with_depth=with_depth,
        latents=latents,
    )
    loader = DataLoader(
        task,
        batch_size=None,
        sampler=range(start_step, start_step + num_steps),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_the_parent,
    )
    seen, bad = 0, 0
    noted: set[int] = set()
    for batch, failed in loader:
        seen += batch_size
        for failure in failed:
            bad += 1
            if failure.group not in noted:
                noted.add(failure.group)
                logger.warning("group %d left out: %s", failure.group, failure.reason)
                if quarantine is not None:
                    _note(quarantine, failure)
        if failed and bad > max_bad_fraction * max(seen, _GRACE):
            where = f"; all reasons are in {quarantine}" if quarantine else ""
            raise RecordError(
                f"{bad} of {seen} groups could not be read, over {max_bad_fraction:.2%}{where}. "
                f"The last: {failed[-1].reason}"
            )
        yield batch


@dataclass(frozen=True, kw_only=True)
class _Steps(Dataset[tuple[Batch, tuple[_BadGroup, ...]]]):
    """Step number to batch; what the workers run."""

    groups: RecordGroups
    preparer: Preparer
    order: Order
    batch_size: int
    max_turns: int | None
    row_tokens: int | None
    with_depth: bool
    latents: DepthLatents | None

    def __getitem__(self, step: int) -> tuple[Batch, tuple[_BadGroup, ...]]:
        samples: list[Sample] = []
        failed: list[_BadGroup] = []
        for row, group in enumerate(self.order.groups(step, self.batch_size)):
            rng = self.order.rng(step, self.batch_size, row)
            try:
                sample = self.preparer.sample(
                    self.groups[group],
                    max_turns=self.max_turns,
                    with_depth=self.with_depth,
                    depth_maps=None if self.latents is None else self.latents[group],
                    rng=rng,
                )
            except RecordError as error:
                failed.append(_BadGroup(group, str(error)))
            else:
                samples.append(sample)
        if not samples:
            samples = [_idle(self.preparer)]
        placeholder = depth_placeholder(self.preparer) if self.latents is None else self.latents.placeholder()
        batch = collate(
            samples,
            pad_id=self.preparer.tokenizer.pad_id,
            depth_placeholder=placeholder,
            row_tokens=self.row_tokens,
        )
        return batch, tuple(failed)


def depth_placeholder(preparer: Preparer) -> DepthTargets:
    """The map of weight 0 that stands in where a batch has no depth: the smallest that the codec can take."""
    side = preparer.depth.multiple
    return DepthTargets(
        pixels=torch.zeros(1, preparer.depth.num_channels, side, side),
        valid=torch.ones(1, side, side, dtype=torch.bool),
        image_index=torch.zeros(1, dtype=torch.int64),
        weight=torch.zeros(1),
    )


def _idle(preparer: Preparer) -> Sample:
    """What no loss counts, for a step of which nothing could be read: every rank must take every step."""
    grey = np.full((1, 1, 3), 128, np.uint8)
    return preparer.prompt([Message(role="user", content=IMAGE_MARK)], [grey])


def _leave_signals_to_the_parent(_: int) -> None:
    """Schedulers signal every process of a job; workers must live until the parent has saved its state."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not ignored for ever: the parent itself ends workers that hang in this way.
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(30))


def _note(path: Path, failure: _BadGroup) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"group": failure.group, "reason": failure.reason}) + "\n")
