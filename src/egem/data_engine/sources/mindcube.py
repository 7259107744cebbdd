"""MindCube (mll-lab-nu/MindCube): questions about what lies where, from two to four views of a place.

JSON lines, raw or with what the authors' scaffold adds:
    {"id", "category": [str], "type", "question": "... A. Above B. Under", "images": [path], "gt_answer": "A"}
    added and not used: reasoning_chain, grounded_cogmap, plain_cogmap, input_prompt, grounded_output
or LLaVA rows {"images", "conversations"} of their fine-tuning files.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from egem.core.errors import RecordError
from egem.data_engine.formats.json_rows import read_json_rows
from egem.data_engine.sources import fields
from egem.data_engine.sources.choices import choice_answer, plain_answer
from egem.data_engine.sources.conversation import ask, read_messages, with_marks
from egem.data_engine.sources.layout import find_files, folder_of
from egem.data_engine.sources.pictures import Pictures
from egem.data_engine.sources.source import ImportOptions, Place, Row, file_rows
from egem.question_options import inline_options
from egem.records import Record

NAME = "mindcube"
LICENCE = "not stated in its repository"
PATTERNS = ("MindCube*.jsonl", "raw/MindCube*.jsonl", "data/raw/MindCube*.jsonl", "*/MindCube*.jsonl")
HELD_OUT = ("MindCube",)
"""All questions, those of the benchmark among them."""

_GROUPS = ("rotation", "among", "around", "translation", "linear")


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """One record for each question.

    Raises:
        ConfigError: the folder holds no `MindCube*.jsonl`.
    """
    files = find_files(path, PATTERNS, source=NAME, split=options.split, held_out=HELD_OUT)
    root = folder_of(path)
    above = (files[0].parent, files[0].parent.parent)
    pictures = Pictures([options.media or root, *above], options.images)
    load = partial(_records, pictures=pictures)
    yield from file_rows(
        files, read_json_rows, load, root=root, source=NAME, licence=LICENCE, held_out=HELD_OUT
    )


def _records(row: Any, place: Place, pictures: Pictures) -> list[Record]:
    return [_record(fields.mapping(row, place.where), place, pictures)]


def _record(row: dict[str, Any], place: Place, pictures: Pictures) -> Record:
    where = place.where
    names = fields.texts(row, "images", where)
    if not names:
        raise fields.unknown_schema(row, "'images' (a list of paths)", where)
    images = tuple(pictures.read(name, where).file for name in names)
    if "question" in row:
        question, given = fields.text(row, "question", where), fields.text(row, "gt_answer", where)
        options = inline_options(question)
        answer = choice_answer(given, options)
        if answer is None:
            raise RecordError(f"{where}: answer {given!r} is none of the options {options}.")
        messages = ask(question, given, len(images))
    elif "conversations" in row:
        talk = with_marks(read_messages(row["conversations"], where), len(images))
        answer = plain_answer(talk[-2].content if len(talk) > 1 else "", talk[-1].content)
        messages = tuple(talk)
    else:
        raise fields.unknown_schema(row, "'question' and 'gt_answer', or 'conversations',", where)
    return Record(
        id=place.id,
        source=NAME,
        category="spatial",
        skill=_skill(row, names),
        group=place.id,
        images=images,
        messages=messages,
        answer=answer,
        meta=place.meta(id=row.get("id"), type=row.get("type"), category=row.get("category"), images=names),
    )


def _skill(row: dict[str, Any], names: list[str]) -> str:
    """Which of the set's groups a question belongs to: its id or its images' folder says so."""
    for text in (str(row.get("id", "")), *names):
        words = re.split(r"[^a-z]+", text.lower())
        for group in _GROUPS:
            if group in words:
                return group
    return "viewpoint"
