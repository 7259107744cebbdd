"""Round trips with the lerobot package itself, which runs in an environment of its own.

Skipped where that is absent: `tools/lerobot_env.sh` makes it. EGEM_LEROBOT_PYTHON names another place.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.parity import lerobot_side as side

from egem.data.robot_data import EpisodeOptions, RobotData
from egem.data_engine.episodes.frames import ArrayFrames
from egem.data_engine.episodes.lerobot import LeRobotDataset
from egem.data_engine.episodes.lerobot_writer import write_lerobot
from egem.episodes import ActionSpace, CameraStream, Episode

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


def test_what_lerobot_writes_is_read_and_cut_into_windows(tmp_path):
    there("write", tmp_path / "set")
    dataset = LeRobotDataset(tmp_path / "set", action_space=SPACE)
    assert len(dataset) == side.EPISODES
    data = RobotData([dataset], EpisodeOptions(horizon=4))
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


def test_what_is_written_here_lerobot_loads(tmp_path):
    episodes = []
    for number in range(side.EPISODES):
        states, actions, frames = side.made(number)
        episodes.append(
            Episode(
                id=str(number),
                source="made",
                instruction=side.TASKS[number],
                fps=float(side.FPS),
                states=states,
                actions=actions,
                action_space=SPACE,
                cameras={"front": CameraStream(frames=ArrayFrames(pixels=frames))},
            )
        )
    write_lerobot(episodes, tmp_path / "set")
    read = json.loads(there("read", tmp_path / "set").splitlines()[-1])
    assert (read["fps"], read["episodes"], len(read["rows"])) == (side.FPS, side.EPISODES, 2 * side.STEPS)
    for index, row in enumerate(read["rows"]):
        number, step = divmod(index, side.STEPS)
        states, actions, frames = side.made(number)
        assert (row["episode"], row["task"]) == (number, side.TASKS[number])
        np.testing.assert_allclose(row["state"], states[step], atol=1e-6)
        np.testing.assert_allclose(row["action"], actions[step], atol=1e-6)
        assert abs(255 * row["grey"] - float(frames[step].mean())) < 3
