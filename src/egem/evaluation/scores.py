"""Answers to a table: mean score with its interval for each skill, beside what guessing blind scores."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from egem.evaluation.depth_run import DepthScores
from egem.evaluation.intervals import Estimate, estimate
from egem.records import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredAnswer:
    """One question after it was answered."""

    id: str
    scene: str
    """Questions about one scene, from whatever camera, are not independent of each other."""
    category: str
    skill: str
    prediction: str
    score: float
    """In [0, 1], by `egem.scoring.score`."""


def scene_of(record: Record) -> str:
    """The scene a record's images show: `meta["scene"]` where several groups share one, else its group."""
    scene = record.meta.get("scene")
    return scene if isinstance(scene, str) else record.group


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
    overall: ScoreLine
    categories: tuple[ScoreLine, ...]
    skills: tuple[ScoreLine, ...]
    depth: DepthScores | None = None

    @property
    def num_above_blind(self) -> int:
        """Skills whose interval lies above that of the blind guess."""
        return sum(line.above_blind for line in self.skills)


def tabulate(
    answers: Sequence[ScoredAnswer], blind: Mapping[str, float]
) -> tuple[ScoreLine, tuple[ScoreLine, ...], tuple[ScoreLine, ...]]:
    """(all questions, each category, each skill), the last two in alphabetical order.

    Args:
        answers: every question once.
        blind: what the best blind guess scores on each question, by id; may lack some.

    Every question counts the same, so a skill that is asked more often weighs more in the first two.

    Raises:
        ValueError: no answers.
    """
    by_category = _grouped((answer.category, answer) for answer in answers)
    by_skill = _grouped((answer.skill, answer) for answer in answers)
    return (
        _line("all", "", answers, blind),
        tuple(_line(name, name, rows, blind) for name, rows in by_category.items()),
        tuple(_line(name, rows[0].category, rows, blind) for name, rows in by_skill.items()),
    )


def markdown(scores: Scores) -> str:
    """The scores as Markdown tables."""
    lines = [
        f"## {scores.benchmark}",
        "",
        f"Checkpoint `{scores.checkpoint}`, {scores.overall.score.n} questions about {scores.num_groups} "
        f"views of {scores.num_scenes} scenes. {scores.num_above_blind} of {len(scores.skills)} skills are "
        "above blind guessing (95 % intervals that do not touch); blind guesses were learned from "
        f"{scores.blind_training}.",
        "",
        "| skill | category | n | score | 95 % interval | blind | 95 % interval | above blind |",
        "|---|---|--:|--:|---|--:|---|---|",
    ]
    lines += [_markdown_row(line) for line in scores.skills]
    lines += [_markdown_row(line) for line in (*scores.categories, scores.overall)]
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
    return "\n".join(lines) + "\n"


def _grouped(pairs: Iterable[tuple[str, ScoredAnswer]]) -> dict[str, list[ScoredAnswer]]:
    found: dict[str, list[ScoredAnswer]] = {}
    for name, answer in pairs:
        found.setdefault(name, []).append(answer)
    return dict(sorted(found.items()))


def _line(name: str, category: str, answers: Sequence[ScoredAnswer], blind: Mapping[str, float]) -> ScoreLine:
    scenes = [answer.scene for answer in answers]
    score = estimate([answer.score for answer in answers], scenes)
    floor = None
    # A floor under some of the questions only would not be comparable with the score over all.
    if all(answer.id in blind for answer in answers):
        floor = estimate([blind[answer.id] for answer in answers], scenes)
    above = floor is not None and score.is_above(floor)
    return ScoreLine(name=name, category=category, score=score, blind=floor, above_blind=above)


def _markdown_row(line: ScoreLine) -> str:
    score = line.score
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
        f"{floor}"
    )
