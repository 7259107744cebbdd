"""From a run folder and benchmark results to the contents of a report."""

import json
import platform
import resource
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from egem import __version__
from egem.core.config import load_json
from egem.evaluation.benchmarks import Benchmark
from egem.evaluation.depth_run import GENERATED, MEAN_MAP, DepthOptions, aligned, draw, true_depths
from egem.evaluation.predictor import Predictor
from egem.evaluation.scores import ScoredAnswer, ScoreLine, Scores
from egem.report.contents import (
    Example,
    Headline,
    Report,
    ScoreRow,
    StageRow,
)
from egem.report.curves import Chart, read_metrics, series, stage_starts
from egem.report.examples import example
from egem.report.panels import DepthPicture
from egem.report.tables import read_scores
from egem.training.config import TrainConfig
from egem.training.optimizer import TrainableReport

NUM_PICTURES = 8
NUM_EXAMPLES = 16


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One benchmark after it was run."""

    benchmark: Benchmark
    folder: Path
    """With answers.jsonl."""
    scores: Scores


def make_report(
    title: str,
    *,
    summary: str = "",
    run: Path | None = None,
    evaluated: Sequence[Evaluated] = (),
    predictor: Predictor | None = None,
    facts: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> Report:
    """Everything that is known about a run.

    Args:
        title: of the page.
        summary: a sentence or two.
        run: a run folder: its stages and curves are shown.
        evaluated: benchmark results; pictures and examples come from the first.
        predictor: draws the depth pictures; without it there are none.
        facts: (name, value) beside machine, commit and versions.
        notes: what a reader must know to judge the numbers.
    """
    tables = [read_scores(each.folder) for each in evaluated]
    return Report(
        title=title,
        summary=summary,
        headlines=_headlines(evaluated[0].scores) if evaluated else (),
        facts=(*facts, *machine_facts()),
        stages=_stage_rows(run) if run else (),
        charts=_charts(run) if run else (),
        skill_tables=tuple(skills for skills, _ in tables),
        depth_tables=tuple(depth for _, depth in tables if depth is not None),
        depth_pictures=depth_pictures(evaluated[0].benchmark, predictor) if evaluated and predictor else (),
        examples=examples(evaluated[0]) if evaluated else (),
        notes=tuple(notes),
    )


def machine_facts() -> tuple[tuple[str, str], ...]:
    """Machine, versions, commit and the peak memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30)
    git = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    commit = git.stdout.strip() or "not a checkout"
    return (
        ("machine", f"{platform.machine()}, {torch.get_num_threads()} threads, {platform.system()}"),
        (
            "software",
            f"egem {__version__} ({commit}), torch {torch.__version__}, Python {platform.python_version()}",
        ),
        ("peak memory", f"{peak:.1f} GiB"),
    )


def depth_pictures(benchmark: Benchmark, predictor: Predictor) -> tuple[DepthPicture, ...]:
    """The first few images of a benchmark with true and drawn depth, aligned."""
    truths = []
    for truth in true_depths(benchmark):
        truths.append(truth)
        if len(truths) == NUM_PICTURES:
            break
    maps = draw(predictor, truths, DepthOptions())
    return tuple(
        DepthPicture(
            image=truth.image,
            truth=truth.depth,
            generated=aligned(drawn, truth).astype("float32"),
            label=truth.id,
        )
        for truth, drawn in zip(truths, maps, strict=True)
    )


def examples(evaluated: Evaluated) -> tuple[Example, ...]:
    """Answers to look at: skill after skill, a right and a wrong one in turn."""
    lines = (evaluated.folder / "answers.jsonl").read_text().splitlines()
    answers = {answer.id: answer for answer in (ScoredAnswer(**json.loads(line)) for line in lines)}
    by_kind: dict[tuple[str, bool], list[ScoredAnswer]] = defaultdict(list)
    for answer in answers.values():
        by_kind[answer.skill, answer.score >= 0.5].append(answer)
    skills = sorted({skill for skill, _ in by_kind})
    chosen: list[str] = []
    for number, skill in enumerate(skills * 2):
        found = by_kind[skill, number % 2 == 0]
        if number >= len(skills):
            found = by_kind[skill, number % 2 == 1]
        if found and len(chosen) < NUM_EXAMPLES:
            chosen.append(found[0].id)
    records = {record.id: record for record in evaluated.benchmark.records() if record.id in set(chosen)}
    return tuple(example(records[id_], answers[id_].prediction, answers[id_].score) for id_ in chosen)


def score_row(line: ScoreLine) -> ScoreRow:
    """A line of a score table as the report shows it."""
    return ScoreRow(
        name=line.name,
        category=line.category,
        n=line.score.n,
        mean=line.score.mean,
        low=line.score.low,
        high=line.score.high,
        blind_mean=line.blind.mean if line.blind else None,
        blind_low=line.blind.low if line.blind else None,
        blind_high=line.blind.high if line.blind else None,
        above_blind=line.above_blind,
    )


def _headlines(scores: Scores) -> tuple[Headline, ...]:
    found = [
        Headline(
            label="skills above blind guessing",
            value=f"{scores.num_above_blind} of {len(scores.skills)}",
            note="95 % intervals that do not touch",
            state="good" if scores.num_above_blind else "bad",
        ),
        Headline(
            label="mean score",
            value=f"{scores.overall.score.mean:.2f}",
            note=f"blind guess {scores.overall.blind.mean:.2f}" if scores.overall.blind else "",
            state="good" if scores.overall.above_blind else "bad",
        ),
    ]
    drawn = scores.depth.find(GENERATED) if scores.depth else None
    guess = scores.depth.find(MEAN_MAP) if scores.depth else None
    if drawn is not None:
        note = f"mean training depth {guess.delta1:.3f}" if guess else "after alignment"
        found.append(Headline(label="depth delta1", value=f"{drawn.delta1:.3f}", note=note))
        note = f"mean training depth {guess.abs_rel:.3f}" if guess else "after alignment"
        found.append(Headline(label="depth AbsRel", value=f"{drawn.abs_rel:.3f}", note=note))
    return tuple(found)


def _stage_rows(run: Path) -> tuple[StageRow, ...]:
    config = load_json(TrainConfig, run / "config.json")
    rows = read_metrics(run / "metrics.jsonl")
    found = []
    for stage in config.stages:
        mine = [row for row in rows if row.get("stage") == stage.name]
        report = load_json(TrainableReport, run / f"trainable-{stage.name}.json")
        weights = (("language", stage.language_weight), ("flow", stage.depth_weight))
        parts = [name if weight == 1 else f"{weight:g} * {name}" for name, weight in weights if weight]
        found.append(
            StageRow(
                name=stage.name,
                modules=stage.trainable,
                trainable_parameters=report.num_trainable,
                steps=len(mine),
                losses=" + ".join(parts),
                seconds=sum(row["time/step"] for row in mine),
            )
        )
    return tuple(found)


def _charts(run: Path) -> tuple[Chart, ...]:
    rows = read_metrics(run / "metrics.jsonl")
    stages = stage_starts(rows)

    def chart(title: str, lines: Sequence[tuple[str, str, bool]]) -> Chart:
        drawn = [series(rows, key, name, smooth=smooth) for key, name, smooth in lines]
        return Chart(title=title, series=tuple(line for line in drawn if line.steps), stages=stages)

    charts = (
        chart(
            "Language loss (cross entropy per answer token)",
            [("loss/language", "training", True), ("held_out/language", "held out", False)],
        ),
        chart(
            "Flow-matching loss of the depth head (per map)",
            [("loss/depth", "training", True), ("held_out/depth", "held out", False)],
        ),
        chart("Held-out accuracy over all skills", [("accuracy/mean", "mean score", False)]),
        chart(
            "Drawn depth after alignment",
            [("drawn_depth/delta1", "delta1", False), ("drawn_depth/abs_rel", "AbsRel", False)],
        ),
    )
    return tuple(each for each in charts if each.series)
