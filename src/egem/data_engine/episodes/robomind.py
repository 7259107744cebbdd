"""RoboMIND (x-humanoid-robomind): one HDF5 file an episode.

    <embodiment>/<task>/<success_episodes | failure_episodes>/<split>/<id>/data/trajectory.hdf5
        puppet/joint_position (T, 7|8|16)   what the robot did; joints, then the gripper
        puppet/end_effector (T, 6)          x, y, z, roll, pitch, yaw; for AgileX 7: x, y, z and a quaternion
        master/joint_position               what it was told: the actions
        observations/rgb_images/<camera> (T,)   encoded pictures; depth_images likewise, 16-bit PNG
Robots with two arms have `_left` and `_right` behind the names. The instruction is the file's `language_raw`, the
task's line in RoboMIND*_instr.csv beside the data, or else the task's name. The rate of the cameras is not published.
"""

import csv
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from egem.core.errors import RecordError
from egem.data_engine.episodes.frames import EncodedDepth, EncodedFrames
from egem.data_engine.episodes.hdf5 import HDF5Bytes, need_h5py, open_hdf5, read_array
from egem.data_engine.episodes.pending import PendingEpisode
from egem.data_engine.sources.layout import find_files, folder_of
from egem.data_engine.sources.splits import Split, split_of
from egem.episodes import ActionSpace, CameraStream, Episode, check
from egem.media import decode_depth
from egem.records import DepthFile

NAME = "robomind"
LICENCE = "not stated in the files"
PATTERNS = ("**/trajectory.hdf5", "trajectory.hdf5")
CAMERAS = ("camera_top", "camera_front", "camera_left", "camera_right")
"""Of those a file has, the first one sees most; wrist cameras come last."""

_MILLIMETRES_FROM = 100
"""The set's own rule: depth whose largest count is above this is in millimetres, else in metres."""


def read_robomind(path: Path, *, split: Split = "train") -> Iterator[PendingEpisode]:
    """The episodes of a folder, in the order of their paths.

    Args:
        path: a file, or a folder that holds some at any depth.
        split: which of the set's own splits, as its folders say it.

    Raises:
        ConfigError: no trajectory.hdf5, none of the split, or h5py is not installed.
    """
    files = find_files(path, PATTERNS, source=NAME, split=split)
    need_h5py(NAME)
    root = folder_of(path)
    sentences = _sentences(root)
    for file in files:
        yield PendingEpisode(where=str(file), load=partial(_episode, file, root, sentences))


def _episode(file: Path, root: Path, sentences: Mapping[str, str]) -> Episode:
    where = str(file)
    outcome = next((p for p in file.parts if p in ("success_episodes", "failure_episodes")), None)
    parts = file.parts
    task = parts[parts.index(outcome) - 1] if outcome else file.parent.name
    robot = parts[parts.index(outcome) - 2] if outcome and parts.index(outcome) > 1 else None
    with open_hdf5(file) as opened:
        arms = [""] if "puppet/joint_position" in opened else ["_left", "_right"]
        states = np.concatenate(
            [read_array(opened, f"puppet/joint_position{a}", where) for a in arms], axis=1
        )
        commanded = [f"master/joint_position{arm}" for arm in arms]
        actions = (
            np.concatenate([read_array(opened, key, where) for key in commanded], axis=1)
            if all(key in opened for key in commanded)
            else None
        )
        effector = [read_array(opened, f"puppet/end_effector{a}", where)[:, :3] for a in arms]
        if "observations/rgb_images" not in opened:
            raise RecordError(f"{where}: no group observations/rgb_images; it has {', '.join(opened)}.")
        names = sorted(opened["observations/rgb_images"], key=_rank)
        lengths = {name: len(opened[f"observations/rgb_images/{name}"]) for name in names}
        depths = [name for name in names if f"observations/depth_images/{name}" in opened]
        sentence = _language(opened)
    said = sentence or sentences.get(task)
    per_arm = states.shape[1] // len(arms)
    # Simulated episodes hold several robot states for each frame: the one at the frame's time is kept.
    frames = min(lengths.values())
    every = len(states) // frames if frames and len(states) % frames == 0 else 1
    space = ActionSpace(
        control="joint_position",
        dim=states.shape[1] if actions is None else actions.shape[1],
        gripper_dims=tuple(per_arm * (i + 1) - 1 for i in range(len(arms))),
    )
    return check(
        Episode(
            id=file.relative_to(root).parent.as_posix() if file.is_relative_to(root) else file.parent.name,
            source=NAME,
            instruction=said or task.replace("_", " ").strip(),
            states=states[::every].astype(np.float32),
            actions=None if actions is None else actions[::every].astype(np.float32),
            action_space=space,
            effector=np.stack(effector, axis=1)[::every].astype(np.float32),
            arms=() if len(arms) == 1 else ("left", "right"),
            cameras={
                name: CameraStream(
                    frames=EncodedFrames(
                        num=lengths[name],
                        fetch=HDF5Bytes(file, f"observations/rgb_images/{name}"),
                        where=f"{where}, {name}",
                    ),
                    depth=_depth(file, name, lengths[name]) if name in depths else None,
                )
                for name in names
            },
            success=None if outcome is None else outcome == "success_episodes",
            meta={
                "licence": LICENCE,
                "robot": robot,
                "task": task,
                "split": split_of(file, root) or None,
                "instruction_from": "file or table" if said else "the task's name",
            },
        )
    )


def _rank(name: str) -> tuple[bool, int, str]:
    return ("wrist" in name, CAMERAS.index(name) if name in CAMERAS else len(CAMERAS), name)


def _depth(file: Path, name: str, num: int) -> EncodedDepth:
    fetch, where = HDF5Bytes(file, f"observations/depth_images/{name}"), f"{file}, {name}"
    counts = decode_depth(DepthFile(data=fetch(0), unit_m=1.0), where=where)
    unit = 0.001 if float(counts.max(initial=0.0)) > _MILLIMETRES_FROM else 1.0
    return EncodedDepth(num=num, fetch=fetch, unit_m=unit, where=where)


def _language(file: Any) -> str:
    if "language_raw" not in file:
        return ""
    value = np.asarray(file["language_raw"][()]).reshape(-1)[0]
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip()


def _sentences(root: Path) -> dict[str, str]:
    """Task to instruction from the table of instructions, where it stands beside the data."""
    found: dict[str, str] = {}
    for table in sorted(root.glob("RoboMIND*instr*.csv")):
        with table.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.reader(file):
                cells = [cell.strip() for cell in row if cell.strip()]
                if len(cells) >= 2:
                    found.setdefault(cells[0], cells[-1])
    return found
