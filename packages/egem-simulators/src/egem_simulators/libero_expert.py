"""Scripted pick-and-place for libero_spatial and libero_object, from the simulator's state.

Every task of both suites takes one thing and puts it on or in another: reach, grasp, lift, carry, let go. The hand is
held by proportional control of its position and of its turn about the vertical. Where a thing is held depends on what
is around it: a bowl in a drawer can be taken only at the part of its rim that is away from the drawer's walls. A thing
that did not come up with the hand is grasped once more, elsewhere. Numbers are metres and radians.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

GAIN = 16.0
"""Position action per metre of error: full action asks for 5 cm. 20 is critical for the simulator's controller."""

TURN_GAIN = 2.0
"""Rotation action per radian of error: full action asks for 0.5 rad."""

OPEN, CLOSED = -1.0, 1.0
CLOSING_STEPS = 12
OPENING_STEPS = 10

RIM_RADIUS, RIM_HEIGHT = 0.052, 0.03
"""Of the ring on which the hand holds a bowl, from the bowl's origin."""

TALL_GRASP = 0.02
"""Above the origin of tall things; flat ones are held at their origin."""

FLAT = ("cream", "butter", "pudding")

HOVER = 0.06
"""Above the highest part of a thing: where the hand stops before it goes down."""

OUTER = np.linspace(0.015, 0.07, 6)
"""What the finger outside of a bowl sweeps along the fingers' axis as it closes; the other is inside."""

FINGERS = np.array([-0.065, -0.045, 0.045, 0.065])
"""Where both fingers are along their axis before they close on something else."""

TURN_COST = 0.02
"""Metres of reach that a radian of turning is worth."""

FAR, TILT, MOST_TILT = 0.65, 3.5, 0.4
"""Beyond this distance from the robot the hand leans back, by so many radians a metre and at most so many: with an
upright hand the arm would be stretched, and a stretched arm stays centimetres off its target."""

FINGER_DEPTH = 0.015
"""Fingers end this much below the point that is controlled."""

PALM = np.linspace(-0.10, 0.10, 5)
PALM_HEIGHT = 0.035
"""The palm is 20 cm long along the fingers' axis and begins this much above the point that is controlled."""

CLEARANCE = 0.06
"""Of what hangs below the hand, above everything on the way, the thing's own top included."""

THINNEST = 0.003
"""Distance of the places on the way that are looked at: a basket's wall must not fall between two of them."""

LIFTED = 0.03
"""A thing that rose less was not grasped."""

DROP_IN, DROP_ON = 0.10, 0.03
"""Heights of a thing's origin above a basket's and a plate's when it is let go; the hand stays above the basket."""

ATTEMPTS = 3
UP = np.array([0.0, 0.0, 1.0])

Height = Callable[[float, float], float]
"""Of the highest surface at (x, y), the robot aside."""


@dataclass(frozen=True)
class Step:
    """One action and what it is for."""

    action: np.ndarray
    subtask: str


@dataclass(frozen=True)
class Grasp:
    """Where the hand holds a thing, from the thing's origin, and its turn about the vertical from how it starts."""

    offset: np.ndarray
    yaw: float


def solve(
    look: Callable[[], Mapping[str, Any]],
    height: Height,
    *,
    stand: np.ndarray,
    interest: list[str],
    rng: np.random.Generator,
) -> Iterator[Step]:
    """Actions until the thing is let go; the caller carries each out before it asks for the next.

    Args:
        look: what the simulator knows now: "robot0_eef_pos", "robot0_eef_quat" (x, y, z, w) and "<object>_pos".
        height: of what stands where.
        stand: where the robot stands, x and y.
        interest: the thing to move and where to, as the task names them.
        rng: of a small sideways choice, so that demonstrations differ.
    """
    source, goal = interest[0], interest[1]
    thing, place = _words(source), _words(goal)
    hand = _Hand(look, stand)

    def at(name: str) -> np.ndarray:
        return np.array(look()[f"{name}_pos"], dtype=np.float64)

    # A goal may be a part of a thing ("basket_1_contain_region").
    target = at(goal if f"{goal}_pos" in look() else "_".join(goal.split("_")[:2]))
    for attempt in range(ATTEMPTS):
        start = at(source)
        grasp = _grasps(source, start, target - [*stand, 0.0], height)[attempt]
        hold = start + grasp.offset + np.r_[rng.normal(0.0, 0.002, 2), 0.0]
        middle = max(height(*start[:2]), start[2])  # some things are not seen by `height`
        top = max(hold[2], middle, height(*hold[:2])) + HOVER
        # An origin is in the middle of a thing, or at a bowl's bottom.
        bottom = 2 * start[2] - middle
        above = _highest_between(start, target, height) + CLEARANCE + hold[2] - bottom
        reach = f"reach for the {thing}"
        yield from hand.go(np.r_[hold[:2], top], grasp.yaw, OPEN, steps=60, near=0.012, subtask=reach)
        yield from hand.go(hold, grasp.yaw, OPEN, steps=30, near=0.006, subtask=reach)
        yield from hand.stay(hold, grasp.yaw, CLOSED, steps=CLOSING_STEPS, subtask=f"grasp the {thing}")
        lifted = np.r_[hold[:2], above]
        yield from hand.go(lifted, grasp.yaw, CLOSED, steps=40, near=0.03, subtask=f"lift the {thing}")
        if at(source)[2] - start[2] > LIFTED:
            break
    else:
        return
    carry = f"carry the {thing} to the {place}"
    over = np.r_[target[:2], above - (hand.position() - at(source))[2]]
    drop = target + UP * (DROP_IN if "basket" in goal else DROP_ON)
    # The thing is what must get there: in the hand it swings and tilts.
    carried = partial(at, source)
    yield from hand.go(over, grasp.yaw, CLOSED, steps=80, near=0.02, subtask=carry, moved=carried)
    yield from hand.go(drop, grasp.yaw, CLOSED, steps=40, near=0.012, subtask=carry, moved=carried)
    there, letting_go = hand.position(), f"let go of the {thing}"
    yield from hand.stay(there, grasp.yaw, OPEN, steps=OPENING_STEPS, subtask=letting_go)
    yield from hand.stay(there + UP * HOVER, grasp.yaw, OPEN, steps=20, subtask=letting_go)


class _Hand:
    """Proportional control towards a place."""

    def __init__(self, look: Callable[[], Mapping[str, Any]], stand: np.ndarray) -> None:
        self._look, self._stand = look, stand
        self._upright = Rotation.from_quat(look()["robot0_eef_quat"])

    def position(self) -> np.ndarray:
        return np.array(self._look()["robot0_eef_pos"], dtype=np.float64)

    def go(
        self,
        target: np.ndarray,
        yaw: float,
        gripper: float,
        *,
        steps: int,
        near: float,
        subtask: str,
        moved: Callable[[], np.ndarray] | None = None,
    ) -> Iterator[Step]:
        """Until the hand, or what is `moved` with it, is nearer than `near`, or `steps` have passed."""
        where = moved or self.position
        for _ in range(steps):
            error, turn = target - where(), self._turn_to(yaw)
            if np.linalg.norm(error) < near and np.linalg.norm(turn) < 0.1:
                return
            motion = np.clip(np.r_[error * GAIN, turn * TURN_GAIN], -1.0, 1.0)
            yield Step(np.r_[motion, gripper], subtask)

    def stay(
        self, target: np.ndarray, yaw: float, gripper: float, *, steps: int, subtask: str
    ) -> Iterator[Step]:
        """Exactly `steps`, pulled to the target all the while: the fingers may push the hand aside."""
        return self.go(target, yaw, gripper, steps=steps, near=0.0, subtask=subtask)

    def _turn_to(self, yaw: float) -> np.ndarray:
        """The rotation vector that is left, in the world's frame."""
        now = Rotation.from_quat(self._look()["robot0_eef_quat"])
        x, y = self.position()[:2] - self._stand
        distance = float(np.hypot(x, y))
        tilt = np.clip(TILT * (distance - FAR), 0.0, MOST_TILT)
        lean = Rotation.from_rotvec(tilt * np.array([y, -x, 0.0]) / distance)  # the fingers point outwards
        return (lean * Rotation.from_rotvec([0.0, 0.0, yaw]) * self._upright * now.inv()).as_rotvec()


def _grasps(source: str, origin: np.ndarray, way: np.ndarray, height: Height) -> list[Grasp]:
    """Ways to hold a thing, the freest first; among equally free ones, those with little turning and little reach.

    Args:
        source: its name.
        origin: where it is.
        way: from the robot to where it goes.
        height: of what stands around.
    """
    if "bowl" in source:
        fingers, angles = OUTER, np.radians(np.arange(-180, 180, 15))
        offsets = [np.array([*RIM_RADIUS * _along(angle), RIM_HEIGHT]) for angle in angles]
    else:
        # Fingers close along y when the hand is not turned.
        fingers, angles = FINGERS, np.radians([90.0, 0.0, 45.0, -45.0])
        offsets = [np.array([0.0, 0.0, 0.0 if any(word in source for word in FLAT) else TALL_GRASP])] * 4
    found = []
    for angle, offset in zip(angles, offsets, strict=True):
        # Half a turn changes nothing for two equal fingers: never more than a quarter.
        yaw = (angle % np.pi) - np.pi / 2
        blocked = _blocked(origin + offset, _along(angle), fingers, height)
        reach = float(np.linalg.norm((way + offset)[:2]))
        found.append((round(blocked / 0.005), reach + TURN_COST * abs(yaw), Grasp(offset, yaw)))
    return [grasp for *_, grasp in sorted(found, key=lambda entry: entry[:2])]


def _blocked(point: np.ndarray, axis: np.ndarray, fingers: np.ndarray, height: Height) -> float:
    """How far things stand up into the open fingers and the palm of a hand at `point`; 0 where it is free."""
    across = np.array([-axis[1], axis[0]])
    worst = 0.0
    for reaches, bottom in ((fingers, point[2] - FINGER_DEPTH), (PALM, point[2] + PALM_HEIGHT)):
        for reach in reaches:
            for side in (-0.015, 0.0, 0.015):
                x, y = point[:2] + reach * axis + side * across
                worst = max(worst, height(x, y) - bottom)
    return worst


def _highest_between(start: np.ndarray, end: np.ndarray, height: Height) -> float:
    """Of what a thing passes over, as wide as a bowl."""
    way = end[:2] - start[:2]
    length = max(float(np.linalg.norm(way)), 1e-6)
    across = 0.06 * np.array([-way[1], way[0]]) / length
    parts = np.linspace(0.0, 1.0, int(length / THINNEST) + 2)
    places = (start[:2] + part * way + side * across for part in parts for side in (-1, 0, 1))
    return max(height(x, y) for x, y in places)


def _along(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle)])


def _words(name: str) -> str:
    return " ".join(word for word in name.split("_") if not word.isdigit())
