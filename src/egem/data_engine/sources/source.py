"""What a source is: a reader of somebody's files that yields rows, each of which becomes records or fails."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from egem.core.errors import RecordError
from egem.data_engine.formats.tfrecord import StoredRecord
from egem.data_engine.sources.splits import Split, split_of
from egem.records import Category, DepthKind, Record

_MAY_HOLD_BYTES = (bytes, dict, list)


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """How to read a source; what does not concern a source is ignored by it."""

    split: Split = "train"
    """Which of the set's own splits: train leaves out what its file names and folders hold out (val, test, ...), test
    reads only that, all reads both."""
    num_questions: int = 12
    """Questions about each view, for sources that give scenes."""
    skills: tuple[str, ...] = ()
    """Skills to ask with; all if empty."""
    seed: int = 0
    """Of the choice of questions."""
    category: Category = "spatial"
    """Of conversations whose rows name none."""
    media: Path | None = None
    """Folder that relative paths of images and videos start from; the input's own if None."""
    depth: Path | None = None
    """Folder with a depth map for each image, of the same name (16-bit PNG)."""
    depth_unit_m: float | None = None
    """Metres per count; what the input says, else 0.001."""
    depth_kind: DepthKind | None = None
    """What the input says, else metric."""
    depth_max_m: float | None = None
    """Readings beyond this count as missing."""
    num_frames: int = 8
    """Frames taken from each video, evenly from first to last."""
    camera: str = ""
    """Whose frames of robot episodes are shown; the set's first if empty."""
    images: Literal["bytes", "path"] = "bytes"
    """Whether a record holds its image's bytes, or the absolute path of the file (smaller, but not movable)."""
    limit: int | None = None
    """Read no more than this many rows."""
    max_error_fraction: float = 0.0
    """Share of bad rows that are put aside in quarantine.jsonl; with 0 the first one stops the import."""


# Without slots, rows travel to workers four times as fast: dataclasses pickle those by looking up their fields.
@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a source, not yet read."""

    where: str
    """File and row, for messages."""
    load: Callable[[], list[Record]]
    """Raises RecordError with the reason when the row is bad."""
    num_bytes: int = 0
    """Of its content, where a file of many rows holds that: in memory already, or still in the file."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a row stands; what it becomes is named after that."""

    source: str
    licence: str
    """Empty where the rows themselves must state it."""
    file: Path
    name: str
    """The file's path below the input, without its ending."""
    index: int
    split: str = ""
    """See `split_of`."""

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.file}, row {self.index + 1}"

    @property
    def id(self) -> str:
        """Of the row's record or, with more of them, their group."""
        return f"{self.source}/{self.name}/{self.index:07d}"

    def meta(self, **more: Any) -> dict[str, Any]:
        """Licence and provenance, and what else is worth keeping; None is left out."""
        found = {
            "licence": self.licence or None,
            "file": self.file.name,
            "row": self.index + 1,
            "split": self.split or None,
            **more,
        }
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One kind of input."""

    name: str
    categories: tuple[Category, ...]
    description: str
    """One line for `egem data sources`."""
    licence: str
    """As its publisher states it."""
    layout: str
    """What the input must hold."""
    rows: Callable[[Path, ImportOptions], Iterator[Row]]
    """Raises ConfigError or RecordError when the input as a whole cannot be read."""


def file_rows(
    files: Iterable[Path],
    read: Callable[[Path], Iterator[Any]],
    load: Callable[[Any, Place], list[Record]],
    *,
    root: Path,
    source: str,
    licence: str,
    held_out: Collection[str] = (),
) -> Iterator[Row]:
    """A row for each value of each file; a file that cannot be read on becomes one bad row.

    Args:
        files: in order.
        read: gives the values of a file; a value that is a `RecordError` is a bad row.
        load: makes the records of a value; raises RecordError.
        root: folder of the input, which names are relative to.
        source: the source's name.
        licence: its licence.
        held_out: see `split_of`.
    """
    for file in files:
        inside = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
        name = inside.with_suffix("").as_posix()
        split = split_of(file, root, held_out)
        index = -1
        try:
            for index, value in enumerate(read(file)):
                place = Place(source=source, licence=licence, file=file, name=name, index=index, split=split)
                yield Row(
                    where=place.where, load=partial(_loaded, value, place, load), num_bytes=_num_bytes(value)
                )
        except RecordError as error:
            yield Row(where=f"{file}, after row {index + 1}", load=partial(_fail, error))


def _num_bytes(value: Any) -> int:
    """Of binary content: a record of a TFRecord, the pictures in a row of Parquet."""
    if isinstance(value, StoredRecord):
        return value.size
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return 0
    return sum(_num_bytes(each) for each in value if isinstance(each, _MAY_HOLD_BYTES))


def _loaded(value: Any, place: Place, load: Callable[[Any, Place], list[Record]]) -> list[Record]:
    if isinstance(value, RecordError):
        raise value
    return load(value, place)


def _fail(error: RecordError) -> list[Record]:
    raise error


def same_size(image: np.ndarray, depth: np.ndarray, where: str) -> None:
    """Refuse a depth map that does not belong to its image.

    Raises:
        RecordError: the sizes differ.
    """
    if image.shape[:2] != depth.shape[:2]:
        raise RecordError(
            f"{where}: the depth map is {depth.shape[1]} x {depth.shape[0]} pixels, its image "
            f"{image.shape[1]} x {image.shape[0]}; register and resize the depth to the image first."
        )
