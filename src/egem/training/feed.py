"""The batches of a stage, in an order that depends on the run's seed, the stage and the step alone."""

from collections.abc import Iterator
from dataclasses import replace

from egem.batch import Batch
from egem.core.errors import ConfigError
from egem.data.actions import EpisodeWindows
from egem.data.latents import LatentRecipe, open_latents
from egem.data.loader import batches, batches_of
from egem.data.normalization import Normalization
from egem.data.order import MixtureOrder, Order, ReadingOrder
from egem.data.prepare import Preparer
from egem.models.pretrained import POLICY
from egem.shards import RecordGroups
from egem.training.config import TrainConfig, num_groups_read, num_micro_batches
from egem.training.data import EpisodeData, TrainingData
from egem.training.distributed import OrderOfRank, World
from egem.training.run import MODEL_LINK
from egem.training.step import draw_seed

QUARANTINE_FILE = "quarantine.jsonl"


def stage_batches(
    config: TrainConfig,
    index: int,
    groups: TrainingData,
    preparer: Preparer,
    world: World,
    *,
    start: int,
    num_steps: int,
) -> Iterator[Batch]:
    """This process's micro-batches of a stage, `num_micro_batches` to a step.

    Each stage reads in an order of its own. Over an epoch all processes together read every group exactly once.
    A stage given in epochs ends with the last of them: what is left of its last step are empty batches.

    Args:
        config: of the run.
        index: which stage.
        groups: the data.
        preparer: of the run's checkpoint.
        world: this process's place.
        start: first step.
        num_steps: how many.
    """
    if isinstance(groups, EpisodeData):
        return _of_episodes(config, index, groups, preparer, world, start=start, num_steps=num_steps)
    return _of_records(config, index, groups, preparer, world, start=start, num_steps=num_steps)


def _of_records(
    config: TrainConfig,
    index: int,
    groups: RecordGroups,
    preparer: Preparer,
    world: World,
    *,
    start: int,
    num_steps: int,
) -> Iterator[Batch]:
    stage = config.stages[index]
    order, latents = reading_order(config, index, groups), None
    if stage.depth_weight > 0 and config.latents != "off" and config.depth_target != "image":
        recipe = LatentRecipe.from_checkpoint(config.run / MODEL_LINK, preparer)
        latents = open_latents(groups, recipe, config.latents)
    return batches(
        groups,
        preparer,
        OrderOfRank(order=order, world=world, num_groups=num_groups_read(stage, len(groups))),
        batch_size=stage.batch_size,
        start_step=start * stage.accumulation,
        num_steps=num_steps * stage.accumulation,
        workers=config.workers,
        max_turns=stage.max_turns,
        row_tokens=stage.row_tokens,
        max_bad_fraction=config.max_bad_fraction,
        with_depth=stage.depth_weight > 0,
        latents=latents,
        target=config.depth_target,
        target_seed=config.seed,
        quarantine=config.run / QUARANTINE_FILE,
    )


def _of_episodes(
    config: TrainConfig,
    index: int,
    data: EpisodeData,
    preparer: Preparer,
    world: World,
    *,
    start: int,
    num_steps: int,
) -> Iterator[Batch]:
    """Windows, in an order over all steps of all episodes; with language co-training a batch of records after each."""
    stage = config.stages[index]
    both = num_micro_batches(config, stage) > stage.accumulation
    if both and world.size > 1 and stage.row_tokens is not None:
        raise ConfigError(
            f"stage '{stage.name}': language_data with row_tokens is for one process: processes could run other parts "
            "of the model at the same time and wait for each other for ever. Leave row_tokens out."
        )
    options = data.robot.options
    source = EpisodeWindows(
        data=data.robot,
        preparer=preparer,
        normalization=Normalization.load(config.run / MODEL_LINK / POLICY),
        augmentation=options.augmentation,
        with_depth=stage.depth_weight > 0,
    )
    order = ReadingOrder(len(data), draw_seed(config.seed, stage.name, 0, -1))
    robot = batches_of(
        source,
        OrderOfRank(order=order, world=world, num_groups=num_groups_read(stage, len(data))),
        batch_size=stage.batch_size,
        start_step=start * stage.accumulation,
        num_steps=num_steps * stage.accumulation,
        workers=config.workers,
        row_tokens=stage.row_tokens,
        max_bad_fraction=config.max_bad_fraction,
        quarantine=config.run / QUARANTINE_FILE,
    )
    if not both:
        return robot
    assert data.language is not None
    beside = replace(
        stage,
        batch_size=stage.language_batch_size or stage.batch_size,
        epochs=None,
        max_minutes=None,
        steps=num_steps,
    )
    stages = (*config.stages[:index], beside, *config.stages[index + 1 :])
    records = _of_records(
        replace(config, stages=stages),
        index,
        data.language,
        preparer,
        world,
        start=start,
        num_steps=num_steps,
    )
    return (batch for pair in zip(robot, records, strict=True) for batch in pair)


def reading_order(config: TrainConfig, index: int, groups: RecordGroups) -> Order:
    """The order of a stage, its own: every group once an epoch, or sources in the shares of its mixture.

    Raises:
        ConfigError: the mixture names a source that the data does not have.
    """
    stage = config.stages[index]
    seed = draw_seed(config.seed, stage.name, 0, -1)
    if stage.mixture is None:
        return ReadingOrder(len(groups), seed)
    return MixtureOrder(groups.source, groups.sources, stage.mixture, seed)
