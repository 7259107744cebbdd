"""What is written down when a loss or a gradient is not finite: which records, which parameters, on which rank."""

import json
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from egem.batch import Batch
from egem.core.config import to_dict
from egem.core.errors import TrainingError
from egem.core.files import write_atomically
from egem.training.distributed import World, any_over_ranks, failing_together, texts_of_all
from egem.training.sharding import local_part
from egem.training.step import StepLosses

NON_FINITE_FILE = "non-finite.json"


def report_non_finite(
    folder: Path,
    model: nn.Module,
    micro_batches: Sequence[Batch],
    losses: StepLosses,
    *,
    norm: float,
    step: int,
    stage: str,
    world: World,
) -> TrainingError:
    """Write down what this process was given; the error to raise is the same on all of them, and all come here.

    Args:
        folder: of the run.
        model: with the gradients of the step.
        micro_batches: of this process.
        losses: of the step.
        norm: of the gradient, before clipping.
        step: its number in the run, from 1.
        stage: its stage's name.
        world: the processes.
    """
    name = NON_FINITE_FILE if world.size == 1 else f"non-finite-{world.rank}.json"
    named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    broken = any_over_ranks([not bool(local_part(gradient).isfinite().all()) for _, gradient in named], world)
    ranks = [rank for rank, text in enumerate(texts_of_all("" if losses.finite_here else "x", world)) if text]
    report = {
        "step": step,
        "stage": stage,
        "loss": {
            "total": losses.total,
            "language": losses.language,
            "depth": losses.depth,
            "action": losses.action,
        },
        "gradient_norm": norm,
        "finite_here": losses.finite_here,
        "record_ids": [list(batch.record_ids) for batch in micro_batches],
        "non_finite_gradients": [
            name for (name, _), is_broken in zip(named, broken, strict=True) if is_broken
        ],
    }
    path = folder / name
    with failing_together(world):
        write_atomically(path, (json.dumps(to_dict(report), indent=2) + "\n").encode())
    shown = ", ".join(f"{kind} {value}" for kind, value in report["loss"].items() if value is not None)
    where = folder / f"non-finite-{ranks[0] if ranks else 0}.json" if world.size > 1 else path
    by = f" on rank {', '.join(map(str, ranks))}" if world.size > 1 and ranks else ""
    return TrainingError(
        f"step {step} (stage {stage}): not finite{by}: loss {shown}, gradient norm {norm}. The step was not "
        f"applied; its records are listed in {where}. Look at them, or lower the learning rate and resume."
    )
