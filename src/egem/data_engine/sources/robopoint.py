"""RoboPoint (wentaoyuan/RoboPoint): points for objects and free regions, LVIS boxes, and LLaVA's own rows.

One JSON list of LLaVA rows; points are tuples (x, y), boxes (x, y, w, h), as fractions of the image.
    {"id": "region_ref/...", "image": "region_ref/....png", "conversations": [{"from", "value"}, ...]}
The first folder of an image's path says what a row is. Rows without an image are text only.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from egem.data_engine.formats.json_rows import read_json_rows
from egem.data_engine.sources import fields
from egem.data_engine.sources.conversation import read_messages, with_marks
from egem.data_engine.sources.coordinates import in_thousandths, read_answer, restated
from egem.data_engine.sources.layout import find_files, folder_of
from egem.data_engine.sources.pictures import Pictures
from egem.data_engine.sources.source import ImportOptions, Place, Row, file_rows
from egem.records import Category, Message, Record

NAME = "robopoint"
LICENCE = "Apache-2.0 (LVIS and LLaVA images keep their own)"
PATTERNS = ("robopoint_*.json", "*/robopoint_*.json")

_SKILLS = {"object_ref": "object_reference", "region_ref": "region_reference"}


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """One record for each row, with all its turns.

    Raises:
        ConfigError: the folder holds no `robopoint_*.json`.
    """
    files = find_files(path, PATTERNS, source=NAME, split=options.split)
    pictures = Pictures([options.media or files[0].parent], options.images)
    load = partial(_records, pictures=pictures)
    yield from file_rows(files, read_json_rows, load, root=folder_of(path), source=NAME, licence=LICENCE)


def _records(row: Any, place: Place, pictures: Pictures) -> list[Record]:
    return [_record(fields.mapping(row, place.where), place, pictures)]


def _record(row: dict[str, Any], place: Place, pictures: Pictures) -> Record:
    where = place.where
    messages = read_messages(row.get("conversations"), where)
    names = fields.texts(row, "image", where)
    folder = names[0].split("/", 1)[0] if names else ""
    skill = _SKILLS.get(folder) or ("detection" if _has_tuples(messages) else "conversation")
    if skill != "conversation":
        messages = [_converted(message, where) for message in messages]
    messages = with_marks(messages, len(names))
    category: Category = "spatial" if skill == "conversation" else "grounding"
    return Record(
        id=place.id,
        source=NAME,
        category=category,
        skill=skill,
        group=place.id,
        images=tuple(pictures.read(name, where).file for name in names),
        messages=tuple(messages),
        answer=read_answer(messages[-1].content),
        meta=place.meta(id=row.get("id"), image=names[0] if names else None),
    )


def _converted(message: Message, where: str) -> Message:
    answers = message.role == "assistant"
    text = in_thousandths(message.content, where, form="size", strict=answers)
    return Message(role=message.role, content=text if answers else restated(text))


def _has_tuples(messages: list[Message]) -> bool:
    """Whether every answer is a list of tuples, as those of detection are."""
    answers = [message.content.strip() for message in messages if message.role == "assistant"]
    return bool(answers) and all(answer.startswith("[(") and answer.endswith(")]") for answer in answers)
