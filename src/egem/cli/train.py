"""`egem train`: a recipe with its fields as options, or a run to go on with; one process, or torchrun's many."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from egem.cli.options import parse
from egem.core.errors import EgemError, unknown_name

HELP = """usage: egem train RECIPE [--run FOLDER] [--data FOLDER ...] [any field of the recipe]
       egem train RECIPE --resume [...]    the same, or go on where the run stands if it has begun
       egem train --resume RUN
       torchrun --nproc-per-node 8 -m egem -- train ...    any of these on many GPUs

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
    from egem.training.config import TrainConfig
    from egem.training.stored import load_run

    if arguments[0].startswith("-"):
        options = parse(ResumeOptions, "train", arguments)
        config, resume = load_run(options.resume), True
    else:
        name, *rest = arguments
        if name not in RECIPES:
            raise unknown_name("recipe", name, RECIPES)
        # A scheduler starts the same command again after a failure.
        resume = "--resume" in rest
        rest = [word for word in rest if word != "--resume"]
        config = parse(TrainConfig, f"train {name}", rest, default=RECIPES[name]())
    from egem.recipes.pages import training_report
    from egem.recipes.probes import configured_probes
    from egem.report.page import write_report
    from egem.training.distributed import joined_processes
    from egem.training.loop import train as run
    from egem.training.watchdog import collective_timeout

    try:
        with joined_processes(collective_timeout(config.stall_minutes)) as world:
            folder = run(config, probes=configured_probes(config), resume=resume)
            if not world.is_first:
                return
    except EgemError as error:
        # All processes of a run end with the same message; one of them says it.
        if (
            os.environ.get("RANK", "0") != "0"
            and "--debug" not in sys.argv
            and "lost contact" not in str(error)
        ):
            sys.exit(2)
        raise
    print(f"report: {write_report(folder, training_report(folder))}")
    print(f'trained model in {folder / "model"}; try: egem ask {folder / "model"} --image I.png "question"')
