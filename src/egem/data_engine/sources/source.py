"""What a source is: a reader of somebody's files that yields rows, each of which becomes records or fails."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from egem.core.errors import RecordError
from egem.records import Category, DepthKind, Record


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """How to read a source; what does not concern a source is ignored by it."""

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
    limit: int | None = None
    """Read no more than this many rows."""
    max_bad_fraction: float = 0.0
    """Share of bad rows that are put aside in quarantine.jsonl; with 0 the first one stops the import."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a source, not yet read."""

    where: str
    """File and row, for messages."""
    load: Callable[[], list[Record]]
    """Raises RecordError with the reason when the row is bad."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One kind of input."""

    name: str
    description: str
    """One line for `egem data sources`."""
    rows: Callable[[Path, ImportOptions], Iterator[Row]]
    """Raises ConfigError or RecordError when the input as a whole cannot be read."""


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
