"""SPAR-7M and SPAR-7M-RGBD (LogosRoboticsGroup/SPAR): 33 kinds of spatial questions about marked views.

    {scannet,scannetpp,structured3d,rxr}/qa_jsonl/<split>/<task>/{fill,select,sentence}/*.jsonl
    {scannet,...}/images/<scene>/{image_color,image_depth,...}/
    {"id", "conversations", "image": [path], "type", "depth": [path], "red_point": [[x, y]], "blue_bbox": [[...]], ...}
Coordinates are 0 to 1000. Questions speak of red points and blue boxes that the image files do not have: they are
drawn here, so marked images are encoded again (JPEG), all others are not. Which image a mark belongs to says
`point_img_idx` or `bbox_img_idx`, in an order of colours that depends on the task (`_ORDERS`); without it the first.
Depth (SPAR-7M-RGBD) is in millimetres.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import ImageDraw

from egem.core.errors import RecordError
from egem.data_engine.formats.json_rows import read_json_rows
from egem.data_engine.sources import fields
from egem.data_engine.sources.choices import plain_answer
from egem.data_engine.sources.conversation import read_messages, with_marks
from egem.data_engine.sources.layout import find_files, folder_of
from egem.data_engine.sources.pictures import Picture, Pictures, read_depth
from egem.data_engine.sources.source import ImportOptions, Place, Row, file_rows
from egem.media import JPEG_QUALITY, open_image
from egem.records import COORDINATE_RANGE, Answer, DepthFile, ImageFile, Record
from egem.scoring import parse_number

NAME = "spar-7m"
LICENCE = "not stated in its repository (images keep the licences of ScanNet, ScanNet++ and Structured3D)"
PATTERNS = ("qa_jsonl/**/*.jsonl", "*/qa_jsonl/**/*.jsonl", "*/*/qa_jsonl/**/*.jsonl", "*.jsonl")

COLORS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0), "yellow": (255, 255, 0)}
RADIUS = 20
"""Pixels, of a point and of a box's line, in images at least `FULL_SIDE` long; less in proportion in smaller ones."""
FULL_SIDE = 640
DEPTH_UNIT_M = 0.001

# Colours in the order of the image indices; tasks not named here use the colours they have, red, blue, green, yellow.
_ORDERS: dict[str, tuple[str, ...]] = {
    "distance_infer_center_oo_mv": ("red", "green", "blue"),
    "spatial_imagination_oc_mv": ("green", "blue", "red"),
    "spatial_imagination_oo_mv": ("green", "blue", "red", "yellow"),
    "spatial_imagination_oc_video": ("green", "blue", "red"),
    "spatial_imagination_oo_video": ("green", "blue", "red", "yellow"),
}
# Tasks whose marks carry names, by colour.
_LABELS: dict[str, dict[str, str]] = {
    task: {"green": "object0", "blue": "object1", "red": "object2", "yellow": "object3"}
    for task in ("spatial_imagination_oc_video", "spatial_imagination_oo_video")
}
# All marks of these tasks are in the first image that the index names.
_ONE_IMAGE = ("obj_spatial_relation_oc_mv",)

Mark = tuple[Literal["point", "bbox"], tuple[int, int, int], list[float], str]
"""Form, colour, coordinates 0 to 1000, name to write beside it."""


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """One record for each row, with all its images.

    Raises:
        ConfigError: the folder holds no qa_jsonl/**/*.jsonl.
    """
    root = folder_of(path)
    for file in find_files(path, PATTERNS, source=NAME, split=options.split):
        reader = _Reader(options, options.media or _images_folder(file))
        yield from file_rows([file], read_json_rows, reader.load, root=root, source=NAME, licence=LICENCE)


class _Reader:
    def __init__(self, options: ImportOptions, root: Path) -> None:
        self.options = options
        self.pictures = Pictures([root], options.images)

    def load(self, row: Any, place: Place) -> list[Record]:
        where = place.where
        row = fields.mapping(row, where)
        task = fields.text(row, "type", where)
        names = fields.texts(row, "image", where)
        if not names:
            raise fields.unknown_schema(row, "'image' (a list of paths)", where)
        marks = _marks(row, task, len(names), where)
        pictures = [self.pictures.read(name, where) for name in names]
        images = tuple(
            _drawn(picture, marks[i], where) if marks.get(i) else picture.file
            for i, picture in enumerate(pictures)
        )
        messages = with_marks(read_messages(row.get("conversations"), where), len(names))
        form = place.file.parent.name
        question = messages[-2].content if len(messages) > 1 else ""
        return [
            Record(
                id=place.id,
                source=NAME,
                category="spatial",
                skill=task,
                group=place.id,
                images=images,
                depths=self._depths(row, pictures, where),
                messages=tuple(messages),
                answer=_answer(task, question, messages[-1].content),
                meta=place.meta(
                    id=row.get("id"),
                    images=names,
                    form=form if form in ("fill", "select", "sentence") else None,
                ),
            )
        ]

    def _depths(
        self, row: dict[str, Any], pictures: Sequence[Picture], where: str
    ) -> tuple[DepthFile | None, ...]:
        """Depth where the release has it: the compact one names depth files that it does not hold."""
        names = fields.texts(row, "depth", where)
        if not names:
            return ()
        if len(names) != len(pictures):
            raise RecordError(
                f"{where}: {len(names)} depth maps for {len(pictures)} images; one each is needed."
            )
        found = []
        for name, picture in zip(names, pictures, strict=True):
            if not self._has_depth(name):
                found.append(None)
                continue
            depth = read_depth(
                self.pictures.find(name, where, "depth map"),
                picture,
                unit_m=self.options.depth_unit_m or DEPTH_UNIT_M,
                kind=self.options.depth_kind or "metric",
                origin="sensor",
                keep=self.options.images,
                where=where,
            )
            found.append(depth)
        return tuple(found) if any(found) else ()

    def _has_depth(self, name: str) -> bool:
        """Whether the scene has a folder of depth at all; a file missing in it is an error."""
        return any((root / name).parent.is_dir() for root in self.pictures.roots)


def _images_folder(file: Path) -> Path:
    """The images/ beside the qa_jsonl/ that a file lies in."""
    for parent in file.parents:
        if parent.name == "qa_jsonl":
            return parent.parent / "images"
    return file.parent


def _marks(row: dict[str, Any], task: str, num_images: int, where: str) -> dict[int, list[Mark]]:
    """What to draw on each image."""
    found: dict[int, list[Mark]] = {}
    for form, size in (("point", 2), ("bbox", 4)):
        present = [color for color in _ORDERS.get(task, tuple(COLORS)) if row.get(f"{color}_{form}")]
        left = [color for color in COLORS if row.get(f"{color}_{form}") and color not in present]
        values = [
            _coordinates(row[f"{color}_{form}"], size, f"{color}_{form}", where)
            for color in (*present, *left)
        ]
        labels = [_LABELS.get(task, {}).get(color, "") for color in (*present, *left)]
        tints = [COLORS[color] for color in (*present, *left)]
        for number, item in enumerate(_listed(row.get(f"{form}_list"))):
            values.append(_coordinates([item], size, f"{form}_list", where))
            first = "objectA" if form == "point" else "object0"
            labels.append(first if number == 0 else f"object{number - 1 if form == 'point' else number}")
            tints.append(COLORS["red"])
        places = _image_indices(row, form, len(values), num_images, task, where)
        for index, tint, value, label in zip(places, tints, values, labels, strict=True):
            mark: Mark = ("point" if form == "point" else "bbox", tint, value, label)
            found.setdefault(index, []).append(mark)
    return found


def _image_indices(
    row: dict[str, Any], form: str, num_marks: int, num_images: int, task: str, where: str
) -> list[int]:
    indices = _listed(row.get(f"{form}_img_idx"))
    if not num_marks:
        return []
    if not indices:
        if num_images > 1 and num_marks > 1:
            raise RecordError(f"{where}: {num_marks} marks on {num_images} images, but no '{form}_img_idx'.")
        return [0] * num_marks
    if task in _ONE_IMAGE or len(indices) == 1:
        indices = [indices[0]] * num_marks
    if len(indices) < num_marks or not all(isinstance(i, int) and 0 <= i < num_images for i in indices):
        raise RecordError(
            f"{where}: '{form}_img_idx' {indices} does not place {num_marks} marks on {num_images} images."
        )
    return indices[:num_marks]


def _listed(value: Any) -> list[Any]:
    """Lists stand in a list of one: [[0, 1]]; a plain list is taken too."""
    if not isinstance(value, list) or not value:
        return []
    nested = (
        len(value) == 1
        and isinstance(value[0], list)
        and (not value[0] or not isinstance(value[0][0], float))
    )
    return value[0] if nested else value


def _coordinates(value: Any, size: int, key: str, where: str) -> list[float]:
    numbers = value[0] if isinstance(value, list) and value and isinstance(value[0], list) else value
    if (
        not isinstance(numbers, list)
        or len(numbers) != size
        or not all(isinstance(v, int | float) for v in numbers)
    ):
        raise RecordError(
            f"{where}: '{key}' must be {size} numbers 0 to {COORDINATE_RANGE}, got {str(value)[:60]}."
        )
    if not all(0 <= v <= COORDINATE_RANGE for v in numbers):
        raise RecordError(f"{where}: '{key}' {numbers} lies outside 0 to {COORDINATE_RANGE}.")
    if size == 4 and (numbers[2] < numbers[0] or numbers[3] < numbers[1]):
        raise RecordError(f"{where}: '{key}' {numbers} ends before it begins: left, top, right, bottom.")
    return [float(v) for v in numbers]


def _drawn(picture: Picture, marks: Sequence[Mark], where: str) -> ImageFile:
    canvas = open_image(picture.file, where=where)
    canvas.info.clear()  # else a comment in the file would be written again
    pen = ImageDraw.Draw(canvas)
    width, height = canvas.size
    stroke = max(2, round(RADIUS * min(1.0, max(width, height) / FULL_SIDE)))
    for form, color, values, label in marks:
        xs = [v * width / COORDINATE_RANGE for v in values[0::2]]
        ys = [v * height / COORDINATE_RANGE for v in values[1::2]]
        if form == "point":
            pen.ellipse((xs[0] - stroke, ys[0] - stroke, xs[0] + stroke, ys[0] + stroke), fill=color)
        else:
            # The line stands outside, so that it does not hide what it frames.
            pen.rectangle(
                (xs[0] - stroke, ys[0] - stroke, xs[1] + stroke, ys[1] + stroke), outline=color, width=stroke
            )
        if label:
            size = max(10, 2 * stroke)
            left = min(xs[-1] + stroke, width - 0.6 * size * len(label))
            at = (left, min(ys[-1] + stroke, height - size))
            pen.text(
                at,
                label,
                fill=(255, 255, 255),
                stroke_fill=color,
                stroke_width=max(1, stroke // 5),
                font_size=size,
            )
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return ImageFile(data=buffer.getvalue())


def _answer(task: str, question: str, text: str) -> Answer:
    """Letters and bare numbers as everywhere; a sentence about depth or distance counts by its one number of metres."""
    answer = plain_answer(question, text)
    if answer.kind == "text" and task.startswith(("depth_prediction", "distance_prediction")):
        metres = parse_number(text, unit="m")
        if metres is not None:
            return Answer(kind="number", text=text, number=metres, unit="m")
    return answer
