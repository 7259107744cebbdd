"""A part: some items, and the shard that a worker makes of them.

part-00012/
    part.json       the items' digest, the errors among them, what the step counted
    records/        a folder of records; absent where no item gave one
"""

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from egem.core.errors import ConfigError, EgemError, RecordError
from egem.core.files import new_folder
from egem.records import Record, validate
from egem.shards import ShardWriter

PART_BYTES = 64 << 20
"""A part is also closed when its items hold this much, so that handing them out needs little memory and a part is soon
done."""

RECORDS = "records"
_SUMMARY = "part.json"

I = TypeVar("I", bound="Item")  # noqa: E741  an item


@runtime_checkable
class Item(Protocol):
    """Something that a step turns into records; can be pickled."""

    @property
    def where(self) -> str:
        """Names it, for messages; different for every item of a job."""
        ...

    @property
    def num_bytes(self) -> int:
        """Of its content, as far as that is known before it is read."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of an item: records, perhaps none, or the reason why it is bad."""

    where: str
    records: Sequence[Record] = ()
    error: Exception | None = None
    """A `RecordError` where the item is bad; any other is a bug of ours."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Added up over all items; the names are the step's."""


Step = Callable[[Sequence[Any]], Iterable[Outcome]]
"""A pure function of items: one outcome for each, in their order. Bad items are outcomes, not exceptions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Items that stand next to each other."""

    index: int
    items: tuple[Any, ...]

    @property
    def digest(self) -> str:
        """Of the items' names: equal when the same items were cut in the same way."""
        return hashlib.sha256("\n".join(item.where for item in self.items).encode()).hexdigest()

    def folder(self, work: Path) -> Path:
        """Where what became of it lies."""
        return work / f"part-{self.index:05d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PartResult:
    """What became of a part."""

    index: int
    digest: str
    items: int
    rows: int
    errors: tuple[tuple[str, str], ...]
    """(item, reason)."""
    counts: dict[str, int]


def cut(items: Iterable[I], size: int) -> Iterator[Part]:
    """Parts of `size` items, or fewer that hold `PART_BYTES`."""
    waiting: list[I] = []
    index = held = 0
    for item in items:
        waiting.append(item)
        held += item.num_bytes
        if len(waiting) == size or held >= PART_BYTES:
            yield Part(index=index, items=tuple(waiting))
            waiting, held, index = [], 0, index + 1
    if waiting:
        yield Part(index=index, items=tuple(waiting))


def finished(part: Part, work: Path) -> PartResult | None:
    """What a part has become already, if it has.

    Raises:
        ConfigError: something else is finished there: the input has changed since.
    """
    folder = part.folder(work)
    try:
        found = json.loads((folder / _SUMMARY).read_text())
    except FileNotFoundError:
        return None
    if found["digest"] != part.digest:
        raise ConfigError(
            f"the input has changed since {work} was begun (part {part.index} has other items); remove that folder "
            "to begin again."
        )
    errors = tuple((where, reason) for where, reason in found["errors"])
    return PartResult(
        index=part.index,
        digest=found["digest"],
        items=found["items"],
        rows=found["rows"],
        errors=errors,
        counts=found["counts"],
    )


@dataclass(frozen=True, kw_only=True)
class MakePart:
    """What a worker does: the step's records of a part, written as a folder that appears whole or not at all."""

    step: Step
    work: Path
    """Folder of the parts; workers of other machines see it too."""
    stop_at_error: bool
    """Raise the first error instead of noting it."""

    def __call__(self, part: Part) -> PartResult:
        """Make the part, or find it made.

        Raises:
            EgemError: see `stop_at_error`; also a full disk, or a group whose records do not stand together.
        """
        found = finished(part, self.work)
        if found is not None:
            return found
        try:
            return self._make(part)
        except (EgemError, OSError):
            # A worker that outlived its job, or was given up for lost, may have finished it in the meantime.
            found = finished(part, self.work)
            if found is None:
                raise
            return found

    def _make(self, part: Part) -> PartResult:
        errors: list[tuple[str, str]] = []
        counts: Counter[str] = Counter()
        rows = 0
        ids: set[str] = set()
        with new_folder(part.folder(self.work)) as folder:
            with contextlib.ExitStack() as stack:
                writer: ShardWriter | None = None
                for outcome in self.step(part.items):
                    error = outcome.error or _invalid(outcome, ids)
                    if error is not None:
                        if self.stop_at_error:
                            raise error
                        errors.append((outcome.where, _reason(error)))
                        continue
                    for name, number in outcome.counts.items():
                        counts[name] += number
                    if outcome.records and writer is None:
                        writer = stack.enter_context(ShardWriter(folder / RECORDS))
                    for record in outcome.records:
                        assert writer is not None
                        writer.add(record)
                        ids.add(record.id)
                        rows += 1
            result = PartResult(
                index=part.index,
                digest=part.digest,
                items=len(part.items),
                rows=rows,
                errors=tuple(errors),
                counts=dict(counts),
            )
            summary = {
                "digest": result.digest,
                "items": result.items,
                "rows": result.rows,
                "errors": result.errors,
                "counts": result.counts,
            }
            (folder / _SUMMARY).write_text(json.dumps(summary) + "\n")
        return result


def _invalid(outcome: Outcome, ids: Collection[str]) -> RecordError | None:
    """Why the item's records cannot be stored; it gives all of them or none.

    Args:
        outcome: of an item.
        ids: of the part's records so far.
    """
    own: set[str] = set()
    for record in outcome.records:
        if record.id in ids or record.id in own:
            return RecordError(
                f"{outcome.where}: record '{record.id}' was there before; records need ids of their own."
            )
        own.add(record.id)
        try:
            validate(record)
        except RecordError as error:
            return RecordError(f"{outcome.where}: {error}")
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, EgemError):
        return str(error)
    return f"{type(error).__name__}: {error} (this is a bug of the reader; please report it with the item)"
