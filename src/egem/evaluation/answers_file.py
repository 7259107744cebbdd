"""Answers that some other program wrote: scored as if a model gave them now."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from egem.core.errors import RecordError
from egem.records import Record

IDS = ("id", "question_id", "idx", "index")
TEXTS = ("prediction", "answer", "text", "response", "output", "pred")


class AnswersFile:
    """A JSON or JSON lines file with an id and a text for each question, or one object {id: text}.

    Ids are those of `answers.jsonl`, with or without the benchmark's name in front.

    Raises:
        RecordError: unreadable, or a row without id or text.
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
        for number, row in enumerate(rows, 1):
            id, text = _first(row, IDS), _first(row, TEXTS)
            if id is None or text is None:
                raise RecordError(
                    f"{path}, row {number}: one of {', '.join(IDS)} and one of {', '.join(TEXTS)} are needed; "
                    f"it has {', '.join(row) or 'nothing'}."
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


def _first(row: dict[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)
