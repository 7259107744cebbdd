"""Answers to a table: mean score with its interval for each skill, beside what guessing blind scores."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from egem.evaluation.answers import ScoredAnswer, scene_of
from egem.evaluation.depth_run import DepthScores
from egem.evaluation.intervals import Estimate, estimate
from egem.evaluation.totals import Total


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreLine:
    """Scores of one skill (or category, or all)."""

    name: str
    category: str
    score: Estimate
    blind: Estimate | None
    """Of the best guess without looking at the image; None where there was nothing to learn guessing from."""
    above_blind: bool
    """The 95 % interval of the score lies above that of the blind guess; they do not touch."""
    majority: Estimate | None = None
    """Of the most frequent answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleTold:
    """How a published benchmark was asked and scored, in words and numbers that can be kept."""

    name: str
    reference: str
    prompts: dict[str, str]
    max_new_tokens: int
    frames: int | None = None
    judge: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Everything a benchmark run found out; the content of `scores.json`."""

    benchmark: str
    questions: str
    """Fingerprint of the questions."""
    checkpoint: str
    checkpoint_sha256: str
    num_groups: int
    """Images (or sets of images) that the questions are about."""
    num_scenes: int
    """Scenes that the images show: intervals are those of drawing other scenes."""
    blind_training: str
    """What the blind guesses were learned from."""
    overall: ScoreLine | None
    """None where there are no questions, only depth."""
    categories: tuple[ScoreLine, ...]
    skills: tuple[ScoreLine, ...]
    depth: DepthScores | None = None
    rule: RuleTold | None = None
    """Of a published benchmark."""
    totals: tuple[Total, ...] = ()
    """Its headline numbers; the first is the one that is quoted."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Means of other numbers of the rule."""
    notes: tuple[str, ...] = ()

    @property
    def num_above_blind(self) -> int:
        """Skills whose interval lies above that of the blind guess."""
        return sum(line.above_blind for line in self.skills)


def metric_means(answers: Sequence[ScoredAnswer]) -> dict[str, float]:
    """The mean of every other number over the answers that have it."""
    found: dict[str, list[float]] = {}
    for answer in answers:
        for name, value in answer.metrics.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in sorted(found.items())}


def tabulate(
    answers: Sequence[ScoredAnswer], blind: Mapping[str, float], majority: Mapping[str, float] | None = None
) -> tuple[ScoreLine, tuple[ScoreLine, ...], tuple[ScoreLine, ...]]:
    """(all questions, each category, each skill), the last two in alphabetical order.

    Args:
        answers: every question once.
        blind: what the best blind guess scores on each question, by id; may lack some.
        majority: what the most frequent answer scores, likewise.

    Every question counts the same, so a skill that is asked more often weighs more in the first two.

    Raises:
        ValueError: no answers.
    """
    by_category = _grouped((answer.category, answer) for answer in answers)
    by_skill = _grouped((answer.skill, answer) for answer in answers)
    floors = (blind, majority or {})
    return (
        _line("all", "", answers, *floors),
        tuple(_line(name, name, rows, *floors) for name, rows in by_category.items()),
        tuple(_line(name, rows[0].category, rows, *floors) for name, rows in by_skill.items()),
    )


def markdown(scores: Scores) -> str:
    """The scores as Markdown tables."""
    lines = [f"## {scores.benchmark}", ""]
    if scores.overall is not None:
        lines += [
            f"Checkpoint `{scores.checkpoint}`, {scores.overall.score.n} questions about {scores.num_groups} "
            f"views of {scores.num_scenes} scenes. {scores.num_above_blind} of {len(scores.skills)} skills are "
            "above blind guessing (95 % intervals that do not touch); blind guesses were learned from "
            f"{scores.blind_training}.",
            "",
            *_totals(scores),
            "| skill | category | n | score | 95 % interval | majority | blind | 95 % interval | above blind |",
            "|---|---|--:|--:|---|--:|--:|---|---|",
            *(_markdown_row(line) for line in (*scores.skills, *scores.categories, scores.overall)),
        ]
    else:
        lines += [f"Checkpoint `{scores.checkpoint}`, {scores.num_groups} images, no questions."]
    if scores.depth is not None:
        near, far = scores.depth.depth_range
        lines += [
            "",
            f"Depth, averaged over images; RMSE in {scores.depth.unit}; clipped to {near:.3g} .. {far:.3g}.",
            "",
            "| depth map | alignment | images | AbsRel | RMSE | delta1 | delta2 | delta3 |",
            "|---|---|--:|--:|--:|--:|--:|--:|",
        ]
        for row in scores.depth.scores:
            m = row.metrics
            numbers = " | ".join(f"{v:.4f}" for v in (m.abs_rel, m.rmse, m.delta1, m.delta2, m.delta3))
            lines.append(f"| {row.name} | {row.family} | {m.num_images} | {numbers} |")
    return "\n".join([*lines, *(f"\n{note}" for note in scores.notes)]) + "\n"


def _totals(scores: Scores) -> list[str]:
    """The headline numbers of a published benchmark, and how it was asked."""
    if scores.rule is None:
        return []
    rule = scores.rule
    told = [f"Rule `{rule.name}` ({rule.reference}); answers of at most {rule.max_new_tokens} tokens"]
    told += [f"{rule.frames} frames of each video"] if rule.frames else []
    told += [f"marked by {rule.judge}"] if rule.judge else []
    lines = ["; ".join(told) + ".", "", "| total | n | score | 95 % interval | |", "|---|--:|--:|---|---|"]
    for total in scores.totals:
        lacking = f"without {', '.join(total.missing)}" if total.missing else ""
        estimated = total.score
        lines.append(
            f"| **{total.name}** | {estimated.n} | {100 * estimated.mean:.2f} | "
            f"{100 * estimated.low:.2f} .. {100 * estimated.high:.2f} | {lacking} |"
        )
    lines += [f"| {name} | | {value:.4f} | | mean |" for name, value in scores.metrics.items()]
    return [*lines, ""]


def _grouped(pairs: Iterable[tuple[str, ScoredAnswer]]) -> dict[str, list[ScoredAnswer]]:
    found: dict[str, list[ScoredAnswer]] = {}
    for name, answer in pairs:
        found.setdefault(name, []).append(answer)
    return dict(sorted(found.items()))


def _line(
    name: str,
    category: str,
    answers: Sequence[ScoredAnswer],
    blind: Mapping[str, float],
    majority: Mapping[str, float],
) -> ScoreLine:
    scenes = [answer.scene for answer in answers]
    score = estimate([answer.score for answer in answers], scenes)

    def floor(known: Mapping[str, float]) -> Estimate | None:
        # A floor under some of the questions only would not be comparable with the score over all.
        if not all(answer.id in known for answer in answers):
            return None
        return estimate([known[answer.id] for answer in answers], scenes)

    guessed = floor(blind)
    above = guessed is not None and score.is_above(guessed)
    return ScoreLine(
        name=name,
        category=category,
        score=score,
        blind=guessed,
        above_blind=above,
        majority=floor(majority),
    )


def _markdown_row(line: ScoreLine) -> str:
    score = line.score
    majority = "" if line.majority is None else f"{line.majority.mean:.3f}"
    floor = (
        "| | |"
        if line.blind is None
        else (
            f"{line.blind.mean:.3f} | {line.blind.low:.3f} .. {line.blind.high:.3f} | "
            f"{'yes' if line.above_blind else 'no'} |"
        )
    )
    name = f"**{line.name}**" if line.category in ("", line.name) else line.name
    return (
        f"| {name} | {line.category} | {score.n} | {score.mean:.3f} | {score.low:.3f} .. {score.high:.3f} | "
        f"{majority} | {floor}"
    )


__all__ = [
    "RuleTold",
    "ScoreLine",
    "ScoredAnswer",
    "Scores",
    "markdown",
    "metric_means",
    "scene_of",
    "tabulate",
]
