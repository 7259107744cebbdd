"""Some records of some folders as a new folder, in their old order: a shard reads its input from first to last."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from egem.core.errors import RecordError
from egem.data_engine.engine import EngineConfig, Job, JobResult, Outcome, run_job
from egem.shards import Manifest, RecordGroups

GROUPS_PER_PART = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """A group, or some of its records."""

    group: int
    """Its number in the folders, read one after another."""
    places: tuple[int, ...] | None = None
    """Of the records to keep within the group; None keeps all."""
    num_bytes: int = 0

    @property
    def where(self) -> str:
        """For messages."""
        kept = "" if self.places is None else f", records {','.join(map(str, self.places))}"
        return f"group {self.group}{kept}"


@dataclass(frozen=True, kw_only=True)
class CopyGroups:
    """The step: records as they are. Pictures outside the shards are named by absolute paths."""

    folders: tuple[Path, ...]

    @cached_property
    def groups(self) -> RecordGroups:
        """The folders, opened once in each worker."""
        return RecordGroups(self.folders)

    def __call__(self, chosen: Sequence[Chosen]) -> Iterator[Outcome]:
        """One outcome for each group."""
        for each in chosen:
            try:
                records = self.groups[each.group]
            except RecordError as error:
                yield Outcome(where=each.where, error=error)
                continue
            places = range(len(records)) if each.places is None else each.places
            yield Outcome(where=each.where, records=[records[place] for place in places])


def write_selection(
    chosen: Iterable[Chosen],
    folders: Sequence[Path],
    out: Path,
    *,
    why: dict[str, Any],
    notes: Callable[[Path, JobResult], dict[str, bytes]] | None = None,
    engine: EngineConfig | None = None,
) -> Manifest:
    """Write the chosen records of some folders to a new one.

    Args:
        chosen: in the folders' order.
        folders: of records.
        out: folder to write; must not exist or be empty.
        why: JSON values that the choice depends on; a killed job goes on only with the same.
        notes: more files of the folder.
        engine: who copies.

    Raises:
        ConfigError: `out` exists.
        RecordError: a shard is damaged, an id occurs in two folders, or nothing was chosen.
    """
    groups = RecordGroups(folders)
    job = Job(
        title="write",
        unit="group",
        step=CopyGroups(folders=tuple(Path(folder).absolute() for folder in folders)),
        description={"records": groups.fingerprint, **why},
        out=out,
        items_per_part=GROUPS_PER_PART,
        notes=notes,
    )
    return run_job(chosen, job, engine)[0]
