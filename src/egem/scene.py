"""What a question is asked about: one camera's view of some objects, with everything known about them.

Worlds (`egem.worlds`) and sources (`egem.data_engine.sources`) make scenes; skills turn scenes into
questions. A view of real RGB-D without boxes is a scene whose `objects` is empty.

World frame: metres, z up; for tabletop worlds the table's top is z = 0, +x points from the robot's base
across the table, +y to the robot's left. Camera frame: x right, y down, z forward (metres); depth is z.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from egem.records import DepthKind, Intrinsics


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """Where a view was taken from."""

    name: str
    """`front`, `side`, `wrist`, or the source's own."""
    intrinsics: Intrinsics
    world_from_camera: Float[np.ndarray, "4 4"]

    def project(self, points: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, "point 3"]:
        """World points to (column, row, depth): pixels with the origin at the image's top left corner, metres.

        Points behind the camera have depth <= 0; their pixel position means nothing.
        """
        rotation, origin = self.world_from_camera[:3, :3], self.world_from_camera[:3, 3]
        local = (points - origin) @ rotation
        depth = local[:, 2]
        safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
        camera = self.intrinsics
        columns = camera.fx * local[:, 0] / safe + camera.cx
        rows = camera.fy * local[:, 1] / safe + camera.cy
        return np.stack([columns, rows, depth], axis=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneObject:
    """One thing that language can name."""

    index: int
    """Its value in the view's instance mask (>= 1)."""
    name: str
    """Unique in the scene, without an article: "small red mug"."""
    shape: str
    """"mug", "cube", ..."""
    color: str
    size: str
    """"small", "medium" or "large" among the things of its shape."""
    material: str
    pose: Float[np.ndarray, "4 4"]
    """World from object; the object's own +x is its front, z up."""
    extent: Float[np.ndarray, "3"]
    """Edge lengths of its box in the object's frame, metres; the box is centred on `center`."""
    center: Float[np.ndarray, "3"]
    """Centre of its 3D box in the world, metres."""
    is_container: bool = False
    """Things can be put inside it (bowl, box, tray, drawer, mug)."""
    is_graspable: bool = True
    grasp_part: str | None = None
    """"handle", "rim", ...: the part a gripper takes, if it has one."""
    grasp_point: Float[np.ndarray, "3"] | None = None
    """A point of that part in the world, metres."""
    inside: int | None = None
    """Index of the object that it stands inside of."""
    on: int | None = None
    """Index of the object that it rests on (None: the table)."""
    reachable: bool | None = None
    """Whether the robot's gripper can get to it; None where there is no robot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What the robot is asked to do in the scene, and what has to happen next."""

    instruction: str
    """"put the red mug on the tray"."""
    done: bool
    subtasks: tuple[str, ...]
    """All of them in order: "reach for the red mug", "grasp the red mug", "lift ...", ..."""
    next_subtask: str | None
    """The first that has not happened yet; None once done."""
    path: Float[np.ndarray, "point 3"]
    """Where the gripper's tip will go from now on, in the world, metres; no point where that is not known."""
    subject: int | None = None
    """Index of the object that it takes or moves first; None: none that is listed, or not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One view. Every skill is a pure function of a scene and a random generator."""

    id: str
    """Stable: the same world, seed and camera give the same id."""
    source: str
    image: UInt8[np.ndarray, "height width 3"]
    depth: Float[np.ndarray, "height width"] | None
    """Metres (or relative units), float32, 0 = no reading."""
    depth_kind: DepthKind = "metric"
    depth_origin: str = "sensor"
    depth_unit_m: float = 0.001
    """Unit in which the depth is to be stored."""
    mask: Int[np.ndarray, "height width"] | None = None
    """Instance index of each pixel; 0 = table, wall, robot: nothing that `objects` lists."""
    camera: Camera | None = None
    objects: tuple[SceneObject, ...] = ()
    robot_mask: Bool[np.ndarray, "height width"] | None = None
    """Where a robot (arm, gripper) is seen; None where there is no robot."""
    task: Task | None = None
    support: Float[np.ndarray, "2 2"] | None = None
    """Free-space questions: the table top's world rectangle ((x_min, y_min), (x_max, y_max)); None if unknown."""
    meta: dict[str, Any] = field(default_factory=dict)
    """JSON values to be kept in the records: seed, split, licence."""
