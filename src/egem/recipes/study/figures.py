"""Figures of a study as small SVG files: every run a dot, its arm's mean and 95 % interval beside it."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from egem.core.files import write_atomically
from egem.recipes.study.arms import ARMS, FRACTIONS, MAIN, OTHERS, WEIGHTS
from egem.recipes.study.plan import Regime
from egem.recipes.study.recipe import PARTS, StudyRecipe
from egem.recipes.study.results import MEASURES, RunResult

PANELS = ("held_out", "depth_skills", "answer_loss", "probe_depth")


def draw_figures(results: Sequence[RunResult], recipe: StudyRecipe, folder: Path) -> list[tuple[str, Path]]:
    """Draw what there are runs for; returns (title, file) of each figure."""
    drawn = []
    for regime in ("pretrained", "scratch"):
        of_regime = [result for result in results if result.regime == regime]
        if of_regime:
            drawn.append(_arms(of_regime, regime, folder / f"{recipe.name}-{regime}-arms.svg"))
    pretrained = [result for result in results if result.regime == "pretrained"]
    if any(result.arm in {arm.name for arm in (*WEIGHTS, *FRACTIONS)} for result in pretrained):
        drawn.append(_sweeps(pretrained, recipe, folder / f"{recipe.name}-sweeps.svg"))
    return drawn


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval by Student's t; 0 with one value."""
    n = len(values)
    half = 0.0 if n < 2 else float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return float(np.mean(values)), half


def _arms(results: Sequence[RunResult], regime: Regime, path: Path) -> tuple[str, Path]:
    arms = [arm for arm in (*MAIN, *OTHERS) if any(result.arm == arm.name for result in results)]
    figure, panels = _figure(len(PANELS))
    for panel, measure in zip(panels, PANELS, strict=True):
        for place, arm in enumerate(arms):
            values = [result.score(measure) for result in results if result.arm == arm.name]
            mean, half = interval(values)
            panel.plot([place] * len(values), values, "o", color=f"C{place}", alpha=0.4, markersize=3)
            panel.errorbar(place + 0.2, mean, yerr=half, fmt="s", color=f"C{place}", markersize=4, capsize=2)
        panel.set_title(MEASURES[measure], fontsize=7)
        panel.set_xticks(range(len(arms)), [arm.name for arm in arms], rotation=45, ha="right", fontsize=7)
        panel.tick_params(axis="y", labelsize=7)
    title = f"Every arm, {regime}: {len(results)} runs"
    return title, _save(figure, path)


def _sweeps(results: Sequence[RunResult], recipe: StudyRecipe, path: Path) -> tuple[str, Path]:
    figure, (by_weight, by_fraction) = _figure(2)
    weighted = {recipe.depth_weight: "depth"} | {
        arm.depth_weight: arm.name for arm in WEIGHTS if arm.depth_weight is not None
    }
    lines: tuple[tuple[Any, str, dict[float, str]], ...] = (
        (by_weight, "depth", dict(sorted(weighted.items()))),
        *(
            (by_fraction, name, {sum(PARTS[: ARMS[other].num_parts]): other for other in others})
            for name, others in (
                ("language", ("language-10-percent", "language-30-percent", "language")),
                ("depth", ("depth-10-percent", "depth-30-percent", "depth")),
            )
        ),
    )
    for panel, name, points in lines:
        known = {
            x: [result.score("held_out") for result in results if result.arm == arm]
            for x, arm in points.items()
        }
        known = {x: values for x, values in known.items() if values}
        means = [interval(values) for values in known.values()]
        panel.errorbar(
            list(known), [m for m, _ in means], yerr=[h for _, h in means], marker="o", label=name, capsize=2
        )
        panel.set_xscale("log")
        panel.set_ylabel(MEASURES["held_out"], fontsize=7)
        panel.tick_params(labelsize=7)
    by_weight.set_xlabel("depth weight", fontsize=7)
    by_fraction.set_xlabel("share of the training views", fontsize=7)
    by_fraction.legend(fontsize=7)
    return "Weight of depth, and share of the data", _save(figure, path)


def _figure(num_panels: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * num_panels, 2.6), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots(1, num_panels)


def _save(figure: Any, path: Path) -> Path:
    """The same runs always give the same bytes."""
    from matplotlib import rc_context

    content = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "egem"}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    write_atomically(path, content.getvalue())
    return path
