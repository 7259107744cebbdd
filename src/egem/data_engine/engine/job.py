"""A job: items to a folder of records, part by part, so that a killed one goes on where it stopped.

.OUT.parts/            beside the folder OUT that is to be written
    job.json           what is being made; another job is refused
    part-00000/ ...    finished parts
"""

import contextlib
import fcntl
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

import egem
from egem.core.errors import ConfigError, RecordError
from egem.core.files import new_folder, refuse_existing, write_atomically
from egem.data_engine.engine.config import EngineConfig, open_engine
from egem.data_engine.engine.parts import RECORDS, MakePart, Part, PartResult, Step, cut, finished
from egem.data_engine.statistics import QUARANTINE
from egem.shards import Manifest
from egem.shards.joining import join_folders

SETTLED_ITEMS = 200
"""The share of bad items is judged from this many items on, and at the end."""
_SHOWN = 3
_JOB, _LOCK = "job.json", "lock"

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What came of a job."""

    items: int
    errors: tuple[tuple[str, str], ...]
    """(item, reason), in the items' order; also in the folder's quarantine.jsonl."""
    counts: dict[str, int]
    """What the step counted."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be made."""

    title: str
    """Of the progress bar."""
    unit: str
    """What an item is called."""
    step: Step
    """Turns items into records; can be pickled."""
    description: dict[str, Any]
    """JSON values: all that decides about the records. A job that goes on must have the same."""
    out: Path
    """Folder to write; must not exist or be empty."""
    items_per_part: int
    """Where the engine's configuration says nothing."""
    max_error_fraction: float = 0.0
    """Share of items that may be bad and are put aside; with 0 the first one stops the job."""
    notes: Callable[[Path, JobResult], dict[str, bytes]] | None = None
    """More files: names and contents, told by the folder with its records as they are now and the result."""


def run_job(items: Iterable[Any], job: Job, config: EngineConfig | None = None) -> tuple[Manifest, JobResult]:
    """Make a folder of records of many items.

    What is finished of a job that was stopped or killed is used. The folder appears whole or not at all; bad items are
    listed in its quarantine.jsonl as {"row", "reason"}.

    Args:
        items: see `Item`; the same ones in the same order when a job goes on.
        job: what to make of them.
        config: the engine.

    Raises:
        ConfigError: `job.out` exists, other work is under way for it, or the engine cannot be had.
        RecordError: too many items are bad, or none gives a record.
    """
    config = config or EngineConfig()
    out = Path(job.out)
    refuse_existing(out)
    work = out.absolute().parent / f".{out.name}.parts"
    size = config.items_per_part or job.items_per_part
    # As JSON gives it back: tuples are lists there.
    stated = json.loads(json.dumps({"egem": egem.__version__, "items_per_part": size, **job.description}))
    with _locked(work):
        _continue(work, stated)
        try:
            results = _results(items, job, config, work, size)
            result = _summed(results)
            _check_share(result, job, work)
            folders = [work / f"part-{r.index:05d}" / RECORDS for r in results if r.rows]
            if not folders:
                raise RecordError(f"{out}: no record was added, so nothing is written.")
            with new_folder(out) as folder:
                manifest = join_folders(folders, folder)
                if result.errors:
                    (folder / QUARANTINE).write_bytes(_table(result))
                for name, content in (job.notes(folder, result) if job.notes else {}).items():
                    (folder / name).write_bytes(content)
        except BaseException:
            _tidy(work)
            raise
        shutil.rmtree(work)
    if result.errors:
        _LOG.warning("%d %ss left out, see %s", len(result.errors), job.unit, out / QUARANTINE)
    return manifest, result


def _results(items: Iterable[Any], job: Job, config: EngineConfig, work: Path, size: int) -> list[PartResult]:
    """What became of every part, in order."""
    done: dict[int, PartResult] = {}
    seen = bad = 0
    with tqdm(desc=job.title, unit=job.unit, disable=None) as bar:

        def unfinished() -> Iterator[Part]:
            for part in cut(items, size):
                found = finished(part, work)
                if found is None:
                    yield part
                else:
                    done[part.index] = found
                    bar.update(found.items)

        make = MakePart(step=job.step, work=work, stop_at_error=job.max_error_fraction == 0)
        answers = open_engine(config).map(make, unfinished())
        with contextlib.closing(answers):  # pyright: ignore[reportArgumentType]  a generator
            for answer in answers:
                done[answer.index] = answer
                bar.update(answer.items)
                seen, bad = seen + answer.items, bad + len(answer.errors)
                if bad > job.max_error_fraction * seen and seen >= SETTLED_ITEMS:
                    _check_share(_summed(done.values()), job, work)
    return [done[index] for index in sorted(done)]


def _summed(results: Iterable[PartResult]) -> JobResult:
    results = sorted(results, key=lambda result: result.index)
    counts: Counter[str] = Counter()
    for result in results:
        for name, number in result.counts.items():
            counts[name] += number
    return JobResult(
        items=sum(result.items for result in results),
        errors=tuple(error for result in results for error in result.errors),
        counts=dict(counts),
    )


def _check_share(result: JobResult, job: Job, work: Path) -> None:
    """Stop a job of which too much is bad.

    Raises:
        RecordError: with the first reasons; all are in a table beside the folder that was to be written.
    """
    if len(result.errors) <= job.max_error_fraction * result.items:
        return
    table = work.parent / f"{job.out.name}.errors.jsonl"
    write_atomically(table, _table(result))
    # They are done again, repaired or not; parts without errors are kept.
    for folder in work.glob("part-*"):
        if json.loads((folder / "part.json").read_text())["errors"]:
            shutil.rmtree(folder)
    reasons = "\n  ".join(reason for _, reason in result.errors[:_SHOWN])
    raise RecordError(
        f"{len(result.errors)} of {result.items} {job.unit}s are bad, more than the {job.max_error_fraction:.1%} "
        f"allowed; repair them or raise max_error_fraction. All are listed in {table}. The first:\n  {reasons}"
    )


def _table(result: JobResult) -> bytes:
    lines = [json.dumps({"row": where, "reason": reason}) for where, reason in result.errors]
    return ("\n".join(lines) + "\n").encode()


@contextlib.contextmanager
def _locked(work: Path) -> Iterator[None]:
    """One job at a time in a folder; the lock goes with the process that holds it."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another process works in {work}; wait for it, or write to another folder."
            ) from None
        yield


def _continue(work: Path, stated: dict[str, Any]) -> None:
    """Make sure that what is there belongs to this job, and remove what a killed one left half-written."""
    for left in work.glob(".part-*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    path = work / _JOB
    if not path.exists():
        write_atomically(path, (json.dumps(stated, indent=2) + "\n").encode())
        return
    found = json.loads(path.read_text())
    if found != stated:
        names = sorted(key for key in {*found, *stated} if found.get(key) != stated.get(key))
        changes = "; ".join(f"{name} was {found.get(name)}, is {stated.get(name)}" for name in names)
        raise ConfigError(
            f"{work} holds unfinished work that differs from this ({changes}); give the same options to go on with "
            "it, or remove the folder to begin again."
        )
    parts = len(list(work.glob("part-*")))
    if parts:
        _LOG.info("going on: %d parts are finished in %s", parts, work)


def _tidy(work: Path) -> None:
    """After an error: nothing half-written stays, and nothing at all where no part was finished."""
    for left in work.glob(".part-*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    if not any(work.glob("part-*")):
        shutil.rmtree(work)
