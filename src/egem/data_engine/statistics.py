"""What a record folder holds: counts, how answers are spread, and what guessing without the image reaches."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from egem.blind import BlindScore, blind_scores, by_skill
from egem.core.errors import RecordError
from egem.records import AnswerKind, Category, Record, from_row
from egem.shards import Manifest, read_manifest

MAX_RECORDS = 40_000
"""Larger folders are measured on whole shards up to about this many records; counts are always exact."""
NUM_TOP_ANSWERS = 3
QUARANTINE = "quarantine.jsonl"

_COLUMNS = ["id", "source", "category", "skill", "group", "messages", "answer", "meta"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SkillStatistics:
    """One skill's questions."""

    name: str
    category: Category
    rows: int
    kind: AnswerKind
    """The most frequent kind of answer."""
    top_answers: tuple[tuple[str, float], ...]
    """Most frequent answer texts with their share."""
    first_option: float | None
    """How often the right option is the first of the question; None unless choices with varying options."""
    numbers: tuple[float, float, float] | None
    """5th, 50th and 95th percentile of number answers, in their unit."""
    chance: float | None
    """Mean score of drawing an option evenly; None where there are no options."""
    blind: float | None
    """Best score without the image, fitted on one half of the groups and tested on the other, both ways."""
    guesser: str | None
    """Which guesser that was (see `egem.blind`)."""
    mean_question_words: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """A record folder in numbers."""

    manifest: Manifest
    skills: tuple[SkillStatistics, ...]
    measured_rows: int
    """Rows that the answer statistics rest on."""
    quarantined: int
    """Rows that the import left out (see the folder's quarantine.jsonl)."""


def statistics(folder: Path) -> Statistics:
    """Count and check a folder of records.

    Raises:
        RecordError: not a record folder, or a shard is missing or damaged.
    """
    manifest = read_manifest(folder)
    records = list(_texts(Path(folder), manifest))
    halves: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        halves[hashlib.sha256(record.group.encode()).digest()[0] % 2].append(record)
    folds = (blind_scores(halves[0], halves[1]), blind_scores(halves[1], halves[0]))
    skills = []
    for name, mine in sorted(by_skill(records).items(), key=lambda item: (item[1][0].category, item[0])):
        blind = [fold[name] for fold in folds if name in fold]
        skills.append(_skill(name, mine, manifest.by_skill[name], blind))
    quarantine = Path(folder) / QUARANTINE
    lines = quarantine.read_text().splitlines() if quarantine.is_file() else []
    return Statistics(
        manifest=manifest,
        skills=tuple(skills),
        measured_rows=len(records),
        quarantined=sum("reason" in json.loads(line) for line in lines),
    )


def table(result: Statistics) -> str:
    """The statistics as text for a terminal, about 110 columns wide."""
    manifest = result.manifest
    lines = [
        f"{manifest.rows} records in {manifest.groups} groups, {manifest.images} images, "
        f"{manifest.depths} with depth, {result.quarantined} rows quarantined",
        "source: " + ", ".join(f"{name} {rows}" for name, rows in manifest.by_source.items()),
        "category: " + ", ".join(f"{name} {rows}" for name, rows in manifest.by_category.items()),
        "",
        f"{'skill':<18}{'category':<11}{'rows':>7}  {'kind':<11}{'chance':>7}{'blind':>7}  answers",
    ]
    for skill in result.skills:
        chance = "" if skill.chance is None else f"{skill.chance:.2f}"
        blind = "" if skill.blind is None else f"{skill.blind:.2f}"
        lines.append(
            f"{skill.name:<18}{skill.category:<11}{skill.rows:>7}  {skill.kind:<11}{chance:>7}{blind:>7}  "
            f"{_answers(skill)}"
        )
    lines += ["", "blind: the best score found without looking at the image (see docs/record-format.md)"]
    if result.measured_rows < manifest.rows:
        lines.append(f"answers measured on {result.measured_rows} of {manifest.rows} rows")
    return "\n".join(lines)


def _answers(skill: SkillStatistics) -> str:
    if skill.numbers is not None:
        low, middle, high = skill.numbers
        return f"5 % {low:.2f}, median {middle:.2f}, 95 % {high:.2f}"
    if skill.first_option is not None:
        return f"first option right {skill.first_option:.0%}"
    if skill.kind in ("choice", "text"):
        return ", ".join(f"{text[:24]} {share:.0%}" for text, share in skill.top_answers)
    return ""


def _texts(folder: Path, manifest: Manifest) -> Iterator[Record]:
    """Records without their images: the columns of text alone are read."""
    read = 0
    for shard in manifest.shards:
        if read >= MAX_RECORDS:
            return
        path = folder / shard.name
        try:
            rows = pq.read_table(path, columns=_COLUMNS).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise RecordError(f"{path} cannot be read ({error}); make or copy the folder again.") from error
        read += len(rows)
        for row in rows:
            yield from_row({**row, "images": []})


def _skill(name: str, records: Sequence[Record], rows: int, blind: Sequence[BlindScore]) -> SkillStatistics:
    answers = [record.answer for record in records]
    texts = Counter(answer.text for answer in answers)
    choices = [answer for answer in answers if answer.kind == "choice"]
    numbers = [answer.number for answer in answers if answer.number is not None]
    varying = len({frozenset(answer.choices) for answer in choices}) > 1
    kinds = Counter(answer.kind for answer in answers)
    scores = [score for fold in blind for score in fold.scores]
    return SkillStatistics(
        name=name,
        category=records[0].category,
        rows=rows,
        kind=max(answers, key=lambda answer: kinds[answer.kind]).kind,
        top_answers=tuple((text, n / len(answers)) for text, n in texts.most_common(NUM_TOP_ANSWERS)),
        first_option=float(np.mean([a.text == a.choices[0] for a in choices])) if varying else None,
        numbers=tuple(np.percentile(numbers, [5, 50, 95]).tolist()) if numbers else None,
        chance=float(np.mean([1 / len(a.choices) for a in choices])) if choices else None,
        blind=float(np.mean(scores)) if scores else None,
        guesser=" / ".join(sorted({fold.guesser for fold in blind})) or None,
        mean_question_words=float(np.mean([len(_question(record).split()) for record in records])),
    )


def _question(record: Record) -> str:
    return next(m.content for m in reversed(record.messages) if m.role == "user")
