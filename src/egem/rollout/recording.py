"""Episodes kept as demonstrations: a part file each while the rollout runs, a LeRobot dataset with depth at its end."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from egem.core.errors import ConfigError, RecordError
from egem.core.files import write_atomically
from egem.data_engine.episodes.frames import EncodedDepth, EncodedFrames
from egem.data_engine.episodes.lerobot import LeRobotDataset
from egem.data_engine.episodes.lerobot_writer import LeRobotOptions, write_lerobot
from egem.environments.environment import Environment, EnvironmentInfo
from egem.episodes import CameraStream, Episode, Subtask, track_of
from egem.media import encode_depth, encode_png
from egem.policy import Observation

DEPTH_UNIT_M: Final = 0.001
NOTES_FILE: Final = Path("meta") / "rollout.json"
"""In a recorded dataset: environment, and task and seed of each episode, for replaying it."""


class Recorder:
    """Collects what was seen before each action and the action."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._states: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._images: dict[str, list[bytes]] = {}
        self._depths: dict[str, list[bytes]] = {}
        self._poses: dict[str, list[np.ndarray]] = {}
        self._intrinsics: dict[str, np.ndarray] = {}
        self._seen: Observation | None = None

    def look(self) -> None:
        """Draw what the cameras see before the next action."""
        self._seen = self._environment.observe()

    def add(self, action: Float[np.ndarray, "action"]) -> None:
        """Keep what was seen last together with an action."""
        seen = self._seen
        assert seen is not None
        self._states.append(np.asarray(seen.state, np.float32))
        self._actions.append(np.asarray(action, np.float32))
        for name, image in seen.images.items():
            self._images.setdefault(name, []).append(encode_png(image))
        for name, depth in seen.depths.items():
            self._depths.setdefault(name, []).append(encode_depth(depth, DEPTH_UNIT_M))
        for name, camera in self._environment.calibrations().items():
            self._poses.setdefault(name, []).append(camera.camera_from_base)
            self._intrinsics[name] = camera.intrinsics

    def write(self, path: str | Path) -> None:
        """Write the part file, which appears whole or not at all."""
        arrays: dict[str, np.ndarray] = {
            "states": np.stack(self._states),
            "actions": np.stack(self._actions),
        }
        for kind, files in (("image", self._images), ("depth", self._depths)):
            for name, contents in files.items():
                arrays[f"{kind}.{name}"] = np.frombuffer(b"".join(contents), np.uint8)
                arrays[f"{kind}_ends.{name}"] = np.cumsum([len(content) for content in contents])
        for name, poses in self._poses.items():
            arrays[f"pose.{name}"], arrays[f"intrinsics.{name}"] = np.stack(poses), self._intrinsics[name]
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)


def write_dataset(
    parts: Sequence[tuple[Path, dict[str, Any]]], info: EnvironmentInfo, out: Path, settings: dict[str, Any]
) -> int:
    """Write recorded episodes as a LeRobot dataset with depth and calibration, and what a replay needs.

    Args:
        parts: part file and journal entry of each, in the order wanted.
        info: of the environment.
        out: folder; must not exist or be empty.
        settings: JSON values that a replay needs to open the same environment.

    Returns:
        How many episodes.

    Raises:
        ConfigError: `out` exists.
        RecordError: no episode succeeded.
    """
    if not parts:
        raise RecordError("no episode succeeded, so there is nothing to record; look at episodes.jsonl.")
    options = LeRobotOptions(robot=info.name, licence="apache-2.0")
    count = write_lerobot(_episodes(parts, info), out, options)
    notes = {
        "environment": info.name,
        **settings,
        "episodes": [{"task": entry["task"], "seed": entry["seed"]} for _, entry in parts],
    }
    write_atomically(Path(out) / NOTES_FILE, (json.dumps(notes, indent=1) + "\n").encode())
    return count


def read_notes(
    dataset: Path, info: EnvironmentInfo
) -> list[tuple[str, int, Float[np.ndarray, "step action"]]]:
    """Task, seed and actions of each episode of a recorded dataset.

    Raises:
        ConfigError: it was not recorded by a rollout, or in another environment or action space.
    """
    opened = LeRobotDataset(dataset)
    path = Path(dataset) / NOTES_FILE
    if not path.is_file():
        raise ConfigError(
            f"{dataset} has no {NOTES_FILE}, which says in which scene each episode was recorded; only datasets that "
            "`egem rollout --record` wrote can be replayed."
        )
    notes = json.loads(path.read_text())
    if notes["environment"] != info.name:
        raise ConfigError(
            f"{dataset} was recorded in '{notes['environment']}', not in '{info.name}'; "
            f"give --env {notes['environment']}."
        )
    if opened.action_space is not None:
        differences = opened.action_space.differences(info.action_space)
        if differences:
            raise ConfigError(
                f"the actions of {dataset} do not fit '{info.name}': {'; '.join(differences)} (here: the dataset, "
                "there: the environment)."
            )
    if len(notes["episodes"]) != len(opened):
        raise ConfigError(
            f"{path} tells of {len(notes['episodes'])} episodes, the dataset has {len(opened)}."
        )
    found = []
    for number, place in enumerate(notes["episodes"]):
        actions = opened.episode(number).actions
        if actions is None:
            raise ConfigError(f"{opened.where(number)} has no actions to replay.")
        found.append((place["task"], place["seed"], np.asarray(actions, np.float32)))
    return found


def _episodes(parts: Sequence[tuple[Path, dict[str, Any]]], info: EnvironmentInfo) -> Iterator[Episode]:
    for path, entry in parts:
        where = str(path)
        with np.load(path, allow_pickle=False) as arrays:
            values = {key: arrays[key] for key in arrays.files}
        steps = len(values["actions"])
        effector = values["states"][:, list(info.effector_dims)] if info.effector_dims else None
        cameras = {}
        for name in info.cameras:
            depth = None
            if f"depth.{name}" in values:
                depth = EncodedDepth(
                    num=steps, fetch=_files(values, "depth", name), unit_m=DEPTH_UNIT_M, where=where
                )
            stream = CameraStream(
                frames=EncodedFrames(num=steps, fetch=_files(values, "image", name), where=where),
                depth=depth,
                intrinsics=values.get(f"intrinsics.{name}"),
                camera_from_base=values.get(f"pose.{name}"),
            )
            if effector is not None:
                height, width, _ = stream.frames.read([0])[0].shape
                stream = replace(stream, track=track_of(stream, effector, (width, height)))
            cameras[name] = stream
        yield Episode(
            id=entry["id"],
            source=info.name,
            instruction=entry["instruction"],
            fps=info.control_hz,
            states=values["states"],
            actions=values["actions"],
            action_space=info.action_space,
            state_names=info.state_names,
            action_names=info.action_space.names,
            effector=None if effector is None else effector[:, None],
            cameras=cameras,
            subtasks=tuple(Subtask(text=t, start=a, end=b) for t, a, b in entry["subtasks"]),
            success=True,
            meta={"robot": info.name},
        )


def _files(values: dict[str, np.ndarray], kind: str, name: str) -> Callable[[int], bytes]:
    content, ends = values[f"{kind}.{name}"], values[f"{kind}_ends.{name}"]
    starts = np.concatenate([[0], ends[:-1]])
    return lambda i: content[starts[i] : ends[i]].tobytes()
