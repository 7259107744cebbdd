"""Where the gripper can go: within the arm's reach, fingers and palm clear of everything."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from egem.worlds.tabletop.arm import FINGER_TRAVEL, PALM_CLEARANCE, REACH, Kinematics, pointing_down
from egem.worlds.tabletop.body import Rest
from egem.worlds.tabletop.layout import Thing, apart, outline

ABOVE: Final = 0.10
"""Metres above a grasp or a place at which the gripper arrives and from which it leaves."""

MAX_WIDTH: Final = 0.074
"""Of what fits between the open fingers with room to spare, metres."""

SLACK: Final = 0.009
"""By which each finger stands off before it closes, metres."""

_DOWNWARD: Final = 0.007
"""The fingers' ends are this far below the tip, metres."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """The gripper at a thing."""

    tip: Float[np.ndarray, "3"]
    closing: float
    joints: Float[np.ndarray, "7"]


class Robot:
    """Inverse kinematics with the base somewhere on the table."""

    def __init__(self, kinematics: Kinematics, base: tuple[float, float]) -> None:
        self.kinematics = kinematics
        self.base = np.array([base[0], base[1], 0.0])

    def joints(self, tip: Float[np.ndarray, "3"], closing: float) -> Float[np.ndarray, "7"] | None:
        """Angles with the gripper pointing down at a point of the world; None if there are none."""
        local = tip - self.base
        if np.hypot(local[0], local[1]) > REACH:
            return None
        return self.kinematics.solve(local, pointing_down(self.untwisted(tip, closing)))

    def untwisted(self, tip: Float[np.ndarray, "3"], closing: float) -> float:
        """Of the two ways for fingers, which are alike, to close along a line: the one nearer to straight."""
        natural = np.arctan2(tip[1] - self.base[1], tip[0] - self.base[0]) - np.pi / 2
        return float(natural + (closing - natural + np.pi / 2) % np.pi - np.pi / 2)

    def can_reach(self, point: Float[np.ndarray, "3"]) -> bool:
        """Whether the gripper, pointing down, gets to a point and to 8 cm above it."""
        closing = np.arctan2(point[1] - self.base[1], point[0] - self.base[0]) - np.pi / 2
        return all(self.joints(point + up(height), float(closing)) is not None for height in (0.0, 0.08))


def is_reachable(number: int, things: tuple[Thing, ...] | list[Thing], robot: Robot) -> bool:
    """Whether the gripper can get to where a thing is grasped."""
    thing = things[number]
    if thing.host is not None and thing.relation == "inside" and not things[thing.host].body.is_open:
        return False
    return robot.can_reach(thing.world(thing.body.grasp.point))


def find_hold(number: int, things: list[Thing], robot: Robot, rest: Rest | None = None) -> Hold | None:
    """The gripper at a thing where it stands, with everything else out of its way.

    Args:
        number: of the thing.
        things: all of them.
        robot: whose reach counts.
        rest: the place it stands on or in; None: found from the thing itself.

    Returns:
        None if there is no way.
    """
    thing = things[number]
    grasp = thing.body.grasp
    tip = thing.world(grasp.point)
    if rest is None and thing.host is not None:
        rests = [r for r in things[thing.host].body.rests if r.relation == thing.relation]
        rest = rests[0] if rests else None
    for angle in grasp.angles:
        closing = robot.untwisted(tip, thing.yaw + angle)
        if not is_clear(tip, closing, grasp.width, things, number, rest):
            continue
        joints = robot.joints(tip, closing)
        if joints is not None and robot.joints(tip + up(ABOVE), closing) is not None:
            return Hold(tip=tip, closing=closing, joints=joints)
    return None


def is_clear(
    tip: Float[np.ndarray, "3"],
    closing: float,
    width: float,
    things: list[Thing],
    number: int | None,
    rest: Rest | None,
) -> bool:
    """Whether fingers, palm and wrist camera are out of all things.

    Args:
        tip: between the fingertips, in the world.
        closing: direction in which the fingers close, radians.
        width: between them when closed; they come down a little wider.
        things: all of them.
        number: of the thing that is taken, which may be touched.
        rest: where that one stands: fingers may come down within its walls.
    """
    along, across = (
        np.array([np.cos(closing), np.sin(closing)]),
        np.array([-np.sin(closing), np.cos(closing)]),
    )
    start, stop = width / 2, min(width / 2 + SLACK, FINGER_TRAVEL) + 0.0145
    fingers = [
        tip[:2] + sign * np.array([start, start, stop, stop])[:, None] * along
        + np.array([-0.011, 0.011, 0.011, -0.011])[:, None] * across
        for sign in (1, -1)
    ]  # fmt: skip
    # In front of the palm sits the wrist camera.
    palm = (
        tip[:2]
        + np.array([-0.078, 0.078, 0.078, -0.078])[:, None] * along
        + np.array([-0.025, -0.025, 0.105, 0.105])[:, None] * across
    )
    host = None if number is None else things[number].host
    for i, other in enumerate(things):
        if i == number:
            continue
        top = other.position[2] + other.body.high[2]
        here = outline(other.body, other.position[0], other.position[1], other.yaw)
        if top > tip[2] + PALM_CLEARANCE and not apart(palm, here, 0.004):
            return False
        if top <= tip[2] - _DOWNWARD:
            continue
        if i == host and rest is not None:
            if not all(_is_over(finger, other, rest, tip[2]) for finger in fingers):
                return False
        elif not all(apart(finger, here, 0.003) for finger in fingers):
            return False
    return True


def _is_over(finger: Float[np.ndarray, "4 2"], host: Thing, rest: Rest, height: float) -> bool:
    """Whether a finger comes down within the walls of what a thing stands in."""
    c, s = np.cos(host.yaw), np.sin(host.yaw)
    local = (finger - np.asarray(host.position[:2])) @ np.array([[c, -s], [s, c]]) - np.asarray(rest.center)
    if rest.round:
        # A hollow widens upwards: at the height of a grasp it is at least a quarter wider than its floor.
        wide = 1.2 if rest.profile == "bowl" and height - host.position[2] > 0.03 else 1.0
        return bool(np.hypot(local[:, 0], local[:, 1]).max() < wide * rest.half[0])
    return bool((np.abs(local) < rest.half).all())


def up(height: float) -> Float[np.ndarray, "3"]:
    """A step upwards, metres."""
    return np.array([0.0, 0.0, height])
