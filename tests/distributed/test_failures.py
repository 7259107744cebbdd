"""What one of several processes does wrong ends all of them with one clear message, and none hangs."""

import errno
import json
import math
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist
from tests.processes import free_port, run_together
from tests.training_runs import micro_config, numbers, three_stages, write_records

from egem.core.config import load_json, save_json
from egem.core.errors import ConfigError, EgemError, RecordError, TrainingError
from egem.models.gem import GEM
from egem.training import checkpoints
from egem.training.checkpoints import checkpoint_folders, find_latest
from egem.training.config import TrainConfig
from egem.training.distributed import World, current_world, failing_together, texts_of_all, wait_for_all
from egem.training.loop import train
from egem.training.watchdog import Note, Watchdog, describe_stall


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("failures")
    micro_config(place)
    write_records(place / "other", seed=1)
    return place


def stored(folder: Path, name: str, **fields) -> TrainConfig:
    stages = three_stages(steps=(1, 1, 3), batch_size=2)[2:]
    config = micro_config(folder, run=folder / name, stages=stages, **fields)
    save_json(config, folder / f"{name}.json")
    return config


def expect_error(kind: type[EgemError], config: TrainConfig, **options) -> None:
    """Train; write the error to stderr, which the test reads."""
    try:
        train(config, **options)
    except kind as error:
        sys.stderr.write(str(error))
    else:
        raise AssertionError("nothing went wrong")


def command_line(port: int, arguments: list[str]) -> None:
    """`egem` as torchrun starts it, with the variables that it sets."""
    from egem.cli import main

    rank = current_world().rank
    dist.destroy_process_group()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    main(arguments)


@pytest.fixture(scope="module")
def finished(folder):
    """A run of two processes that nothing happened to."""
    config = stored(folder, "finished")
    config.run.mkdir()
    save_json(config, config.run / "config.json")
    run_together(command_line, folder, free_port(), ["train", "--resume", str(config.run)])
    return config


def other_configuration(config_file: Path) -> None:
    config = load_json(TrainConfig, config_file)
    expect_error(ConfigError, replace(config, seed=current_world().rank))


def test_ranks_with_different_configurations(folder):
    config = stored(folder, "differ")
    texts = run_together(other_configuration, folder, folder / "differ.json")
    assert texts[0] == texts[1]
    assert texts[0].startswith(
        "rank 1 has another 'seed' than rank 0: 1 instead of 0; start every process with"
    )
    assert not config.run.exists()


def other_data(config_file: Path, other: Path) -> None:
    """The same path, but this rank's disk holds something else."""
    from egem.training import data

    original = data.RecordGroups
    if current_world().rank == 1:
        data.RecordGroups = lambda folders, cache: original((other,))
    expect_error(ConfigError, load_json(TrainConfig, config_file))


def test_ranks_with_different_data(folder):
    stored(folder, "copies")
    texts = run_together(other_data, folder, folder / "copies.json", folder / "other")
    assert texts[0] == texts[1]
    assert texts[0].startswith("rank 1 has another fingerprint of the data than rank 0")


def missing_data(config_file: Path) -> None:
    """Only rank 1 cannot see its data."""
    from egem.training import data

    if current_world().rank == 1:
        data.RecordGroups = _missing
    expect_error(RecordError, load_json(TrainConfig, config_file))


def _missing(folders, cache):
    raise RecordError(f"{folders[0]} is not there; mount it.")


def test_data_that_one_rank_cannot_read(folder):
    stored(folder, "unmounted")
    texts = run_together(missing_data, folder, folder / "unmounted.json")
    assert texts[0] == texts[1] == f"{folder / 'data'} is not there; mount it."


def resume_changed(config_file: Path) -> None:
    from egem.core.errors import CheckpointError

    expect_error(CheckpointError, load_json(TrainConfig, config_file), resume=True)


def train_stored(config_file: Path) -> None:
    train(load_json(TrainConfig, config_file))


def test_a_shard_that_changed_since_the_run_began(folder):
    shutil.copytree(folder / "data", folder / "changing")
    stored(folder, "changed", data=(folder / "changing",))
    run_together(train_stored, folder, folder / "changed.json")
    shutil.rmtree(folder / "changing")
    shutil.copytree(folder / "other", folder / "changing")
    texts = run_together(resume_changed, folder, folder / "changed.json")
    assert texts[0] == texts[1]
    assert "not the data that" in texts[0]


def broken_loss(config_file: Path) -> None:
    """Rank 1's second step gives a loss that is not a number."""
    original, calls = GEM.depth_loss, []

    def broken(self, *arguments, **options):
        calls.append(1)
        total, count = original(self, *arguments, **options)
        return (total * math.nan if len(calls) == 2 else total), count

    if current_world().rank == 1:
        GEM.depth_loss = broken
    expect_error(TrainingError, load_json(TrainConfig, config_file))


def test_a_loss_that_is_not_finite_on_one_rank_is_applied_on_none(folder):
    config = stored(folder, "broken", checkpoint_every=1)
    texts = run_together(broken_loss, folder, folder / "broken.json")
    assert texts[0] == texts[1]
    assert "step 2 (stage joint): not finite on rank 1: loss total nan" in texts[0]
    assert f"its records are listed in {config.run / 'non-finite-1.json'}" in texts[0]
    reports = [json.loads((config.run / f"non-finite-{rank}.json").read_text()) for rank in range(2)]
    assert [report["finite_here"] for report in reports] == [True, False]
    assert all(report["record_ids"][0] for report in reports)
    assert reports[0]["record_ids"] != reports[1]["record_ids"]
    assert reports[0]["non_finite_gradients"] == reports[1]["non_finite_gradients"] != []
    assert len(numbers(config.run)) == 1
    assert find_latest(config.run).name == "step-1"


def full_disk(config_file: Path) -> None:
    """Rank 1's disk is full at its second save."""
    original, saves = checkpoints.save_distributed, []

    def full(*arguments, **options):
        saves.append(1)
        if len(saves) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments, **options)

    if current_world().rank == 1:
        checkpoints.save_distributed = full
    expect_error(TrainingError, load_json(TrainConfig, config_file))


def test_a_rank_that_cannot_save_leaves_the_checkpoint_before(folder):
    config = stored(folder, "full", checkpoint_every=1)
    texts = run_together(full_disk, folder, folder / "full.json")
    assert texts[0] == texts[1]
    assert "checkpoint not saved: no space left while writing" in texts[0]
    assert [path.name for path in checkpoint_folders(config.run)] == ["step-1"]
    assert not list((config.run / "checkpoints").glob(".*"))


def stall(run: Path, how: str) -> None:
    """Rank 1 hangs before what rank 0 then waits for; `stopped`, not even its watchdog can speak."""
    world = current_world()
    with Watchdog(world, minutes=2 / 60, run=run) as watchdog:
        wait_for_all(world)
        watchdog.begins("loader", step=5)
        if world.rank == 1:
            if how == "stopped":
                time.sleep(1.5)  # until the watchdog has told the store
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(1000)
        watchdog.begins("forward")
        wait_for_all(world)


def test_a_rank_that_stalls_is_named_and_ends_the_run(folder):
    texts = run_together(stall, folder, folder, "asleep", expected=[2, 2])
    said = "error: nothing has moved for 2 s in step 5: the others wait in 'forward' for rank 1 (in 'loader')"
    assert (texts[0] + texts[1]).startswith(said)
    assert (
        "sleep" in (folder / "stalled-rank-1.txt").read_text()
        or "stall" in (folder / "stalled-rank-1.txt").read_text()
    )


def test_a_process_that_is_stopped_is_named(folder):
    texts = run_together(stall, folder, folder, "stopped", expected=[2, -signal.SIGKILL], abandoned=[1])
    said = (
        "error: nothing has moved for 2 s in step 5: rank 1 (last seen in step 5, loader) no longer answers"
    )
    assert texts[0].startswith(said)


def test_training_tells_the_watchdog_what_it_does(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(Watchdog, "begins", lambda self, doing, *, step=None: seen.append((doing, step)))
    config = stored(folder, "watched")
    train(replace(config, stages=(replace(config.stages[0], steps=2),)))
    step = [
        ("loader", None),
        ("forward", None),
        ("backward", None),
        ("optimizer", None),
        ("probes", None),
        ("checkpoint", None),
    ]
    assert seen == [("step", 1), *step, ("step", 2), *step, ("export", None)]


def lose_contact(config_file: Path) -> None:
    """Rank 1 is killed in its third step, when the save of the first has surely ended."""
    from egem.training import loop

    original, calls = loop.islice, []

    def deadly(*arguments):
        calls.append(1)
        if len(calls) == 3 and current_world().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    loop.islice = deadly
    expect_error(TrainingError, load_json(TrainConfig, config_file))


def test_a_rank_that_dies_is_noticed_and_the_run_goes_on_from_its_checkpoint(folder, finished):
    config = stored(folder, "dies", checkpoint_every=1)
    texts = run_together(lose_contact, folder, folder / "dies.json", expected=[0, -signal.SIGKILL])
    assert texts[0].startswith("rank 0 lost contact with another process")
    assert find_latest(config.run).name in ("step-1", "step-2")
    run_together(command_line, folder, free_port(), ["train", "--resume", str(config.run)])
    assert numbers(config.run) == numbers(finished.run)


@pytest.mark.parametrize("rank", [0, 1])
def test_describing_a_stall(rank):
    notes = [Note(count=9, step=5, doing="forward", ticks=3), Note(count=9, step=5, doing="forward", ticks=3)]
    assert describe_stall(notes, [], seconds=60.0).endswith(
        "all processes are in 'forward'; look at the network between them."
    )
    notes[rank] = Note(count=8, step=5, doing="loader", ticks=3)
    assert f"for rank {rank} (in 'loader')" in describe_stall(notes, [], seconds=60.0)
    assert f"rank {rank} (last seen in step 5, loader) no longer answers" in describe_stall(
        notes, [rank], seconds=60.0
    )
    assert Note.parse(str(notes[rank])) == notes[rank]


def fail_in_turn() -> None:
    world = current_world()
    for rank in range(world.size):
        caught = _caught(world, RecordError("bad ä") if world.rank == rank else None)
        assert (type(caught), str(caught)) == (RecordError, "bad ä")
        caught = _caught(world, ValueError("a bug") if world.rank == rank else None)
        kind, text = (
            (ValueError, "a bug")
            if world.rank == rank
            else (TrainingError, f"rank {rank} failed: ValueError: a bug")
        )
        assert (type(caught), str(caught)) == (kind, text)
    assert _caught(world, None) is None
    assert texts_of_all("x" * world.rank, world) == ["", "x"]
    assert texts_of_all("", world) == ["", ""]


def _caught(world: World, error: Exception | None) -> Exception | None:
    try:
        with failing_together(world):
            if error is not None:
                raise error
    except (EgemError, ValueError) as caught:
        return caught
    return None


def test_failing_together(folder):
    run_together(fail_in_turn, folder)
    with pytest.raises(ValueError, match="a bug"), failing_together(World()):
        raise ValueError("a bug")


def test_torchrun_starts_the_command_line(folder, finished):
    assert len(numbers(finished.run)) == 3
    assert len(list(checkpoint_folders(finished.run)[-1].glob("*.safetensors"))) == 2
    config = stored(folder, "nothing", data=(folder / "nowhere",))
    config.run.mkdir()
    save_json(config, config.run / "config.json")
    texts = run_together(
        command_line, folder, free_port(), ["train", "--resume", str(config.run)], expected=[2, 2]
    )
    assert texts[0].count("error: ") == 1
    assert f"{folder / 'nowhere'}" in texts[0]
    assert "error" not in texts[1], "one message, not one from each process"
