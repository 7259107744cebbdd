"""The noun behind every shape: its geoms, and what layout, grasping and language need to know of it.

Object frame: origin at the bottom's centre, z up, +x the front (a mug's handle, a drawer's face).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from jaxtyping import Float

from egem.worlds.tabletop import meshes

GeomKind = Literal["box", "cylinder", "sphere", "capsule", "mesh"]
Tone = Literal["plain", "light", "dark", "contrast"]
IDENTITY: Final = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One geom."""

    kind: GeomKind
    position: tuple[float, float, float]
    """Of its centre (a mesh: of its own origin) in the frame of the body it belongs to, metres."""
    size: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """MuJoCo's: half edges; radius and half height."""
    quaternion: tuple[float, float, float, float] = IDENTITY
    """w, x, y, z."""
    mesh: str = ""
    scale: float = 1.0
    tone: Tone = "plain"
    """How its colour follows from the object's."""
    moving: bool = False
    """Belongs to the drawer or lid, whose frame is the object's moved by `Joint`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Joint:
    """How the moving parts sit: slid along x by `slide`, turned about y at `hinge` by `angle`."""

    slide: float = 0.0
    """Metres."""
    angle: float = 0.0
    """Radians; negative opens a lid whose hinge is at the back."""
    hinge: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grasp:
    """Where and how the gripper takes the object, in the object's frame."""

    part: str
    point: tuple[float, float, float]
    """Between the fingers' tips, metres."""
    width: float
    """Between the fingers when they hold it, metres."""
    angles: tuple[float, ...] = (0.0,)
    """Directions (radians from +x) along which the fingers close."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rest:
    """A place for other things: on top of, or inside, the object."""

    relation: Literal["on", "inside"]
    center: tuple[float, float]
    half: tuple[float, float]
    """Half edges of the level rectangle, or (radius, radius) where `round`."""
    z: float
    """Height of the level place."""
    round: bool = False
    profile: str = ""
    """Solid of revolution whose hollow this is: things that do not fit on its floor rest on its slope."""
    scale: float = 1.0
    room: int = 1
    """How many things may be there."""
    has_rim: bool = False
    """A ball stays there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """A thing, not yet placed."""

    shape: str
    parts: tuple[Part, ...]
    footprint: Float[np.ndarray, "corner 2"]
    """Convex outline of all of it seen from above, counter-clockwise."""
    low: Float[np.ndarray, "3"]
    high: Float[np.ndarray, "3"]
    """Corners of its box in its own frame."""
    underside: tuple[tuple[float, float], ...]
    """Outline (radius, height) of its lower part if it may stand in round hollows, else empty."""
    grasp: Grasp
    joint: Joint = field(default_factory=Joint)
    rests: tuple[Rest, ...] = ()
    is_container: bool = False
    is_open: bool = True
    """False: a closed lid or drawer keeps the gripper from what is inside."""
    can_stand: bool = True
    """Whether it may be put on or into other things."""
    rolls: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A row of the table of shapes."""

    build: Callable[[float, np.random.Generator], Body]
    """(scale, rng) -> Body."""
    is_big: bool = False
    """Takes much of the table; at most three in a scene."""


def finish(
    shape: str,
    parts: tuple[Part, ...],
    *,
    grasp: Grasp,
    underside: tuple[tuple[float, float], ...] = (),
    joint: Joint | None = None,
    rests: tuple[Rest, ...] = (),
    is_container: bool = False,
    is_open: bool = True,
    can_stand: bool = True,
    rolls: bool = False,
    is_round: bool = False,
) -> Body:
    """Compute box and outline of a thing from its parts.

    Args:
        shape: its word.
        parts: its geoms.
        grasp: how it is taken.
        underside: see `Body`.
        joint: where its moving parts are.
        rests: places for other things.
        is_container: things can be inside it.
        is_open: see `Body`.
        can_stand: see `Body`.
        rolls: a ball.
        is_round: the outline is a circle about the origin instead of the box seen from above.
    """
    joint = joint or Joint()
    points = np.concatenate([_corners(part, joint) for part in parts])
    low, high = points.min(axis=0), points.max(axis=0)
    if is_round:
        angles = np.arange(12) * np.pi / 6
        radius = high[0] / np.cos(np.pi / 12)
        footprint = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    else:
        footprint = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]])
    return Body(
        shape=shape,
        parts=parts,
        footprint=footprint,
        low=low,
        high=high,
        underside=underside,
        grasp=grasp,
        joint=joint,
        rests=rests,
        is_container=is_container,
        is_open=is_open,
        can_stand=can_stand,
        rolls=rolls,
    )


def rotation(quaternion: tuple[float, float, float, float]) -> Float[np.ndarray, "3 3"]:
    """Rotation matrix of a unit quaternion (w, x, y, z)."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def moved(points: Float[np.ndarray, "point 3"], joint: Joint) -> Float[np.ndarray, "point 3"]:
    """Points of the moving frame in the object's frame."""
    turn = rotation((np.cos(joint.angle / 2), 0.0, np.sin(joint.angle / 2), 0.0))
    hinge = np.asarray(joint.hinge)
    return (points - hinge) @ turn.T + hinge + np.array([joint.slide, 0.0, 0.0])


def _corners(part: Part, joint: Joint) -> Float[np.ndarray, "point 3"]:
    x, y, z = part.size
    if part.kind == "mesh":
        points = meshes.build(part.mesh, part.scale)[0]
    elif part.kind == "sphere":
        center = np.array([part.position])
        # Its extremes stay along the object's axes however it is turned.
        reach = x * np.concatenate([np.eye(3), -np.eye(3)])
        return (moved(center, joint) if part.moving else center) + reach
    elif part.kind == "box":
        points = np.array([[a * x, b * y, c * z] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)])
    else:
        half = y + x if part.kind == "capsule" else y
        up, angles = np.array([0.0, 0.0, half]), np.arange(24) * np.pi / 12
        ring = x * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
        points = np.concatenate([ring + up, ring - up])
    points = points @ rotation(part.quaternion).T + np.asarray(part.position)
    return moved(points, joint) if part.moving else points
