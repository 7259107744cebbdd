"""`egem study`: controlled arms x seeds, run by run, and the page made from their results; then policies."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes

from egem.cli.options import parse
from egem.core.errors import ConfigError, unknown_name
from egem.recipes.study.arms import ARMS
from egem.recipes.study.policy_recipe import POLICY_ARMS, PolicyRecipe, policy_plan
from egem.recipes.study.recipe import STUDIES, StudyRecipe

if TYPE_CHECKING:
    from egem.recipes.study.parts import Made

POLICIES = PolicyRecipe().name

HELP = """usage: egem study RECIPE --out FOLDER [--results FOLDER] [any field of the recipe]
       egem study RECIPE --plan        the runs there are, and which are finished
       egem study RECIPE --report      tables and figures of the finished runs, into the page

The same command goes on where it was stopped; several of them on one --out share the work.

recipes:
{recipes}

arms:
{arms}

arms of policies:
{policies}"""


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What both halves of the study are told."""

    out: Path | None = None
    """Folder for data and runs; may hold an unfinished study of the same sizes."""
    results: Path = Path("docs/study/runs")
    """Folder for the small file that each finished run leaves; commit it."""
    report: bool = False
    """Only write tables and figures of the finished runs."""
    plan: bool = False
    """Only list the runs."""
    page: Path = Path("docs/study.md")
    """The page that the report is written into."""
    arms: tuple[str, ...] = ()
    """Only these arms; all by default."""
    max_runs: int | None = None
    """Stop after so many runs."""
    keep_models: bool = False
    """Keep each run's folder, which otherwise is removed once its results are safe."""
    device: str = "auto"
    """As in training."""
    workers: int = 1
    """Processes that prepare a run's batches; changes no number."""


@dataclass(frozen=True, kw_only=True)
class StudyOptions(_Options):
    """Does generating depth teach a backbone where things are? Arms x seeds, everything else equal."""

    regimes: tuple[str, ...] = ()
    """pretrained, scratch; both by default."""
    recipe: OmitArgPrefixes[StudyRecipe] = field(default_factory=lambda: StudyRecipe(name="tabletop"))


@dataclass(frozen=True, kw_only=True)
class PolicyOptions(_Options):
    """Does a policy act better for having drawn depth, before or while it learns to act? Four arms x seeds."""

    backbones_from: Path | None = None
    """Folder of `egem study tabletop`, to go on with what is there; otherwise a folder in --out."""
    # Its backbones have sizes of the same names, so prefixes stay: --recipe.steps, --recipe.backbones.views.
    recipe: PolicyRecipe = field(default_factory=PolicyRecipe)


def study(arguments: list[str]) -> None:
    """Make runs, list them, or write the report."""
    if not arguments or arguments[0] in ("--help", "-h"):
        lines = [f"  {name:<14} {(f.__doc__ or '').splitlines()[0]}" for name, f in STUDIES.items()]
        lines.append(
            f"  {POLICIES:<14} The robot half: policies from two of these backbones, scored by episodes."
        )
        arms = [
            f"  {arm.name:<20} {f'({arm.letter}) ' if arm.letter else ''}{arm.title}" for arm in ARMS.values()
        ]
        policies = [f"  {arm.name:<20} {arm.title}" for arm in POLICY_ARMS.values()]
        print(HELP.format(recipes="\n".join(lines), arms="\n".join(arms), policies="\n".join(policies)))
        return
    name, *rest = arguments
    if name == POLICIES:
        _policies(parse(PolicyOptions, f"study {name}", rest))
    elif name in STUDIES:
        _perception(parse(StudyOptions, f"study {name}", rest, default=StudyOptions(recipe=STUDIES[name]())))
    else:
        raise unknown_name("study", name, (*STUDIES, POLICIES))


def _perception(options: StudyOptions) -> None:
    _check_arms(options.arms, ARMS)
    for regime in options.regimes:
        if regime not in ("pretrained", "scratch"):
            raise unknown_name("regime", regime, ("pretrained", "scratch"))
    from egem.recipes.study.plan import plan
    from egem.recipes.study.results import load_results

    if options.plan:
        found = load_results(options.results, options.recipe.name)
        scores = {result.run.name: result.score("held_out") for result in found}
        _list([run.name for run in plan(options.recipe)], scores)
    elif options.report:
        from egem.recipes.study.report import write_study

        print(f"written: {write_study(options.recipe, options.results, options.page)}")
    else:
        from egem.recipes.study.parts import Study
        from egem.recipes.study.run import make

        started = time.monotonic()
        made = make(
            Study(recipe=options.recipe, out=_out(options), device=options.device, workers=options.workers),
            options.results,
            arms=options.arms,
            regimes=options.regimes,
            max_runs=options.max_runs,
            keep_models=options.keep_models,
        )
        _say(made, started, options)


def _policies(options: PolicyOptions) -> None:
    _check_arms(options.arms, POLICY_ARMS)
    from egem.recipes.study.policies import PolicyStudy, load_policy_results

    if options.plan:
        found = load_policy_results(options.results, options.recipe)
        names = [f"{arm.name}-{seed}" for arm, seed in policy_plan(options.recipe)]
        _list(names, {result.name: result.overall.mean for result in found})
    elif options.report:
        from egem.recipes.study.policy_report import write_policies

        print(f"written: {write_policies(options.recipe, options.results, options.page)}")
    else:
        half = PolicyStudy(
            recipe=options.recipe,
            out=_out(options),
            backbones=options.backbones_from,
            device=options.device,
            workers=options.workers,
        )
        started = time.monotonic()
        made = half.make(
            options.results, arms=options.arms, max_runs=options.max_runs, keep_models=options.keep_models
        )
        _say(made, started, options)


def _check_arms(given: Sequence[str], known: Collection[str]) -> None:
    for arm in given:
        if arm not in known:
            raise unknown_name("arm", arm, known)


def _out(options: _Options) -> Path:
    if options.out is None:
        raise ConfigError("egem study needs --out FOLDER for its data and runs (or --plan, or --report).")
    return options.out


def _say(made: "Made", started: float, options: _Options) -> None:
    minutes = (time.monotonic() - started) / 60
    print(
        f"{len(made.results)} runs in {minutes:.1f} minutes, {made.num_left} left; results: {options.results}"
    )


def _list(names: Sequence[str], scores: Mapping[str, float]) -> None:
    for name in names:
        print(f"{name:<40} {'' if name not in scores else f'{scores[name]:.3f}'}")
