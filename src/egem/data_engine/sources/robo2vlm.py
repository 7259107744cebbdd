"""Robo2VLM-1 (keplerccc/Robo2VLM-1 on Hugging Face): choices about robot episodes, from one stitched image.

Parquet: id, question, choices, correct_answer, image {bytes, path}, and in some copies tag. `choices` is a list or the
text of one; `correct_answer` an index from 0, or a letter. Options are written below the question, one a line, and
answered by letter.
"""

import ast
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from egem.core.errors import RecordError
from egem.data_engine.formats.parquet_rows import read_parquet_rows
from egem.data_engine.sources import fields
from egem.data_engine.sources.choices import choice_answer, letter, option_index, with_options
from egem.data_engine.sources.conversation import ask
from egem.data_engine.sources.layout import find_files, folder_of
from egem.data_engine.sources.pictures import checked
from egem.data_engine.sources.source import ImportOptions, Place, Row, file_rows
from egem.records import Record

NAME = "robo2vlm"
LICENCE = "Apache-2.0 (frames keep the licences of their robot sets)"
PATTERNS = ("data/*.parquet", "*.parquet")
SKILL = "robot_question"

_INSTRUCTION = "Answer with the letter of the option."


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """One record for each row.

    Raises:
        ConfigError: the folder holds no Parquet file.
    """
    files = find_files(path, PATTERNS, source=NAME, split=options.split)
    read = partial(
        read_parquet_rows, columns=("id", "question", "choices", "correct_answer", "image"), optional=("tag",)
    )
    yield from file_rows(files, read, _load, root=folder_of(path), source=NAME, licence=LICENCE)


def _load(row: Any, place: Place) -> list[Record]:
    where = place.where
    question = fields.text(row, "question", where)
    options = _choices(row["choices"], where)
    index = _index(row["correct_answer"], options, where)
    answer = choice_answer(letter(index), options)
    image = row["image"]
    if answer is None or not isinstance(image, dict) or not image.get("bytes"):
        raise RecordError(
            f"{where}: 'image' must hold bytes; the copy stores paths only or is of another layout."
        )
    picture = checked(image["bytes"], f"{where}: image")
    asked = f"{with_options(question, options)}\n{_INSTRUCTION}"
    tag = row.get("tag")
    return [
        Record(
            id=place.id,
            source=NAME,
            category="spatial",
            skill=tag if isinstance(tag, str) and tag else SKILL,
            group=place.id,
            images=(picture.file,),
            messages=ask(asked, letter(index), 1),
            answer=answer,
            meta=place.meta(id=row["id"]),
        )
    ]


def _choices(value: Any, where: str) -> list[str]:
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise RecordError(
                f"{where}: 'choices' is neither a list nor the text of one: {value[:60]!r}."
            ) from None
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise RecordError(
            f"{where}: 'choices' must be a list of at least two options, got {str(value)[:60]!r}."
        )
    return [str(item).strip() for item in value]


def _index(value: Any, options: list[str], where: str) -> int:
    """Which option is right: an index from 0 (also as text), a letter, or the option's text."""
    found = None
    if isinstance(value, int) and not isinstance(value, bool):
        found = value
    elif isinstance(value, str) and value.strip().isdigit() and value.strip() not in options:
        found = int(value)
    elif isinstance(value, str):
        found = option_index(value.strip().upper() if len(value.strip()) == 1 else value, options)
    if found is None or not 0 <= found < len(options):
        raise RecordError(
            f"{where}: 'correct_answer' {value!r} names none of the {len(options)} options {options}."
        )
    return found
