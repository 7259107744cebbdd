r"""RoboRefIt (luyh20/VL-Grasp): an expression for one thing on a table or shelf, with its box and mask.

    roborefit_{train,testA,testB}.json: list of
    {"text", "bbox": [x1, y1, x2, y2] pixels, "rgb_path": "final_dataset\train\image\1.png", "depth_path",
     "mask_path"}
Paths start from the folder of the JSON files (or `--media`). A row becomes two records about one image: the box, and a
point whose region is the mask. Depth is taken where `depth_path` is a 16-bit PNG (millimetres); the release also
has 8-bit colour pictures of depth there, which are no depth and are left out, as `meta` says.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from egem.core.errors import RecordError
from egem.data_engine.formats.json_rows import read_json_rows
from egem.data_engine.sources import fields
from egem.data_engine.sources.conversation import ask
from egem.data_engine.sources.coordinates import box_from_pixels, written
from egem.data_engine.sources.layout import find_files, folder_of
from egem.data_engine.sources.masks import interior_point
from egem.data_engine.sources.pictures import (
    Picture,
    Pictures,
    read_depth,
    read_mask,
    read_picture,
    region_file,
)
from egem.data_engine.sources.source import ImportOptions, Place, Row, file_rows
from egem.records import Answer, DepthFile, Record

NAME = "roborefit"
LICENCE = "not stated by its publisher"
PATTERNS = ("roborefit_*.json", "*/roborefit_*.json")

_BOX = 'Find "{text}". Answer with its box [left, top, right, bottom], integers 0 to 1000.'
_POINT = 'Point to "{text}". Answer with [x, y], integers 0 to 1000.'


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """Two records for each row: box and point.

    Raises:
        ConfigError: the folder holds no `roborefit_*.json`.
    """
    files = find_files(path, PATTERNS, source=NAME, split=options.split)
    root = options.media or files[0].parent
    pictures = Pictures([root, root.parent], options.images)
    load = partial(_records, pictures=pictures, options=options)
    yield from file_rows(files, read_json_rows, load, root=folder_of(path), source=NAME, licence=LICENCE)


def _records(row: Any, place: Place, pictures: Pictures, options: ImportOptions) -> list[Record]:
    where = place.where
    row = fields.mapping(row, where)
    name = " ".join(fields.text(row, "text", where).split()).rstrip(".")
    picture = pictures.read(fields.text(row, "rgb_path", where), where)
    corners = fields.numbers(row, "bbox", 4, where)
    box = box_from_pixels(corners, "corners", picture.width, picture.height, where)
    mask = read_mask(pictures.find(fields.text(row, "mask_path", where), where, "mask"), where)
    if mask.shape != (picture.height, picture.width):
        raise RecordError(f"{where}: the mask has another size than its image: {mask.shape[::-1]} pixels.")
    depth = _depth(row, picture, pictures, options, where)
    point = interior_point(mask, where)
    answers = {
        "box_of_expression": (_BOX, Answer(kind="box", text=written(box), box=box)),
        "point_at_expression": (
            _POINT,
            Answer(kind="point", text=written(point), points=(point,), region=region_file(mask)),
        ),
    }
    left_out = "8-bit picture" if depth is None and row.get("depth_path") else None
    return [
        Record(
            id=f"{place.id}/{skill}",
            source=NAME,
            category="grounding",
            skill=skill,
            group=place.id,
            images=(picture.file,),
            depths=() if depth is None else (depth,),
            messages=ask(question.format(text=name), answer.text, 1),
            answer=answer,
            meta=place.meta(image=row["rgb_path"], bbox=row["bbox"], depth_left_out=left_out),
        )
        for skill, (question, answer) in answers.items()
    ]


def _depth(
    row: dict[str, Any], picture: Picture, pictures: Pictures, options: ImportOptions, where: str
) -> DepthFile | None:
    if not row.get("depth_path"):
        return None
    path = pictures.find(fields.text(row, "depth_path", where), where, "depth map")
    if not read_picture(path, where, "path").mode.startswith("I"):
        return None
    return read_depth(
        path,
        picture,
        unit_m=options.depth_unit_m or 0.001,
        kind=options.depth_kind or "metric",
        origin="sensor",
        keep=options.images,
        where=where,
    )
