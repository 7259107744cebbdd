"""What a benchmark's questions are worth without looking: the majority answer, and the best blind guess.

Both are learned from other scenes than they are scored on: from training data where it is given, else each
half of the benchmark's scenes from the other half.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from egem.blind import blind_scores, by_skill, combined, guessers
from egem.evaluation.answers import scene_of
from egem.evaluation.benchmarks import Benchmark
from egem.evaluation.benchmarks.public import PublicBenchmark
from egem.evaluation.depth_run import spread
from egem.records import Record
from egem.scoring import score
from egem.shards import RecordGroups


@dataclass(frozen=True, kw_only=True, slots=True)
class Baselines:
    """Scores by question; a question whose skill could not be learned has none."""

    blind: dict[str, float]
    """Of the best blind guesser of each skill."""
    majority: dict[str, float]
    """Of the most frequent answer (median number, mean place) of each skill."""
    source: str
    """What they were learned from."""


def baselines(benchmark: Benchmark, training_data: Sequence[Path]) -> Baselines:
    """Both baselines of every question.

    Args:
        benchmark: of a published one the rule decides what is right.
        training_data: record folders to learn from; none: the benchmark's own halves. Published benchmarks
            always use their halves, because their answers look different.

    Raises:
        RecordError: a region of right answers is missing or cannot be decoded.
    """
    if isinstance(benchmark, PublicBenchmark):
        return _of_rule(benchmark)
    blind, source = blind_floor(benchmark, training_data)
    majority: dict[str, float] = {}
    for training, test in _folds(benchmark, training_data)[0]:
        known = by_skill(training)
        for skill, records in by_skill(test).items():
            if skill in known:
                guess = combined([record.answer for record in known[skill]])
                majority.update((record.id, score(record.answer, guess)) for record in records)
    return Baselines(blind=blind, majority=majority, source=source)


def blind_floor(benchmark: Benchmark, training_data: Sequence[Path]) -> tuple[dict[str, float], str]:
    """What the best blind guess scores on each question, and what it was learned from.

    Without training data each half of the benchmark's scenes is guessed from the other half. Questions of
    a skill that could not be learned are left out.
    """
    folds, source = _folds(benchmark, training_data)
    found: dict[str, float] = {}
    for training, test in folds:
        floors = blind_scores(training, test)
        for skill, records in by_skill(test).items():
            if skill in floors:
                found.update(zip((r.id for r in records), floors[skill].scores, strict=True))
    return found, source


def _folds(
    benchmark: Benchmark, training_data: Sequence[Path]
) -> tuple[list[tuple[list[Record], list[Record]]], str]:
    """(training, test) records without pictures, and what the training ones are."""
    asked: dict[str, list[Record]] = {}
    for record in benchmark.questions():
        # Without pictures, so that all questions fit into memory at once.
        asked.setdefault(scene_of(record), []).append(replace(record, images=(), depths=()))
    scenes = list(asked.values())
    if training_data:
        groups = RecordGroups(training_data)
        training = [
            replace(record, images=(), depths=()) for index in spread(groups) for record in groups[index]
        ]
        return [(training, _flat(scenes))], ", ".join(map(str, training_data))
    # Whole scenes, because another view of the same one would give answers away.
    even, odd = _flat(scenes[::2]), _flat(scenes[1::2])
    return [(even, odd), (odd, even)], "the other half of the benchmark"


def _of_rule(benchmark: PublicBenchmark) -> Baselines:
    source = "the other half of the benchmark"
    if benchmark.rule.judged:
        return Baselines(blind={}, majority={}, source="nothing: a judge decides")
    blind: dict[str, float] = {}
    majority: dict[str, float] = {}
    for training, test in _folds(benchmark, ())[0]:
        known = by_skill(training)
        for skill, records in by_skill(test).items():
            kind = records[0].answer.kind
            # A rare skill that only one half has gets the majority answer of all questions of its kind.
            pool = known.get(skill) or [record for record in training if record.answer.kind == kind]
            if not pool and not _points_inside(records[0]):
                continue
            guesses = islice(_guesses(pool, records[0], benchmark), None if skill in known else 1)
            rated = [_rated(benchmark, records, guess) for guess in guesses]
            majority.update(zip((r.id for r in records), rated[0], strict=True))
            best = max(rated, key=lambda scores: float(np.mean(scores)))
            blind.update(zip((r.id for r in records), best, strict=True))
    return Baselines(blind=blind, majority=majority, source=source)


def _guesses(
    known: Sequence[Record], example: Record, benchmark: PublicBenchmark
) -> Iterator[Callable[[Record], str]]:
    """Ways to answer a skill; the first is the majority answer."""
    if _points_inside(example):
        yield lambda record: benchmark.rule.centre
        return
    majority = combined([record.answer for record in known])
    yield lambda record: majority
    for views in (known, [_with_texts(record) for record in known]):
        for guess in guessers(views).values():
            yield lambda record, guess=guess, texts=views is not known: _reply(
                record, guess(_with_texts(record) if texts else record)
            )
        if not any(record.meta.get("options") for record in known):
            return


def _rated(
    benchmark: PublicBenchmark, records: Sequence[Record], guess: Callable[[Record], str]
) -> list[float]:
    load = benchmark.load if benchmark.rule.reads_media else lambda record: record
    return [benchmark.score(load(record), guess(record))["score"] for record in records]


def _points_inside(record: Record) -> bool:
    return record.answer.kind == "point"


def _with_texts(record: Record) -> Record:
    """The record with the options' texts for their letters, which say more about what is likely."""
    options = record.meta.get("options")
    letters = record.answer.choices
    if not options or len(options) != len(letters) or record.answer.text not in letters:
        return record
    right = options[letters.index(record.answer.text)]
    return replace(record, answer=replace(record.answer, text=right, choices=tuple(options)))


def _reply(record: Record, guess: str) -> str:
    """A guessed option by its letter, as the benchmarks want it."""
    options = record.meta.get("options") or []
    letters = record.answer.choices
    if guess not in letters and guess in options and len(options) == len(letters):
        return letters[options.index(guess)]
    return guess


def _flat(groups: Sequence[Sequence[Record]]) -> list[Record]:
    return [record for group in groups for record in group]
