"""Round trips with the lerobot package itself, which runs in an environment of its own.

Skipped where that is absent: `tools/lerobot_env.sh` makes it. EGEM_LEROBOT_PYTHON names another place.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.parity import lerobot_side as side
from tests.tiny import write_checkpoint

from egem.data.robot_data import EpisodeOptions, RobotData
from egem.data_engine.episodes.frames import ArrayDepth, ArrayFrames
from egem.data_engine.episodes.lerobot import LeRobotDataset
from egem.data_engine.episodes.lerobot_writer import write_lerobot
from egem.episodes import ActionSpace, CameraStream, Episode, Subtask
from egem.models.vla_policy import CheckpointPolicy
from egem.policy import Observation
from egem.training.config import StageConfig, TrainConfig
from egem.training.loop import train
from egem.training.metrics import read_metrics

PYTHON = Path(os.environ.get("EGEM_LEROBOT_PYTHON", Path(__file__).parents[2] / ".venv/lerobot/bin/python"))
pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="lerobot is not installed; see tools/lerobot_env.sh"
)

SPACE = ActionSpace(control="joint_position", dim=4, gripper_dims=(3,))


def there(verb: str, folder: Path) -> str:
    """Run the other side, without network."""
    hidden = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder.parent / "hf"), "PYTHONPATH": ""}
    done = subprocess.run(
        [str(PYTHON), str(Path(side.__file__)), verb, str(folder)], capture_output=True, text=True, env=hidden
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_what_lerobot_writes_is_read_and_trained_on(tmp_path):
    there("write", tmp_path / "set")
    dataset = LeRobotDataset(tmp_path / "set", action_space=SPACE)
    assert len(dataset) == side.EPISODES
    data = RobotData([dataset], EpisodeOptions(horizon=side.HORIZON))
    assert len(data) == side.EPISODES * side.STEPS
    for number in range(side.EPISODES):
        states, actions, frames = side.made(number)
        episode = data.episode(number)
        assert episode.instruction == side.TASKS[number]
        assert episode.fps == side.FPS
        np.testing.assert_allclose(episode.states, states, atol=1e-6)
        np.testing.assert_allclose(episode.actions, actions, atol=1e-6)
        found = episode.cameras["front"].frames.read([0, side.STEPS - 1, 5])
        for frame, step in zip(found, (0, side.STEPS - 1, 5), strict=True):
            assert abs(float(frame.mean()) - float(frames[step].mean())) < 3

    torch.set_num_threads(1)
    options = EpisodeOptions(horizon=side.HORIZON, control="joint_position", gripper_dims=(3,))
    stage = StageConfig(
        name="policy",
        learning_rates={"action_expert": 1e-3},
        steps=3,
        batch_size=2,
        language_weight=0.0,
        action_weight=1.0,
    )
    config = TrainConfig(
        run=tmp_path / "run",
        data=(tmp_path / "set",),
        episodes=options,
        checkpoint=write_checkpoint(tmp_path / "checkpoint"),
        stages=(stage,),
        trackers=(),
    )
    train(config)
    assert all(np.isfinite(row["loss/action"]) for row in read_metrics(config.run))
    policy = CheckpointPolicy.from_checkpoint(config.run / "model")
    states, actions, frames = side.made(0)
    seen = Observation(images={"front": frames[0]}, state=states[0], instruction=side.TASKS[0])
    assert policy.act([seen], seed=0)[0].shape == (side.HORIZON, actions.shape[1])


def test_what_is_written_here_lerobot_loads(tmp_path):
    """With all that is beyond lerobot's own columns: depth, a track, sub-tasks, success."""
    depth = np.full((side.STEPS, side.HEIGHT, side.WIDTH), 1.0, np.float32)
    depth += 0.125 * np.arange(side.STEPS, dtype=np.float32)[:, None, None]
    episodes = []
    for number in range(side.EPISODES):
        states, actions, frames = side.made(number)
        front = CameraStream(
            frames=ArrayFrames(pixels=frames),
            depth=ArrayDepth(metres=depth),
            track=np.full((side.STEPS, 2), 0.5),
        )
        episodes.append(
            Episode(
                id=str(number),
                source="made",
                instruction=side.TASKS[number],
                fps=float(side.FPS),
                states=states,
                actions=actions,
                action_space=SPACE,
                cameras={"front": front},
                subtasks=(Subtask(text="reach", start=0, end=5), Subtask(text="pull", start=5, end=12)),
                success=number == 0,
            )
        )
    write_lerobot(episodes, tmp_path / "set")
    read = json.loads(there("read", tmp_path / "set").splitlines()[-1])
    assert (read["fps"], len(read["rows"])) == (side.FPS, side.EPISODES * side.STEPS)
    assert read["episodes"] == [[side.STEPS * n, side.STEPS * (n + 1)] for n in range(side.EPISODES)]
    for index, row in enumerate(read["rows"]):
        number, step = divmod(index, side.STEPS)
        states, actions, frames = side.made(number)
        assert (row["episode"], row["task"]) == (number, side.TASKS[number])
        np.testing.assert_allclose(row["state"], states[step], atol=1e-6)
        ahead = step + np.arange(side.HORIZON)
        np.testing.assert_allclose(row["chunk"], actions[ahead.clip(max=side.STEPS - 1)], atol=1e-6)
        assert row["after_end"] == (ahead >= side.STEPS).tolist()
        assert abs(255 * row["grey"] - float(frames[step].mean())) < 3
        assert row["depth"] == pytest.approx(1000 * float(depth[step, 0, 0]))
    made = [side.made(number) for number in range(side.EPISODES)]
    for key, part in (("observation.state", 0), ("action", 1)):
        values, stats = np.concatenate([each[part] for each in made]).astype(np.float64), read["stats"][key]
        for name, wanted in (
            ("min", values.min(0)),
            ("max", values.max(0)),
            ("mean", values.mean(0)),
            ("std", values.std(0)),
            ("q99", np.quantile(values, 0.99, axis=0)),
        ):
            np.testing.assert_allclose(stats[name], wanted, rtol=1e-5, atol=1e-6)
    sampled = np.linspace(0, side.STEPS - 1, 10).astype(int)
    grey = np.mean([frames[sampled].mean() for _, _, frames in made]) / 255
    np.testing.assert_allclose(np.ravel(read["stats"]["observation.images.front"]["mean"]), grey, atol=0.01)
