"""`egem data annotate depth|objects|masks|tracks`: a folder of records with annotations added, part after part."""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tyro.conf import OmitArgPrefixes

from egem.annotators.steps import Clock, Group, Step
from egem.core.errors import ConfigError, RecordError
from egem.data_engine.engine import EngineConfig, Job, Outcome, run_job
from egem.shards import Manifest, RecordGroups

GROUPS_PER_PART = 512
"""What is repeated after a crash, and a shard of the result."""

_MICRO = 1_000_000
_TIMES = ("decode", "model", "write", "whole")


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig:
    """Where records come from and go to, and how the work is done."""

    data: Path
    """Folder of records."""
    out: Path
    """Folder to write: the same records with what was added; it must not exist yet."""
    batch_size: int = 8
    """Images a model sees at once, at least."""
    device: str = "auto"
    """`auto` takes a GPU if there is one; several workers are spread over all GPUs."""
    max_error_fraction: float = 0.01
    """Share of groups that may fail; they are left out and listed in quarantine.jsonl. Above it the run stops."""
    engine: OmitArgPrefixes[EngineConfig] = field(default_factory=lambda: EngineConfig(workers=1))
    """Each worker loads the model."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigError: names the option.
        """
        if self.batch_size < 1:
            raise ConfigError(f"batch_size {self.batch_size} must be at least 1.")
        if not 0 <= self.max_error_fraction < 1:
            raise ConfigError(
                f"max_error_fraction {self.max_error_fraction}: give a share from 0 to below 1."
            )


@runtime_checkable
class StepMaker(Protocol):
    """A configuration that a worker can make its step from; can be pickled."""

    @property
    def work(self) -> AnnotateConfig:
        """Where and how."""
        ...

    def make_step(self, device: str) -> Step:
        """Load what annotates."""
        ...


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """What a run has done, in this and earlier starts."""

    manifest: Manifest
    made_with: dict[str, Any]
    """What the step says of itself."""
    groups: int
    failed: int
    images: int
    """How many the model has seen."""
    seconds: dict[str, float]
    """decode, model, write and whole, summed over workers."""

    def table(self) -> str:
        """Images a second and where the time went."""
        whole = max(self.seconds["whole"], 1e-9)
        shares = ", ".join(f"{name} {self.seconds[name] / whole:.0%}" for name in _TIMES[:3])
        return (
            f"{self.images} images in {whole:.1f} s of work: {self.images / whole:.2f} images/s a worker; {shares}\n"
            f"{self.failed} of {self.groups} groups failed"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupItem:
    """One group of the folder, by its number."""

    number: int
    num_bytes: int = 0

    @property
    def where(self) -> str:
        """Names it in tables of errors."""
        return f"group {self.number}"


class AnnotateGroups:
    """The engine's step: loads its model once in each worker.

    Args:
        maker: says what annotates.
        step: the model where it is loaded already; it stays in this process.
    """

    def __init__(self, maker: StepMaker, step: Step | None = None) -> None:
        self.maker = maker
        self._step = step
        self._groups: RecordGroups | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Workers load their own."""
        return {"maker": self.maker, "_step": None, "_groups": None}

    def __call__(self, items: Sequence[GroupItem]) -> Iterator[Outcome]:
        """One outcome for each group, in order."""
        work = self.maker.work
        if self._groups is None:
            self._groups = RecordGroups([work.data])
        if self._step is None:
            self._step = self.maker.make_step(device_of_worker(work.device))
        for batch, groups in _batches(items, self._groups, work.batch_size):
            start, clock = time.perf_counter(), Clock()
            found = self._step.annotate(groups, clock)
            spent = {"decode": clock.decode, "model": clock.model, "write": clock.write}
            spent["whole"] = time.perf_counter() - start
            counts = {"images": clock.images, **{name: int(s * _MICRO) for name, s in spent.items()}}
            for item, group, outcome in zip(batch, groups, found, strict=True):
                if isinstance(outcome, str):
                    yield Outcome(where=group[0].group, error=RecordError(outcome))
                    continue
                yield Outcome(where=item.where, records=outcome, counts=counts)
                counts = {}


def annotate(maker: StepMaker) -> Annotated:
    """Annotate a folder of records; a run that was stopped goes on with its finished parts.

    Raises:
        ConfigError: `out` exists, or was begun with other records or options.
        RecordError: the records cannot be read, or too many groups failed.
        CheckpointError: a model cannot be loaded.
    """
    work = maker.work
    groups = RecordGroups([work.data])
    # Loaded here too, so that a checkpoint that cannot be read is one error before any work; where others work, not
    # on a GPU that a worker needs, and not kept.
    own = work.engine.in_this_process
    step = maker.make_step(device_of_worker(work.device) if own else "cpu")
    made_with = step.describe()
    groups_step = AnnotateGroups(maker, step if own else None)
    del step
    job = Job(
        title="annotating",
        unit="group",
        step=groups_step,
        description={"data": groups.fingerprint, "annotate": made_with},
        out=work.out,
        items_per_part=GROUPS_PER_PART,
        max_error_fraction=work.max_error_fraction,
    )
    manifest, result = run_job((GroupItem(number=n) for n in range(len(groups))), job, work.engine)
    return Annotated(
        manifest=manifest,
        made_with=made_with,
        groups=result.items,
        failed=len(result.errors),
        images=result.counts.get("images", 0),
        seconds={name: result.counts.get(name, 0) / _MICRO for name in _TIMES},
    )


def device_of_worker(name: str) -> str:
    """The device of this process: workers of one machine are numbered, and take the GPUs in turn."""
    import torch

    if name != "auto" or not torch.cuda.is_available():
        return name
    digits = multiprocessing.current_process().name.rpartition("-")[2]
    number = int(digits) - 1 if digits.isdigit() else 0
    return f"cuda:{number % torch.cuda.device_count()}"


def _batches(
    items: Sequence[GroupItem], groups: RecordGroups, size: int
) -> Iterator[tuple[list[GroupItem], list[Group]]]:
    """Groups with at least `size` images together."""
    taken: list[GroupItem] = []
    read: list[Group] = []
    images = 0
    for item in items:
        taken.append(item)
        read.append(groups[item.number])
        images += len(read[-1][0].images)
        if images >= size:
            yield taken, read
            taken, read, images = [], [], 0
    if taken:
        yield taken, read
