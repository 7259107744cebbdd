"""Runs inside lerobot's own environment: writes a dataset with the package, or says what it reads of one as JSON.

python lerobot_side.py write FOLDER
python lerobot_side.py read FOLDER
"""

import json
import sys

import numpy as np

FPS, STEPS, EPISODES, HEIGHT, WIDTH = 10, 12, 2, 64, 96
TASKS = ("put the cup on the plate", "open the drawer")


def made(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States, actions and grey frames of an episode, the same on both sides."""
    rng = np.random.default_rng(number)
    states = rng.normal(size=(STEPS, 3)).astype(np.float32)
    actions = rng.normal(size=(STEPS, 4)).astype(np.float32)
    frames = np.zeros((STEPS, HEIGHT, WIDTH, 3), np.uint8)
    frames += (20 * np.arange(STEPS) + 5 * number).astype(np.uint8)[:, None, None, None]
    return states, actions, frames


def write(folder: str) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features = {
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
        "action": {"dtype": "float32", "shape": (4,), "names": ["a", "b", "c", "gripper"]},
        "observation.images.front": {
            "dtype": "video",
            "shape": (HEIGHT, WIDTH, 3),
            "names": ["height", "width", "channels"],
        },
    }
    dataset = LeRobotDataset.create(
        "made/set", FPS, features, root=folder, robot_type="made", use_videos=True
    )
    for number in range(EPISODES):
        for state, action, frame in zip(*made(number), strict=True):
            dataset.add_frame(
                {
                    "observation.state": state,
                    "action": action,
                    "observation.images.front": frame,
                    "task": TASKS[number],
                }
            )
        dataset.save_episode()
    dataset.finalize()


def read(folder: str) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    # The default backend, torchcodec, needs FFmpeg's shared libraries.
    dataset = LeRobotDataset("made/set", root=folder, video_backend="pyav")
    camera = dataset.meta.camera_keys[0]
    rows = []
    for index in range(len(dataset)):
        item = dataset[index]
        rows.append(
            {
                "episode": int(item["episode_index"]),
                "task": item["task"],
                "state": item["observation.state"].tolist(),
                "action": item["action"].tolist(),
                "grey": float(item[camera].float().mean()),
            }
        )
    print(json.dumps({"fps": dataset.fps, "episodes": dataset.num_episodes, "rows": rows}))


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](sys.argv[2])
