"""Where a question's images are until they are needed: cells of a table, files, or frames of a video."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from egem.core.errors import RecordError
from egem.evaluation.benchmarks.tables import Table, as_image
from egem.media import encode_png
from egem.records import DepthFile, ImageFile
from egem.video import read_frames


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """What a question is about."""

    images: tuple[ImageFile, ...]
    timestamps: tuple[float, ...] | None = None
    mask: ImageFile | None = None
    """Where a point is right, as published (any number of grey levels)."""
    depths: tuple[DepthFile, ...] = ()
    """One an image, where there is true depth."""


@runtime_checkable
class Media(Protocol):
    """A place that images can be had from."""

    @property
    def identity(self) -> str:
        """Equal for equal places, wherever the benchmark's folder is."""
        ...

    def missing(self) -> list[str]:
        """What is not there."""
        ...

    def load(self) -> Loaded:
        """The images.

        Raises:
            RecordError: something is missing or unreadable.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Images inside a table's row."""

    table: Table
    row: int
    columns: tuple[str, ...]
    mask: str | None = None
    """Column of the mask."""

    @property
    def identity(self) -> str:
        """See `Media`."""
        return f"{self.row}:{','.join(self.columns)}"

    def missing(self) -> list[str]:
        """Nothing: the columns were checked when the table was opened."""
        return []

    def load(self) -> Loaded:
        """See `Media`.

        Raises:
            RecordError: the row has no image, or no mask where there must be one.
        """
        where = self.table.where(self.row)
        images: list[ImageFile] = []
        for column in self.columns:
            cell = self.table.cell(self.row, column)
            cells = cell if isinstance(cell, list) else [cell]
            images += [as_image(one, f"{where}, column {column}") for one in cells if one is not None]
        if not images:
            raise RecordError(f"{where} has no image in column {' or '.join(self.columns)}.")
        mask = None
        if self.mask is not None:
            mask = as_image(self.table.cell(self.row, self.mask), f"{where}, column {self.mask}", what="mask")
        return Loaded(images=tuple(images), mask=mask)


@dataclass(frozen=True, kw_only=True)
class Files:
    """Image files."""

    paths: tuple[Path, ...]
    mask: Path | None = None

    @property
    def identity(self) -> str:
        """See `Media`."""
        return ",".join(path.name for path in self.paths)

    def missing(self) -> list[str]:
        """See `Media`."""
        return [str(path) for path in (*self.paths, self.mask) if path is not None and not path.is_file()]

    def load(self) -> Loaded:
        """See `Media`."""
        for path in self.missing():
            raise RecordError(f"{path} is missing; download the benchmark again.")
        mask = None if self.mask is None else ImageFile(path=str(self.mask))
        return Loaded(images=tuple(ImageFile(path=str(path)) for path in self.paths), mask=mask)


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Frames of a video file, spread evenly from the first to the last."""

    video: Path
    num: int

    @property
    def identity(self) -> str:
        """See `Media`."""
        return f"{self.video.parent.name}/{self.video.name}#{self.num}"

    def missing(self) -> list[str]:
        """See `Media`."""
        return [] if self.video.is_file() else [str(self.video)]

    def load(self) -> Loaded:
        """See `Media`; the frames come with the seconds they are shown at.

        Raises:
            RecordError: the video is missing or damaged.
        """
        frames, times = read_frames(self.video, num=self.num)
        images = tuple(ImageFile(data=encode_png(frame)) for frame in frames)
        return Loaded(images=images, timestamps=tuple(times))


@dataclass(frozen=True, kw_only=True)
class Picked:
    """Some files of a folder of frames, spread evenly; the folder is listed when it is needed."""

    folder: Path
    num: int

    @property
    def identity(self) -> str:
        """See `Media`."""
        return f"{self.folder.parent.name}/{self.folder.name}#{self.num}"

    def missing(self) -> list[str]:
        """See `Media`."""
        return [] if self._files() else [f"{self.folder}/*.png or *.jpg"]

    def load(self) -> Loaded:
        """See `Media`.

        Raises:
            RecordError: the folder holds no image.
        """
        files = self._files()
        if not files:
            raise RecordError(
                f"{self.folder} holds no *.png or *.jpg; extract the frames of the episode there."
            )
        wanted = np.round(np.linspace(0, len(files) - 1, self.num)).astype(int)
        return Loaded(images=tuple(ImageFile(path=str(files[index])) for index in wanted))

    def _files(self) -> Sequence[Path]:
        # Depth maps and poses of the published frames have other endings or the word in their names.
        files = [*self.folder.glob("*.png"), *self.folder.glob("*.jpg")]
        return sorted(path for path in files if "depth" not in path.name)


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """Images that were read already (JPEG or PNG bytes)."""

    data: tuple[bytes, ...]

    @property
    def identity(self) -> str:
        """See `Media`."""
        return f"{len(self.data)} images of {sum(map(len, self.data))} bytes"

    def missing(self) -> list[str]:
        """Nothing."""
        return []

    def load(self) -> Loaded:
        """See `Media`."""
        return Loaded(images=tuple(ImageFile(data=one) for one in self.data))


def absent(media: Sequence[Any], most: int = 5) -> tuple[int, str]:
    """How many different files of many media are missing, and the first few by name."""
    names = list(dict.fromkeys(name for one in dict.fromkeys(media) for name in one.missing()))
    return len(names), ", ".join(names[:most]) + (", ..." if len(names) > most else "")
