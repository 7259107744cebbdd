"""Who reads what: over an epoch, every record once, whatever the number of processes and workers."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from tests.training_runs import micro_config, write_records

from egem.core.errors import ConfigError
from egem.data.prepare import Preparer
from egem.data.robot_data import EpisodeOptions
from egem.shards import RecordGroups, iterate_records
from egem.training.config import StageConfig, TrainConfig, for_world_size, num_steps
from egem.training.distributed import OrderOfRank, World
from egem.training.feed import stage_batches
from egem.training.step import step_seeds

STAGE = StageConfig(
    name="joint", learning_rates={"connector": 1e-3}, epochs=1.0, batch_size=2, accumulation=2
)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("feed")
    write_records(folder / "data", num_groups=13)
    config = micro_config(folder, stages=(STAGE,), latents="off")
    return config, RecordGroups(config.data), Preparer.from_checkpoint(config.checkpoint)


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_an_epoch_is_every_record_exactly_once(opened, size, workers):
    """13 groups fill no whole number of steps of 4, 8 or 12: the last step is smaller, and nothing comes twice."""
    config, groups, preparer = opened
    steps = num_steps(STAGE, len(groups), size)
    read: Counter[str] = Counter()
    for rank in range(size):
        batches = list(
            stage_batches(
                replace(config, workers=workers),
                0,
                groups,
                preparer,
                World(rank=rank, size=size),
                start=0,
                num_steps=steps,
            )
        )
        assert len(batches) == 2 * steps, "every process takes every pass"
        read.update(record_id for batch in batches for record_id in batch.record_ids)
    assert read == Counter(record.id for record in iterate_records(config.data[0]))


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "began_with", "size", "expected"),
    [
        (2, 2, 2, 1, (2, 4)),
        (2, 2, 2, 4, (2, 1)),
        (2, 1, 2, 4, (1, 1)),
        (8, 1, 1, 2, (4, 1)),
        (6, 1, 2, 3, (4, 1)),
        (3, 4, 2, 2, (3, 4)),
        (4, 3, 1, 2, (3, 2)),
    ],
)
def test_another_number_of_processes_reads_the_same_samples_in_a_step(
    batch_size, accumulation, began_with, size, expected
):
    stage = replace(STAGE, batch_size=batch_size, accumulation=accumulation)
    changed = for_world_size(stage, began_with, size)
    assert (changed.batch_size, changed.accumulation) == expected
    assert changed.batch_size * changed.accumulation * size == batch_size * accumulation * began_with


@pytest.mark.parametrize(
    ("sizes", "began_with", "size", "expected"),
    [((32, 8), 1, 2, (16, 4, 1)), ((6, 2), 3, 2, (3, 1, 3)), ((32, 8), 2, 1, (32, 8, 2))],
)
def test_records_beside_episodes_are_shared_out_as_well(sizes, began_with, size, expected):
    stage = replace(STAGE, batch_size=sizes[0], language_batch_size=sizes[1], accumulation=1)
    changed = for_world_size(stage, began_with, size)
    assert (changed.batch_size, changed.language_batch_size, changed.accumulation) == expected


def test_a_step_that_cannot_be_shared_out_is_refused():
    for stage, samples in ((STAGE, 4), (replace(STAGE, batch_size=6, language_batch_size=2), 4)):
        with pytest.raises(
            ConfigError, match=f"the {samples} samples of a step cannot be shared out evenly to 3 processes"
        ):
            for_world_size(stage, 1, 3)


def test_each_kind_of_batch_gets_the_seeds_of_one_process():
    """Episodes and records take turns: each has its places counted by itself."""
    stage = replace(STAGE, language_weight=1.0, accumulation=2)
    alone = TrainConfig(
        run=Path("run"),
        data=(Path("demos"),),
        episodes=EpisodeOptions(),
        language_data=(Path("records"),),
        stages=(stage,),
    )
    robot_1, records_1, robot_2, records_2 = step_seeds(alone, stage, 0, World())
    assert len({robot_1, records_1, robot_2, records_2}) == 4
    once = replace(stage, accumulation=1)
    shared = [step_seeds(alone, once, 0, World(rank=rank, size=2)) for rank in range(2)]
    assert shared == [[robot_1, records_1], [robot_2, records_2]]


class Counting:
    def groups(self, step, batch_size):
        return list(range(step * batch_size, (step + 1) * batch_size))

    def rng(self, step, batch_size, row):
        return step * batch_size + row


def test_ranks_share_a_reading_order():
    ranks = [OrderOfRank(order=Counting(), world=World(rank=rank, size=2)) for rank in range(2)]
    read = [ranks[rank].groups(step, 3) for step in range(2) for rank in range(2)]
    assert read == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert ranks[1].order.rng(3, 3, 2) == 11
    ended = [OrderOfRank(order=Counting(), world=World(rank=rank, size=2), num_groups=4) for rank in range(2)]
    assert [ended[rank].groups(step, 3) for step in range(2) for rank in range(2)] == [[0, 1, 2], [3], [], []]
