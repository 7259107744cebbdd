"""The whole story on this machine: render, train the three stages, answer, draw depth, score, one page.

The time budget decides how many steps the joint stage gets; everything else is fixed. What is written:

    out/data/{train,probe}/     records         out/eval/<benchmark>/   answers and scores
    out/run/                    the run folder  out/report.html         the page
    out/summary.png             one picture     out/demo.json           the numbers
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from egem.core.config import save_json
from egem.core.errors import ConfigError
from egem.core.files import refuse_existing, write_atomically
from egem.core.machine import peak_memory_gb
from egem.evaluation.benchmarks import Benchmark, BenchmarkOptions, open_benchmark
from egem.evaluation.depth import DepthMetrics
from egem.evaluation.depth_run import GENERATED, MEAN_MAP, ROUND_TRIP, DepthOptions
from egem.evaluation.predictor import Predictor
from egem.evaluation.runner import RunOptions
from egem.evaluation.runner import run as run_benchmark
from egem.recipes.pages import Evaluated, make_report, score_row
from egem.recipes.probes import standard_probes
from egem.recipes.render import RenderConfig, render
from egem.recipes.tiny import START, tiny
from egem.report.page import write_report
from egem.report.panels import png
from egem.report.summary import summary_picture
from egem.training.loop import train
from egem.training.metrics import read_metrics

logger = logging.getLogger(__name__)

SIZE = (96, 96)
CAMERAS = ("front", "side")
"""The wrist camera sees little but the gripper and the thing it holds."""
SKILLS = (
    "is_there",
    "color_of",
    "shape_of",
    "point_at_object",
    "box_of_object",
    "object_at_point",
    "nearer_object",
    "extreme_object",
    "point_depth",
    "camera_distance",
    "camera_side",
    "count_all",
)
"""Few enough that minutes of training tell something about each; `egem data render` asks about more.

The first six the start has seen in other scenes, as Qwen3-VL has seen such questions about photographs; the others
it has not.
"""
SPLITS = (("tabletop", 1.0), ("tabletop-new-cameras", 1 / 3), ("tabletop-new-objects", 1 / 3))
"""Benchmarks that are scored, and how much of each; the first is of held-out scenes."""
SCORING_SHARE, REPORT_MINUTES = 1.8, 0.6
"""What is set aside for the end: so many times as long as scoring the start on held-out scenes took (the splits are
5/3 as many), and the page."""
DEPTH_STEPS = 1
"""Of the sampler: one step draws the mean of the maps it thinks possible, which scores best; more draw one of them."""
STAGE_SHARES = (0.02, 0.08, 0.77)
"""Of the training time, by stage; the rest is for timing the steps, probes and checkpoints, and for steps that turn out
slower than those that were timed (by 17 % in one run with nothing beside it)."""
LEAST_TRAINING_MINUTES = 0.2


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """How long, how much, where."""

    out: Path = Path("runs/demo")
    """Folder to write; it must not exist yet."""
    minutes: float = 14.0
    """Wall time for everything; training gets what rendering and scoring leave."""
    views: int = 2500
    """Training views to render."""
    questions: int = 12
    """Questions about each training view."""
    skills: tuple[str, ...] = SKILLS
    """What to ask about; all that the world allows if empty."""
    test_views: int = 300
    """Held-out views to score; each of the two other splits gets a third of it."""
    test_questions: int = 6
    """Questions about each view to score: many views say more than many questions about few."""
    seed: int = 0
    """Of worlds, weights and noise."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The numbers that the demo prints and stores."""

    report: str
    minutes: float
    steps: int
    skills_above_blind: tuple[str, ...]
    start_skills_above_blind: tuple[str, ...]
    """Of the shipped start, before the demo trained it."""
    mean_score: float
    start_mean_score: float
    blind_score: float
    depth_delta1: float
    depth_abs_rel: float
    start_delta1: float
    start_abs_rel: float
    mean_map_delta1: float
    mean_map_abs_rel: float
    round_trip_delta1: float
    first_language_loss: float
    last_language_loss: float
    peak_memory_gb: float
    """Of this process."""
    helper_memory_gb: float
    """Of the largest of its helpers: two renderers in the beginning, then one loader at a time."""


def demo(config: DemoConfig) -> DemoResult:
    """Run it all.

    Raises:
        ConfigError: the budget is too short to train at all, or the folder exists.
        RenderError: no renderer can be had.
    """
    start = time.monotonic()

    def minutes_gone() -> float:
        return (time.monotonic() - start) / 60

    out = config.out
    refuse_existing(out)
    logger.info("1/5 render %d views of the tabletop world", config.views)
    base = RenderConfig(
        size=SIZE, cameras=CAMERAS, seed=config.seed, questions=config.questions, skills=config.skills
    )
    render(replace(base, num=config.views), out / "data" / "train")
    render(replace(base, num=48, split="held_out", seed=config.seed + 1), out / "data" / "probe")
    benchmarks = [_opened(config, name, share) for name, share in SPLITS]

    logger.info("2/5 score the shipped start on scenes that training will not show")
    rendered = minutes_gone()
    before = _score(config, benchmarks[0], Predictor.from_checkpoint(START), config.out / "eval" / "start")
    # How fast this machine scores says how long the scores of the end will take.
    reserve = SCORING_SHARE * (minutes_gone() - rendered) + REPORT_MINUTES * min(1.0, config.minutes / 10)
    left = config.minutes - reserve - minutes_gone()
    if left < LEAST_TRAINING_MINUTES:
        raise ConfigError(
            f"--minutes {config.minutes:g} leaves {left:.1f} minutes for training: rendering {config.views} views and "
            f"scoring {config.test_views} took {minutes_gone():.1f}, scoring in the end takes {reserve:.1f}; give more "
            "minutes or fewer --views and --test-views."
        )
    logger.info("3/5 train the three stages (%.1f minutes), then score", left)
    run = train_stages(config, left)
    predictor = Predictor.from_checkpoint(run / "model")
    evaluated = []
    for benchmark in benchmarks:
        evaluated.append(_score(config, benchmark, predictor, config.out / "eval" / benchmark.name))
        logger.info("%s", (evaluated[-1].folder / "scores.md").read_text())

    logger.info("4/5 draw the page")
    report = make_report(
        "GEM in minutes",
        summary="A Qwen3-VL of two million parameters that can describe pictures of a simulated table learns "
        "where things are: by answering questions, and by letting a Sana depth head draw depth from its visual "
        "tokens.",
        run=run,
        evaluated=evaluated,
        predictor=predictor,
        facts=(
            (
                "data",
                f"{config.views} views, {config.questions} questions each, {SIZE[0]} x {SIZE[1]} pixels",
            ),
            ("seed", str(config.seed)),
            ("before training", _before_line(before)),
            ("wall time", f"{minutes_gone():.1f} minutes"),
        ),
        notes=(
            "Minutes of training from the shipped start: the scores show that the parts work together, not what "
            "the method can do at full size.",
            "The start: all parts trained on other scenes, to describe pictures, to point at things, and to draw "
            "depth; it was never asked about space.",
            "The joint stage weighs the depth loss 1 instead of the paper's 0.1, because so small a backbone shares "
            "more of its layers between drawing and answering, and drawing is what it would forget.",
        ),
    )
    page = write_report(out / "report.html", report)
    scores = evaluated[0].scores
    write_atomically(
        out / "summary.png",
        png(
            summary_picture(
                title="GEM: questions answered and depth drawn from the same visual tokens",
                example=next((e for e in report.examples if e.score >= 0.5), report.examples[0]),
                depth=report.depth_pictures[0],
                depth_line=_depth_line(evaluated[0]),
                skills=[score_row(line) for line in scores.skills],
            )
        ),
    )
    result = _result(config, run, evaluated[0], before, page, minutes_gone())
    save_json(result, out / "demo.json")
    logger.info("5/5 done in %.1f minutes", result.minutes)
    return result


def train_stages(config: DemoConfig, minutes: float) -> Path:
    """The `tiny` recipe with its stages cut to the budget; returns the run folder."""
    recipe = tiny()
    training = replace(
        recipe,
        run=config.out / "run",
        data=(config.out / "data" / "train",),
        stages=tuple(
            replace(stage, steps=None, max_minutes=share * minutes)
            for stage, share in zip(recipe.stages, STAGE_SHARES, strict=True)
        ),
        seed=config.seed,
        checkpoint_every=500,
    )
    probes = standard_probes([config.out / "data" / "probe"], every=300, stages=("joint",))
    return train(training, probes=probes)


def _opened(config: DemoConfig, name: str, share: float) -> Benchmark:
    """A benchmark of so much of the test views, rendered if need be."""
    options = BenchmarkOptions(
        cache=config.out / "data" / "benchmarks",
        num_groups=max(1, round(config.test_views * share)),
        questions_per_group=config.test_questions,
        image_size=SIZE,
        cameras=CAMERAS,
        skills=config.skills,
        seed=config.seed,
    )
    return open_benchmark(name, options)


def _score(config: DemoConfig, benchmark: Benchmark, predictor: Predictor, folder: Path) -> Evaluated:
    options = RunOptions(
        batch_size=64,
        max_new_tokens=48,
        depth=DepthOptions(
            num_images=config.test_views, num_steps=DEPTH_STEPS, batch_size=25, seed=config.seed
        ),
        training_data=(config.out / "data" / "train",),
    )
    scores = run_benchmark(benchmark, predictor, folder, options)
    return Evaluated(benchmark=benchmark, folder=folder, scores=scores, depth=options.depth)


def _depth(evaluated: Evaluated, name: str) -> DepthMetrics:
    assert evaluated.scores.depth is not None
    metrics = evaluated.scores.depth.find(name)
    assert metrics is not None
    return metrics


def _above_blind(evaluated: Evaluated) -> tuple[str, ...]:
    return tuple(line.name for line in evaluated.scores.skills if line.above_blind)


def _depth_line(evaluated: Evaluated) -> str:
    drawn, guess = _depth(evaluated, GENERATED), _depth(evaluated, MEAN_MAP)
    return (
        f"held-out depth after alignment: delta1 {drawn.delta1:.3f} (mean depth map {guess.delta1:.3f}), "
        f"AbsRel {drawn.abs_rel:.3f} ({guess.abs_rel:.3f})"
    )


def _before_line(before: Evaluated) -> str:
    drawn, known = _depth(before, GENERATED), _above_blind(before)
    skills = ", ".join(known) or "none"
    return f"delta1 {drawn.delta1:.3f}, AbsRel {drawn.abs_rel:.3f}; skills above blind: {skills}"


def _result(
    config: DemoConfig, run: Path, held_out: Evaluated, before: Evaluated, page: Path, minutes: float
) -> DemoResult:
    overall, start = held_out.scores.overall, before.scores.overall
    assert overall is not None
    assert overall.blind is not None
    assert start is not None
    drawn, guess = _depth(held_out, GENERATED), _depth(held_out, MEAN_MAP)
    rows = read_metrics(run)
    losses = [row["loss/language"] for row in rows if "loss/language" in row]
    few = max(1, min(20, len(losses) // 10))
    own, helper = peak_memory_gb()
    return DemoResult(
        report=str(page),
        minutes=round(minutes, 2),
        steps=len(rows),
        skills_above_blind=_above_blind(held_out),
        start_skills_above_blind=_above_blind(before),
        mean_score=overall.score.mean,
        start_mean_score=start.score.mean,
        blind_score=overall.blind.mean,
        depth_delta1=drawn.delta1,
        depth_abs_rel=drawn.abs_rel,
        start_delta1=_depth(before, GENERATED).delta1,
        start_abs_rel=_depth(before, GENERATED).abs_rel,
        mean_map_delta1=guess.delta1,
        mean_map_abs_rel=guess.abs_rel,
        round_trip_delta1=_depth(held_out, ROUND_TRIP).delta1,
        first_language_loss=_mean(losses[:few]),
        last_language_loss=_mean(losses[-few:]),
        peak_memory_gb=own,
        helper_memory_gb=helper,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
