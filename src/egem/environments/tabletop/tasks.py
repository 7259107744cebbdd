"""The tasks: how their scenes are drawn, how they are told, when they are done. One line of the table for each."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from egem.environments.tabletop import goals, model
from egem.environments.tabletop.goals import Done, Goal
from egem.environments.tabletop.layout import (
    AREA,
    BIN_FLOOR,
    DIRECTIONS,
    KINDS,
    Layout,
    NoRoomError,
    Planner,
    Side,
)

_SIDES: Final[tuple[Side, ...]] = ("left", "right", "front", "behind")
_BESIDE_GOAL_M: Final = 0.09
"""Where the expert puts one thing beside another; this place is free at the start."""
_PUSH_GOAL_M: Final = 0.10
"""How far the expert pushes; the way is free at the start."""
_WORDS: Final[dict[Side, str]] = {
    "left": "to the left of",
    "right": "to the right of",
    "front": "in front of",
    "behind": "behind",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TabletopTask:
    """A row of the table."""

    draw: Callable[[Planner], Goal]
    """Places what the task needs; may raise NoRoomError."""
    phrasings: tuple[str, ...]
    """With {x} the subject, {y} what it goes to, {side} the side."""
    done: Done
    max_steps: int
    """At least twice what the expert takes on average."""


def draw_task(task: TabletopTask, rng: np.random.Generator) -> tuple[Layout, Goal, str]:
    """A scene of a task, its goal, and the instruction."""
    while True:
        planner = Planner(rng)
        try:
            goal = task.draw(planner)
        except NoRoomError:
            continue
        layout = planner.layout()
        phrase = str(rng.choice(task.phrasings))
        return layout, goal, instruct(phrase, layout, goal)


def instruct(phrase: str, layout: Layout, goal: Goal) -> str:
    """The instruction in one of the task's phrasings; every name in it is unique in the scene."""
    x = f"the {layout.things[goal.subjects[0]].name}" if goal.subjects else ""
    y = ""
    if goal.anchor is not None:
        y = f"the {layout.things[goal.anchor].name}"
    elif goal.holders:
        y = f"the {layout.holders[goal.holders[0]].name}"
    if goal.side is None:
        return phrase.format(x=x, y=y)
    return phrase.format(x=x, y=y, side=goal.side, relation=_WORDS[goal.side])


def _pick(planner: Planner) -> Goal:
    subject = planner.thing()
    planner.others(1, 3)
    return Goal(subjects=(subject,))


def _onto_plate(planner: Planner) -> Goal:
    holder = planner.holder("plate")
    subject = planner.thing()
    planner.others(1, 3)
    return Goal(subjects=(subject,), holders=(holder,))


def _into_bin(planner: Planner) -> Goal:
    holder = planner.holder("bin")
    subject = planner.thing()
    planner.others(1, 3)
    return Goal(subjects=(subject,), holders=(holder,))


def _out_of_bin(planner: Planner) -> Goal:
    holder = planner.holder("bin")
    bin_ = planner.holders[holder]
    kind = str(planner.rng.choice(("cube", "cylinder")))
    x, y = (float(v) for v in np.asarray(bin_.position) + planner.rng.uniform(-0.012, 0.012, 2))
    subject = planner.thing("cube" if kind == "cube" else "cylinder", at=(x, y, BIN_FLOOR + 0.001))
    planner.others(1, 2)
    return Goal(subjects=(subject,), holders=(holder,))


def _stack(planner: Planner) -> Goal:
    subject, anchor = planner.thing("cube"), planner.thing("cube")
    planner.others(1, 3)
    return Goal(subjects=(subject,), anchor=anchor)


def _beside(planner: Planner) -> Goal:
    anchor = planner.thing()
    side = _SIDES[int(planner.rng.integers(4))]
    goal = np.array(planner.things[anchor].position[:2]) + _BESIDE_GOAL_M * np.array(DIRECTIONS[side])
    if not (-0.2 < goal[0] < 0.2 and abs(goal[1]) < 0.3):
        raise NoRoomError
    planner.keep_free(goal, 0.045)
    subject = planner.thing()
    planner.others(1, 2)
    return Goal(subjects=(subject,), anchor=anchor, side=side)


def _push(planner: Planner) -> Goal:
    subject = planner.thing(KINDS[int(planner.rng.integers(2))])
    side = _SIDES[int(planner.rng.integers(3))]
    start = np.array(planner.things[subject].position[:2])
    direction = np.array(DIRECTIONS[side])
    end = start + _PUSH_GOAL_M * direction
    if not (end[0] < 0.2 and abs(end[1]) < 0.29):
        raise NoRoomError
    # The way, and the place from which the gripper pushes.
    for along in (-0.065, 0.05, _PUSH_GOAL_M):
        planner.keep_free(start + along * direction, 0.045)
    planner.others(1, 3)
    return Goal(subjects=(subject,), side=side)


def _to_front(planner: Planner) -> Goal:
    subject = planner.thing(area=(AREA[0], (0.06, AREA[1][1])))
    planner.others(1, 3)
    return Goal(subjects=(subject,))


def _sort(planner: Planner) -> Goal:
    holders = (planner.holder("bin"), planner.holder("bin"))
    subjects = tuple(
        planner.thing("cube" if planner.rng.random() < 0.5 else "cylinder", color=planner.holders[h].color)
        for h in holders
    )
    return Goal(subjects=subjects, holders=holders)


def _open(planner: Planner) -> Goal:
    planner.drawer(0.0)
    planner.others(1, 3)
    return Goal()


def _close(planner: Planner) -> Goal:
    planner.drawer(float(planner.rng.uniform(0.08, model.DRAWER_TRAVEL)))
    planner.others(1, 3)
    return Goal()


def _into_drawer(planner: Planner) -> Goal:
    planner.drawer(model.DRAWER_TRAVEL - 0.003)
    subject = planner.thing("cube" if planner.rng.random() < 0.5 else "cylinder")
    planner.others(1, 2)
    return Goal(subjects=(subject,))


TASKS: Final = MappingProxyType(
    {
        "lift": TabletopTask(
            draw=_pick,
            phrasings=("pick up {x}", "lift {x}", "grasp {x} and raise it"),
            done=goals.lifted,
            max_steps=80,
        ),
        "hold_over": TabletopTask(
            draw=_onto_plate,
            phrasings=("hold {x} over {y}", "lift {x} and hold it above {y}", "keep {x} in the air over {y}"),
            done=goals.held_over,
            max_steps=100,
        ),
        "place_on": TabletopTask(
            draw=_onto_plate,
            phrasings=("put {x} on {y}", "place {x} on {y}", "set {x} down on {y}"),
            done=goals.in_place,
            max_steps=120,
        ),
        "place_in": TabletopTask(
            draw=_into_bin,
            phrasings=("put {x} in {y}", "place {x} in {y}", "drop {x} into {y}"),
            done=goals.in_place,
            max_steps=120,
        ),
        "take_out": TabletopTask(
            draw=_out_of_bin,
            phrasings=(
                "take {x} out of {y}",
                "remove {x} from {y}",
                "put {x}, which is in {y}, on the table",
            ),
            done=goals.taken_out,
            max_steps=120,
        ),
        "stack": TabletopTask(
            draw=_stack,
            phrasings=("stack {x} on {y}", "put {x} on top of {y}", "place {x} on {y}"),
            done=goals.stacked,
            max_steps=130,
        ),
        "place_beside": TabletopTask(
            draw=_beside,
            phrasings=("move {x} {relation} {y}", "put {x} {relation} {y}", "place {x} {relation} {y}"),
            done=goals.beside,
            max_steps=120,
        ),
        "push_to_side": TabletopTask(
            draw=_push,
            phrasings=("push {x} to the {side}", "slide {x} to the {side}", "shove {x} towards the {side}"),
            done=goals.pushed,
            max_steps=90,
        ),
        "bring_to_front": TabletopTask(
            draw=_to_front,
            phrasings=(
                "bring {x} to the front of the table",
                "put {x} at the front edge of the table",
                "move {x} to the front, near the viewer",
            ),
            done=goals.at_front,
            max_steps=120,
        ),
        "open_drawer": TabletopTask(
            draw=_open,
            phrasings=("open the drawer", "pull the drawer open", "pull out the drawer"),
            done=goals.drawer_open,
            max_steps=100,
        ),
        "close_drawer": TabletopTask(
            draw=_close,
            phrasings=("close the drawer", "push the drawer shut", "shut the drawer"),
            done=goals.drawer_shut,
            max_steps=100,
        ),
        "put_in_drawer": TabletopTask(
            draw=_into_drawer,
            phrasings=("put {x} in the drawer", "place {x} in the drawer", "drop {x} into the open drawer"),
            done=goals.in_drawer,
            max_steps=130,
        ),
        "sort_by_color": TabletopTask(
            draw=_sort,
            phrasings=(
                "put each thing in the bin of its colour",
                "sort the things by colour into the bins",
                "put both things away, each in the bin of the same colour",
            ),
            done=goals.in_place,
            max_steps=220,
        ),
    }
)
"""Name to task; append only, for the order decides what a seed draws."""
