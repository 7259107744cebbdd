"""When a task is done: predicates on the simulator's state, every tolerance by name; and what is missing if not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from egem.environments.environment import Failure
from egem.environments.tabletop import model as parts
from egem.environments.tabletop.layout import BIN_HALF, DIRECTIONS, Layout, Side
from egem.environments.tabletop.simulator import State

SETTLED_STEPS: Final = 3
"""Success counts when it has held for so many steps (0.3 s)."""

LIFTED_M: Final = 0.08
"""A thing is lifted when its underside is this far above the table."""
HELD_OVER_M: Final = 0.045
"""Horizontal distance from a plate's middle within which something is over it."""
ON_PLATE_M: Final = 0.055
"""Likewise within which something stands on it."""
RESTING_M: Final = 0.012
"""By which the height of what rests may differ from the exact one."""
STACKED_M: Final = 0.020
"""Horizontal distance between the middles of two things, one on the other."""
BESIDE_M: Final = (0.055, 0.135)
"""Distance between the middles of two things that stand beside each other..."""
ALIGNED_M: Final = 0.045
"""...and how far one is off the other's line."""
PUSHED_M: Final = 0.07
"""How far something has to be pushed."""
STRAIGHT_M: Final = 0.05
"""How far off the line."""
PUSHED_LIFT_M: Final = 0.020
"""Pushing is no carrying: how high the thing may have been in between."""
FRONT_X: Final = 0.155
"""Things nearer to the viewer than this are at the front of the table."""
OPEN_M: Final = 0.080
SHUT_M: Final = 0.008
"""A drawer is open or shut beyond this."""
STILL_M_S: Final = 0.03
"""Speed below which something has come to rest."""

NEAR_M: Final = 0.05
"""The tip is at a thing within this distance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What an episode is about."""

    subjects: tuple[int, ...] = ()
    """Numbers of the things to be moved; none where it is the drawer."""
    holders: tuple[int, ...] = ()
    """For each subject the plate or bin it belongs to, where there is one."""
    anchor: int | None = None
    """Number of the thing that the subject goes to."""
    side: Side | None = None


@dataclass(kw_only=True, slots=True)
class History:
    """What has happened in an episode so far."""

    first: State
    near: set[int]
    """Things that the tip has been at."""
    held: set[int]
    """Things that have been held off the table."""
    highest: Float[np.ndarray, "thing"]
    """Largest height of each."""
    handle: bool = False
    """The tip has been at the drawer's handle or face."""


Done = Callable[[State, History, Layout, Goal], bool]


def lifted(state: State, history: History, layout: Layout, goal: Goal) -> bool:
    """The subject is in the gripper, high above the table."""
    (subject,) = goal.subjects
    return state.held == subject and _underside(state, layout, subject) > LIFTED_M


def held_over(state: State, history: History, layout: Layout, goal: Goal) -> bool:
    """The subject is in the gripper, in the air above the plate."""
    (subject,), (holder,) = goal.subjects, goal.holders
    away = float(np.linalg.norm(state.things[subject, :2] - state.holders[holder, :2]))
    return state.held == subject and away < HELD_OVER_M and _underside(state, layout, subject) > LIFTED_M / 2


def in_place(state: State, history: History, layout: Layout, goal: Goal) -> bool:
    """Every subject rests on its plate or in its bin, let go."""
    return all(
        is_in_holder(state, layout, subject, holder) and _is_let_go(state, subject)
        for subject, holder in zip(goal.subjects, goal.holders, strict=True)
    )


def is_in_holder(state: State, layout: Layout, subject: int, holder: int) -> bool:
    """Whether a thing is on a plate or in a bin."""
    here = state.holder_turns[holder].T @ (state.things[subject] - state.holders[holder])
    if layout.holders[holder].kind == "bin":
        return bool(np.abs(here[:2]).max() < BIN_HALF and here[2] < 0.05)
    resting = layout.holders[holder].floor + layout.things[subject].half[2]
    return bool(np.hypot(here[0], here[1]) < ON_PLATE_M and abs(here[2] - resting) < RESTING_M)


def stacked(state: State, history: History, layout: Layout, goal: Goal) -> bool:
    """The subject stands on the anchor, let go."""
    (subject,), anchor = goal.subjects, goal.anchor
    assert anchor is not None
    apart = state.things[subject] - state.things[anchor]
    resting = layout.things[subject].half[2] + layout.things[anchor].half[2]
    return bool(
        np.hypot(apart[0], apart[1]) < STACKED_M
        and abs(apart[2] - resting) < RESTING_M
        and _is_let_go(state, subject)
    )


def beside(state: State, history: History, layout: Layout, goal: Goal) -> bool:
    """The subject stands on the table at the named side of the anchor, let go."""
    (subject,), anchor = goal.subjects, goal.anchor
    assert anchor is not None
    assert goal.side is not None
    along, across = _components(state.things[subject] - state.things[anchor], goal.side)
    return bool(
        BESIDE_M[0] < along < BESIDE_M[1]
        and abs(across) < ALIGNED_M
        and _is_on_table(state, layout, subject)
        and _is_let_go(state, subject)
    )


def pushed(state: State, history: History, layout: Layout, goal: Goal) -> bool:
    """The subject has been moved along the table to a side, never lifted."""
    (subject,) = goal.subjects
    assert goal.side is not None
    along, across = _components(state.things[subject] - history.first.things[subject], goal.side)
    climbed = history.highest[subject] - history.first.things[subject, 2]
    return bool(
        along > PUSHED_M
        and abs(across) < STRAIGHT_M
        and climbed < PUSHED_LIFT_M
        and _is_on_table(state, layout, subject)
        and state.speeds[subject] < STILL_M_S
    )


def at_front(state: State, history: History, layout: Layout, goal: Goal) -> bool:
    """The subject stands on the table near the viewer, let go."""
    (subject,) = goal.subjects
    return bool(
        state.things[subject, 0] > FRONT_X
        and _is_on_table(state, layout, subject)
        and _is_let_go(state, subject)
    )


def taken_out(state: State, history: History, layout: Layout, goal: Goal) -> bool:
    """The subject stands on the table outside the bin, let go."""
    (subject,), (holder,) = goal.subjects, goal.holders
    return bool(
        not is_in_holder(state, layout, subject, holder)
        and _is_on_table(state, layout, subject)
        and _is_let_go(state, subject)
    )


def drawer_open(state: State, history: History, layout: Layout, goal: Goal) -> bool:
    """The drawer is pulled out."""
    return state.drawer > OPEN_M


def drawer_shut(state: State, history: History, layout: Layout, goal: Goal) -> bool:
    """The drawer is pushed in."""
    return state.drawer < SHUT_M


def in_drawer(state: State, history: History, layout: Layout, goal: Goal) -> bool:
    """The subject lies in the drawer, let go."""
    (subject,) = goal.subjects
    assert layout.cabinet is not None
    x, y, z = state.things[subject] - (*layout.cabinet.position, 0.0)
    return bool(
        state.drawer - parts.CABINET_DEPTH < x < state.drawer
        and abs(y) < parts.DRAWER_HALF_WIDTH
        and z < parts.DRAWER_WALL + 0.01
        and _is_let_go(state, subject)
    )


def is_lost(state: State, goal: Goal) -> bool:
    """Whether a subject has fallen off the table, so that nothing can be gained any more."""
    return any(state.things[subject, 2] < -0.05 for subject in goal.subjects)


def explain(state: State, history: History, layout: Layout, goal: Goal) -> Failure:
    """How far an attempt without success got: reach, grasp, transport, release, or the wrong thing."""
    if not goal.subjects:
        if not history.handle:
            return Failure(stage="reach", detail="the gripper was never at the drawer")
        moved = state.drawer - history.first.drawer
        return Failure(stage="push", detail=f"the drawer moved by {100 * moved:+.1f} cm")
    wrong = [layout.things[i].name for i in sorted(history.held - set(goal.subjects))]
    for subject in goal.subjects:
        name = f"the {layout.things[subject].name}"
        if is_lost(state, Goal(subjects=(subject,))):
            return Failure(stage="transport", detail=f"{name} fell off the table")
        if wrong and subject not in history.held:
            return Failure(stage="wrong object", detail=f"the {wrong[0]} was lifted instead of {name}")
        if subject not in history.near:
            return Failure(stage="reach", detail=f"the gripper was never at {name}")
        moved = 100 * np.linalg.norm(state.things[subject, :2] - history.first.things[subject, :2])
        if goal.side is not None and goal.anchor is None:
            return Failure(stage="push", detail=f"{name} was moved by {moved:.1f} cm")
        if subject not in history.held:
            return Failure(stage="grasp", detail=f"{name} was touched but never lifted")
        if state.held == subject:
            return Failure(stage="transport", detail=f"{name} was still held, {moved:.1f} cm from its start")
    subject = goal.subjects[-1]
    moved = 100 * np.linalg.norm(state.things[subject, :2] - history.first.things[subject, :2])
    return Failure(
        stage="release",
        detail=f"the {layout.things[subject].name} was let go in another place, {moved:.1f} cm from its start",
    )


def _components(offset: Float[np.ndarray, "3"], side: Side) -> tuple[float, float]:
    """Along a side's direction and across it."""
    x, y = DIRECTIONS[side]
    return float(offset[0] * x + offset[1] * y), float(offset[0] * y - offset[1] * x)


def _underside(state: State, layout: Layout, subject: int) -> float:
    return float(state.things[subject, 2]) - layout.things[subject].half[2]


def _is_on_table(state: State, layout: Layout, subject: int) -> bool:
    # A block may have come to rest on another of its faces.
    low, high = min(layout.things[subject].half), max(layout.things[subject].half)
    return bool(low - RESTING_M < state.things[subject, 2] < high + RESTING_M / 2)


def _is_let_go(state: State, subject: int) -> bool:
    return subject not in state.touched and bool(state.speeds[subject] < STILL_M_S)
