"""What a user can get wrong about a training run: each ends in its one clear message, nothing half-written."""

import errno
import json
import shutil
from dataclasses import replace

import pytest
from tests.tiny import build_micro
from tests.training_runs import micro_config, three_stages, write_records

from egem.core.errors import CheckpointError, ConfigError, EgemError, RecordError
from egem.training import checkpoints
from egem.training.checkpoints import checkpoint_folders, find_latest
from egem.training.loop import train
from egem.training.metrics import MetricsFile


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("bad")
    micro_config(place)
    return place


@pytest.fixture
def config(folder, tmp_path):
    return micro_config(folder, run=tmp_path / "run", stages=three_stages(steps=(1, 1, 2)))


def message(config, kind, **options):
    with pytest.raises(kind) as error:
        train(config, **options)
    return str(error.value)


def test_no_data_there(config, tmp_path):
    text = message(replace(config, data=(tmp_path / "nowhere",)), RecordError)
    assert str(tmp_path / "nowhere") in text
    assert not (config.run / "config.json").exists()


def test_truncated_shard(config, folder, tmp_path):
    shutil.copytree(folder / "data", tmp_path / "data")
    (shard,) = (tmp_path / "data").glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-100])
    assert str(shard) in message(replace(config, data=(tmp_path / "data",)), RecordError)


def test_depth_from_records_without_any(config, tmp_path):
    flat = write_records(tmp_path / "flat", num_groups=1)
    text = message(replace(config, data=(flat,), latents="required"), ConfigError)
    assert text.startswith(f"{flat}: no picture has a depth map, but stage 'connector' has depth_weight 1.")
    assert not config.run.exists()


def test_unknown_preset(config):
    text = message(replace(config, checkpoint=None, preset="tinny"), ConfigError)
    assert text.startswith("unknown preset 'tinny'. Did you mean 'tiny'?")


def test_no_checkpoint_there(config, tmp_path):
    text = message(replace(config, checkpoint=tmp_path / "nowhere"), EgemError)
    assert str(tmp_path / "nowhere") in text


def test_checkpoint_of_another_preset(config, folder):
    text = message(replace(config, preset="gem-2b"), CheckpointError)
    assert text == (
        f"{folder / 'checkpoint'} is a checkpoint of preset 'tiny', but 'gem-2b' is needed; "
        "choose a checkpoint of 'gem-2b' or a recipe of 'tiny'."
    )


def test_unknown_module(config):
    stage = replace(config.stages[0], learning_rates={"connektor": 1e-3})
    text = message(replace(config, stages=(stage,)), ConfigError)
    assert text.startswith("unknown module in stage 'connector' 'connektor'. Did you mean 'connector'?")


def test_unknown_device(config):
    text = message(replace(config, device="cuda:99"), ConfigError)
    assert text.startswith("device 'cuda:99' cannot be used here (")
    assert text.endswith("try auto or cpu.")


def test_too_much_bad_data(config, folder, tmp_path, monkeypatch):
    from egem.data import prepare

    monkeypatch.setattr(prepare, "decode_image", _unreadable)
    text = message(replace(config, max_bad_fraction=0.0), RecordError)
    assert "could not be read" in text
    assert str(config.run / "quarantine.jsonl") in text
    lines = [json.loads(line) for line in (config.run / "quarantine.jsonl").read_text().splitlines()]
    assert all("no picture" in line["reason"] for line in lines)


def test_resuming_from_nothing_but_damaged_checkpoints(config):
    train(config)
    for found in checkpoint_folders(config.run):
        (found / "manifest.json").write_text("{")
    text = message(config, CheckpointError, resume=True)
    assert text.startswith(
        f"{config.run}: none of its 2 checkpoints is whole; start again in a new run folder"
    )


def test_resuming_a_broken_configuration(config):
    train(config)
    (config.run / "config.json").write_text('{"run": ')
    assert f"{config.run / 'config.json'} is not valid JSON" in message(config, ConfigError, resume=True)


def test_resuming_the_checkpoint_of_another_model(config):
    train(config)
    shutil.rmtree(config.run / "model-joint")
    build_micro("dc-ae").save_pretrained(config.run / "model-joint")
    text = message(config, CheckpointError, resume=True)
    assert f"{config.run / 'checkpoints' / 'step-4'} is of another model or stage" in text


def test_full_disk_while_saving(config, monkeypatch):
    original, saves = checkpoints.save_distributed, []

    def full(*arguments, **options):
        saves.append(1)
        if len(saves) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments, **options)

    monkeypatch.setattr(checkpoints, "save_distributed", full)
    text = message(replace(config, checkpoint_every=1), EgemError)
    assert text == (
        f"checkpoint not saved: no space left while writing {config.run / 'checkpoints' / 'step-3'}; free some "
        "or choose another disk. Nothing half-written was kept. Earlier checkpoints are intact."
    )
    assert find_latest(config.run).name == "step-2"
    train(replace(config, checkpoint_every=1), resume=True)
    assert find_latest(config.run).name == "step-4"


def test_full_disk_while_writing_metrics(config, monkeypatch):
    def full(self, row):
        with checkpoints.disk_errors_named(self._path):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MetricsFile, "write", full)
    assert f"no space left while writing {config.run / 'metrics.jsonl'}" in message(config, EgemError)


def _unreadable(file, *, root=None, where="image"):
    raise RecordError(f"{where}: no picture.")
