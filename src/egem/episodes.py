"""What a robot did: frames of some cameras, states, actions and what was to be done, step by step.

Readers (`egem.data_engine.episodes`) make episodes from files; sources turn them into planning records and training
cuts windows of actions from them. Frames are decoded when they are asked for. Nothing here needs torch.

Positions are metres, angles radians, in the robot's base frame unless a name says otherwise. Camera frame: x right,
y down, z forward.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from egem.core.errors import RecordError

Control = Literal["joint_position", "joint_velocity", "end_effector_delta", "end_effector_absolute"]
Rotation = Literal["euler_xyz", "axis_angle", "quaternion_xyzw", "quaternion_wxyz", "rotation_6d"]
"""How a turn is written; euler_xyz: about the fixed axes x, then y, then z (roll, pitch, yaw)."""


@runtime_checkable
class Frames(Protocol):
    """Frames of one camera, one a step, decoded when they are read."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def read(self, indices: Sequence[int]) -> list[UInt8[np.ndarray, "height width 3"]]:
        """RGB frames in the order asked for.

        Raises:
            RecordError: one cannot be decoded.
        """
        ...

    def encoded(self, index: int) -> bytes | None:
        """The bytes of a frame as a JPEG or PNG file, where it is stored as one; else None."""
        ...


@runtime_checkable
class DepthFrames(Protocol):
    """Depth maps of one camera, one a step."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def read(self, indices: Sequence[int]) -> list[Float[np.ndarray, "height width"]]:
        """Metres, float32, 0 = no reading.

        Raises:
            RecordError: one cannot be decoded.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionSpace:
    """What the numbers of an action (or state) mean; declared by whoever knows, never guessed from data."""

    control: Control
    dim: int
    rotation: Rotation | None = None
    """Of end-effector control; None for joints."""
    gripper_dims: tuple[int, ...] = ()
    """Which dimensions are grippers."""
    gripper_open: float | None = None
    """The value that means fully open; None where it is not known or differs between robots."""
    gripper_closed: float | None = None
    names: tuple[str, ...] = ()
    """One for each dimension, or none at all."""

    def differences(self, other: "ActionSpace") -> tuple[str, ...]:
        """What keeps actions of one space from being used in the other, in words; empty where nothing does.

        Args:
            other: what this one is compared with. Values that one of the two does not know count as equal; names are
                for readers and are not compared.
        """
        compared = ("control", "dim", "rotation", "gripper_dims")
        found = [
            f"{name} is {getattr(self, name)} here, {getattr(other, name)} there"
            for name in compared
            if getattr(self, name) != getattr(other, name)
        ]
        for name in ("gripper_open", "gripper_closed"):
            here, there = getattr(self, name), getattr(other, name)
            if here is not None and there is not None and here != there:
                found.append(f"{name} is {here:g} here, {there:g} there")
        return tuple(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Subtask:
    """One annotated part of an episode: steps `start` to `end - 1`."""

    text: str
    """"pick up the cup"."""
    start: int
    end: int
    skill: str | None = None
    """The source's name of the kind of motion."""
    success: bool | None = None
    """None where the source does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraStream:
    """What one camera saw."""

    frames: Frames
    depth: DepthFrames | None = None
    intrinsics: Float[np.ndarray, "3 3"] | None = None
    """Pixels of the stored frame."""
    camera_from_base: Float[np.ndarray, "step 4 4"] | None = None
    """Takes base to camera coordinates, one a step (a fixed camera repeats it)."""
    track: Float[np.ndarray, "step 2"] | None = None
    """Where the end effector is in the image, x and y as fractions 0 to 1; NaN where it is not seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """One recorded attempt."""

    id: str
    """Unique in its source."""
    source: str
    instruction: str
    """What was to be done; empty where the source does not say."""
    paraphrases: tuple[str, ...] = ()
    """Other wordings of the instruction."""
    fps: float | None = None
    """Steps a second; None where the source does not say."""
    timestamps: Float[np.ndarray, "step"] | None = None
    """Seconds from the first step."""
    states: Float[np.ndarray, "step state"] | None = None
    actions: Float[np.ndarray, "step action"] | None = None
    action_space: ActionSpace | None = None
    state_names: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()
    effector: Float[np.ndarray, "step arm 3"] | None = None
    """Position of each arm's end effector."""
    arms: tuple[str, ...] = ()
    """What the arms are called ("left", "right"), in the order of `effector`; empty where there is one."""
    cameras: Mapping[str, CameraStream] = field(default_factory=dict)
    """Name to stream; the first is the one that sees most of the scene."""
    subtasks: tuple[Subtask, ...] = ()
    """In order of their starts."""
    success: bool | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    """JSON values: licence, file, robot and what else the source says."""

    @property
    def num_steps(self) -> int:
        """Of the actions, states, time or frames, whichever there is."""
        for values in (self.actions, self.states, self.timestamps):
            if values is not None:
                return len(values)
        return min((len(camera.frames) for camera in self.cameras.values()), default=0)

    def camera(self, name: str = "") -> tuple[str, CameraStream]:
        """A camera by name, or the first.

        Raises:
            RecordError: no such camera; says which there are.
        """
        if not self.cameras:
            raise RecordError(f"episode {self.id} has no camera.")
        chosen = name or next(iter(self.cameras))
        if chosen not in self.cameras:
            raise RecordError(f"episode {self.id} has no camera '{name}'; it has {', '.join(self.cameras)}.")
        return chosen, self.cameras[chosen]


def check(episode: Episode) -> Episode:
    """The episode, if its parts fit each other; frames are counted, not decoded.

    Raises:
        RecordError: no step, parts of different lengths, values that are not finite, time that does not advance,
            an action space of another dimension, or a sub-task outside the episode.
    """
    where, steps = f"episode {episode.id}", episode.num_steps
    if steps == 0:
        raise RecordError(f"{where} has no step.")
    for name in ("actions", "states", "timestamps", "effector"):
        values = getattr(episode, name)
        if values is None:
            continue
        if len(values) != steps:
            raise RecordError(f"{where}: {len(values)} {name} for {steps} steps; there must be one a step.")
        bad = np.flatnonzero(~np.isfinite(values.reshape(steps, -1)).all(axis=1))
        if bad.size:
            raise RecordError(
                f"{where}: {name} of step {bad[0]} are not finite ({bad.size} such steps); leave the episode out."
            )
    if episode.timestamps is not None and steps > 1 and (np.diff(episode.timestamps) <= 0).any():
        step = int(np.flatnonzero(np.diff(episode.timestamps) <= 0)[0])
        raise RecordError(f"{where}: time does not advance from step {step} to {step + 1}.")
    space = episode.action_space
    if space is not None and episode.actions is not None and space.dim != episode.actions.shape[1]:
        raise RecordError(
            f"{where}: actions have {episode.actions.shape[1]} dimensions, the action space declares {space.dim}."
        )
    if episode.arms and episode.effector is not None and len(episode.arms) != episode.effector.shape[1]:
        raise RecordError(f"{where}: {len(episode.arms)} names for {episode.effector.shape[1]} arms.")
    for name, camera in episode.cameras.items():
        if len(camera.frames) < steps:
            raise RecordError(f"{where}: camera '{name}' has {len(camera.frames)} frames for {steps} steps.")
    for subtask in episode.subtasks:
        if not 0 <= subtask.start < subtask.end <= steps:
            raise RecordError(
                f"{where}: sub-task '{subtask.text}' spans steps {subtask.start} to {subtask.end}, "
                f"outside the episode's {steps}."
            )
    return episode


def project(
    stream: CameraStream, points: Float[np.ndarray, "point 3"], step: int
) -> Float[np.ndarray, "point 3"] | None:
    """Points of the base frame as a calibrated camera sees them at one step.

    Returns:
        Column, row (pixels) and depth (metres; the pixel of a point with depth <= 0 means nothing); None for a camera
        without calibration.
    """
    if stream.intrinsics is None or stream.camera_from_base is None:
        return None
    pose = stream.camera_from_base[step]
    local = points @ pose[:3, :3].T + pose[:3, 3]
    depth = local[:, 2]
    safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    pixels = local @ stream.intrinsics.T
    return np.stack([pixels[:, 0] / safe, pixels[:, 1] / safe, depth], axis=1)


def image_shares(
    projected: Float[np.ndarray, "point 3"], size: tuple[int, int]
) -> Float[np.ndarray, "point 2"]:
    """Projected points as fractions of the image; NaN behind the camera and outside the picture.

    Args:
        projected: see `project`.
        size: width and height of the image in pixels.
    """
    shares = projected[:, :2] / size
    hidden = (projected[:, 2] <= 0) | (shares < 0).any(axis=1) | (shares > 1).any(axis=1)
    return np.where(hidden[:, None], np.nan, shares)


def track_of(
    stream: CameraStream, points: Float[np.ndarray, "step 3"], size: tuple[int, int]
) -> Float[np.ndarray, "step 2"] | None:
    """Where a point that moves in the base frame is in each step's own image, as `CameraStream.track` says it.

    What stands in front of the point is not looked at.

    Args:
        stream: of a calibrated camera.
        points: metres, one a step.
        size: width and height of its frames in pixels.

    Returns:
        NaN where the point is outside the picture; None for a camera without calibration.
    """
    steps = [project(stream, points[step : step + 1].astype(np.float64), step) for step in range(len(points))]
    seen = [image_shares(step, size) for step in steps if step is not None]
    return np.concatenate(seen) if seen else None
