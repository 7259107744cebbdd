"""What the robot is asked to do, how far it has got, and the arm's pose that goes with it."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float

from egem.scene import Task
from egem.worlds.tabletop.arm import FINGER_TRAVEL, HOME
from egem.worlds.tabletop.compounds import slid
from egem.worlds.tabletop.grasps import ABOVE, MAX_WIDTH, SLACK, Hold, Robot, find_hold, is_clear, up
from egem.worlds.tabletop.layout import Thing, apart, draw_layout, find_spot, outline

NUM_PATH_POINTS: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """The scene at one moment of a task."""

    things: tuple[Thing, ...]
    task: Task | None
    joints: Float[np.ndarray, "7"]
    opening: float
    """Of each finger, metres."""
    tip: Float[np.ndarray, "3"]
    held: int | None = None
    """Number of the thing in the gripper."""


def draw_situation(rng: np.random.Generator, split: str, robot: Robot) -> Situation:
    """Draw things on the table, a task that can be done with them, and a moment of it.

    Up to four layouts are tried for one in which there is more to do than to pick something up.
    """
    for _ in range(4):
        situation = _choose_task(rng, draw_layout(rng, split), robot)
        task = situation.task
        if task is not None and (not task.instruction.startswith("pick up") or rng.random() < 0.25):
            return situation
    return situation


def _choose_task(rng: np.random.Generator, things: list[Thing], robot: Robot) -> Situation:
    kinds = (_put, _drawer, _pick)
    weights = np.array([0.60, 0.34, 0.06])
    order = rng.choice(3, 3, replace=False, p=weights)
    for k in order:
        situation = kinds[k](rng, things, robot)
        if situation is not None:
            return situation
    joints, opening, tip = _at_rest(rng, things, robot)
    return Situation(things=tuple(things), task=None, joints=joints, opening=opening, tip=tip)


def _put(rng: np.random.Generator, things: list[Thing], robot: Robot) -> Situation | None:
    hosts = {t.host for t in things}
    movers = [
        i
        for i, t in enumerate(things)
        if i not in hosts and t.body.can_stand and t.body.grasp.width <= MAX_WIDTH
    ]
    for mover in rng.permutation(np.array(movers, int)):
        hold = find_hold(int(mover), things, robot)
        if hold is None:
            continue
        thing, others = things[mover], [replace(t) for t in things]
        targets = [
            (i, rest)
            for i, t in enumerate(things)
            if i not in (mover, thing.host) and t.host is None
            for rest in t.body.rests
        ]
        for k in rng.permutation(len(targets)):
            host, rest = targets[k]
            for _ in range(4):
                spot = find_spot(thing.body, host, rest, things, rng)
                if spot is None:
                    break
                others[mover] = replace(
                    thing, position=spot[0], yaw=spot[1], host=host, relation=rest.relation
                )
                place = find_hold(int(mover), others, robot, rest)
                if place is None:
                    continue
                return _put_moment(rng, things, others, int(mover), hold, place, robot)
    return None


def _put_moment(
    rng: np.random.Generator,
    before: list[Thing],
    after: list[Thing],
    mover: int,
    hold: Hold,
    place: Hold,
    robot: Robot,
) -> Situation:
    thing, target = before[mover], before[after[mover].host or 0]
    word = "on" if after[mover].relation == "on" else "in"
    x, y = f"the {thing.name}", f"the {target.name}"
    subtasks = (
        f"reach for {x}",
        f"grasp {x}",
        f"lift {x}",
        f"move {x} over {y}",
        f"place {x} {word} {y}",
    )
    lifted = hold.tip + up(ABOVE + rng.uniform(0.0, 0.06))
    over = place.tip + up(ABOVE + rng.uniform(0.0, 0.06))
    waypoints = [hold.tip + up(ABOVE), hold.tip, lifted, over, place.tip]
    instruction = f"put {x} {word} {y}"
    moment = int(rng.choice(6, p=(0.30, 0.13, 0.13, 0.14, 0.13, 0.17)))
    if moment in (0, 5):
        things = after if moment == 5 else before
        return _idle(rng, things, robot, instruction, subtasks, moment, waypoints)
    tip, closing, things = hold.tip, hold.closing, list(before)
    if moment == 3:
        tip = lifted
    if moment == 4:
        tip, closing = over, place.closing
    joints = robot.joints(tip, closing)
    if joints is None:  # lifted beyond reach: show the grasp itself
        moment, tip, joints = 2, hold.tip, hold.joints
    if moment == 3:
        things[mover] = _carried(thing, tip - hold.tip)
    if moment == 4:
        things[mover] = _carried(after[mover], tip - place.tip)
    return _moment(
        things, instruction, subtasks, moment, waypoints[1:] if moment < 3 else waypoints[moment - 1 :],
        joints, tip, thing.body.grasp.width, held=mover if moment > 1 else None,
    )  # fmt: skip


def _pick(rng: np.random.Generator, things: list[Thing], robot: Robot) -> Situation | None:
    hosts = {t.host for t in things}
    for mover in rng.permutation(len(things)):
        thing = things[mover]
        if mover in hosts or not thing.body.can_stand or thing.body.grasp.width > MAX_WIDTH:
            continue
        hold = find_hold(int(mover), things, robot)
        if hold is None:
            continue
        lifted = hold.tip + up(ABOVE + rng.uniform(0.02, 0.08))
        joints = robot.joints(lifted, hold.closing)
        if joints is None:
            continue
        x = f"the {thing.name}"
        instruction, subtasks = f"pick up {x}", (f"reach for {x}", f"grasp {x}", f"lift {x}")
        waypoints = [hold.tip + up(ABOVE), hold.tip, lifted]
        moment = int(rng.integers(4))
        if moment == 0:
            return _idle(rng, things, robot, instruction, subtasks, moment, waypoints)
        width = thing.body.grasp.width
        if moment == 3:
            now = list(things)
            now[mover] = _carried(thing, lifted - hold.tip)
            return _moment(now, instruction, subtasks, moment, [], joints, lifted, width, held=int(mover))
        held = int(mover) if moment == 2 else None
        return _moment(
            things, instruction, subtasks, moment, waypoints[1:], hold.joints, hold.tip, width, held=held
        )
    return None


def _drawer(rng: np.random.Generator, things: list[Thing], robot: Robot) -> Situation | None:
    for number, thing in enumerate(things):
        if thing.body.shape != "drawer":
            continue
        slide = thing.body.joint.slide
        goal = 0.0 if slide > 0 else float(rng.uniform(0.07, 0.095))
        after = list(things)
        after[number] = replace(thing, body=slid(thing.body, goal))
        occupied = any(t.host == number and t.relation == "inside" for t in things)
        if occupied or not _is_free(number, after):
            continue
        hold, end = find_hold(number, things, robot), find_hold(number, after, robot)
        if hold is None or end is None:
            continue
        name, verb = f"the {thing.name}", "open" if slide == 0 else "close"
        last = f"pull {name} open" if slide == 0 else f"push {name} shut"
        instruction = f"{verb} {name}"
        subtasks = (f"reach for the handle of {name}", f"grasp the handle of {name}", last)
        waypoints = [hold.tip + up(ABOVE), hold.tip, end.tip]
        moment = int(rng.integers(4))
        if moment in (0, 3):
            now = things if moment == 0 else after
            return _idle(rng, now, robot, instruction, subtasks, moment, waypoints)
        width = thing.body.grasp.width
        return _moment(
            things, instruction, subtasks, moment, waypoints[1:], hold.joints, hold.tip, width,
            is_closed=moment == 2,
        )  # fmt: skip
    return None


def _idle(
    rng: np.random.Generator,
    things: list[Thing],
    robot: Robot,
    instruction: str,
    subtasks: tuple[str, ...],
    moment: int,
    waypoints: list[Float[np.ndarray, "3"]],
) -> Situation:
    """Before the first sub-task or after the last: the arm waits somewhere above the table."""
    joints, opening, tip = _at_rest(rng, things, robot)
    path = [tip, *waypoints] if moment == 0 else []
    return Situation(
        things=tuple(things),
        task=_task(instruction, subtasks, moment, path),
        joints=joints,
        opening=opening,
        tip=tip,
    )


def _moment(
    things: list[Thing],
    instruction: str,
    subtasks: tuple[str, ...],
    moment: int,
    path: list[Float[np.ndarray, "3"]],
    joints: Float[np.ndarray, "7"],
    tip: Float[np.ndarray, "3"],
    width: float,
    *,
    held: int | None = None,
    is_closed: bool = False,
) -> Situation:
    closed = is_closed or held is not None
    opening = width / 2 - 0.0003 if closed else min(FINGER_TRAVEL, width / 2 + SLACK)
    return Situation(
        things=tuple(things),
        task=_task(instruction, subtasks, moment, path),
        joints=joints,
        opening=opening,
        tip=tip,
        held=held,
    )


def _task(
    instruction: str, subtasks: tuple[str, ...], moment: int, path: list[Float[np.ndarray, "3"]]
) -> Task:
    done = moment == len(subtasks)
    return Task(
        instruction=instruction,
        done=done,
        subtasks=subtasks,
        next_subtask=None if done else subtasks[moment],
        path=_evenly(path),
    )


def _evenly(path: list[Float[np.ndarray, "3"]]) -> Float[np.ndarray, "point 3"]:
    """Ten points at equal distances along a line of straight stretches; none for an empty one."""
    if not path:
        return np.zeros((0, 3))
    points = np.stack(path)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    wanted = np.linspace(0, along[-1], NUM_PATH_POINTS)
    return np.stack([np.interp(wanted, along, points[:, k]) for k in range(3)], axis=1)


def _carried(thing: Thing, by: Float[np.ndarray, "3"]) -> Thing:
    x, y, z = np.asarray(thing.position) + by
    return replace(thing, position=(float(x), float(y), float(z)), host=None, relation="on")


def _at_rest(
    rng: np.random.Generator, things: list[Thing], robot: Robot
) -> tuple[Float[np.ndarray, "7"], float, Float[np.ndarray, "3"]]:
    """Joint angles, finger opening and tip of an arm that waits: half of the time drawn back."""
    opening = float(rng.choice((0.0, 0.02, FINGER_TRAVEL)))
    for _ in range(10):
        far = rng.random() < 0.5
        radius = rng.uniform(0.48, 0.66) if far else rng.uniform(0.32, 0.46)
        angle, height = rng.uniform(-0.7, 0.7), rng.uniform(0.26, 0.48)
        tip = robot.base + np.array([radius * np.cos(angle), radius * np.sin(angle), height])
        closing = angle - np.pi / 2 + rng.uniform(-0.6, 0.6)
        if not is_clear(tip, closing, 2 * FINGER_TRAVEL - 0.03, things, None, None):
            continue
        joints = robot.joints(tip, closing)
        if joints is not None:
            return joints, opening, tip
    return HOME.copy(), opening, robot.base + robot.kinematics.tip(HOME)


def _is_free(number: int, things: list[Thing]) -> bool:
    """Whether a thing on the table is clear of all others there."""
    thing = things[number]
    here = outline(thing.body, thing.position[0], thing.position[1], thing.yaw)
    return all(
        apart(here, outline(t.body, t.position[0], t.position[1], t.yaw), 0.003)
        for i, t in enumerate(things)
        if i != number and t.host is None
    )
