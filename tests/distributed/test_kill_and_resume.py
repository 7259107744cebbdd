"""Kill -9 at any moment, resume: the curve of losses and the weights are those of a run that was never stopped."""

import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.processes import CHILDREN, SECONDS
from tests.training_runs import micro_config, numbers, three_stages, train_in_process

from egem.core.config import save_json
from egem.training.checkpoints import checkpoint_folders, find_damage, find_latest
from egem.training.config import TrainConfig
from egem.training.loop import train
from egem.training.metrics import METRICS_FILE, read_metrics


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A finished run of 24 steps with a checkpoint every second step."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    config = micro_config(folder, stages=three_stages(steps=(6, 8, 10), batch_size=2))
    train(config)
    return config


@pytest.fixture(scope="module")
def short(uninterrupted):
    """A finished run of 7 steps."""
    config = replace(
        uninterrupted,
        run=uninterrupted.run.parent / "short",
        stages=three_stages(steps=(2, 2, 3), batch_size=2),
    )
    train(config)
    return config


def start(config: TrainConfig, folder: Path, *, suicide: str = ""):
    save_json(config, folder / "config.json")
    child = CHILDREN.Process(target=train_in_process, args=(folder / "config.json", True, suicide))
    child.start()
    return child


def weights(run: Path) -> dict[str, bytes]:
    return {str(f.relative_to(run / "model")): f.read_bytes() for f in (run / "model").rglob("*.safetensors")}


def wait_for_steps(run: Path, child, steps: int) -> None:
    """Return once the run has that many lines of metrics, or its process has ended."""
    while child.is_alive():
        try:
            if (run / METRICS_FILE).read_bytes().count(b"\n") >= steps:
                return
        except FileNotFoundError:
            pass
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_at_random_moments(uninterrupted, tmp_path):
    config = replace(uninterrupted, run=tmp_path / "run")
    rng = random.Random(0)
    kills, died_at = 0, set()
    while kills < 20:
        before = len(read_metrics(config.run)) if (config.run / METRICS_FILE).exists() else 0
        child = start(config, tmp_path)
        # Some steps further than the last time (or none: while it starts), then anywhere inside a step.
        wait_for_steps(config.run, child, before + rng.choice((0, 0, 1, 2, 3)))
        child.join(rng.uniform(0, 0.15))
        child.kill()
        child.join(SECONDS)
        if child.exitcode == 0:  # It was faster than the kill: begin again.
            assert numbers(config.run) == numbers(uninterrupted.run)
            shutil.rmtree(config.run)
            continue
        assert child.exitcode == -signal.SIGKILL
        kills += 1
        if (config.run / METRICS_FILE).exists():
            died_at.add(len(read_metrics(config.run)))
        if (found := find_latest(config.run)) is not None:
            assert find_damage(found) is None
    assert len(died_at) >= 5, "the kills were spread over the run"
    child = start(config, tmp_path)
    child.join(SECONDS)
    assert child.exitcode == 0
    assert numbers(config.run) == numbers(uninterrupted.run)
    assert weights(config.run) == weights(uninterrupted.run)
    assert not list(config.run.rglob(".*.tmp"))


@pytest.mark.parametrize(
    "moment",
    [
        "checkpoints.save_distributed before",
        "checkpoints.save_distributed after",
        "checkpoints._sha256 before",
        "checkpoints.write_checkpoint after",
        "checkpoints.point_to after",
        "run.point_to before",
        "run.remove_models before",
        "loop.export_model before",
    ],
)
def test_killed_inside_a_save_or_an_export(short, tmp_path, moment):
    config = replace(short, run=tmp_path / "run")
    child = start(config, tmp_path, suicide=moment)
    child.join(SECONDS)
    assert child.exitcode == -signal.SIGKILL
    train(config, resume=True)
    assert numbers(config.run) == numbers(short.run)
    assert weights(config.run) == weights(short.run)
    assert not list(config.run.rglob(".*.tmp"))


def test_damaged_checkpoint_falls_back_to_the_one_before(short, tmp_path, caplog):
    config = replace(short, run=tmp_path / "run")
    shutil.copytree(short.run, config.run, symlinks=True)
    older, newest = checkpoint_folders(config.run)[-2:]
    (tensors,) = newest.glob("*.safetensors")
    with tensors.open("r+b") as file:
        file.truncate(tensors.stat().st_size // 2)
    train(config, resume=True)
    assert f"{newest} is damaged" in caplog.text
    assert "the checkpoint before it is used" in caplog.text
    assert numbers(config.run) == numbers(short.run)
    assert find_latest(config.run) == newest
    assert older.name == "step-6"
