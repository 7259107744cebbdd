"""From a run folder and benchmark results to the contents of a report."""

import json
import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from egem import __version__
from egem.core.config import load_json
from egem.core.errors import RecordError
from egem.core.machine import commit, peak_memory_gb
from egem.evaluation.benchmarks import Benchmark
from egem.evaluation.compare import Comparison
from egem.evaluation.depth_run import GENERATED, MEAN_MAP, DepthOptions, aligned, draw, true_depths
from egem.evaluation.predictor import Drawing
from egem.evaluation.scores import ScoredAnswer, ScoreLine, Scores
from egem.report.contents import (
    Example,
    Headline,
    PlainTable,
    Report,
    ScoreRow,
    StageRow,
)
from egem.report.curves import Chart, series, stage_starts
from egem.report.examples import example
from egem.report.panels import DepthPicture
from egem.report.tables import read_scores
from egem.training.metrics import METRICS_FILE, read_metrics
from egem.training.optimizer import TrainableReport
from egem.training.stored import CONFIG_FILE, load_run

NUM_PICTURES = 8
NUM_EXAMPLES = 16
NUM_MISTAKES = 12


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One benchmark after it was run."""

    benchmark: Benchmark
    folder: Path
    """With answers.jsonl."""
    scores: Scores
    depth: DepthOptions | None
    """How depth was drawn for the scores; None: it was not."""


def make_report(
    title: str,
    *,
    summary: str = "",
    run: Path | None = None,
    evaluated: Sequence[Evaluated] = (),
    predictor: Drawing | None = None,
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
        totals=tuple(table for table in map(totals_table, evaluated) if table is not None),
        skill_tables=tuple(skills for skills, _ in tables if skills is not None),
        depth_tables=tuple(depth for _, depth in tables if depth is not None),
        depth_pictures=depth_pictures(evaluated[0], predictor) if evaluated and predictor else (),
        depth_panel=_newest_panel(run) if run else None,
        examples=examples(evaluated[0]) if evaluated else (),
        mistakes=tuple(found for each in evaluated for found in mistakes(each)),
        notes=tuple(notes),
    )


def training_report(run: Path) -> Report:
    """What `egem train` leaves beside the model: stages, curves, and the last depth that the probes drew."""
    config = load_run(run)
    probed = () if config.probe_data is None else (("held-out data", str(config.probe_data)),)
    notes = () if probed else ("Nothing was measured on held-out data; --probe-data names a folder of it.",)
    return make_report(
        f"Training of {run.name}",
        run=run,
        facts=(
            ("data", ", ".join(map(str, config.data))),
            *probed,
            ("started from", str(config.checkpoint or f"untrained {config.preset}")),
            ("seed", str(config.seed)),
        ),
        notes=() if config.episodes is not None else notes,
    )


def run_of(model: Path) -> Path | None:
    """The run folder that a trained model lies in, or None if it lies elsewhere."""
    run = model.parent
    return run if (run / CONFIG_FILE).exists() and (run / METRICS_FILE).exists() else None


def machine_facts() -> tuple[tuple[str, str], ...]:
    """Machine, versions, commit and peak memory so far."""
    own, helper = peak_memory_gb()
    version = f"{__version__} ({commit() or 'not a checkout'})"
    return (
        ("machine", f"{platform.machine()}, {torch.get_num_threads()} threads, {platform.system()}"),
        (
            "software",
            f"egem {version}, torch {torch.__version__}, Python {platform.python_version()}",
        ),
        ("peak memory", f"{own:.1f} GB, of its largest helper {helper:.1f} GB"),
    )


def depth_pictures(evaluated: Evaluated, predictor: Drawing) -> tuple[DepthPicture, ...]:
    """The first few images of a benchmark with true depth and the maps that were scored, aligned as they were."""
    options, scores = evaluated.depth, evaluated.scores.depth
    if options is None or scores is None:
        return ()
    num = min(NUM_PICTURES, options.num_images or NUM_PICTURES)
    truths = list(islice(true_depths(evaluated.benchmark), num))
    maps = draw(predictor, truths, options)
    return tuple(
        DepthPicture(
            image=truth.image,
            truth=truth.depth,
            generated=aligned(drawn, truth, scores.depth_range).astype("float32"),
            label=truth.id,
        )
        for truth, drawn in zip(truths, maps, strict=True)
    )


def examples(evaluated: Evaluated) -> tuple[Example, ...]:
    """Answers to look at: skill after skill, a right and a wrong one in turn."""
    answers = _answers(evaluated.folder)
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
    return _shown(evaluated, [answers[id_] for id_ in chosen])


def mistakes(evaluated: Evaluated) -> tuple[Example, ...]:
    """The worst answers of a benchmark: the lowest scores, from the skill furthest below its blind guess on.

    One a skill in turn, so that a skill with many failures does not hide the others.
    """
    answers = _answers(evaluated.folder)
    margins = {
        line.name: line.score.mean - (line.blind.mean if line.blind else 0.0)
        for line in evaluated.scores.skills
    }
    failed: dict[str, list[ScoredAnswer]] = defaultdict(list)
    for answer in sorted(answers.values(), key=lambda answer: answer.score):
        if answer.score < 0.5:
            failed[answer.skill].append(answer)
    skills = sorted(failed, key=lambda skill: (margins.get(skill, 0.0), skill))
    rounds = zip_longest(*(failed[skill] for skill in skills))
    chosen = [answer for one in rounds for answer in one if answer is not None][:NUM_MISTAKES]
    return _shown(evaluated, chosen)


def comparison_report(found: Comparison) -> Report:
    """Two results of one benchmark side by side."""
    rows = [
        (
            row.name,
            f"{row.n:,}",
            f"{row.first:.3f}",
            f"{row.second:.3f}",
            f"{row.difference:+.3f}",
            f"{row.low:+.3f} to {row.high:+.3f}",
            f"{row.p_bootstrap:.4f}",
            f"{row.wins} : {row.losses}",
            "" if row.p_mcnemar is None else f"{row.p_mcnemar:.4f}",
        )
        for row in (found.overall, *found.skills)
    ]
    head = ("skill", "n", "A", "B", "A - B", "95 % interval", "p bootstrap", "A : B better", "p McNemar")
    note = (
        f"A is {found.first}, B is {found.second}. Intervals and the first p-value by bootstrap over scenes."
    )
    table = PlainTable(title=found.benchmark, head=head, rows=tuple(rows), note=note)
    return Report(
        title=f"{found.benchmark}: two results compared",
        summary=f"Rule {found.rule}." if found.rule else "",
        totals=(table,),
    )


def totals_table(evaluated: Evaluated) -> PlainTable | None:
    """The headline numbers of a published benchmark with the rule behind them."""
    scores = evaluated.scores
    if scores.rule is None:
        return None
    rule = scores.rule
    rows = [
        (
            total.name + (f" (without {', '.join(total.missing)})" if total.missing else ""),
            f"{total.score.n:,}",
            f"{100 * total.score.mean:.2f}",
            f"{100 * total.score.low:.2f} to {100 * total.score.high:.2f}",
        )
        for total in scores.totals
    ]
    rows += [(f"{name} (mean)", "", f"{value:.4f}", "") for name, value in scores.metrics.items()]
    told = [f"Rule {rule.name}: {rule.reference}.", f"Answers of at most {rule.max_new_tokens} tokens."]
    told += [f"{rule.frames} frames of each video."] if rule.frames else []
    told += [f"Marked by {rule.judge}."] if rule.judge else []
    told += [f"Prompt{f' ({kind})' if kind else ''}: {text!r}." for kind, text in rule.prompts.items()]
    return PlainTable(
        title=scores.benchmark,
        head=("total", "n", "score", "95 % interval"),
        rows=tuple(rows),
        note=" ".join([*told, *scores.notes]),
    )


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


def _answers(folder: Path) -> dict[str, ScoredAnswer]:
    path = folder / "answers.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    answers = [ScoredAnswer.from_line(json.loads(line)) for line in lines]
    return {answer.id: answer for answer in answers}


def _shown(evaluated: Evaluated, answers: Sequence[ScoredAnswer]) -> tuple[Example, ...]:
    """The questions of these answers with their pictures; one whose picture is not at hand is left out."""
    wanted = {answer.id for answer in answers}
    records = {record.id: record for record in evaluated.benchmark.questions() if record.id in wanted}
    found = []
    for answer in answers:
        try:
            record = evaluated.benchmark.load(records[answer.id])
            if record.images:
                found.append(example(record, answer.prediction, answer.score))
        except RecordError:
            continue  # answers were scored without their images
    return tuple(found)


def _headlines(scores: Scores) -> tuple[Headline, ...]:
    found: list[Headline] = []
    if scores.totals:
        first = scores.totals[0]
        found.append(
            Headline(
                label=f"{scores.benchmark}, {first.name}",
                value=f"{100 * first.score.mean:.1f}",
                note=f"{100 * first.score.low:.1f} to {100 * first.score.high:.1f}",
            )
        )
    if scores.overall is not None:
        found += _answer_headlines(scores, scores.overall)
    return (*found, *_depth_headlines(scores))


def _answer_headlines(scores: Scores, overall: ScoreLine) -> list[Headline]:
    return [
        Headline(
            label="skills above blind guessing",
            value=f"{scores.num_above_blind} of {len(scores.skills)}",
            note="95 % intervals that do not touch",
            state="good" if scores.num_above_blind else "bad",
        ),
        Headline(
            label="mean score",
            value=f"{overall.score.mean:.2f}",
            note=f"blind guess {overall.blind.mean:.2f}" if overall.blind else "",
            state="good" if overall.above_blind else "bad",
        ),
    ]


def _depth_headlines(scores: Scores) -> tuple[Headline, ...]:
    found: list[Headline] = []
    drawn = scores.depth.find(GENERATED) if scores.depth else None
    guess = scores.depth.find(MEAN_MAP) if scores.depth else None
    if drawn is not None:
        note = f"mean training depth {guess.delta1:.3f}" if guess else "after alignment"
        found.append(Headline(label="depth delta1", value=f"{drawn.delta1:.3f}", note=note))
        note = f"mean training depth {guess.abs_rel:.3f}" if guess else "after alignment"
        found.append(Headline(label="depth AbsRel", value=f"{drawn.abs_rel:.3f}", note=note))
    return tuple(found)


def _stage_rows(run: Path) -> tuple[StageRow, ...]:
    config = load_run(run)
    rows = read_metrics(run)
    found = []
    for stage in config.stages:
        if not (run / f"trainable-{stage.name}.json").exists():
            break  # a run that has not come so far
        mine = [row for row in rows if row.get("stage") == stage.name]
        report = load_json(TrainableReport, run / f"trainable-{stage.name}.json")
        weights = (
            ("action", stage.action_weight),
            ("language", stage.language_weight),
            ("flow", stage.depth_weight),
        )
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


def _newest_panel(run: Path) -> UInt8[np.ndarray, "height width 3"] | None:
    panels = sorted((run / "probes" / "drawn_depth").glob("step-*.png"))
    if not panels:
        return None
    with Image.open(panels[-1]) as panel:
        return np.asarray(panel.convert("RGB"))


def _charts(run: Path) -> tuple[Chart, ...]:
    rows = read_metrics(run)
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
        chart("Flow-matching loss of the action expert (per action)", [("loss/action", "training", True)]),
        chart("Held-out accuracy over all skills", [("accuracy/mean", "mean score", False)]),
        chart(
            "Drawn depth after alignment",
            [("drawn_depth/delta1", "delta1", False), ("drawn_depth/abs_rel", "AbsRel", False)],
        ),
    )
    return tuple(each for each in charts if each.series)
