"""A script for every task of the tabletop."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from egem.environments.environment import ExpertAction
from egem.environments.experts.motions import CLOSED, Motions, Moves
from egem.environments.tabletop import model
from egem.environments.tabletop.goals import Goal
from egem.environments.tabletop.layout import DIRECTIONS, Layout
from egem.environments.tabletop.simulator import Simulator

_BESIDE_M: Final = 0.09
_PUSH_M: Final = 0.095
_FRONT_X: Final = 0.185
_HOOK_M: Final = 0.030
"""From the drawer's front to closed fingers between its face (1 cm) and the bar (from 4.8 cm on)."""
_BAR_M: Final = 0.058
"""From the drawer's front to the outside of the bar."""


def script(
    task: str, simulator: Simulator, layout: Layout, goal: Goal, rng: np.random.Generator
) -> Iterator[ExpertAction]:
    """The expert's actions from the present start; after its last motion it keeps still, without end."""
    motions = Motions(simulator, layout, rng)
    last = ""
    for move in SCRIPTS[task](motions, goal):
        last = move.subtask
        yield move
    while True:
        yield from motions.stay(1, last)


def _lift(motions: Motions, goal: Goal) -> Moves:
    yield from motions.pick(goal.subjects[0])


def _hold_over(motions: Motions, goal: Goal) -> Moves:
    subject, holder = goal.subjects[0], goal.holders[0]
    plate = motions.simulator.state().holders[holder][:2]
    yield from motions.pick(subject)
    names = motions.layout.things[subject].name, motions.layout.holders[holder].name
    yield from motions.go(
        np.array([*plate, motions.travel]), f"hold the {names[0]} over the {names[1]}", speed=0.75
    )


def _into_holders(motions: Motions, goal: Goal) -> Moves:
    for subject, holder in zip(goal.subjects, goal.holders, strict=True):
        target = motions.layout.holders[holder]
        spot = motions.simulator.state().holders[holder][:2]
        word = "on" if target.kind == "plate" else "in"
        yield from motions.pick(subject)
        yield from motions.put(
            subject, spot, target.floor, _words(motions, subject, word, target.name), within=0.008
        )


def _take_out(motions: Motions, goal: Goal) -> Moves:
    subject = goal.subjects[0]
    state = motions.simulator.state()
    taken = [p[:2] for i, p in enumerate(state.things) if i != subject]
    bins = [p[:2] for p in state.holders]
    grid = np.stack(np.meshgrid(np.linspace(-0.14, 0.12, 14), np.linspace(-0.22, 0.22, 23)), axis=-1)
    spots = grid.reshape(-1, 2)
    room = np.min(
        [np.linalg.norm(spots - p, axis=1) for p in taken]
        + [np.linalg.norm(spots - p, axis=1) - 0.05 for p in bins],
        axis=0,
    )
    # The nearest of the places with room enough, or else the one with most.
    near = np.linalg.norm(spots - state.things[subject][:2], axis=1)
    spot = spots[int(np.argmin(near - 1e3 * np.minimum(room, 0.10)))]
    yield from motions.pick(subject)
    yield from motions.put(subject, spot, 0.0, _words(motions, subject, "on", "table"), within=0.008)


def _stack(motions: Motions, goal: Goal) -> Moves:
    (subject,), anchor = goal.subjects, goal.anchor
    assert anchor is not None
    spot = motions.simulator.state().things[anchor][:2]
    yield from motions.pick(subject)
    state = motions.simulator.state()
    rest = float(state.things[anchor][2]) + motions.layout.things[anchor].half[2]
    axis = state.turns[anchor][:, 0]
    yaw = float(np.arctan2(axis[1], axis[0]))
    # Faces to faces: of the two directions of the lower cube the nearer one.
    motions.closing = motions.simulator.closing + _quarter_turn(yaw - motions.simulator.closing)
    words = _words(motions, subject, "on", motions.layout.things[anchor].name)
    yield from motions.put(subject, spot, rest, words, within=0.004)


def _beside(motions: Motions, goal: Goal) -> Moves:
    (subject,), anchor, side = goal.subjects, goal.anchor, goal.side
    assert anchor is not None
    assert side is not None
    spot = motions.simulator.state().things[anchor][:2] + _BESIDE_M * np.array(DIRECTIONS[side])
    words = _words(motions, subject, "beside", motions.layout.things[anchor].name)
    yield from motions.pick(subject, towards=spot)
    yield from motions.put(subject, spot, 0.0, words, within=0.008)


def _to_front(motions: Motions, goal: Goal) -> Moves:
    subject = goal.subjects[0]
    y = float(motions.simulator.state().things[subject][1])
    yield from motions.pick(subject)
    yield from motions.put(
        subject,
        np.array([_FRONT_X, 0.8 * y]),
        0.0,
        _words(motions, subject, "on", "front of the table"),
        within=0.008,
    )


def _push(motions: Motions, goal: Goal) -> Moves:
    (subject,), side = goal.subjects, goal.side
    assert side is not None
    thing, start = motions.layout.things[subject], motions.simulator.state().things[subject].copy()
    name = f"the {thing.name}"
    direction = np.array(DIRECTIONS[side])
    across = np.array([-direction[1], direction[0]])
    # Two fingers, a little apart and flat against a face, push a thing straight where one would turn it.
    axis = motions.simulator.state().turns[subject][:, 0]
    facing = float(np.arctan2(direction[1], direction[0]))
    lean = _quarter_turn(float(np.arctan2(axis[1], axis[0])) - facing)
    motions.closing, motions.grip = facing + lean + np.pi / 2, -0.5
    behind = start[:2] - direction * (_reach_of(motions, subject, facing + lean) / np.cos(lean) + 0.032)
    reach, push = f"reach for {name}", f"push {name}"
    yield from motions.go(np.array([*behind, motions.travel]), reach, within=0.02)
    yield from motions.go(np.array([*behind, 0.016]), reach, within=0.006)
    for _ in range(40):
        moved = motions.simulator.state().things[subject][:2] - start[:2]
        along, aside = float(moved @ direction), float(moved @ across)
        if along > _PUSH_M:
            break
        here = (motions.simulator.target[:2] - start[:2]) @ direction
        goal_point = start[:2] + direction * (here + 0.014) + across * 0.6 * aside
        yield from motions.go(np.array([*goal_point, 0.016]), push, speed=0.6, within=1.0, steps=1)
    back = motions.simulator.target[:2] - 0.03 * direction
    yield from motions.go(np.array([*back, 0.016]), push, within=0.01, steps=6)
    yield from motions.go(np.array([*back, motions.travel]), push, within=0.03)


def _open_drawer(motions: Motions, goal: Goal) -> Moves:
    x, y = _front(motions)
    reach, hook, pull = "reach for the handle", "hook the handle", "pull the drawer open"
    motions.closing, motions.grip = np.pi / 2, CLOSED
    z = model.HANDLE_HEIGHT - 0.002
    yield from motions.go(np.array([x + _HOOK_M, y, motions.travel]), reach, within=0.012)
    yield from motions.go(np.array([x + _HOOK_M, y, z + 0.03]), hook, within=0.006)
    yield from motions.go(np.array([x + _HOOK_M, y, z]), hook, speed=0.5, within=0.004, steps=15)
    end = x + _HOOK_M + model.DRAWER_TRAVEL + 0.012
    yield from motions.go(np.array([end, y, z]), pull, speed=0.5, within=0.006, steps=25)
    yield from motions.go(np.array([end - 0.006, y, motions.travel]), pull, within=0.03)


def _close_drawer(motions: Motions, goal: Goal) -> Moves:
    x, y = _front(motions)
    start = x + motions.simulator.state().drawer + _BAR_M + 0.03
    reach, push = "reach for the drawer's face", "push the drawer shut"
    motions.closing, motions.grip = np.pi / 2, CLOSED
    z = model.HANDLE_HEIGHT - 0.002
    yield from motions.go(np.array([start, y, motions.travel]), reach, within=0.015)
    yield from motions.go(np.array([start, y, z]), reach, within=0.008)
    yield from motions.go(np.array([x + _BAR_M - 0.004, y, z]), push, speed=0.5, within=0.004, steps=25)
    yield from motions.go(np.array([x + _BAR_M + 0.03, y, motions.travel]), push, within=0.03)


def _into_drawer(motions: Motions, goal: Goal) -> Moves:
    subject = goal.subjects[0]
    x, y = _front(motions)
    opening = motions.simulator.state().drawer
    yield from motions.pick(subject)
    motions.closing = np.pi / 2
    spot = np.array([x + opening / 2, y])
    words = _words(motions, subject, "in", "drawer")
    yield from motions.put(subject, spot, model.DRAWER_FLOOR, words, within=0.008)


def _front(motions: Motions) -> tuple[float, float]:
    cabinet = motions.layout.cabinet
    assert cabinet is not None
    return cabinet.position


def _words(motions: Motions, subject: int, word: str, target: str) -> tuple[str, str]:
    name = f"the {motions.layout.things[subject].name}"
    return f"move {name} over the {target}", f"place {name} {word} the {target}"


def _reach_of(motions: Motions, subject: int, angle: float) -> float:
    """How far a thing with flat sides extends from its middle in a direction of the table."""
    a, b, _ = motions.layout.things[subject].half
    axes = motions.simulator.state().turns[subject][:2, :2]
    return float(np.abs(np.array([np.cos(angle), np.sin(angle)]) @ axes) @ (a, b))


def _quarter_turn(angle: float) -> float:
    """The same direction of a cube's faces, between -45 and 45 degrees."""
    return float((angle + np.pi / 4) % (np.pi / 2) - np.pi / 4)


SCRIPTS: Final[Mapping[str, Callable[[Motions, Goal], Moves]]] = MappingProxyType(
    {
        "lift": _lift,
        "hold_over": _hold_over,
        "place_on": _into_holders,
        "place_in": _into_holders,
        "take_out": _take_out,
        "stack": _stack,
        "place_beside": _beside,
        "push_to_side": _push,
        "bring_to_front": _to_front,
        "open_drawer": _open_drawer,
        "close_drawer": _close_drawer,
        "put_in_drawer": _into_drawer,
        "sort_by_color": _into_holders,
    }
)
"""Task to script."""
