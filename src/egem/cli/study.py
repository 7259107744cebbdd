"""`egem study`: controlled arms x seeds, run by run, and the page made from their results."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes

from egem.cli.options import parse
from egem.core.errors import ConfigError, unknown_name
from egem.recipes.study.arms import ARMS
from egem.recipes.study.recipe import STUDIES, StudyRecipe

if TYPE_CHECKING:
    from egem.recipes.study.results import RunResult

HELP = """usage: egem study RECIPE --out FOLDER [--results FOLDER] [any field of the recipe]
       egem study RECIPE --plan        the runs there are, and which are finished
       egem study RECIPE --report      tables and figures of the finished runs, into the page

The same command goes on where it was stopped; several of them on one --out share the work.

recipes:
{recipes}

arms:
{arms}"""


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Does generating depth teach a backbone where things are? Arms x seeds, everything else equal."""

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
    regimes: tuple[str, ...] = ()
    """pretrained, scratch; both by default."""
    max_runs: int | None = None
    """Stop after so many runs."""
    keep_models: bool = False
    """Keep each run's folder, which otherwise is removed once its results are safe."""
    device: str = "auto"
    """As in training."""
    workers: int = 1
    """Processes that prepare a run's batches; changes no number."""
    recipe: OmitArgPrefixes[StudyRecipe] = field(default_factory=lambda: StudyRecipe(name="tabletop"))


def study(arguments: list[str]) -> None:
    """Make runs, list them, or write the report."""
    if not arguments or arguments[0] in ("--help", "-h"):
        lines = [f"  {name:<14} {(f.__doc__ or '').splitlines()[0]}" for name, f in STUDIES.items()]
        arms = [
            f"  {arm.name:<20} {f'({arm.letter}) ' if arm.letter else ''}{arm.title}" for arm in ARMS.values()
        ]
        print(HELP.format(recipes="\n".join(lines), arms="\n".join(arms)))
        return
    name, *rest = arguments
    if name not in STUDIES:
        raise unknown_name("study", name, STUDIES)
    options = parse(StudyOptions, f"study {name}", rest, default=StudyOptions(recipe=STUDIES[name]()))
    for arm in options.arms:
        if arm not in ARMS:
            raise unknown_name("arm", arm, ARMS)
    for regime in options.regimes:
        if regime not in ("pretrained", "scratch"):
            raise unknown_name("regime", regime, ("pretrained", "scratch"))
    from egem.recipes.study.results import load_results

    if options.plan:
        _list(options, load_results(options.results, name))
    elif options.report:
        from egem.recipes.study.report import write_study

        print(f"written: {write_study(options.recipe, options.results, options.page)}")
    else:
        _make(options)


def _make(options: StudyOptions) -> None:
    if options.out is None:
        raise ConfigError("egem study needs --out FOLDER for its data and runs (or --plan, or --report).")
    from egem.recipes.study.parts import Study
    from egem.recipes.study.run import make

    started = time.monotonic()
    made = make(
        Study(recipe=options.recipe, out=options.out, device=options.device, workers=options.workers),
        options.results,
        arms=options.arms,
        regimes=options.regimes,
        max_runs=options.max_runs,
        keep_models=options.keep_models,
    )
    minutes = (time.monotonic() - started) / 60
    print(
        f"{len(made.results)} runs in {minutes:.1f} minutes, {made.num_left} left; results: {options.results}"
    )


def _list(options: StudyOptions, results: "list[RunResult]") -> None:
    from egem.recipes.study.plan import plan
    from egem.recipes.study.results import by_run

    finished = by_run(results)
    for run in plan(options.recipe):
        score = "" if run not in finished else f"{finished[run].score('held_out'):.3f}"
        print(f"{run.name:<40} {score}")
