"""MolmoAct's mixtures (allenai): what a robot should do, with the end effector's path drawn by numbers.

Parquet rows with one or two camera images (`primary`, `secondary`, `image`, and `wrist`), `conversations` as a struct
of lists {"from": [human, gpt], "value": [question, answer]}, and `annotation`: the path as the text of a Python list,
or null. Points are integers 0 to 255, x then y; each stands for the middle of its 256th of the image.

Kept is the path, asked for in this project's words: tokens of depth (a codebook of theirs) and of actions (256 bins)
mean nothing to another model. Rows without a path are counted as rows without a question.
"""

import ast
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from egem.core.errors import RecordError
from egem.data_engine.formats.parquet_rows import read_parquet_rows
from egem.data_engine.sources import fields
from egem.data_engine.sources.conversation import ask
from egem.data_engine.sources.coordinates import written_list
from egem.data_engine.sources.layout import find_files, folder_of
from egem.data_engine.sources.pictures import checked
from egem.data_engine.sources.source import ImportOptions, Place, Row, file_rows
from egem.records import COORDINATE_RANGE, Answer, Record

NAME = "molmoact"
LICENCE = "not stated in the files"
PATTERNS = ("**/*.parquet", "*.parquet")
CAMERAS = ("primary", "secondary", "image")
GRID = 256

_TASK = re.compile(r"\b(?:the )?task is (.+?)(?:\.|\n|$)", re.IGNORECASE)
_PATH = re.compile(r"\[\s*\[\s*\d+\s*,\s*\d+\s*\](?:\s*,\s*\[\s*\d+\s*,\s*\d+\s*\])*\s*\]")


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """One record for each row with a path.

    Raises:
        ConfigError: the folder holds no *.parquet.
    """
    files = find_files(path, PATTERNS, source=NAME, split=options.split)
    read = partial(read_parquet_rows, columns=("conversations",), optional=("annotation", "wrist", *CAMERAS))
    load = partial(_records, camera=options.camera)
    yield from file_rows(files, read, load, root=folder_of(path), source=NAME, licence=LICENCE)


def _records(row: Any, place: Place, *, camera: str) -> list[Record]:
    where = place.where
    row = fields.mapping(row, where)
    question, reply = _turn(row, where)
    points = _points(row.get("annotation"), reply, where)
    if not points:
        return []
    task = _TASK.search(question)
    if task is None:
        raise RecordError(f"{where}: no 'task is ...' in the question {question[:60]!r}.")
    name = camera or next((key for key in CAMERAS if row.get(key)), "")
    image = row.get(name)
    if not isinstance(image, dict) or not isinstance(image.get("bytes"), bytes):
        there = ", ".join(key for key in (*CAMERAS, "wrist") if row.get(key)) or "none"
        raise RecordError(f"{where}: no camera '{name or CAMERAS[0]}' with bytes; the row has {there}.")
    text = written_list(points)
    words = (
        f"The robot is to {task.group(1).strip()}. Give its gripper's path in the image as points [x, y], "
        "integers 0 to 1000."
    )
    return [
        Record(
            id=place.id,
            source=NAME,
            category="planning",
            skill="gripper_path",
            group=place.id,
            images=(checked(image["bytes"], f"{where}: image").file,),
            messages=ask(words, text, 1),
            answer=Answer(kind="trajectory", text=text, points=points),
            meta=place.meta(camera=name, instruction=task.group(1).strip()),
        )
    ]


def _turn(row: dict[str, Any], where: str) -> tuple[str, str]:
    """Question and answer; a struct of lists, or a list of structs."""
    talk = row.get("conversations")
    values = (
        talk.get("value") if isinstance(talk, dict) else [turn.get("value") for turn in talk or [] if turn]
    )
    if not isinstance(values, list) or len(values) < 2 or not all(isinstance(v, str) for v in values[:2]):
        raise RecordError(f"{where}: 'conversations' must hold a question and an answer.")
    return values[0], values[1]


def _points(annotation: Any, reply: str, where: str) -> tuple[tuple[int, int], ...]:
    """The path of the annotation or, without one, the last list of points in the answer."""
    text = annotation if isinstance(annotation, str) and annotation.strip() else None
    if text is None:
        found = _PATH.findall(reply)
        if not found:
            return ()
        text = found[-1]
    try:
        pairs = [(int(x), int(y)) for x, y in ast.literal_eval(text)]
    except (ValueError, SyntaxError, TypeError):
        raise RecordError(f"{where}: the path {text[:60]!r} is no list of points.") from None
    for x, y in pairs:
        if not (0 <= x < GRID and 0 <= y < GRID):
            raise RecordError(f"{where}: point ({x}, {y}) lies outside the grid of {GRID}.")
    return tuple((_thousandth(x), _thousandth(y)) for x, y in pairs)


def _thousandth(value: int) -> int:
    return round((value + 0.5) * COORDINATE_RANGE / GRID)
