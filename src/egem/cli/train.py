"""`egem train`: a recipe with its fields as options, or a run to go on with."""

from dataclasses import dataclass
from pathlib import Path

from egem.cli.options import parse
from egem.core.errors import unknown_name

HELP = """usage: egem train RECIPE [--run FOLDER] [--data FOLDER ...] [any field of the recipe]
       egem train --resume RUN

recipes:
{recipes}

`egem train RECIPE --help` shows every field with the recipe's value."""


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """Go on with a run exactly where its last checkpoint stands."""

    resume: Path
    """Folder of the run."""


def train(arguments: list[str]) -> None:
    """Train a recipe, or resume a run."""
    from egem.recipes import RECIPES

    if not arguments or arguments[0] in ("--help", "-h"):
        lines = [f"  {name:<12} {(f.__doc__ or '').splitlines()[0]}" for name, f in RECIPES.items()]
        print(HELP.format(recipes="\n".join(lines)))
        return
    from egem.training.config import TrainConfig, load_run

    if arguments[0].startswith("-"):
        options = parse(ResumeOptions, "train", arguments)
        config, resume = load_run(options.resume), True
    else:
        name, *rest = arguments
        if name not in RECIPES:
            raise unknown_name("recipe", name, RECIPES)
        config, resume = parse(TrainConfig, f"train {name}", rest, default=RECIPES[name]()), False
    from egem.training.loop import train as run

    folder = run(config, resume=resume)
    print(f'trained model in {folder / "model"}; try: egem ask {folder / "model"} --image I.png "question"')
