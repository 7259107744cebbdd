"""RoboVQA (google-deepmind/robovqa): questions about clips of robots and people at work.

TFRecord of tf.train.SequenceExample: `images` (a JPEG a step) and `texts` (one text with all tasks of the clip):
    <task:planning> current goal is: ... Q: immediate next step? A: <PRED>put the cup down</PRED> <task:...> ...
Question and answer are parted at "A:"; `<PRED:ANSWER:BINARY>` and its like are taken away. The questions of a clip are
one group; `--num-frames` of its images are kept, which come without times.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from egem.core.errors import RecordError
from egem.data_engine.formats.tfrecord import (
    Feature,
    SequenceExample,
    StoredRecord,
    find_tfrecords,
    parse_sequence_example,
)
from egem.data_engine.sources.choices import plain_answer
from egem.data_engine.sources.conversation import ask, evenly
from egem.data_engine.sources.layout import find_files, folder_of
from egem.data_engine.sources.pictures import checked
from egem.data_engine.sources.source import ImportOptions, Place, Row, file_rows
from egem.records import Record

NAME = "robovqa"
LICENCE = "CC BY 4.0"
PATTERNS = ("*.tfrecord*", "**/*.tfrecord*")

_TASK = re.compile(r"<task((?::\w+)*)>")
_TAG = re.compile(r"</?\w[:\w]*>")
_ANSWER = re.compile(r"(?<![A-Za-z])A:", re.IGNORECASE)


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """A row for each clip, with a record for each of its tasks.

    Raises:
        ConfigError: the folder holds no *.tfrecord*.
    """
    files = find_files(path, PATTERNS, source=NAME, split=options.split)
    load = partial(_records, options=options)
    yield from file_rows(files, find_tfrecords, load, root=folder_of(path), source=NAME, licence=LICENCE)


def split_tasks(text: str, where: str) -> list[tuple[str, str, str]]:
    """Kind, question and answer of each task of a clip's text.

    Raises:
        RecordError: no task, or one without an answer.
    """
    marks = list(_TASK.finditer(text))
    if not marks:
        raise RecordError(f"{where}: no <task...> in the clip's text {text[:60]!r}.")
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    found = []
    for mark, end in zip(marks, ends, strict=True):
        body = text[mark.end() : end]
        parted = _ANSWER.search(body)
        if parted is None:
            raise RecordError(f"{where}: a task without 'A:': {body[:60]!r}.")
        question = " ".join(_TAG.sub(" ", body[: parted.start()]).split())
        answer = " ".join(_TAG.sub(" ", body[parted.end() :]).split())
        kind = "_".join(mark.group(1).strip(":").split(":")) or "question"
        found.append((kind, question, answer))
    return found


def _records(stored: StoredRecord, place: Place, *, options: ImportOptions) -> list[Record]:
    where = place.where
    example = parse_sequence_example(stored.read(), where=where)
    frames = _byte_steps(example, "images", where)
    text = b"".join(_byte_steps(example, "texts", where)[:1]).decode("utf-8", errors="replace")
    chosen = [frames[i] for i in evenly(len(frames), options.num_frames)]
    images = tuple(checked(frame, f"{where}: frame {i + 1}").file for i, frame in enumerate(chosen))
    return [
        Record(
            id=f"{place.id}/{number:02d}",
            source=NAME,
            category="spatial",
            skill=kind,
            group=place.id,
            images=images,
            messages=ask(question, answer, len(images)),
            answer=plain_answer(question, answer),
            meta=place.meta(frames=len(frames)),
        )
        for number, (kind, question, answer) in enumerate(split_tasks(text, where))
    ]


def _byte_steps(example: SequenceExample, name: str, where: str) -> list[bytes]:
    """The bytes of each step; a step may hold several."""
    steps = example.steps.get(name)
    if not steps:
        known = ", ".join(sorted({*example.steps, *example.context})) or "none"
        raise RecordError(f"{where}: no list '{name}' in the clip; it has {known}.")
    return [value for step in steps for value in _bytes(step, name, where)]


def _bytes(step: Feature, name: str, where: str) -> list[bytes]:
    if not isinstance(step, list):
        raise RecordError(f"{where}: '{name}' holds numbers, not bytes.")
    return step
