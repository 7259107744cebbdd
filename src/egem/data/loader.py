"""Batches for training: prepared by worker processes ahead of the step that needs them.

The batch of a step is a function of (seed, step) and the data alone, whatever the number of workers. A group (or
window of an episode) that cannot be read is left out of its batch, logged, and written to `quarantine.jsonl` with the
reason; nothing takes its place. Too many of them stop the run.
"""

import json
import logging
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import DataLoader, Dataset

from egem.batch import Batch, DepthMap, DepthTargets, Sample
from egem.core.errors import RecordError
from egem.data.collate import collate
from egem.data.depth import DepthTarget
from egem.data.latents import DepthLatents
from egem.data.order import Order
from egem.data.prepare import RELATIVE_UNDER_LOG, Preparer
from egem.data.targets import check_target, donors, pictures_in_place
from egem.media import decode_image, image_size
from egem.records import IMAGE_MARK, Message, Record
from egem.shards import RecordGroups

logger = logging.getLogger(__name__)

_GRACE = 100
"""The bad fraction is taken of at least this many groups, so that one early bad group does not stop a run; and so
many depth maps are tried before they are all given up."""


@dataclass(frozen=True, slots=True)
class _BadGroup:
    group: int
    reason: str


@runtime_checkable
class SampleSource(Protocol):
    """What batches are made of: samples by number."""

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """One sample.

        Args:
            index: which; an order says how many there are.
            rng: for random choices about this place in the order.

        Raises:
            RecordError: it cannot be read; it is left out of its batch and counted.
        """
        ...

    def idle(self) -> Sample:
        """What no loss counts, for a batch of which nothing could be read: every rank must take every step."""
        ...

    def placeholder(self) -> DepthTargets:
        """The map of weight 0 that stands in where a batch has no depth."""
        ...

    @property
    def pad_id(self) -> int:
        """Input id of padding."""
        ...

    @property
    def left_out(self) -> Counter[str]:
        """Depth maps and turns of samples that this process could not use so far, by reason."""
        ...


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
    target: DepthTarget = "depth",
    target_seed: int = 0,
    quarantine: Path | None = None,
) -> Iterator[Batch]:
    """The batches of steps `start_step` to `start_step + num_steps - 1`, of records.

    Args:
        groups: the data.
        preparer: of the checkpoint that is trained.
        order: of `len(groups)` groups (or this process's share of it).
        batch_size: see `batches_of`, also for what is not named here.
        start_step: likewise.
        num_steps: likewise.
        workers: likewise.
        max_turns: question-answer turns a sample, chosen and ordered anew each time a group comes up.
        row_tokens: see `batches_of`.
        max_bad_fraction: likewise.
        with_depth: encode depth maps; without, every batch has the placeholder.
        latents: take these instead of encoding depth maps, which then are not even read.
        target: what to draw: depth, or a control (see `egem.data.targets`).
        target_seed: of which group gets which other group's depth, for the target `shuffled`.
        quarantine: see `batches_of`.

    Raises:
        ConfigError: the checkpoint cannot be taught the target.
        RecordError: too many groups cannot be read; names the last reason.
    """
    # Stored latents are of depth.
    latents = latents if with_depth and target != "image" else None
    if with_depth:
        check_target(target, preparer.depth)
    source = RecordSamples(
        groups=groups.for_training(with_depth=with_depth and latents is None),
        preparer=preparer,
        max_turns=max_turns,
        with_depth=with_depth,
        latents=latents,
        target=target,
        donors=donors(len(groups), seed=target_seed) if with_depth and target == "shuffled" else None,
    )
    return batches_of(
        source,
        order,
        batch_size=batch_size,
        start_step=start_step,
        num_steps=num_steps,
        workers=workers,
        row_tokens=row_tokens,
        max_bad_fraction=max_bad_fraction,
        quarantine=quarantine,
    )


def batches_of(
    source: SampleSource,
    order: Order,
    *,
    batch_size: int,
    start_step: int = 0,
    num_steps: int,
    workers: int = 1,
    row_tokens: int | None = None,
    max_bad_fraction: float = 0.01,
    quarantine: Path | None = None,
) -> Iterator[Batch]:
    """The batches of steps `start_step` to `start_step + num_steps - 1`.

    Args:
        source: of samples.
        order: of its samples (or this process's share of it).
        batch_size: samples a batch.
        start_step: 0, or where a run goes on.
        num_steps: how many batches.
        workers: processes that prepare batches ahead; 0 prepares in this one.
        row_tokens: pack the samples of a batch into rows of about so many tokens, see `collate`.
        max_bad_fraction: share of unreadable samples above which to stop.
        quarantine: JSON lines file to which bad samples are added.

    Raises:
        RecordError: too many samples cannot be read, names the last reason; or none of the depth can be drawn.
    """
    task = _Steps(source=source, order=order, batch_size=batch_size, row_tokens=row_tokens)
    loader = DataLoader(
        task,
        batch_size=None,
        sampler=range(start_step, start_step + num_steps),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_the_parent,
    )
    seen, bad, relative, drawn = 0, 0, 0, False
    noted: set[int] = set()
    for batch, failed, left_out in loader:
        seen += batch_size
        relative += left_out[RELATIVE_UNDER_LOG]
        drawn = drawn or any(bool(targets.weight.any()) for targets in batch.depth)
        if relative >= _GRACE and not drawn:
            raise RecordError(
                f"the first {relative} depth maps are all relative, but this checkpoint's encoding 'log' states "
                "metres, so no depth would be learnt. Give metric depth, start from a checkpoint with the encoding "
                "'inverse' or 'spectral', or set depth_weight to 0."
            )
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
class RecordSamples:
    """Groups of records as samples; see `batches`."""

    groups: RecordGroups
    preparer: Preparer
    max_turns: int | None
    with_depth: bool
    latents: DepthLatents | None
    target: DepthTarget = "depth"
    donors: Int[np.ndarray, "group"] | None = None
    """For each group, the one whose depth it gets."""

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """See `SampleSource`."""
        records = self.groups[index]
        return self.preparer.sample(
            records,
            max_turns=self.max_turns,
            with_depth=self.with_depth,
            depth_maps=self._depth_maps(index, records),
            rng=rng,
        )

    def _depth_maps(self, index: int, records: Sequence[Record]) -> Sequence[DepthMap] | None:
        """What to draw in place of the group's own depth maps; None leaves those to the preparer."""
        giver = index if self.donors is None else int(self.donors[index])
        if self.latents is not None:
            return self.latents[giver]
        if self.target == "depth" or not self.with_depth:
            return None
        records = records if giver == index else self.groups[giver]
        where, files = f"record '{records[0].id}'", records[0].images
        maps = self.preparer.depth_maps(records, [image_size(file, where=where) for file in files])
        if self.target == "shuffled":
            return maps
        return pictures_in_place(maps, [decode_image(file, where=where) for file in files])

    def idle(self) -> Sample:
        """See `SampleSource`."""
        return idle_sample(self.preparer)

    def placeholder(self) -> DepthTargets:
        """See `SampleSource`."""
        return depth_placeholder(self.preparer) if self.latents is None else self.latents.placeholder()

    @property
    def pad_id(self) -> int:
        """See `SampleSource`."""
        return self.preparer.tokenizer.pad_id

    @property
    def left_out(self) -> Counter[str]:
        """See `SampleSource`."""
        return self.preparer.counts


@dataclass(frozen=True, kw_only=True)
class _Steps(Dataset[tuple[Batch, tuple[_BadGroup, ...], Counter[str]]]):
    """Step number to batch; what the workers run."""

    source: SampleSource
    order: Order
    batch_size: int
    row_tokens: int | None

    def __getitem__(self, step: int) -> tuple[Batch, tuple[_BadGroup, ...], Counter[str]]:
        samples: list[Sample] = []
        failed: list[_BadGroup] = []
        before = self.source.left_out.copy()
        for row, group in enumerate(self.order.groups(step, self.batch_size)):
            try:
                sample = self.source.sample(group, self.order.rng(step, self.batch_size, row))
            except RecordError as error:
                failed.append(_BadGroup(group, str(error)))
            else:
                samples.append(sample)
        batch = collate(
            samples or [self.source.idle()],
            pad_id=self.source.pad_id,
            depth_placeholder=self.source.placeholder(),
            row_tokens=self.row_tokens,
        )
        left_out = self.source.left_out - before
        return replace(batch, left_out=left_out.total()), tuple(failed), left_out


def depth_placeholder(preparer: Preparer) -> DepthTargets:
    """The map of weight 0 that stands in where a batch has no depth: the smallest that the codec can take."""
    side = preparer.depth.multiple
    return DepthTargets(
        pixels=torch.zeros(1, preparer.depth.num_channels, side, side),
        valid=torch.ones(1, side, side, dtype=torch.bool),
        image_index=torch.zeros(1, dtype=torch.int64),
        weight=torch.zeros(1),
    )


def idle_sample(preparer: Preparer) -> Sample:
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
