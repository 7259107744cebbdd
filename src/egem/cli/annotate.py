"""`egem data annotate depth|objects|masks|tracks` and `egem data plan`."""

from typing import TYPE_CHECKING

from egem.cli.options import parse

if TYPE_CHECKING:
    from egem.recipes.annotate import StepMaker


def depth(arguments: list[str]) -> None:
    """Depth with a model."""
    from egem.recipes.annotators import DepthConfig

    _run(parse(DepthConfig, "data annotate depth", arguments))


def objects(arguments: list[str]) -> None:
    """Names of things."""
    from egem.recipes.annotators import ObjectsConfig

    _run(parse(ObjectsConfig, "data annotate objects", arguments))


def masks(arguments: list[str]) -> None:
    """Masks of named things."""
    from egem.recipes.annotators import MasksConfig

    _run(parse(MasksConfig, "data annotate masks", arguments))


def tracks(arguments: list[str]) -> None:
    """Ways of things through clips."""
    from egem.recipes.annotators import TracksConfig

    _run(parse(TracksConfig, "data annotate tracks", arguments))


def plan(arguments: list[str]) -> None:
    """Planning records from episodes."""
    from egem.recipes.plan import PlanConfig
    from egem.recipes.plan import plan as run

    config = parse(PlanConfig, "data plan", arguments)
    result = run(config)
    print(result.table())
    print(f"{result.manifest.rows} records of {result.manifest.groups} groups in {config.out}")


def _run(maker: "StepMaker") -> None:
    from egem.recipes.annotate import annotate

    result = annotate(maker)
    print(result.table())
    print(f"{result.manifest.rows} records of {result.manifest.groups} groups in {maker.work.out}")
    print(
        f"made with {result.made_with['origin']}, licence: {result.made_with.get('licence', 'none needed')}"
    )
