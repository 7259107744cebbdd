"""Where the pictures are taken from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

CAMERAS: Final = ("front", "side", "wrist")
"""In front of the table facing the robot; at its left or right; on the hand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A camera's pose: in the world, or in the hand's frame for `wrist`."""

    position: Float[np.ndarray, "3"]
    rotation: Float[np.ndarray, "3 3"]
    """Columns: image right, image up, backwards (MuJoCo's camera frame)."""
    fovy: float
    """Vertical field of view, degrees."""


Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranges:
    """From what a split's cameras are drawn; where there are several ranges, one is taken at random."""

    fovy: tuple[Range, ...]
    elevation: tuple[Range, ...]
    """Degrees above the table."""
    front: tuple[Range, ...]
    """Azimuth in degrees from +x; the sign is drawn."""
    side: tuple[Range, ...]
    roll: tuple[Range, ...]
    wrist_fovy: tuple[Range, ...]
    wrist_tilt: tuple[Range, ...]
    """Degrees by which the wrist camera looks back towards the fingertips."""


SEEN: Final = Ranges(
    fovy=((40.0, 70.0),),
    elevation=((15.0, 65.0),),
    front=((0.0, 50.0),),
    side=((70.0, 105.0),),
    roll=((0.0, 5.0),),
    wrist_fovy=((58.0, 74.0),),
    wrist_tilt=((2.0, 14.0),),
)
NEW: Final = Ranges(
    fovy=((30.0, 38.0), (72.0, 80.0)),
    elevation=((9.0, 13.5), (67.0, 80.0)),
    front=((52.0, 68.0),),
    side=((107.0, 125.0),),
    roll=((6.0, 11.0),),
    wrist_fovy=((77.0, 88.0),),
    wrist_tilt=((-8.0, -1.0), (18.0, 28.0)),
)
"""Disjoint from `SEEN` in every number."""

DISTANCES: Final = (0.5, 1.4)
"""Metres between a camera in the room and the point it looks at."""

_ARM_CLEARANCE: Final = 0.24


def draw_views(
    rng: np.random.Generator,
    ranges: Ranges,
    points: Float[np.ndarray, "thing 3"],
    radii: Sequence[float],
    arm: Float[np.ndarray, "point 3"],
) -> dict[str, View]:
    """One view for each of `CAMERAS`.

    Args:
        rng: source of all choices.
        ranges: `SEEN` or `NEW`.
        points: centres of the things on the table.
        radii: of their bounding spheres, which a camera must stay out of.
        arm: points along the robot's arm, which must not fill the picture.
    """
    obstacles = np.concatenate([points, arm])
    clearance = np.concatenate([np.asarray(radii) + 0.10, np.full(len(arm), _ARM_CLEARANCE)])

    def is_clear(position: Float[np.ndarray, "3"]) -> bool:
        return bool((np.linalg.norm(obstacles - position, axis=1) >= clearance).all())

    return {
        "front": _draw_outside(rng, ranges, ranges.front, points, is_clear),
        "side": _draw_outside(rng, ranges, ranges.side, points, is_clear),
        "wrist": _draw_wrist(rng, ranges),
    }


def looking_at(
    position: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"], roll: float
) -> Float[np.ndarray, "3 3"]:
    """MuJoCo camera axes at `position` that look at `target`, z up, then rolled (radians)."""
    backward = position - target
    backward = backward / np.linalg.norm(backward)
    right = np.cross((0.0, 0.0, 1.0), backward)
    right /= np.linalg.norm(right)
    up = np.cross(backward, right)
    c, s = np.cos(roll), np.sin(roll)
    return np.stack([c * right + s * up, c * up - s * right, backward], axis=1)


def _draw_outside(
    rng: np.random.Generator,
    ranges: Ranges,
    azimuths: tuple[Range, ...],
    points: Float[np.ndarray, "thing 3"],
    is_clear: Callable[[Float[np.ndarray, "3"]], bool],
) -> View:
    middle = points.mean(axis=0) * (1.0, 1.0, 0.6)
    best, best_share, attempt = None, -1.0, 0
    # A dozen tries for a view of most things; a camera inside something is never taken.
    while best is None or attempt < 12:
        attempt += 1
        sign = rng.choice((-1.0, 1.0))
        fovy = _draw(rng, ranges.fovy)
        elevation, azimuth = np.radians(_draw(rng, ranges.elevation)), np.radians(_draw(rng, azimuths))
        # What is half as high as the picture at the things' distance; nearer means larger things.
        half = rng.uniform(0.18, 0.36)
        distance = float(np.clip(half / np.tan(np.radians(fovy) / 2), *DISTANCES))
        target = middle + rng.uniform(-1, 1, 3) * (0.06, 0.06, 0.02)
        direction = np.array(
            [
                np.cos(elevation) * np.cos(azimuth),
                sign * np.cos(elevation) * np.sin(azimuth),
                np.sin(elevation),
            ]
        )
        position = target + distance * direction
        roll = np.radians(_draw(rng, ranges.roll)) * rng.choice((-1.0, 1.0))
        view = View(position=position, rotation=looking_at(position, target, roll), fovy=fovy)
        if not is_clear(position):
            continue
        share = _share_in_view(view, points)
        if share >= 0.7:
            return view
        if share > best_share:
            best, best_share = view, share
    return best


def _draw_wrist(rng: np.random.Generator, ranges: Ranges) -> View:
    """On the hand's front, looking along the gripper and a little back at the fingertips."""
    tilt = np.radians(_draw(rng, ranges.wrist_tilt))
    position = np.array([0.080, 0.0, 0.018]) + rng.uniform(-1, 1, 3) * (0.012, 0.012, 0.010)
    forward = np.array([-np.sin(tilt), 0.0, np.cos(tilt)])
    up = np.array([np.cos(tilt), 0.0, np.sin(tilt)])
    roll = np.radians(_draw(rng, ranges.roll)) * rng.choice((-1.0, 1.0))
    right = np.cross(forward, up)
    c, s = np.cos(roll), np.sin(roll)
    rotation = np.stack([c * right + s * up, c * up - s * right, -forward], axis=1)
    return View(position=position, rotation=rotation, fovy=_draw(rng, ranges.wrist_fovy))


def _share_in_view(view: View, points: Float[np.ndarray, "thing 3"]) -> float:
    """Share of the points that a square picture would show, away from its edge."""
    local = (points - view.position) @ view.rotation
    reach = 0.92 * np.tan(np.radians(view.fovy) / 2) * -local[:, 2]
    return float(((np.abs(local[:, :2]) < reach[:, None]).all(axis=1) & (local[:, 2] < 0)).mean())


def _draw(rng: np.random.Generator, ranges: tuple[Range, ...]) -> float:
    low, high = ranges[int(rng.integers(len(ranges)))]
    return float(rng.uniform(low, high))
