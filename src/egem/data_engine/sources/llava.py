"""Conversations about images, several images or videos, in LLaVA's layout (also that of GEM-250K).

JSON list or JSONL of
    {"id", "image": str | [str] | absent, "video": str | [str] | absent,
     "conversations": [{"from": "human" | "gpt" | "system", "value": "<image>..."}], "category"}
A row becomes one record with all its turns, of skill "conversation". Marks <image> and <video> stand where
they stand in the text and must match what is given; a row without any mark gets its images first, and
<image> stands for a video where a row has no image. Depth maps come from a folder, by the image's name.
An answer that is nothing but integer coordinates is a point or box answer; any other is text.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from egem.core.errors import ConfigError, RecordError
from egem.data_engine.formats.json_rows import read_json_rows
from egem.data_engine.sources import fields
from egem.data_engine.sources.conversation import Clips, read_messages, with_frames, with_marks
from egem.data_engine.sources.coordinates import read_answer
from egem.data_engine.sources.layout import folder_of
from egem.data_engine.sources.pictures import Pictures
from egem.data_engine.sources.source import ImportOptions, Place, Row, file_rows, same_size
from egem.data_engine.sources.splits import files_of_split
from egem.media import check_depth, decode_depth, decode_image
from egem.records import Category, DepthFile, DepthKind, ImageFile, Record

SKILL = "conversation"


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """LLaVA-style rows of a file, or of all .json and .jsonl files of a folder.

    Raises:
        ConfigError: no such input.
    """
    yield from _rows(path, options, "llava", "metric", "sensor")


def gem_250k_rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """The same; depth is looked for in `depth/` beside the file and taken as relative (its scale is unstated).

    Raises:
        ConfigError: no such input.
    """
    yield from _rows(path, options, "gem-250k", "relative", "depth-anything-3")


def _rows(path: Path, options: ImportOptions, source: str, kind: DepthKind, origin: str) -> Iterator[Row]:
    licence = "MIT" if source == "gem-250k" else ""
    files = files_of_split(_files(path), folder_of(path), options.split, source=source)
    for file in files:
        depth = options.depth
        if depth is None and source == "gem-250k" and (file.parent / "depth").is_dir():
            depth = file.parent / "depth"
        reader = _Reader(options, file.parent, depth, options.depth_kind or kind, origin)
        yield from file_rows(
            [file], read_json_rows, reader.load, root=folder_of(path), source=source, licence=licence
        )


class _Reader:
    """One row to one record, by the options of one file."""

    def __init__(
        self, options: ImportOptions, folder: Path, depth: Path | None, kind: DepthKind, origin: str
    ) -> None:
        self.options = options
        self.depth = depth
        self.kind: DepthKind = kind
        self.origin = origin
        root = options.media or folder
        self.pictures = Pictures([root], options.images)
        self.videos = Pictures([root, root / "videos"])
        self.clips = Clips(options.num_frames)

    def load(self, row: Any, place: Place) -> list[Record]:
        """The record of a row.

        Raises:
            RecordError: with the first thing that is wrong.
        """
        where = place.where
        row = fields.mapping(row, where)
        messages = read_messages(row.get("conversations"), where)
        paths, videos = fields.texts(row, "image", where), fields.texts(row, "video", where)
        if paths and videos:
            raise RecordError(f"{where}: images and videos in one row; give one kind.")
        timestamps = None
        depths: tuple[DepthFile | None, ...] = ()
        if videos:
            clips = [self.clips.read(self.videos.find(video, where, "video"), where) for video in videos]
            messages = with_frames(messages, [len(clip) for clip in clips], where)
            images = tuple(image for clip in clips for image, _ in clip)
            timestamps = tuple(seconds for clip in clips for _, seconds in clip)
        else:
            messages = with_marks(messages, len(paths))
            images = tuple(self.pictures.read(name, where).file for name in paths)
            found = tuple(self._depth(name, image, where) for name, image in zip(paths, images, strict=True))
            depths = found if any(found) else ()
        return [
            Record(
                id=place.id,
                source=place.source,
                category=self._category(row, where),
                skill=SKILL,
                group=place.id,
                images=images,
                timestamps=timestamps,
                depths=depths,
                messages=tuple(messages),
                answer=read_answer(messages[-1].content),
                meta=place.meta(id=row.get("id"), **_stated(row)),
            )
        ]

    def _depth(self, name: str, image: ImageFile, where: str) -> DepthFile | None:
        found = None if self.depth is None else _depth_path(self.depth, name)
        if found is None:
            return None
        unit = self.options.depth_unit_m or 0.001
        file = DepthFile(data=found.read_bytes(), unit_m=unit, kind=self.kind, origin=self.origin)
        depth = decode_depth(file, where=f"{where}: {found}")
        same_size(decode_image(image, where=where), depth, where)
        check_depth(depth, self.kind, where=where, unit_m=unit)
        return file

    def _category(self, row: dict[str, Any], where: str) -> Category:
        given = row.get("category", self.options.category)
        for category in get_args(Category):
            if given == category:
                return category
        if "category" in row and not isinstance(given, str):
            raise RecordError(f"{where}: category {given!r} is not a text.")
        return self.options.category


def _stated(row: dict[str, Any]) -> dict[str, str]:
    """Licence and origin, where a row states them."""
    return {key: row[key] for key in ("licence", "license", "source") if isinstance(row.get(key), str)}


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted([*path.glob("*.json"), *path.glob("*.jsonl")]) if path.is_dir() else []
    if not files:
        raise ConfigError(f"{path} is neither a .json or .jsonl file nor a folder with one.")
    return files


def _depth_path(folder: Path, name: str) -> Path | None:
    """The depth map of an image: the same relative path or base name, its own ending or .png."""
    for candidate in (Path(name), Path(Path(name).name)):
        for path in (folder / candidate, (folder / candidate).with_suffix(".png")):
            if path.is_file():
                return path
    return None
