"""RoboAfford (tyb197/RoboAfford): where to grasp, point at and put things.

Evaluation set, a JSON list beside images/ and masks/:
    annotations_normxy.json (fractions) or annotations_absxy.json (pixels; read only where the other is missing):
    {"category", "question", "answer": [[[x, y], ...], ...] or [[x, y], ...], "img", "mask"}
`answer` is a list of polygons, or for spatial affordance a list of points. A prediction counts inside the mask, so
the mask is the answer's region and its innermost pixel (or the points given) the answer.

Training set: LLaVA rows with tuples of fractions, as RoboPoint's; other files are refused (their layout is not
published outside the hub).
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from egem.core.errors import RecordError
from egem.data_engine.formats.json_rows import read_json_rows
from egem.data_engine.sources import fields, splits
from egem.data_engine.sources.conversation import ask, read_messages, with_marks
from egem.data_engine.sources.coordinates import (
    Number,
    in_thousandths,
    point_from_pixels,
    read_answer,
    restated,
    written_list,
)
from egem.data_engine.sources.layout import find_files, folder_of
from egem.data_engine.sources.masks import interior_point
from egem.data_engine.sources.pictures import Picture, Pictures, read_mask, region_file
from egem.data_engine.sources.source import ImportOptions, Place, Row, file_rows
from egem.records import Answer, Message, Record

NAME = "roboafford"
LICENCE = "not stated by its publisher"
PATTERNS = ("*.json", "*.jsonl", "*/annotations_*xy.json")
HELD_OUT = ("annotations_normxy", "annotations_absxy")
"""The evaluation set."""


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """One record for each question.

    Raises:
        ConfigError: the folder holds no JSON.
    """
    files = find_files(path, PATTERNS, source=NAME, split=options.split, held_out=HELD_OUT)
    fractions = {file.parent for file in files if file.name == "annotations_normxy.json"}
    files = [f for f in files if not (f.name == "annotations_absxy.json" and f.parent in fractions)]
    for file in files:
        root = options.media or file.parent
        pictures, masks = Pictures([root], options.images), Pictures([root / "masks", root])
        load = partial(_records, pictures=pictures, masks=masks)
        yield from file_rows(
            [file],
            read_json_rows,
            load,
            root=folder_of(path),
            source=NAME,
            licence=LICENCE,
            held_out=HELD_OUT,
        )


def _records(row: Any, place: Place, pictures: Pictures, masks: Pictures) -> list[Record]:
    row = fields.mapping(row, place.where)
    if "conversations" in row:
        return [_conversation(row, place, pictures)]
    return [_annotation(row, place, pictures, masks)]


def _annotation(row: dict[str, Any], place: Place, pictures: Pictures, masks: Pictures) -> Record:
    where = place.where
    if not {"question", "answer", "img"} <= row.keys():
        raise fields.unknown_schema(row, "'question', 'answer', 'img', or 'conversations',", where)
    picture = pictures.read(fields.text(row, "img", where), where)
    size = (1.0, 1.0) if _are_fractions(row["answer"]) else (picture.width, picture.height)
    shapes, points = _shapes(row, where)
    if row.get("mask"):
        region = read_mask(masks.find(fields.text(row, "mask", where), where, "mask"), where)
        if region.shape != (picture.height, picture.width):
            raise RecordError(
                f"{where}: the mask has another size than its image: {region.shape[::-1]} pixels."
            )
    elif shapes:
        region = _drawn(shapes, size, picture)
    else:
        region = None
    placed = [point_from_pixels(x, y, *size, where) for x, y in points]
    if not placed and region is not None:
        placed = [interior_point(region, where)]
    text = written_list(placed)
    return Record(
        id=place.id,
        source=NAME,
        category="grounding",
        skill=str(row.get("category", "affordance")).strip().replace(" ", "_"),
        group=place.id,
        images=(picture.file,),
        messages=ask(restated(fields.text(row, "question", where)), text, 1),
        answer=Answer(
            kind="point",
            text=text,
            points=tuple(placed),
            region=None if region is None else region_file(region),
        ),
        meta=place.meta(image=row["img"], mask=row.get("mask"), split=splits.HELD_OUT),
    )


def _conversation(row: dict[str, Any], place: Place, pictures: Pictures) -> Record:
    where = place.where
    names = fields.texts(row, "image", where)
    messages = [
        Message(role=m.role, content=in_thousandths(m.content, where, strict=True))
        if m.role == "assistant"
        else Message(role=m.role, content=restated(in_thousandths(m.content, where, strict=False)))
        for m in read_messages(row["conversations"], where)
    ]
    messages = with_marks(messages, len(names))
    return Record(
        id=place.id,
        source=NAME,
        category="grounding",
        skill=str(row.get("category", "affordance")).strip().replace(" ", "_"),
        group=place.id,
        images=tuple(pictures.read(name, where).file for name in names),
        messages=tuple(messages),
        answer=read_answer(messages[-1].content),
        meta=place.meta(id=row.get("id"), image=names[0] if names else None, split=splits.TRAIN),
    )


def _shapes(
    row: dict[str, Any], where: str
) -> tuple[list[list[tuple[float, float]]], list[tuple[float, float]]]:
    """Polygons or points of an answer; one of both is empty."""
    answer = row["answer"]
    if isinstance(answer, list) and answer and all(isinstance(item, list) and item for item in answer):
        if all(isinstance(item[0], list) for item in answer):
            return [fields.points({"answer": item}, "answer", where) for item in answer], []
        return [], fields.points(row, "answer", where)
    raise RecordError(f"{where}: 'answer' must be a list of points or polygons, got {str(answer)[:60]}.")


def _are_fractions(answer: Any) -> bool:
    return bool(np.all([0 <= v <= 1 for v in _numbers(answer)]))


def _numbers(value: Any) -> list[float]:
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [float(value)] if isinstance(value, int | float) else []


def _drawn(
    shapes: list[list[tuple[float, float]]], size: tuple[Number, Number], picture: Picture
) -> Bool[np.ndarray, "height width"]:
    canvas = Image.new("1", (picture.width, picture.height))
    pen = ImageDraw.Draw(canvas)
    for shape in shapes:
        pen.polygon([(x / size[0] * picture.width, y / size[1] * picture.height) for x, y in shape], fill=1)
    return np.array(canvas)
