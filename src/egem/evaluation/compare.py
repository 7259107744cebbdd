"""Two results of one benchmark, question by question: which is better, and could it be chance?

The same questions were asked twice, so what counts is where the two differ. For scores of 0 and 1 McNemar's
exact test asks whether wins and losses are a fair coin's; a bootstrap over scenes gives the interval of the
difference and a p-value that also holds for other scores and for scenes with many questions.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binom

from egem.core.errors import CheckpointError
from egem.evaluation.answers import ScoredAnswer
from egem.evaluation.totals import ALL

NUM_RESAMPLES = 10_000
SAME = ("benchmark", "questions", "rule", "judge")
"""What two results must agree on to be compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How much better the first result is, over some questions."""

    name: str
    n: int
    num_scenes: int
    first: float
    """Mean score."""
    second: float
    difference: float
    low: float
    high: float
    """95 % interval of the difference, had other scenes been drawn."""
    p_bootstrap: float
    """Two-sided: how often a resample puts the difference on the other side of 0, twice; at least 1 / 10,000."""
    wins: int
    """Questions that the first answers better."""
    losses: int
    p_mcnemar: float | None
    """Exact, two-sided; None where some score is neither 0 nor 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The content of `comparison.json`."""

    benchmark: str
    rule: str | None
    first: str
    second: str
    overall: Difference
    skills: tuple[Difference, ...]


def compare(first: Path, second: Path) -> Comparison:
    """Compare two result folders of `egem eval`.

    Args:
        first: with answers.jsonl and answers.of.json; differences are this one's minus the other's.
        second: likewise.

    Raises:
        CheckpointError: a folder holds no finished result, or the two are not about the same questions
            scored by the same rule.
    """
    told, answers = zip(*(_read(Path(folder)) for folder in (first, second)), strict=True)
    for key in SAME:
        one, two = told[0].get(key), told[1].get(key)
        if one != two:
            raise CheckpointError(
                f"{first} and {second} cannot be compared: {key} is {one!r} in one and {two!r} in the other. Run "
                "both on the same questions with the same rule."
            )
    if answers[0].keys() != answers[1].keys():
        different = sorted(answers[0].keys() ^ answers[1].keys())
        raise CheckpointError(
            f"{first} and {second} cannot be compared: {len(different)} questions are answered in one only, the "
            f"first is {different[0]}. Finish both runs."
        )
    ours, theirs = answers
    by_skill: dict[str, list[str]] = {}
    for answer in ours.values():
        by_skill.setdefault(answer.skill, []).append(answer.id)
    return Comparison(
        benchmark=told[0]["benchmark"],
        rule=told[0].get("rule"),
        first=str(first),
        second=str(second),
        overall=_difference(ALL, list(ours), ours, theirs),
        skills=tuple(_difference(name, ids, ours, theirs) for name, ids in sorted(by_skill.items())),
    )


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided exact p-value: wins among wins + losses tosses of a fair coin (McNemar 1947)."""
    n = wins + losses
    return 1.0 if n == 0 else float(min(1.0, 2 * binom.cdf(min(wins, losses), n, 0.5)))


def comparison_markdown(found: Comparison) -> str:
    """The comparison as a Markdown table."""
    rule = f", rule `{found.rule}`" if found.rule else ""
    lines = [
        f"## {found.benchmark}: A minus B{rule}",
        "",
        f"A `{found.first}`, B `{found.second}`; 95 % intervals by bootstrap over scenes.",
        "",
        "| skill | n | A | B | A - B | 95 % interval | p (bootstrap) | A better | B better | p (McNemar) |",
        "|---|--:|--:|--:|--:|---|--:|--:|--:|--:|",
    ]
    for row in (found.overall, *found.skills):
        exact = "" if row.p_mcnemar is None else f"{row.p_mcnemar:.4f}"
        lines.append(
            f"| {row.name} | {row.n} | {row.first:.3f} | {row.second:.3f} | {row.difference:+.3f} | "
            f"{row.low:+.3f} .. {row.high:+.3f} | {row.p_bootstrap:.4f} | {row.wins} | {row.losses} | {exact} |"
        )
    return "\n".join(lines) + "\n"


def _difference(
    name: str, ids: Sequence[str], first: Mapping[str, ScoredAnswer], second: Mapping[str, ScoredAnswer]
) -> Difference:
    ours = np.array([first[id].score for id in ids])
    theirs = np.array([second[id].score for id in ids])
    scenes, rows = np.unique(np.array([first[id].scene for id in ids], dtype=np.str_), return_inverse=True)
    sums, counts = np.bincount(rows, ours - theirs), np.bincount(rows)
    drawn = np.random.default_rng(0).multinomial(
        len(scenes), np.full(len(scenes), 1 / len(scenes)), size=NUM_RESAMPLES
    )
    means = (drawn @ sums) / (drawn @ counts)
    low, high = np.quantile(means, [0.025, 0.975])
    # A resample at exactly 0 speaks for neither side and so counts on both.
    p = min(1.0, 2 * min(float(np.mean(means <= 0)), float(np.mean(means >= 0))))
    wins, losses = int(np.sum(ours > theirs)), int(np.sum(ours < theirs))
    is_binary = bool(np.all(np.isin(ours, (0, 1))) and np.all(np.isin(theirs, (0, 1))))
    return Difference(
        name=name,
        n=len(ids),
        num_scenes=len(scenes),
        first=float(ours.mean()),
        second=float(theirs.mean()),
        difference=float(ours.mean() - theirs.mean()),
        low=float(low),
        high=float(high),
        p_bootstrap=max(p, 1 / NUM_RESAMPLES),
        wins=wins,
        losses=losses,
        p_mcnemar=mcnemar(wins, losses) if is_binary else None,
    )


def _read(folder: Path) -> tuple[dict, dict[str, ScoredAnswer]]:
    try:
        told = json.loads((folder / "answers.of.json").read_text())
        lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
        answers = [ScoredAnswer.from_line(line) for line in lines]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{folder} is not the result of a benchmark ({error}); give a folder with answers.jsonl and "
            "answers.of.json, as `egem eval` writes one for each benchmark."
        ) from None
    if not answers:
        raise CheckpointError(f"{folder}/answers.jsonl is empty; finish the run first.")
    return told, {answer.id: answer for answer in answers}
