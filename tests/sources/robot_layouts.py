"""Each robot set's published layout, built by code from drawn episodes."""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from egem.data_engine.episodes.lerobot_writer import write_lerobot
from egem.media import encode_depth, encode_png
from robot_episodes import PARTS, episode, frames, place
from sources.layouts import save_json
from sources.lerobot_folders import save_mp4
from sources.tfrecords import bytes_feature, field, varint, write_tfrecords

STEPS = 12
SENTENCE = "put the cup on the plate"


def example(features: Mapping[str, Any]) -> bytes:
    """tf.train.Example: lists of bytes, arrays of float32 or of integers."""
    entries = b""
    for name, values in features.items():
        if isinstance(values, list):
            feature = bytes_feature(values)
        elif np.issubdtype(np.asarray(values).dtype, np.floating):
            flat = np.asarray(values, np.float32).ravel()
            feature = field(2, field(1, struct.pack(f"<{len(flat)}f", *flat.tolist())))
        else:
            feature = field(3, field(1, b"".join(varint(int(v)) for v in np.asarray(values).ravel())))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def pictures(seed: int, steps: int = STEPS) -> list[bytes]:
    return [encode_png(image) for image in frames(seed, steps)]


def flags(steps: int) -> dict[str, np.ndarray]:
    first, last = np.zeros((2, steps), np.int64)
    first[0] = last[-1] = 1
    return {"steps/is_first": first, "steps/is_last": last, "steps/is_terminal": last}


def bridge_features(seed: int, steps: int = STEPS) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    black = [encode_png(np.zeros((48, 64, 3), np.uint8))] * steps
    return {
        **flags(steps),
        "steps/action": rng.normal(size=(steps, 7)),
        "steps/observation/state": rng.normal(size=(steps, 7)),
        "steps/observation/image_0": pictures(seed, steps),
        "steps/observation/image_1": pictures(seed + 1, steps),
        "steps/observation/image_2": black,
        "steps/language_instruction": [SENTENCE.encode()] * steps,
        "steps/language_embedding": np.zeros((steps, 512)),
        "episode_metadata/file_path": [b"/nfs/bridge/out.npy"],
        "episode_metadata/episode_id": np.array([seed]),
    }


def bridge(root: Path) -> Path:
    folder = root / "bridge_dataset" / "1.0.0"
    folder.mkdir(parents=True)
    save_json(folder / "dataset_info.json", {"name": "bridge_dataset", "fileFormat": "tfrecord"})
    records = [example(bridge_features(seed)) for seed in range(2)]
    write_tfrecords(folder / "bridge_dataset-train.tfrecord-00000-of-00001", records)
    return root


def droid_features(seed: int, path: str, steps: int = STEPS) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    sizes = {"gripper_position": 1, "cartesian_position": 6, "joint_position": 7}
    numbers = {f"steps/observation/{key}": rng.normal(size=(steps, n)) for key, n in sizes.items()}
    numbers |= {f"steps/action_dict/{key}": rng.normal(size=(steps, n)) for key, n in sizes.items()}
    cameras = ("wrist_image_left", "exterior_image_1_left", "exterior_image_2_left")
    words = {"": SENTENCE, "_2": "move the cup to the plate", "_3": ""}
    return {
        **flags(steps),
        **numbers,
        "steps/action": rng.normal(size=(steps, 7)),
        **{f"steps/observation/{name}": pictures(seed + i, steps) for i, name in enumerate(cameras)},
        **{f"steps/language_instruction{k}": [text.encode()] * steps for k, text in words.items()},
        "episode_metadata/file_path": [path.encode()],
        "episode_metadata/recording_folderpath": [b"/x"],
    }


def droid(root: Path) -> Path:
    root.mkdir(parents=True)
    paths = ("/nfs/r2d2/success/2023/trajectory.h5", "/nfs/r2d2/failure/2023/trajectory.h5")
    records = [example(droid_features(seed, path)) for seed, path in enumerate(paths)]
    write_tfrecords(root / "r2d2_faceblur-train.tfrecord-00000-of-00001", records)
    return root


def robomind(root: Path) -> Path:
    import h5py

    base = root / "h5_franka_3rgb"
    for seed, kind in enumerate(("success_episodes", "failure_episodes")):
        path = base / "put_cup_on_plate" / kind / "train" / f"{seed}" / "data" / "trajectory.hdf5"
        path.parent.mkdir(parents=True)
        rng = np.random.default_rng(seed)
        depth = np.full((48, 64), 900, np.float32)
        with h5py.File(path, "w") as file:
            file["puppet/joint_position"] = rng.normal(size=(STEPS, 8))
            file["puppet/end_effector"] = rng.normal(size=(STEPS, 6))
            file["master/joint_position"] = rng.normal(size=(STEPS, 8))
            for i, name in enumerate(("camera_left", "camera_top")):
                cells = [np.frombuffer(data, np.uint8) for data in pictures(seed + i)]
                made = file.create_dataset(
                    f"observations/rgb_images/{name}", (STEPS,), dtype=h5py.vlen_dtype(np.uint8)
                )
                for step, cell in enumerate(cells):
                    made[step] = cell
            # The counts are millimetres.
            stored = np.frombuffer(encode_depth(depth, 1.0), np.uint8)
            file["observations/depth_images/camera_top"] = np.tile(stored, (STEPS, 1))
    (root / "RoboMIND_v1_2_instr.csv").write_text(f"task,instruction\nput_cup_on_plate,{SENTENCE}\n")
    return root


def head_camera(steps: int) -> tuple[dict[str, Any], np.ndarray]:
    """A camera that looks along the base's +x from above; intrinsics, and base-to-camera poses."""
    pose = np.eye(4)
    pose[:3, :3] = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]])
    pose[:3, 3] = pose[:3, :3] @ np.array([0.0, 0.0, -1.0])
    matrix = {"fx": 60.0, "fy": 60.0, "ppx": 32.0, "ppy": 24.0, "k1": 0.0}
    return matrix, np.tile(pose, (steps, 1, 1))


def agibot(root: Path, *, inverted: bool = True) -> Path:
    import h5py

    parts = [
        {
            "start_frame": STEPS * i // 3,
            "end_frame": STEPS * (i + 1) // 3,
            "action_text": f"{text.capitalize()}.",
            "skill": ("Reach", "Pick", "Place")[i],
        }
        for i, text in enumerate(PARTS)
    ]
    row = {
        "task_id": 327,
        "episode_id": 648642,
        "task_name": "Put the cup on the plate",
        "init_scene_text": "A cup and a plate.",
        "label_info": {"action_config": parts},
    }
    save_json(root / "task_info" / "task_327.json", [row])
    videos = root / "observations" / "327" / "648642" / "videos"
    for i, name in enumerate(("head_color", "hand_left_color")):
        save_mp4(videos / f"{name}.mp4", frames(i, STEPS), 30)
    stats = root / "proprio_stats" / "327" / "648642" / "proprio_stats.h5"
    stats.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    ends = np.zeros((STEPS, 2, 3))
    ends[:, 0] = np.stack([np.full(STEPS, 2.0), np.linspace(0.4, -0.4, STEPS), np.full(STEPS, 1.0)], axis=1)
    ends[:, 1] = (2.0, -0.5, 0.8)
    with h5py.File(stats, "w") as file:
        for kind in ("state", "action"):
            file[f"{kind}/joint/position"] = rng.normal(size=(STEPS, 14))
            file[f"{kind}/effector/position"] = rng.normal(size=(STEPS, 2))
            file[f"{kind}/end/position"] = ends
        file["timestamp"] = np.arange(STEPS) * 33_333_333
    matrix, poses = head_camera(STEPS)
    camera = root / "parameters" / "327" / "648642" / "parameters" / "camera"
    save_json(camera / "head_intrinsic_params.json", {"intrinsic": matrix})
    written = np.linalg.inv(poses) if inverted else poses
    save_json(
        camera / "head_extrinsic_params_aligned.json",
        [
            {"extrinsic": {"rotation_matrix": p[:3, :3].tolist(), "translation_vector": p[:3, 3].tolist()}}
            for p in written
        ],
    )
    return root


MOLMO_QUESTION = (
    f"The task is {SENTENCE}. What is the action that the robot should take. To figure out the action that the robot "
    "should take, let's think through it step by step."
)


def molmoact(root: Path) -> Path:
    grid = [[int(x * 4), int(y * 256 / 48)] for x, y in (place(step, 0) for step in range(0, 20, 4))]
    answer = (
        "The depth map of the image is <DEPTH_START><DEPTH_7><DEPTH_END>. "
        f"The trajectory of the end effector is {grid}. The action is <a><b>."
    )
    image = {"bytes": encode_png(frames(0)[0]), "path": "0.png"}
    talk = {"from": ["human", "gpt"], "value": [MOLMO_QUESTION, answer]}
    without = {"from": ["human", "gpt"], "value": [MOLMO_QUESTION, "<DEPTH_START><DEPTH_1><DEPTH_END>"]}
    rows = [
        {"primary": image, "wrist": image, "conversations": talk, "annotation": None},
        {"primary": image, "wrist": image, "conversations": talk, "annotation": str(grid[:2])},
        {"primary": image, "wrist": image, "conversations": without, "annotation": None},
    ]
    path = root / "molmoact_home_primary" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return root


def lerobot(root: Path) -> Path:
    write_lerobot([episode(seed, steps=18) for seed in range(2)], root)
    return root


ROBOT_LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "lerobot": lerobot,
    "open-x": bridge,
    "droid": droid,
    "robomind": robomind,
    "agibot-world": agibot,
    "molmoact": molmoact,
}
"""Source to the function that writes its layout into a folder."""
