"""What can be scored without looking at the image: the floor that a skill's score must clear.

Guessers see only the texts of training questions with their answers, and the text of a test question:

  constant: the most frequent answer, the median number, the mean point, box or trajectory.
  alike: the answers of the training questions most like this one (words and coordinates), combined.
  words: each possible answer rated by naive Bayes over its own words, its place, the question's words and
    how the points written beside it rank in height and width; for answers that are options or texts.

The baseline of a skill is the score of the best guesser on the test questions. Taking the best after the
fact errs on the side of a higher floor.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from egem.records import IMAGE_MARK, Answer, Record
from egem.scoring import resample_curve, score

MAX_TRAINING = 4000
"""Training questions of one skill that the guessers look at."""
MAX_CLASSES = 60
"""Texts are rated as classes when a skill has no more different ones than this."""
NEIGHBOURS = (1, 7, 31)

Guesser = Callable[[Record], str]

_WORD = re.compile(r"[a-z]+|\d+")
_LABELLED_POINT = re.compile(r"\b([A-Z])\s*[\[(]\s*(\d+)\s*,\s*(\d+)\s*[\])]")
_TRAJECTORY_POINTS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class BlindScore:
    """What guessing reaches on one skill."""

    skill: str
    guesser: str
    """The one that did best."""
    scores: tuple[float, ...]
    """Of each test record of the skill, in their order."""

    @property
    def mean(self) -> float:
        """The baseline: mean score of the best guesser."""
        return float(np.mean(self.scores))


def blind_scores(training: Iterable[Record], test: Iterable[Record]) -> dict[str, BlindScore]:
    """The blind baseline of every skill of the test records.

    Args:
        training: whose questions and answers the guessers learn from; other groups than the test's.
        test: what is scored. A skill that the training records lack is left out.

    Raises:
        RecordError: a region of right points cannot be decoded.
    """
    known, asked = by_skill(training), by_skill(test)
    result = {}
    for skill in sorted(asked.keys() & known.keys()):
        rated = {
            name: tuple(score(record.answer, guess(record)) for record in asked[skill])
            for name, guess in guessers(known[skill]).items()
        }
        best = max(sorted(rated), key=lambda name: float(np.mean(rated[name])))
        result[skill] = BlindScore(skill=skill, guesser=best, scores=rated[best])
    return result


def by_skill(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by their skill, in order."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        found[record.skill].append(record)
    return dict(found)


def guessers(training: Sequence[Record]) -> dict[str, Guesser]:
    """All guessers that fit one skill, fitted on its training records (at least one)."""
    training = training[:MAX_TRAINING]
    whole = combined([record.answer for record in training])
    found: dict[str, Guesser] = {"constant": lambda record: whole}
    alike = _Alike(training)
    for num in NEIGHBOURS:
        if num < len(training):
            found[f"alike {num}"] = lambda record, num=num: alike.guess(record, num)
    kinds = {record.answer.kind for record in training}
    if kinds <= {"choice"} or (
        kinds <= {"choice", "text"} and len({r.answer.text for r in training}) <= MAX_CLASSES
    ):
        found["words"] = _Words(training).guess
    return found


def combined(answers: Sequence[Answer]) -> str:
    """One answer for many: the median number, the mean shape, or the most frequent text."""
    kind = Counter(answer.kind for answer in answers).most_common(1)[0][0]
    answers = [answer for answer in answers if answer.kind == kind]
    if kind == "number":
        median = float(np.median([answer.number for answer in answers if answer.number is not None]))
        unit = answers[0].unit
        return f"{median:.4f} {unit}" if unit in ("m", "cm") else str(round(median))
    if kind == "point":
        return _list(np.mean([answer.points[0] for answer in answers], axis=0))
    if kind == "box":
        return _list(np.mean([answer.box for answer in answers if answer.box is not None], axis=0))
    if kind == "trajectory":
        curves = [resample_curve(answer.points, _TRAJECTORY_POINTS) for answer in answers]
        return "[" + ", ".join(_list(point) for point in np.mean(curves, axis=0)) + "]"
    return Counter(answer.text for answer in answers).most_common(1)[0][0]


def question_of(record: Record) -> str:
    """The text of the last question, without image marks."""
    asked = [message.content for message in record.messages if message.role == "user"]
    return asked[-1].replace(IMAGE_MARK, " ").strip()


class _Alike:
    """Nearest training questions by shared words and by coordinates."""

    def __init__(self, training: Sequence[Record]) -> None:
        self._answers = [record.answer for record in training]
        questions = [question_of(record) for record in training]
        words = sorted({word for text in questions for word in _words(text)})
        self._index = {word: i for i, word in enumerate(words)}
        self._features = np.stack([self._vector(text) for text in questions])

    def _vector(self, text: str) -> Float[np.ndarray, "feature"]:
        vector = np.zeros(len(self._index) + 8, np.float32)
        for word in _words(text):
            if word in self._index:
                vector[self._index[word]] = 1.0
        numbers = [float(number) for number in re.findall(r"\d+", text)][:8]
        vector[len(self._index) : len(self._index) + len(numbers)] = np.array(numbers, np.float32) / 100.0
        return vector

    def guess(self, record: Record, num: int) -> str:
        gaps = np.abs(self._features - self._vector(question_of(record))).sum(axis=1)
        nearest = np.argsort(gaps, kind="stable")[:num]
        return combined([self._answers[int(i)] for i in nearest])


class _Words:
    """Naive Bayes over "is this option the right one?"."""

    def __init__(self, training: Sequence[Record]) -> None:
        self._classes = tuple(sorted({record.answer.text for record in training}))
        self._counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
        self._totals = {True: 0, False: 0}
        for record in training:
            question = question_of(record)
            for place, option in enumerate(self._options(record)):
                right = option == record.answer.text
                self._totals[right] += 1
                self._counts[right].update(_features(question, option, place))

    def _options(self, record: Record) -> tuple[str, ...]:
        return record.answer.choices if record.answer.kind == "choice" else self._classes

    def guess(self, record: Record) -> str:
        question, options = question_of(record), self._options(record)
        rated = [
            sum(self._weight(f) for f in _features(question, option, place))
            for place, option in enumerate(options)
        ]
        return options[int(np.argmax(rated))]

    def _weight(self, feature: str) -> float:
        right = (self._counts[True][feature] + 1) / (self._totals[True] + 2)
        wrong = (self._counts[False][feature] + 1) / (self._totals[False] + 2)
        return float(np.log(right / wrong))


def _features(question: str, option: str, place: int) -> set[str]:
    own = _words(option)
    asked = _words(question) - own
    base = {f"place {place}", f"text {option}", *(f"word {word}" for word in own)}
    base |= _ranks(question, option)
    return base | {f"{feature} | {word}" for feature in base for word in asked if not word.isdigit()}


def _ranks(question: str, option: str) -> set[str]:
    """How the points that an option's letters stand for rank among all points of the question."""
    points = {label: (int(x), int(y)) for label, x, y in _LABELLED_POINT.findall(question)}
    found = set()
    for position, label in enumerate(re.findall(r"\b[A-Z]\b", option)):
        if label in points:
            for axis, name in enumerate(("column", "row")):
                rank = sorted(point[axis] for point in points.values()).index(points[label][axis])
                found.add(f"{position}: {name} {rank} of {len(points)}")
    return found


def _words(text: str) -> set[str]:
    return {word for word in _WORD.findall(text.lower()) if not word.isdigit()}


def _list(values: Iterable[float]) -> str:
    return "[" + ", ".join(str(round(float(value))) for value in values) + "]"
