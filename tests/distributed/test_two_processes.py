"""Two gloo processes on one machine: the same curve as one process that reads the same samples."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.training_runs import assert_close, micro_config, numbers, three_stages

from egem.core.config import load_json, save_json
from egem.models.gem import GEM
from egem.training.checkpoints import checkpoint_folders, remove_after
from egem.training.config import TrainConfig
from egem.training.distributed import OrderOfRank, World, current_world, sum_gradients
from egem.training.loop import train

CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["egem.training.loop", "egem.models.pretrained", "transformers", "diffusers"])
SECONDS = 280


def run_together(target, folder: Path, *arguments) -> None:
    """Run `target` in two processes that form a group."""
    meeting = folder / f"meeting-{len(list(folder.glob('meeting-*')))}"
    children = [
        CHILDREN.Process(target=_joined, args=(rank, meeting, target, *arguments)) for rank in range(2)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(SECONDS)
        child.kill()
    assert [child.exitcode for child in children] == [0, 0]


def _joined(rank, meeting, target, *arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    target(*arguments)
    dist.destroy_process_group()


def train_stored(config_file: Path, resume: bool) -> None:
    train(load_json(TrainConfig, config_file), resume=resume)


def check_collectives() -> None:
    world = current_world()
    assert world.size == 2
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (3, 2, 4)]
    parameters[0].grad = torch.full((3,), float(world.rank + 1))
    if world.rank == 1:
        parameters[1].grad = torch.ones(2)
    sum_gradients(parameters, world)
    assert torch.equal(parameters[0].grad, torch.full((3,), 3.0))
    assert torch.equal(parameters[1].grad, torch.ones(2))
    assert parameters[2].grad is None, "no gradient anywhere stays none, so that it never decays"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def together(folder):
    """A run of two processes, one forward pass of 2 samples each in a step."""
    config = micro_config(
        folder, run=folder / "together", stages=three_stages(steps=(2, 2, 4), batch_size=2), weight_decay=0.01
    )
    save_json(config, folder / "together.json")
    run_together(train_stored, folder, folder / "together.json", False)
    return config


def test_gradients_are_summed(folder):
    run_together(check_collectives, folder)


def test_two_processes_equal_one(folder, together):
    """One process takes two forward passes a step instead; noise, times and turns are the same."""
    stages = tuple(replace(stage, accumulation=2) for stage in together.stages)
    alone = replace(together, run=folder / "alone", stages=stages)
    train(alone)
    rows = numbers(together.run)
    assert len(rows) == 8
    assert_close(rows, numbers(alone.run), rel=1e-5)
    ours, theirs = GEM.from_pretrained(together.run / "model"), GEM.from_pretrained(alone.run / "model")
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_two_processes_resume_bit_for_bit(folder, together):
    expected = numbers(together.run)
    newest = checkpoint_folders(together.run)[-1]
    remove_after(together.run, int(newest.name.removeprefix("step-")) - 1)
    run_together(train_stored, folder, folder / "together.json", True)
    assert numbers(together.run) == expected


def test_another_number_of_processes_is_refused(together):
    with pytest.raises(Exception, match="was trained by 2 processes, these are 1"):
        train(together, resume=True)


def test_ranks_share_a_reading_order():
    class Counting:
        def groups(self, step, batch_size):
            return list(range(step * batch_size, (step + 1) * batch_size))

        def rng(self, step, batch_size, row):
            return step * batch_size + row

    ranks = [OrderOfRank(order=Counting(), world=World(rank=rank, size=2)) for rank in range(2)]
    read = [ranks[rank].groups(step, 3) for step in range(2) for rank in range(2)]
    assert read == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert ranks[1].order.rng(3, 3, 2) == 11
