"""ShareRobot (BAAI/ShareRobot on Hugging Face): where to touch, which way to go, what to do next.

    affordance/*.json  {"id", "meta_data": {"original_width", "original_height"}, "instruction",
                        "affordance": {"x", "y", "width", "height"}} in pixels: a box; also a list of such boxes
    trajectory/*.json  the same with "points": [[x, y], ...] in pixels
    planning/**/*.json {"id", "task", "selected_step", "conversations", "image": [...]}; `<image 0-25>` in the text
                        stands for frames 0 to 25
An affordance or trajectory row's image is `image` or `image_path` where it has one, else `id`: a path, or the name of
a file in images/. A planning row names files, folders of frames, or ".../image_0-25" for ".../image_0.*" and so on.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from egem.core.errors import RecordError
from egem.data_engine.formats.json_rows import read_json_rows
from egem.data_engine.sources import fields
from egem.data_engine.sources.choices import plain_answer
from egem.data_engine.sources.conversation import ask, evenly, read_messages
from egem.data_engine.sources.coordinates import (
    Number,
    box_from_pixels,
    point_from_pixels,
    written,
    written_list,
)
from egem.data_engine.sources.layout import find_files, folder_of
from egem.data_engine.sources.pictures import Picture, Pictures, read_picture
from egem.data_engine.sources.source import ImportOptions, Place, Row, file_rows
from egem.records import IMAGE_MARK, Answer, Message, Record

NAME = "sharerobot"
LICENCE = "not stated by the set, Apache-2.0 by its benchmark (frames keep their robot sets' licences)"
PATTERNS = ("affordance/*.json", "trajectory/*.json", "planning/**/*.json", "*.json")

_ENDINGS = (".jpg", ".jpeg", ".png")
_RANGE_MARK = re.compile(r"<image\s*(?:\d+\s*-\s*\d+)?>")
_RANGE = re.compile(r"(.*?)(\d+)-(\d+)")
_AFFORDANCE = (
    "{instruction}: which part is to be touched? "
    "Answer with its box [left, top, right, bottom], integers 0 to 1000."
)
_TRAJECTORY = "{instruction}: give the gripper's path in the image as points [x, y], integers 0 to 1000."


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """One record for each row of any of the three parts; a row's keys say which it is.

    Raises:
        ConfigError: the folder holds none of them.
    """
    root = folder_of(path)
    for file in find_files(path, PATTERNS, source=NAME, split=options.split):
        reader = _Reader(
            options, [*([options.media] if options.media else []), file.parent, file.parent.parent, root]
        )
        yield from file_rows([file], read_json_rows, reader.load, root=root, source=NAME, licence=LICENCE)


class _Reader:
    def __init__(self, options: ImportOptions, roots: list[Path]) -> None:
        self.options = options
        self.roots = roots
        self.pictures = Pictures(roots, options.images)

    def load(self, row: Any, place: Place) -> list[Record]:
        row = fields.mapping(row, place.where)
        if "affordance" in row:
            return [self._affordance(row, place)]
        if "points" in row:
            return [self._trajectory(row, place)]
        if "conversations" in row:
            return [self._planning(row, place)]
        raise fields.unknown_schema(row, "'affordance', 'points' or 'conversations'", place.where)

    def _affordance(self, row: dict[str, Any], place: Place) -> Record:
        where = place.where
        picture = self._picture(row, where)
        width, height = _size(row, picture, where)
        given = row["affordance"]
        boxes = [given] if isinstance(given, dict) else given
        if not isinstance(boxes, list) or not boxes or not all(isinstance(box, dict) for box in boxes):
            raise RecordError(
                f"{where}: 'affordance' must be a box with x, y, width, height: {str(given)[:60]}."
            )
        found = []
        for box in boxes:
            values = [fields.number(box, key, where) for key in ("x", "y", "width", "height")]
            found.append(box_from_pixels(values, "size", width, height, where))
        text = written(found[0]) if len(found) == 1 else "[" + ", ".join(written(box) for box in found) + "]"
        answer = (
            Answer(kind="box", text=text, box=found[0]) if len(found) == 1 else Answer(kind="text", text=text)
        )
        return Record(
            id=place.id,
            source=NAME,
            category="grounding",
            skill="affordance",
            group=place.id,
            images=(picture.file,),
            messages=ask(_AFFORDANCE.format(instruction=_sentence(row, where)), text, 1),
            answer=answer,
            meta=_meta(row, place, affordance=given),
        )

    def _trajectory(self, row: dict[str, Any], place: Place) -> Record:
        where = place.where
        picture = self._picture(row, where)
        width, height = _size(row, picture, where)
        points = tuple(
            point_from_pixels(x, y, width, height, where) for x, y in fields.points(row, "points", where)
        )
        text = written_list(points)
        return Record(
            id=place.id,
            source=NAME,
            category="planning",
            skill="trajectory",
            group=place.id,
            images=(picture.file,),
            messages=ask(_TRAJECTORY.format(instruction=_sentence(row, where)), text, 1),
            answer=Answer(kind="trajectory", text=text, points=points),
            meta=_meta(row, place, points=row["points"]),
        )

    def _planning(self, row: dict[str, Any], place: Place) -> Record:
        where = place.where
        paths = [path for name in fields.texts(row, "image", where) for path in self._frames(name, where)]
        chosen = [paths[i] for i in evenly(len(paths), self.options.num_frames)] if paths else []
        images = tuple(read_picture(path, where, self.options.images).file for path in chosen)
        messages = []
        for message in read_messages(row["conversations"], where):
            text = _RANGE_MARK.sub("", message.content).strip()
            if message.role == "user" and not any(m.role == "user" for m in messages):
                text = f"{IMAGE_MARK * len(images)}\n{text}" if images else text
            messages.append(Message(role=message.role, content=text))
        task = str(row.get("task", place.file.stem)).lower()
        return Record(
            id=place.id,
            source=NAME,
            category="planning",
            skill=re.sub(r"\W+", "_", task.replace("_task", "")).strip("_") or "planning",
            group=place.id,
            images=images,
            messages=tuple(messages),
            answer=plain_answer(messages[0].content, messages[-1].content),
            meta=place.meta(
                id=row.get("id"), step=row.get("selected_step"), frames=[path.name for path in chosen]
            ),
        )

    def _picture(self, row: dict[str, Any], where: str) -> Picture:
        for key in ("image", "image_path"):
            names = fields.texts(row, key, where)
            if names:
                return self.pictures.read(names[0], where)
        if not isinstance(row.get("id"), str | int):
            raise fields.unknown_schema(row, "'id', 'image' or 'image_path'", where)
        name = str(row["id"])
        endings = ("", *_ENDINGS)
        for root in self.roots:
            for folder in (root / "images", root):
                for ending in endings:
                    if (folder / (name + ending)).is_file():
                        return read_picture(folder / (name + ending), where, self.options.images)
        return self.pictures.read(name if Path(name).suffix else f"{name}.jpg", where)

    def _frames(self, name: str, where: str) -> list[Path]:
        """The files that one entry of `image` stands for, in the order of their numbers."""
        for root in self.roots:
            for path in (root / name.lstrip("/"), root / "images" / name.lstrip("/"), Path(name)):
                if path.is_file():
                    return [path]
                if path.is_dir():
                    found = sorted(
                        (f for f in path.iterdir() if f.suffix.lower() in _ENDINGS), key=_frame_number
                    )
                    if found:
                        return found
                numbers = _RANGE.fullmatch(path.name)
                if numbers is not None and path.parent.is_dir():
                    stem, first, last = numbers.group(1), int(numbers.group(2)), int(numbers.group(3))
                    found = [_numbered(path.parent, stem, number) for number in range(first, last + 1)]
                    if any(found):
                        missing = [first + i for i, file in enumerate(found) if file is None]
                        if missing:
                            raise RecordError(
                                f"{where}: of frames {name}, {missing[0]} is missing in {path.parent}."
                            )
                        return [file for file in found if file is not None]
        roots = " or ".join(str(root) for root in dict.fromkeys(self.roots))
        raise RecordError(
            f"{where}: image {name} cannot be read: "
            f"neither a file, a folder of frames nor a range of them below {roots}."
        )


def _numbered(folder: Path, stem: str, number: int) -> Path | None:
    return next((p for e in _ENDINGS if (p := folder / f"{stem}{number}{e}").is_file()), None)


def _frame_number(path: Path) -> tuple[int, str]:
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[-1]) if digits else -1, path.name)


def _size(row: dict[str, Any], picture: Picture, where: str) -> tuple[Number, Number]:
    """Width and height that a row's pixels refer to: those of the original frame, where it names them."""
    meta = row.get("meta_data")
    if not isinstance(meta, dict) or "original_width" not in meta:
        return picture.width, picture.height
    width, height = (fields.number(meta, key, where) for key in ("original_width", "original_height"))
    if min(width, height) <= 0 or abs(width * picture.height / (height * picture.width) - 1) > 0.02:
        raise RecordError(
            f"{where}: its image has {picture.width} x {picture.height} pixels, of another shape than the "
            f"{width:g} x {height:g} that its coordinates refer to."
        )
    return width, height


def _sentence(row: dict[str, Any], where: str) -> str:
    words = fields.text(row, "instruction", where).strip().rstrip(".")
    return words[0].upper() + words[1:]


def _meta(row: dict[str, Any], place: Place, **more: Any) -> dict[str, Any]:
    meta = row.get("meta_data")
    return place.meta(
        id=row.get("id"),
        original_dataset=meta.get("original_dataset") if isinstance(meta, dict) else None,
        **more,
    )
