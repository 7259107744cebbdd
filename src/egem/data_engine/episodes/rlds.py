"""RLDS: episodes as TensorFlow Datasets writes them (BridgeData, DROID, Open X-Embodiment), without TensorFlow.

A record is a tf.train.Example, flattened: `steps/<feature>` holds the values of all steps one after the other,
`episode_metadata/<feature>` those of the episode. What a set calls its cameras, states and actions is in `LAYOUTS`;
of a set that is not in it, images, `state` and `action` are read, and nothing is declared about the actions.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from egem.core.errors import RecordError
from egem.data_engine.episodes.frames import EncodedFrames, is_blank
from egem.data_engine.episodes.pending import PendingEpisode
from egem.data_engine.formats.json_rows import read_json_object
from egem.data_engine.formats.tfrecord import Feature, StoredRecord, find_tfrecords, parse_example
from egem.data_engine.sources.layout import find_files, folder_of
from egem.data_engine.sources.splits import Split, split_of
from egem.episodes import ActionSpace, CameraStream, Episode, check

PATTERNS = ("*.tfrecord*", "**/*.tfrecord*")

_OBSERVATION, _METADATA = "steps/observation/", "episode_metadata/"
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG")
_FILE = re.compile(r"(.+?)-(?:train|val|test|\w+)\.tfrecord.*")


@dataclass(frozen=True, kw_only=True, slots=True)
class RLDSLayout:
    """Where one set keeps what; features are named below `steps/`."""

    cameras: tuple[str, ...] = ()
    """Below `observation/`, the best view first; others follow. All images, in order of their names, if empty."""
    states: tuple[str, ...] = ("observation/state",)
    """Joined in this order."""
    actions: tuple[str, ...] = ("action",)
    space: ActionSpace | None = None
    instructions: tuple[str, ...] = ("language_instruction", "observation/natural_language_instruction")
    effector: str | None = None
    """A feature that begins with the end effector's position, in metres."""
    fps: float | None = None
    """Steps a second."""
    licence: str = "not stated in the files"
    succeeded: str | None = None
    """Regular expression that the metadata's file path matches if the episode succeeded."""


def _gripper_last(control: Any, rotation: Any, dim: int, opened: float | None, closed: float | None) -> Any:
    return ActionSpace(
        control=control,
        dim=dim,
        rotation=rotation,
        gripper_dims=(dim - 1,),
        gripper_open=opened,
        gripper_closed=closed,
    )


_BRIDGE = RLDSLayout(
    cameras=("image_0", "image_1", "image_2", "image_3"),
    space=_gripper_last("end_effector_delta", "euler_xyz", 7, 1.0, 0.0),
    effector="observation/state",
    fps=5.0,
    licence="CC BY 4.0",
)
_DROID = RLDSLayout(
    cameras=("exterior_image_1_left", "exterior_image_2_left", "wrist_image_left"),
    states=("observation/joint_position", "observation/gripper_position"),
    actions=("action_dict/joint_position", "action_dict/gripper_position"),
    space=_gripper_last("joint_position", None, 8, 0.0, 1.0),
    instructions=("language_instruction", "language_instruction_2", "language_instruction_3"),
    effector="observation/cartesian_position",
    fps=15.0,
    licence="CC BY 4.0",
    succeeded=r".*success.*",
)
LAYOUTS: Mapping[str, RLDSLayout] = {
    "bridge_dataset": _BRIDGE,
    "bridge_orig": _BRIDGE,
    "bridge": RLDSLayout(
        cameras=("image",),
        actions=("action/world_vector", "action/rotation_delta", "action/open_gripper"),
        space=_gripper_last("end_effector_delta", "euler_xyz", 7, 1.0, 0.0),
        effector="observation/state",
        fps=5.0,
        licence="CC BY 4.0",
    ),
    "droid": _DROID,
    "droid_100": _DROID,
    "fractal20220817_data": RLDSLayout(
        cameras=("image",),
        states=("observation/base_pose_tool_reached", "observation/gripper_closed"),
        actions=("action/world_vector", "action/rotation_delta", "action/gripper_closedness_action"),
        # The gripper's number is a change, not a position, so neither end is declared.
        space=_gripper_last("end_effector_delta", "euler_xyz", 7, None, None),
        effector="observation/base_pose_tool_reached",
        fps=3.0,
        licence="Apache-2.0",
    ),
    "taco_play": RLDSLayout(
        cameras=("rgb_static", "rgb_gripper"),
        states=("observation/robot_obs",),
        actions=("action/actions",),
        effector="observation/robot_obs",
        fps=15.0,
        licence="CC BY 4.0",
    ),
}
"""Name of the set (as dataset_info.json or its files say) to what is known of it."""


def read_rlds(
    path: Path, *, source: str, set_name: str = "", split: Split = "train"
) -> Iterator[PendingEpisode]:
    """The episodes of a folder of TFRecord files, in order.

    Args:
        path: a file, or a folder that holds some at any depth.
        source: name that records and messages carry.
        set_name: key of `LAYOUTS`; what the files say if empty.
        split: which of the set's own splits, as its files' names say it.

    Raises:
        ConfigError: no such file, or none of the split.
    """
    for file in find_files(path, PATTERNS, source=source, split=split):
        of_file = split_of(file, folder_of(path))
        name = set_name or name_of(file)
        index = -1
        try:
            for index, stored in enumerate(find_tfrecords(file)):
                where = f"{file}, episode {index + 1}"
                yield PendingEpisode(
                    where=where,
                    load=partial(_read, stored, name, f"{name}/{file.name}/{index:05d}", where, of_file),
                    num_bytes=stored.size,
                )
        except RecordError as error:
            yield PendingEpisode(where=f"{file}, after episode {index + 1}", load=partial(_fail, error))


def _read(stored: StoredRecord, name: str, id: str, where: str, split: str) -> Episode:
    return parse_episode(stored.read(), name, id, where, split)


def parse_episode(data: bytes, name: str, id: str, where: str, split: str = "") -> Episode:
    """One record as an episode.

    Args:
        data: a serialised tf.train.Example.
        name: of the set, see `LAYOUTS`.
        id: of the episode.
        where: for messages.
        split: see `split_of`.

    Raises:
        RecordError: not an RLDS episode, a feature is missing, or parts do not fit each other.
    """
    features = parse_example(data, where=where)
    flags = features.get("steps/is_first")
    if flags is None or len(flags) == 0:
        known = ", ".join(sorted(features)[:6]) or "nothing"
        raise RecordError(f"{where}: no 'steps/is_first': not an RLDS episode; it has {known}.")
    steps, layout = len(flags), LAYOUTS.get(name, RLDSLayout())
    known_set = name in LAYOUTS
    texts = [t for key in layout.instructions if (t := _text(features.get(f"steps/{key}")))]
    cameras, blank = _cameras(features, layout, steps, where)
    effector = _numbers(features, layout.effector, steps, where) if layout.effector else None
    path = _text(features.get(f"{_METADATA}file_path"))
    recorded = re.search(layout.succeeded, path) is not None if layout.succeeded and path else None
    return check(
        Episode(
            id=id,
            source=name,
            instruction=texts[0] if texts else "",
            paraphrases=tuple(dict.fromkeys(t for t in texts[1:] if t != texts[0])),
            fps=layout.fps,
            timestamps=None if layout.fps is None else np.arange(steps) / layout.fps,
            states=_joined(features, layout.states, steps, where, required=known_set),
            actions=_joined(features, layout.actions, steps, where, required=known_set),
            action_space=layout.space,
            effector=None if effector is None else effector[:, None, :3],
            cameras=cameras,
            success=recorded,
            meta={
                "licence": layout.licence,
                "set": name,
                "split": split or None,
                "file_path": path or None,
                "blank_cameras": blank or None,
            },
        )
    )


def name_of(file: Path) -> str:
    """A set's name from dataset_info.json beside the file, else from the file's own name."""
    info = file.parent / "dataset_info.json"
    if info.is_file():
        name = read_json_object(info).get("name")
        if isinstance(name, str) and name:
            return name
    found = _FILE.fullmatch(file.name)
    return found.group(1) if found else file.parent.name


def _cameras(
    features: Mapping[str, Feature], layout: RLDSLayout, steps: int, where: str
) -> tuple[dict[str, CameraStream], list[str]]:
    """Cameras that saw something, and the names of those whose pictures are one plain colour (placeholders)."""
    found = sorted(
        key[len(_OBSERVATION) :]
        for key, value in features.items()
        if key.startswith(_OBSERVATION)
        and isinstance(value, list)
        and value
        and value[0][:4].startswith(_MAGIC)
    )
    # Depth pictures are 8 bits here or of an unknown unit: they are not colour.
    found = [name for name in found if "depth" not in name]
    order = [name for name in layout.cameras if name in found] + [n for n in found if n not in layout.cameras]
    if not order:
        raise RecordError(
            f"{where}: no camera: no feature below {_OBSERVATION} holds JPEG or PNG files; it has "
            f"{', '.join(k for k in sorted(features) if k.startswith(_OBSERVATION)) or 'none'}."
        )
    cameras, blank = {}, []
    for name in order:
        values = features[_OBSERVATION + name]
        assert isinstance(values, list)
        if len(values) != steps:
            raise RecordError(f"{where}: camera '{name}' has {len(values)} frames for {steps} steps.")
        frames = EncodedFrames(num=steps, fetch=values.__getitem__, where=f"{where}, {name}")
        if values[0] == values[-1] and is_blank(frames, steps):
            blank.append(name)
        else:
            cameras[name] = CameraStream(frames=frames)
    return cameras, blank


def _joined(
    features: Mapping[str, Feature], names: tuple[str, ...], steps: int, where: str, *, required: bool
) -> Float[np.ndarray, "step dim"] | None:
    if not required and not all(f"steps/{name}" in features for name in names):
        return None
    return np.concatenate([_numbers(features, name, steps, where) for name in names], axis=1)


def _numbers(
    features: Mapping[str, Feature], name: str, steps: int, where: str
) -> Float[np.ndarray, "step dim"]:
    values = features.get(f"steps/{name}")
    if values is None or isinstance(values, list):
        known = ", ".join(k for k, v in sorted(features.items()) if not isinstance(v, list)) or "none"
        raise RecordError(f"{where}: no numbers 'steps/{name}'; there are {known}.")
    if len(values) == 0 or len(values) % steps:
        raise RecordError(f"{where}: {len(values)} values of 'steps/{name}' for {steps} steps.")
    return values.reshape(steps, -1).astype(np.float32)


def _text(value: Feature | None) -> str:
    """The first value of a feature of texts."""
    return value[0].decode("utf-8", errors="replace").strip() if isinstance(value, list) and value else ""


def _fail(error: RecordError) -> Episode:
    raise error
