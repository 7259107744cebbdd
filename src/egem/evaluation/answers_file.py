"""Answers that some other program wrote: scored as if a model gave them now."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from egem.core.errors import RecordError
from egem.records import Record

IDS = ("id", "question_id", "idx", "index")
OWN_TEXTS = ("prediction", "pred")
"""Names that only ever hold what a model said."""
TEXTS = (*OWN_TEXTS, "response", "output", "text", "answer")
"""The later ones hold the question or the right answer in some files, so they count only where they stand alone."""


class AnswersFile:
    """A JSON or JSON lines file with an id and a text for each question, or one object {id: text}.

    Ids are those of `answers.jsonl`, with or without the benchmark's name in front. Texts are in one column of all
    rows: `prediction` or `pred`, else the only one of `TEXTS`.

    Raises:
        RecordError: unreadable, a row without id or text, or columns that could both be the model's answers.
    """

    needs_images = False

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.name = str(path)
        try:
            content = self.path.read_bytes()
            rows = _rows(content.decode())
        except (OSError, ValueError) as error:
            raise RecordError(f"{path} is not a JSON or JSON lines file of answers ({error}).") from None
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self.texts: dict[str, str] = {}
        column = _column(path, rows)
        for number, row in enumerate(rows, 1):
            id, text = _first(row, IDS), row.get(column)
            if id is None:
                raise RecordError(f"{path}, row {number}: one of {', '.join(IDS)} is needed; {_has(row)}.")
            if text is None:
                raise RecordError(
                    f"{path}, row {number}: `{column}`, the model's answer, is missing or null; {_has(row)}. "
                    'Write "" where the model said nothing.'
                )
            if str(id) in self.texts:
                raise RecordError(f"{path}, row {number}: a second answer to question {id}.")
            self.texts[str(id)] = str(text)

    def check(self, benchmark: str, ids: Iterable[str]) -> None:
        """Make sure that these are answers to this benchmark, to all of it and to nothing else.

        Raises:
            RecordError: says how many questions lack an answer, or which answers belong elsewhere.
        """
        questions = list(ids)
        missing = [id for id in questions if self._find(id) is None]
        if len(missing) == len(questions):
            example = next(iter(self.texts), "nothing")
            raise RecordError(
                f"{self.path} holds answers to another benchmark: none of the {len(questions)} questions of "
                f"{benchmark} (such as {questions[0]}) is in it; it has answers to {example} and the like."
            )
        if missing:
            raise RecordError(
                f"{self.path} lacks answers to {len(missing)} of {len(questions)} questions of {benchmark}, the "
                f"first is {missing[0]}. A score over a part would not be comparable."
            )
        known = {*questions, *(id.split("/", 1)[-1] for id in questions)}
        strange = [id for id in self.texts if id not in known]
        if strange:
            raise RecordError(
                f"{self.path} has {len(strange)} answers to questions that {benchmark} does not have, the first "
                f"is {strange[0]}; is it the same subset?"
            )

    def answer(self, records: Sequence[Record], *, batch_size: int, max_new_tokens: int) -> list[str]:
        """See `egem.evaluation.predictor.Answering`.

        Raises:
            RecordError: there is no answer to one of them.
        """
        found = [self._find(record.id) for record in records]
        for record, text in zip(records, found, strict=True):
            if text is None:
                raise RecordError(f"{self.path} has no answer to question {record.id}.")
        return [text or "" for text in found]

    def _find(self, id: str) -> str | None:
        return self.texts.get(id, self.texts.get(id.split("/", 1)[-1]))


def _rows(text: str) -> list[dict[str, Any]]:
    if text.lstrip()[:1] == "[":
        rows = json.loads(text)
    else:
        try:
            whole = json.loads(text)
        except json.JSONDecodeError:
            whole = None
        if isinstance(whole, dict) and _first(whole, IDS) is None:
            return [{"id": id, "text": answer} for id, answer in whole.items()]
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("every row must be an object")
    return rows


def _column(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """The name that the model's answers stand under, in all rows."""
    there = [name for name in TEXTS if any(name in row for row in rows)]
    found = [name for name in there if name in OWN_TEXTS] or there
    if not found:
        has = _has(rows[0]) if rows else "it has no row"
        raise RecordError(f"{path}: the model's answers are needed as one of {', '.join(TEXTS)}; {has}.")
    for number, row in enumerate(rows, 1):
        if any(row.get(name) != row.get(found[0]) for name in found[1:]):
            raise RecordError(
                f"{path}, row {number}: {' and '.join(f'`{name}`' for name in found)} differ, and one of them may be "
                "the right answer or the question. Call the model's answers `prediction`, or remove the others."
            )
    return found[0]


def _has(row: dict[str, Any]) -> str:
    return f"it has {', '.join(row) or 'nothing'}"


def _first(row: dict[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)
