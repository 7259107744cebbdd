"""The batches of a stage, in an order that depends on the run's seed, the stage and the step alone."""

from collections.abc import Iterator

from egem.batch import Batch
from egem.data.loader import batches
from egem.data.order import ReadingOrder
from egem.data.prepare import Preparer
from egem.shards import RecordGroups
from egem.training.config import TrainConfig
from egem.training.distributed import OrderOfRank, World
from egem.training.step import draw_seed

QUARANTINE_FILE = "quarantine.jsonl"


def stage_batches(
    config: TrainConfig,
    index: int,
    groups: RecordGroups,
    preparer: Preparer,
    world: World,
    *,
    start: int,
    num_steps: int,
) -> Iterator[Batch]:
    """This process's micro-batches of a stage, `accumulation` to a step.

    Each stage reads in an order of its own.

    Args:
        config: of the run.
        index: which stage.
        groups: the data.
        preparer: of the run's checkpoint.
        world: this process's place.
        start: first step.
        num_steps: how many.
    """
    stage = config.stages[index]
    order = ReadingOrder(len(groups), draw_seed(config.seed, stage.name, 0, -1))
    return batches(
        groups,
        preparer,
        OrderOfRank(order=order, world=world),
        batch_size=stage.batch_size,
        start_step=start * stage.accumulation,
        num_steps=num_steps * stage.accumulation,
        workers=config.workers,
        max_turns=stage.max_turns,
        max_bad_fraction=config.max_bad_fraction,
        with_depth=stage.depth_weight > 0,
        quarantine=config.run / QUARANTINE_FILE,
    )
