"""Runs inside lerobot's own environment: writes a dataset with the package, or says what it reads of one as JSON.

python lerobot_side.py write FOLDER
python lerobot_side.py read FOLDER
"""

import json
import sys

import numpy as np

FPS, STEPS, EPISODES, HEIGHT, WIDTH, HORIZON = 10, 12, 2, 64, 96, 4
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
    dataset = LeRobotDataset(
        "made/set",
        root=folder,
        video_backend="pyav",
        delta_timestamps={"action": [step / FPS for step in range(HORIZON)]},
    )
    camera, depth = "observation.images.front", "observation.depth.front"
    rows = []
    for index in range(len(dataset)):
        item = dataset[index]
        rows.append(
            {
                "episode": int(item["episode_index"]),
                "task": item["task"],
                "state": item["observation.state"].tolist(),
                "chunk": item["action"].tolist(),
                "after_end": item["action_is_pad"].tolist(),
                "grey": float(item[camera].float().mean()),
                "depth": float(item[depth].float().mean()),
            }
        )
    meta = dataset.meta
    whole = {key: {name: value.tolist() for name, value in part.items()} for key, part in meta.stats.items()}
    episodes = [
        [int(meta.episodes[number][f"dataset_{end}_index"]) for end in ("from", "to")]
        for number in range(meta.total_episodes)
    ]
    print(json.dumps({"fps": meta.fps, "episodes": episodes, "stats": whole, "rows": rows}))


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](sys.argv[2])
