"""Conversations about images, several images or videos, in LLaVA's layout (also that of GEM-250K).

JSON list or JSONL of
    {"id", "image": str | [str] | absent, "video": str | [str] | absent,
     "conversations": [{"from": "human" | "gpt" | "system", "value": "<image>..."}], "category"}
A row becomes one record with all its turns, of skill "conversation". Marks <image> and <video> stand where
they stand in the text and must match what is given; a row without any mark gets its images first, and
<image> stands for a video where a row has no image. Depth maps come from a folder, by the image's name.
An answer that is nothing but integer coordinates is a point or box answer; any other is text.
"""

import io
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from egem.core.errors import ConfigError, RecordError
from egem.data_engine.sources.source import ImportOptions, Row, same_size
from egem.media import check_depth, decode_depth, decode_image
from egem.records import (
    IMAGE_MARK,
    Answer,
    Category,
    DepthFile,
    DepthKind,
    ImageFile,
    Message,
    Record,
    validate,
)

VIDEO_MARK = "<video>"
SKILL = "conversation"
JPEG_QUALITY = 95

_ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_POINT = re.compile(r"[\[(]\s*(-?\d+)\s*,\s*(-?\d+)\s*[\])]")
_POINTS = re.compile(rf"\[?\s*{_POINT.pattern}(?:\s*,\s*{_POINT.pattern})*\s*\]?")
_BOX = re.compile(r"[\[(]\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*[\])]")


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """LLaVA-style rows of a file, or of all .json and .jsonl files of a folder.

    Raises:
        ConfigError: no such input.
        RecordError: a file is not JSON.
    """
    yield from _rows(path, options, "llava", "metric", "sensor")


def gem_250k_rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """The same; depth is looked for in `depth/` beside the file and taken as relative (its scale is unstated).

    Raises:
        ConfigError: no such input.
        RecordError: a file is not JSON.
    """
    yield from _rows(path, options, "gem-250k", "relative", "depth-anything-3")


def _rows(path: Path, options: ImportOptions, source: str, kind: DepthKind, origin: str) -> Iterator[Row]:
    for file in _files(path):
        depth = options.depth
        if depth is None and source == "gem-250k" and (file.parent / "depth").is_dir():
            depth = file.parent / "depth"
        reader = _Reader(
            source=source,
            media=options.media or file.parent,
            depth=depth,
            unit_m=options.depth_unit_m or 0.001,
            kind=options.depth_kind or kind,
            origin=origin,
            options=options,
        )
        for index, row in enumerate(_parsed(file)):
            where = f"{file}, row {index + 1}"
            yield Row(where=where, load=partial(reader.load, row, f"{source}/{file.stem}/{index:07d}", where))


class _Reader:
    """One row to one record, by the options of one file."""

    def __init__(
        self,
        *,
        source: str,
        media: Path,
        depth: Path | None,
        unit_m: float,
        kind: DepthKind,
        origin: str,
        options: ImportOptions,
    ) -> None:
        self.source, self.media, self.depth = source, media, depth
        self.unit_m, self.origin = unit_m, origin
        self.kind: DepthKind = kind
        self.options = options

    def load(self, row: Any, name: str, where: str) -> list[Record]:
        """The record of a row.

        Raises:
            RecordError: with the first thing that is wrong.
        """
        if isinstance(row, json.JSONDecodeError):
            raise RecordError(f"{where}: not valid JSON ({row}).")
        if not isinstance(row, dict) or not isinstance(row.get("conversations"), list):
            raise RecordError(f"{where}: an object with a list 'conversations' expected.")
        paths, videos = _strings(row, "image", where), _strings(row, "video", where)
        if paths and videos:
            raise RecordError(f"{where}: images and videos in one row; give one kind.")
        messages = _messages(row["conversations"], where)
        if videos:
            clips = [read_video(self._media(video), self.options.num_frames, where) for video in videos]
            messages = _with_frames(messages, [len(clip) for clip in clips], where)
            images = tuple(image for clip in clips for image, _ in clip)
            timestamps = tuple(seconds for clip in clips for _, seconds in clip)
            depths: tuple[DepthFile | None, ...] = ()
        else:
            messages = _with_marks(messages, len(paths))
            pairs = [self._image(path, where) for path in paths]
            images, timestamps = tuple(image for image, _ in pairs), None
            depths = tuple(depth for _, depth in pairs) if any(depth for _, depth in pairs) else ()
        record = Record(
            id=name,
            source=self.source,
            category=self._category(row, where),
            skill=SKILL,
            group=name,
            images=images,
            timestamps=timestamps,
            depths=depths,
            messages=tuple(messages),
            answer=read_answer(messages[-1].content),
            meta={"row": str(row["id"])} if "id" in row else {},
        )
        try:
            validate(record)
        except RecordError as error:
            raise RecordError(f"{where}: {error}") from None
        return [record]

    def _media(self, name: str) -> Path:
        """Where a file named in a row is: as given, or under images/ or videos/."""
        for folder in (self.media, self.media / "images", self.media / "videos"):
            if (folder / name).is_file():
                return folder / name
        return self.media / name

    def _image(self, name: str, where: str) -> tuple[ImageFile, DepthFile | None]:
        path = self._media(name)
        pixels = decode_image(ImageFile(path=str(path)), where=where)
        image = ImageFile(data=path.read_bytes())
        found = None if self.depth is None else _depth_path(self.depth, name)
        if found is None:
            return image, None
        file = DepthFile(path=str(found), unit_m=self.unit_m, kind=self.kind, origin=self.origin)
        depth = decode_depth(file, where=where)
        same_size(pixels, depth, where)
        check_depth(depth, self.kind, where=where, unit_m=self.unit_m)
        return image, DepthFile(
            data=found.read_bytes(), unit_m=self.unit_m, kind=self.kind, origin=self.origin
        )

    def _category(self, row: dict[str, Any], where: str) -> Category:
        given = row.get("category", self.options.category)
        for category in get_args(Category):
            if given == category:
                return category
        if "category" in row and not isinstance(given, str):
            raise RecordError(f"{where}: category {given!r} is not a text.")
        return self.options.category


def read_answer(text: str) -> Answer:
    """What a free answer means: a box or points when it is nothing but those, else text."""
    stripped = text.strip()
    box = _BOX.fullmatch(stripped)
    if box is not None:
        left, top, right, bottom = (int(value) for value in box.groups())
        return Answer(kind="box", text=text, box=(left, top, right, bottom))
    if _POINTS.fullmatch(stripped):
        points = tuple((int(x), int(y)) for x, y in _POINT.findall(stripped))
        return Answer(kind="point", text=text, points=points)
    return Answer(kind="text", text=text)


def read_video(path: Path, num_frames: int, where: str) -> list[tuple[ImageFile, float]]:
    """Frames of a video with their times in seconds, evenly from the first to the last.

    Raises:
        RecordError: missing or not decodable.
    """
    import av  # only rows with videos need it

    frames: list[tuple[Image.Image, float]] = []
    try:
        with av.open(str(path)) as container:
            total = sum(1 for _ in container.decode(video=0))
            wanted = {round(i * (total - 1) / max(num_frames - 1, 1)) for i in range(num_frames)}
            container.seek(0)
            for index, frame in enumerate(container.decode(video=0)):
                if index in wanted:
                    frames.append((frame.to_image(), float(frame.time or 0.0)))
    except (OSError, ValueError, IndexError) as error:
        raise RecordError(f"{where}: the video {path} cannot be read: {error}.") from error
    if not frames:
        raise RecordError(f"{where}: the video {path} has no frames.")
    return [(ImageFile(data=_jpeg(image)), round(seconds, 3)) for image, seconds in frames]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted([*path.glob("*.json"), *path.glob("*.jsonl")]) if path.is_dir() else []
    if not files:
        raise ConfigError(f"{path} is neither a .json or .jsonl file nor a folder with one.")
    return files


def _parsed(file: Path) -> Iterator[Any]:
    """Rows as parsed; a line of JSONL that is not JSON comes as its error, so that it is one bad row."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".jsonl":
        for line in text.splitlines():
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    yield error
        return
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"{file} is not valid JSON ({error}).") from None
    if not isinstance(values, list):
        raise RecordError(f"{file}: a list of rows expected.")
    yield from values


def _messages(turns: list[Any], where: str) -> list[Message]:
    messages = []
    for turn in turns:
        role = _ROLES.get(str(turn.get("from"))) if isinstance(turn, dict) else None
        if role is None or not isinstance(turn.get("value"), str):
            raise RecordError(
                f"{where}: a turn needs 'from' (human or gpt) and 'value', got {str(turn)[:60]!r}."
            )
        messages.append(Message(role=role, content=turn["value"]))
    if not messages:
        raise RecordError(f"{where}: 'conversations' is empty.")
    return messages


def _with_marks(messages: list[Message], num_images: int) -> list[Message]:
    if num_images == 0 or any(IMAGE_MARK in message.content for message in messages):
        return messages
    first = next((i for i, message in enumerate(messages) if message.role == "user"), 0)
    marks = IMAGE_MARK * num_images
    opened = Message(role=messages[first].role, content=f"{marks}\n{messages[first].content}")
    return [*messages[:first], opened, *messages[first + 1 :]]


def _with_frames(messages: list[Message], lengths: list[int], where: str) -> list[Message]:
    """Each video's mark replaced by one image mark a frame."""
    if not any(VIDEO_MARK in message.content for message in messages):
        messages = _with_marks(messages, len(lengths))
        messages = [Message(role=m.role, content=m.content.replace(IMAGE_MARK, VIDEO_MARK)) for m in messages]
    marks = sum(message.content.count(VIDEO_MARK) for message in messages)
    if marks != len(lengths):
        raise RecordError(
            f"{where}: {marks} {VIDEO_MARK} marks for {len(lengths)} videos; one each is needed."
        )
    remaining = iter(lengths)
    return [
        Message(
            role=m.role,
            content=re.sub(re.escape(VIDEO_MARK), lambda _: IMAGE_MARK * next(remaining), m.content),
        )
        for m in messages
    ]


def _strings(row: dict[str, Any], key: str, where: str) -> list[str]:
    value = row.get(key)
    values = [] if value in (None, "") else [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise RecordError(f"{where}: '{key}' must be a path or a list of paths.")
    return values


def _depth_path(folder: Path, name: str) -> Path | None:
    """The depth map of an image: the same relative path or base name, its own ending or .png."""
    for candidate in (Path(name), Path(Path(name).name)):
        for path in (folder / candidate, (folder / candidate).with_suffix(".png")):
            if path.is_file():
                return path
    return None


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
