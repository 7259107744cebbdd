"""AgiBot World (Alpha, Beta): two-armed robots, with sub-tasks.

    task_info/task_327.json  [{"task_id", "episode_id", "task_name", "init_scene_text",
                               "label_info": {"action_config": [{"start_frame", "end_frame", "action_text", "skill"}]}}]
    observations/<task>/<episode>/videos/{head_color,hand_left_color,hand_right_color,...}.mp4, 30 frames a second
    proprio_stats/<task>/<episode>/proprio_stats.h5
        state/joint/position (T, 14), state/effector/position (T, 2), state/end/position (T, 2, 3), action/... alike
    parameters/<task>/<episode>/[parameters/]camera/head_intrinsic_params.json {"intrinsic": {"fx", "fy", "ppx", "ppy"}}
        and head_extrinsic_params_aligned.json [{"extrinsic": {"rotation_matrix", "translation_vector"}}], one a frame

End frames are taken as exclusive. Which way the extrinsics point is not published: of the two readings, the one that
puts both end effectors before the camera and inside the picture more often is used, if it does so in most steps; else
the camera counts as uncalibrated. `meta.extrinsics` says which.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from egem.core.errors import RecordError
from egem.data_engine.episodes.frames import VideoFrames
from egem.data_engine.episodes.hdf5 import need_h5py, open_hdf5, read_array
from egem.data_engine.episodes.pending import PendingEpisode
from egem.data_engine.formats.json_rows import read_json_object, read_json_rows
from egem.data_engine.sources import fields
from egem.data_engine.sources.layout import find_files, folder_of
from egem.episodes import ActionSpace, CameraStream, Episode, Subtask, check

NAME = "agibot-world"
LICENCE = "CC BY-NC-SA 4.0"
PATTERNS = ("task_info/task_*.json",)
FPS = 30.0

_FIRST = ("head_color", "hand_right_color", "hand_left_color")
_INSIDE = 0.5
"""Share of steps in which the end effectors must be in the picture for extrinsics to be believed."""


def read_agibot(path: Path) -> Iterator[PendingEpisode]:
    """The episodes that the task files name, in their order.

    Raises:
        ConfigError: no task_info/, or h5py is not installed.
    """
    files = find_files(path, PATTERNS, source=NAME)
    need_h5py(NAME)
    root = folder_of(path) if path.is_dir() else path.parent.parent
    for file in files:
        index = -1
        try:
            for index, row in enumerate(read_json_rows(file)):
                where = f"{file}, row {index + 1}"
                yield PendingEpisode(where=where, load=partial(_episode, row, root, where))
        except RecordError as error:
            yield PendingEpisode(where=f"{file}, after row {index + 1}", load=partial(_fail, error))


def _episode(row: Any, root: Path, where: str) -> Episode:
    if isinstance(row, RecordError):
        raise row
    row = fields.mapping(row, where)
    task, number = (int(fields.number(row, key, where)) for key in ("task_id", "episode_id"))
    inside = Path(str(task)) / str(number)
    file = root / "proprio_stats" / inside / "proprio_stats.h5"
    if not file.is_file():
        raise RecordError(f"{where}: {file} does not exist; unpack proprio_stats of task {task}.")
    with open_hdf5(file) as opened:
        states = _joints(opened, "state", str(file))
        assert states is not None
        actions = _joints(opened, "action", str(file))
        effector = read_array(opened, "state/end/position", str(file)).astype(np.float32)
    steps = len(states)
    cameras, extrinsics = _cameras(root, inside, effector, steps, where)
    return check(
        Episode(
            id=f"{task}/{number}",
            source=NAME,
            instruction=fields.text(row, "task_name", where).strip(),
            fps=FPS,
            timestamps=np.arange(steps) / FPS,
            states=states,
            actions=actions,
            action_space=ActionSpace(control="joint_position", dim=16, gripper_dims=(14, 15)),
            effector=effector,
            arms=("left", "right"),
            cameras=cameras,
            subtasks=_subtasks(row, where),
            meta={
                "licence": LICENCE,
                "scene": row.get("init_scene_text"),
                "robot": "AgiBot G1",
                "extrinsics": extrinsics,
            },
        )
    )


def _joints(file: Any, kind: str, where: str) -> Float[np.ndarray, "step 16"] | None:
    """Joints, then the two grippers; None for actions that a release leaves empty."""
    names = (f"{kind}/joint/position", f"{kind}/effector/position")
    if kind == "action" and any(name not in file or file[name].shape[0] == 0 for name in names):
        return None
    joints, grippers = (read_array(file, name, where) for name in names)
    if kind == "action" and len(joints) != len(grippers):
        return None
    return np.concatenate([joints, grippers.reshape(len(joints), -1)], axis=1).astype(np.float32)


def _subtasks(row: dict[str, Any], where: str) -> tuple[Subtask, ...]:
    info = row.get("label_info")
    parts = info.get("action_config") if isinstance(info, dict) else None
    if not isinstance(parts, list):
        raise fields.unknown_schema(row, "'label_info' with a list 'action_config'", where)
    found = []
    for part in parts:
        part = fields.mapping(part, where)
        start, end = (int(fields.number(part, key, where)) for key in ("start_frame", "end_frame"))
        skill = part.get("skill")
        text = fields.text(part, "action_text", where).strip().rstrip(".")
        found.append(
            Subtask(text=text, start=start, end=end, skill=skill if isinstance(skill, str) else None)
        )
    return tuple(sorted(found, key=lambda subtask: subtask.start))


def _cameras(
    root: Path, inside: Path, effector: Float[np.ndarray, "step 2 3"], steps: int, where: str
) -> tuple[dict[str, CameraStream], str | None]:
    folder = root / "observations" / inside / "videos"
    files = {file.stem: file for file in folder.glob("*_color.mp4")}
    if not files:
        raise RecordError(
            f"{where}: no *_color.mp4 in {folder}; unpack the observations of task {inside.parent}."
        )
    names = [n for n in _FIRST if n in files] + sorted(n for n in files if n not in _FIRST)
    poses, matrix, reading = None, None, None
    if names[0] == "head_color":
        matrix, poses, reading = _calibration(root / "parameters" / inside, effector, steps)
    cameras = {}
    for name in names:
        known = name == "head_color"
        cameras[name] = CameraStream(
            frames=VideoFrames(path=files[name], num=steps, fps=FPS),
            intrinsics=matrix if known else None,
            camera_from_base=poses if known else None,
        )
    return cameras, reading


def _calibration(
    folder: Path, effector: Float[np.ndarray, "step 2 3"], steps: int
) -> tuple[np.ndarray | None, np.ndarray | None, str | None]:
    """Intrinsics and base-to-camera poses of the head camera, and how the extrinsics were read."""
    found = [folder / "parameters" / "camera", folder / "camera"]
    place = next((p for p in found if (p / "head_intrinsic_params.json").is_file()), None)
    if place is None or not (place / "head_extrinsic_params_aligned.json").is_file():
        return None, None, None
    where = str(place)
    given = fields.mapping(read_json_object(place / "head_intrinsic_params.json").get("intrinsic"), where)
    fx, fy, cx, cy = (fields.number(given, key, where) for key in ("fx", "fy", "ppx", "ppy"))
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    poses = np.tile(np.eye(4), (steps, 1, 1))
    rows = list(read_json_rows(place / "head_extrinsic_params_aligned.json"))
    if len(rows) < steps:
        raise RecordError(f"{where}: {len(rows)} extrinsics for {steps} steps; there must be one a step.")
    for step, row in enumerate(rows[:steps]):
        pose = fields.mapping(fields.mapping(row, where).get("extrinsic"), where)
        poses[step, :3, :3] = np.asarray(pose.get("rotation_matrix"), float).reshape(3, 3)
        poses[step, :3, 3] = np.asarray(pose.get("translation_vector"), float).reshape(3)
    readings = {"camera from base": poses, "base from camera": np.linalg.inv(poses)}
    seen = {name: _share_inside(matrix, value, effector) for name, value in readings.items()}
    best = max(seen, key=lambda name: seen[name])
    if seen[best] < _INSIDE or len(set(seen.values())) == 1:
        return matrix, None, "undecided: neither reading shows the end effectors in most steps"
    return matrix, readings[best], best


def _share_inside(
    matrix: np.ndarray, poses: Float[np.ndarray, "step 4 4"], points: Float[np.ndarray, "step 2 3"]
) -> float:
    """Share of steps in which both points are before the camera and inside a picture centred on its axis."""
    local = np.einsum("sij,saj->sai", poses[:, :3, :3], points) + poses[:, None, :3, 3]
    depth = np.maximum(local[..., 2:], 1e-6)
    pixels = (local @ matrix.T)[..., :2] / depth
    size = 2 * matrix[:2, 2]
    inside = (local[..., 2] > 0.05) & ((pixels >= 0) & (pixels < size)).all(axis=-1)
    return float(inside.all(axis=1).mean())


def _fail(error: RecordError) -> Episode:
    raise error
