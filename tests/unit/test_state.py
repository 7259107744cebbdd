"""Checkpoints: what they hold, how they appear, and what happens when a disk or a file fails."""

import errno
import logging
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import build_micro, random_batch
from tests.training_runs import three_stages

from egem.core.errors import CheckpointError, EgemError, TrainingError
from egem.training import checkpoints
from egem.training.checkpoints import (
    CheckpointWriter,
    Position,
    checkpoint_folders,
    find_damage,
    find_latest,
    load_position,
    load_tensors,
    point_to,
    remove_after,
    write_checkpoint,
)
from egem.training.config import TrainConfig
from egem.training.optimizer import freeze, make_optimizer, set_learning_rates
from egem.training.state import load_state, state_tensors

CONNECTOR, DEPTH_HEAD, JOINT = three_stages()
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "empty": torch.zeros(0, 2)}


def position(step, **fields):
    defaults = {"stage": "joint", "stage_step": step, "seed": 0, "data": "f", "world_size": 1}
    return Position(step=step, **{**defaults, **fields})


def save_steps(run, steps, *, keep=2):
    with CheckpointWriter(run, keep=keep) as writer:
        for step in steps:
            writer.save(TENSORS, position(step))


def trained(stage, tmp_path, *, seed=0, steps=2):
    """A micro model and its optimizer after two steps of a stage."""
    model = build_micro(seed=seed)
    freeze(model, stage)
    config = TrainConfig(run=tmp_path, data=(tmp_path,), stages=(stage,))
    optimizer = make_optimizer(model, stage, config)
    for step in range(steps):
        set_learning_rates(optimizer, stage, step, 10)
        losses = model(
            random_batch(2, seed=step),
            language=stage.language_weight > 0,
            generator=torch.Generator().manual_seed(0),
        )
        (losses.language_sum + losses.depth_sum).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@pytest.mark.parametrize("stage", three_stages(), ids=lambda stage: stage.name)
def test_state_comes_back_bit_for_bit(stage, tmp_path):
    model, optimizer = trained(stage, tmp_path)
    saved = {name: tensor.clone() for name, tensor in state_tensors(model, optimizer).items()}
    write_checkpoint(tmp_path / "step-2", saved, position(2))
    other, fresh = trained(stage, tmp_path, seed=1, steps=0)
    load_state(tmp_path / "step-2", other, fresh)
    loaded = state_tensors(other, fresh)
    assert loaded.keys() == saved.keys()
    for name, tensor in saved.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor), name
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    moments = {name for name in saved if name.startswith("optimizer.")}
    assert {name.removeprefix("optimizer.").rpartition(".")[0] for name in moments} <= names
    assert len(moments) % 3 == 0, "step, first and second moment of each parameter that had a gradient"


def test_frozen_weights_are_part_of_it_and_tied_ones_are_stored_once(tmp_path):
    model, optimizer = trained(CONNECTOR, tmp_path)
    stored = {name for name in state_tensors(model, optimizer) if name.startswith("model.")}
    unique = {id(p) for p in model.parameters()}
    buffers = [name for name in model.state_dict() if name in dict(model.named_buffers())]
    assert len(stored) == len(unique) + len(buffers)


def test_a_checkpoint_is_safetensors_and_json(tmp_path):
    write_checkpoint(tmp_path / "step-1", TENSORS, position(1))
    names = {path.name for path in (tmp_path / "step-1").iterdir()}
    assert {path.suffix for path in (tmp_path / "step-1").iterdir()} == {".safetensors", ".json"}
    assert {"position.json", "manifest.json"} < names
    (tensors,) = (tmp_path / "step-1").glob("*.safetensors")
    assert all(torch.equal(value, TENSORS[name]) for name, value in load_file(tensors).items())
    assert load_position(tmp_path / "step-1") == position(1)


def test_loading_into_another_model_says_what_differs(tmp_path):
    write_checkpoint(tmp_path / "step-1", TENSORS, position(1))
    wrong = {"a": torch.zeros(3, 3), "c": torch.zeros(1), "b": torch.tensor(0)}
    with pytest.raises(CheckpointError) as error:
        load_tensors(tmp_path / "step-1", wrong)
    assert str(error.value) == (
        f"{tmp_path / 'step-1'} is of another model or stage: 'a' has shape (2, 3), not (3, 3); "
        "'c' is missing; 'empty' is not part of this model."
    )


def test_loading_the_state_of_another_stage_is_refused(tmp_path):
    model, optimizer = trained(JOINT, tmp_path)
    write_checkpoint(tmp_path / "step-1", state_tensors(model, optimizer), position(1))
    other, fresh = trained(CONNECTOR, tmp_path, steps=0)
    with pytest.raises(CheckpointError, match=r"is of another model or stage: 'optimizer\.backbone"):
        load_state(tmp_path / "step-1", other, fresh)


def test_the_last_ones_are_kept_and_last_leads_to_the_newest(tmp_path):
    save_steps(tmp_path, [2, 9, 10, 11], keep=3)
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == ["step-9", "step-10", "step-11"]
    assert (tmp_path / "last").resolve() == tmp_path / "checkpoints" / "step-11"
    assert find_latest(tmp_path) == tmp_path / "checkpoints" / "step-11"


def test_nothing_is_removed_before_the_new_one_is_committed(tmp_path, monkeypatch):
    save_steps(tmp_path, [1, 2])

    def fail(*arguments, **options):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(checkpoints, "save_distributed", fail)
    with pytest.raises(TrainingError, match="broken disk"):
        save_steps(tmp_path, [3])
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == ["step-1", "step-2"]


def test_saving_does_not_wait_for_the_disk_and_keeps_what_was_saved(tmp_path, monkeypatch):
    may_write = threading.Event()
    original = checkpoints.save_distributed

    def slow(*arguments, **options):
        assert may_write.wait(30)
        return original(*arguments, **options)

    monkeypatch.setattr(checkpoints, "save_distributed", slow)
    tensor = torch.ones(3)
    with CheckpointWriter(tmp_path, keep=2) as writer:
        writer.save({"a": tensor}, position(1))
        tensor += 1  # the next step changes the weights while the save is under way
        assert find_latest(tmp_path) is None
        may_write.set()
        writer.wait()
        loaded = {"a": torch.zeros(3)}
        load_tensors(tmp_path / "checkpoints" / "step-1", loaded)
        assert torch.equal(loaded["a"], torch.ones(3))


def test_at_most_one_save_is_under_way(tmp_path, monkeypatch):
    original, running, most = checkpoints.write_checkpoint, [], []

    def watched(*arguments):
        running.append(1)
        most.append(len(running))
        original(*arguments)
        running.pop()

    monkeypatch.setattr(checkpoints, "write_checkpoint", watched)
    save_steps(tmp_path, [1, 2, 3, 4])
    assert most == [1, 1, 1, 1]


def test_a_failed_save_surfaces_at_the_next_step(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_distributed", full)
    writer = CheckpointWriter(tmp_path, keep=2)
    writer.save(TENSORS, position(1))
    while not writer._pending.done():
        time.sleep(0.01)
    assert writer.failed
    with pytest.raises(TrainingError) as error:
        writer.wait()
    folder = tmp_path / "checkpoints" / "step-1"
    assert str(error.value) == (
        f"checkpoint not saved: no space left while writing {folder}; free some or choose another disk. "
        "Nothing half-written was kept. Earlier checkpoints are intact."
    )
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_failed_save_does_not_hide_why_training_failed(tmp_path, monkeypatch, caplog):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_distributed", full)

    def train():
        with CheckpointWriter(tmp_path, keep=2) as writer:
            writer.save(TENSORS, position(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert "checkpoint not saved: no space left" in caplog.text


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small disk needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk_leaves_earlier_checkpoints_intact(small_disk):
    half = {"a": torch.randn(100_000)}

    def train():
        with CheckpointWriter(small_disk, keep=2) as writer:
            for step in (1, 2, 3):
                writer.save(half, position(step))
                writer.wait()

    with pytest.raises(TrainingError) as error:
        train()
    assert "no space left while writing" in str(error.value)
    assert "Earlier checkpoints are intact" in str(error.value)
    found = find_latest(small_disk)
    assert found == small_disk / "checkpoints" / "step-2"
    loaded = {"a": torch.zeros(100_000)}
    load_tensors(found, loaded)
    assert torch.equal(loaded["a"], half["a"])
    assert not list(small_disk.rglob(".*.tmp"))


def remove_manifest(folder):
    (folder / "manifest.json").unlink()


def cut_manifest(folder):
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])


def remove_position(folder):
    (folder / "position.json").unlink()


def cut_tensors(folder):
    (tensors,) = folder.glob("*.safetensors")
    os.truncate(tensors, tensors.stat().st_size - 1)


def flip_a_bit(folder):
    (tensors,) = folder.glob("*.safetensors")
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)


def remove_tensors(folder):
    for tensors in folder.glob("*.safetensors"):
        tensors.unlink()


DAMAGES = {
    remove_manifest: "does not exist",
    cut_manifest: "is not valid JSON",
    remove_position: "position.json does not exist",
    cut_tensors: "bytes",
    flip_a_bit: "has changed",
    remove_tensors: "is missing",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_never_picked_up(tmp_path, damage, caplog):
    save_steps(tmp_path, [1, 2])
    newest = tmp_path / "checkpoints" / "step-2"
    assert find_damage(newest) is None
    damage(newest)
    assert DAMAGES[damage] in str(find_damage(newest))
    with caplog.at_level(logging.WARNING):
        assert find_latest(tmp_path) == tmp_path / "checkpoints" / "step-1"
    assert f"{newest} is damaged (" in caplog.text
    damage(tmp_path / "checkpoints" / "step-1")
    with pytest.raises(CheckpointError) as error:
        find_latest(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: none of its 2 checkpoints is whole; start again in a new run folder, "
        f"or restore {newest} from a backup."
    )


def test_unfinished_saves_and_foreign_folders_are_no_checkpoints(tmp_path):
    assert find_latest(tmp_path) is None
    save_steps(tmp_path, [1])
    shutil.copytree(tmp_path / "checkpoints" / "step-1", tmp_path / "checkpoints" / ".step-2.17.tmp")
    shutil.copytree(tmp_path / "checkpoints" / "step-1", tmp_path / "checkpoints" / "step-2-copy")
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == ["step-1"]
    remove_after(tmp_path, 1)
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == ["step-1", "step-2-copy"]


def test_links_are_replaced_and_relative(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        point_to(tmp_path / "link", tmp_path / name)
        assert (tmp_path / "link").readlink() == Path(name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "one", "two"]


def test_saving_twice_at_one_step_is_refused(tmp_path):
    write_checkpoint(tmp_path / "step-1", TENSORS, position(1))
    with pytest.raises(EgemError, match="exists already"):
        write_checkpoint(tmp_path / "step-1", TENSORS, position(1))
