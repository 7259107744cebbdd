"""A benchmark's headline numbers: means of means, as its authors combine them, with intervals.

A `Part` says how: a name stands for the mean over all answers labelled so, and a tuple for the unweighted
mean of its parts. VSI-Bench's overall score is a tuple of eight parts, one of which is a tuple of three.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from egem.evaluation.answers import ScoredAnswer
from egem.evaluation.intervals import FEWEST_GROUPS, NUM_RESAMPLES, Estimate, estimate, wilson

Part: TypeAlias = "str | tuple[Part, ...]"

ALL = "all"
"""The part that every answer belongs to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Total:
    """One headline number."""

    name: str
    score: Estimate
    missing: tuple[str, ...] = ()
    """Parts without a single question (of a smaller run, say); the others were averaged without them."""


def estimate_totals(answers: Sequence[ScoredAnswer], totals: Mapping[str, Part]) -> tuple[Total, ...]:
    """Every headline number with its 95 % interval (bootstrap over whole scenes).

    A total none of whose parts has a question is left out.

    Args:
        answers: every question once.
        totals: name -> how it is put together.
    """
    scenes = {scene: index for index, scene in enumerate(dict.fromkeys(a.scene for a in answers))}
    found = []
    for name, part in totals.items():
        leaves = list(dict.fromkeys(_leaves(part)))
        missing = tuple(leaf for leaf in leaves if not any(_has(answer, leaf) for answer in answers))
        if len(missing) == len(leaves):
            continue
        if isinstance(part, str):
            mine = [answer for answer in answers if _has(answer, part)]
            score = estimate([answer.score for answer in mine], [answer.scene for answer in mine])
        else:
            score = _estimate(answers, part, leaves, scenes)
        found.append(Total(name=name, score=score, missing=missing))
    return tuple(found)


def combine(part: Part, means: Mapping[str, float]) -> float | None:
    """A part's value, given the mean of each label; None where it has none of them."""
    if isinstance(part, str):
        return means.get(part)
    values = [value for value in (combine(inner, means) for inner in part) if value is not None]
    return sum(values) / len(values) if values else None


def _estimate(
    answers: Sequence[ScoredAnswer], part: Part, leaves: Sequence[str], scenes: Mapping[str, int]
) -> Estimate:
    sums, counts = np.zeros((len(scenes), len(leaves))), np.zeros((len(scenes), len(leaves)))
    for answer in answers:
        for column, leaf in enumerate(leaves):
            if _has(answer, leaf):
                sums[scenes[answer.scene], column] += answer.score
                counts[scenes[answer.scene], column] += 1
    n = int(sum(any(_has(answer, leaf) for leaf in leaves) for answer in answers))
    value = float(_combined(part, leaves, sums.sum(axis=0)[None], counts.sum(axis=0)[None])[0])
    used = int((counts.sum(axis=1) > 0).sum())
    if used < FEWEST_GROUPS or np.ptp(sums[counts > 0] / counts[counts > 0]) == 0:
        low, high = wilson(value, used)
    else:
        generator = np.random.default_rng(0)
        drawn = generator.multinomial(len(scenes), np.full(len(scenes), 1 / len(scenes)), size=NUM_RESAMPLES)
        values = _combined(part, leaves, drawn @ sums, drawn @ counts)
        low, high = np.quantile(values[np.isfinite(values)], [0.025, 0.975])
    return Estimate(n=n, mean=value, low=float(low), high=float(high))


def _combined(part: Part, leaves: Sequence[str], sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The part's value for each row; a leaf that a resample holds no question of is left out of its mean."""
    if isinstance(part, str):
        column = leaves.index(part)
        with np.errstate(invalid="ignore", divide="ignore"):
            return sums[:, column] / counts[:, column]
    values = np.stack([_combined(inner, leaves, sums, counts) for inner in part])
    present = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(present, values, 0.0).sum(axis=0) / present.sum(axis=0)


def _leaves(part: Part) -> list[str]:
    return [part] if isinstance(part, str) else [leaf for inner in part for leaf in _leaves(inner)]


def _has(answer: ScoredAnswer, label: str) -> bool:
    return label == ALL or label == answer.skill or label in answer.labels
