"""What the tabletop's experts are made of: go somewhere, grasp, let go, push, each a stream of small actions."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from jaxtyping import Float

from egem.environments.environment import ExpertAction
from egem.environments.tabletop.layout import Layout
from egem.environments.tabletop.simulator import Simulator
from egem.worlds.tabletop.arm import FINGER_TRAVEL

MAX_STEP_M: Final = 0.04
MAX_TURN_RAD: Final = 0.25
"""Of one action, each axis."""

OPEN, CLOSED = 1.0, -1.0

TRAVEL_M: Final = 0.15
"""Height at which the gripper goes from place to place: over all that stands, with something in hand."""
HIGH_ENOUGH_M: Final = 0.10
_STAND_OFF_M: Final = 0.011
"""By which each finger stands off when it comes down."""
_LOW_M: Final = 0.011
"""No grasp is lower: the fingers' ends are 7 mm below the tip."""
_CLOSING_STEPS, _OPENING_STEPS = 4, 3

Moves = Iterator[ExpertAction]
Point = Float[np.ndarray, "3"]


class Motions:
    """Streams of actions for one scene; each stream ends when its end is reached or after a fixed time.

    Args:
        simulator: whose state is looked at.
        layout: what is on the table.
        rng: of small differences in height and speed between demonstrations.
    """

    def __init__(self, simulator: Simulator, layout: Layout, rng: np.random.Generator) -> None:
        self.simulator, self.layout = simulator, layout
        self.travel = TRAVEL_M + float(rng.uniform(-0.012, 0.012))
        self.pace = float(rng.uniform(0.85, 1.0))
        self.grip = OPEN
        self.closing = simulator.closing

    def go(
        self, goal: Point, subtask: str, *, speed: float = 1.0, within: float = 0.006, steps: int = 40
    ) -> Moves:
        """Lead the tip to a point, and the fingers to `self.closing`.

        Args:
            goal: world frame, metres.
            subtask: what this is a part of.
            speed: share of the greatest.
            within: how close the tip has to come, metres.
            steps: give up after so many.
        """
        speed = MAX_STEP_M * speed * self.pace
        for _ in range(steps):
            missing = goal - self.simulator.target
            largest = float(np.abs(missing).max())
            turn = _half_turn(self.closing - self.simulator.closing)
            action = np.zeros(7)
            action[:3] = missing * min(1.0, speed / max(largest, 1e-9))
            action[5] = np.clip(turn, -MAX_TURN_RAD, MAX_TURN_RAD)
            action[6] = self.grip
            yield ExpertAction(action=action, subtask=subtask)
            arrived = np.linalg.norm(goal - self.simulator.tip) < within
            if arrived and abs(_half_turn(self.closing - self.simulator.closing)) < 0.05:
                return

    def stay(self, steps: int, subtask: str) -> Moves:
        """Keep still, moving only the fingers to `self.grip`."""
        for _ in range(steps):
            action = np.zeros(7)
            action[6] = self.grip
            yield ExpertAction(action=action, subtask=subtask)

    def pick(self, number: int, *, towards: Float[np.ndarray, "2"] | None = None) -> Moves:
        """Reach for a thing, grasp and lift it.

        Args:
            number: of the thing.
            towards: where it is going to be put, that fingers may have room there too.
        """
        name = f"the {self.layout.things[number].name}"
        state = self.simulator.state()
        place = state.things[number]
        self.closing, width = self.across(number, towards)
        self.grip = _command(width / 2 + _STAND_OFF_M)
        low = max(_LOW_M, float(place[2]) - 0.004)
        reach, grasp, lift = f"reach for {name}", f"grasp {name}", f"lift {name}"
        yield from self.go(_at(place, self.travel), reach, within=0.02)
        yield from self.go(_at(place, low + 0.045), reach, within=0.008)
        yield from self.go(_at(place, low), reach, speed=0.5, within=0.004, steps=15)
        self.grip = CLOSED
        yield from self.stay(_CLOSING_STEPS, grasp)
        yield from self.go(_at(place, self.travel), lift, speed=0.75, within=0.015)

    def put(
        self, number: int, spot: Float[np.ndarray, "2"], rest: float, subtasks: tuple[str, str], within: float
    ) -> Moves:
        """Carry what is held to a place, let it go there and move away.

        Args:
            number: of the thing.
            spot: where its middle is to be.
            rest: height on which it stands then.
            subtasks: names of carrying and of putting down.
            within: how close the tip has to come before it goes down, metres.
        """
        carry, place = subtasks
        half = self.layout.things[number].half[2]
        goal = spot + self._hand_offset(number)[:2]
        yield from self.go(_at(goal, self.travel), carry, speed=0.75, within=0.01)
        offset = self._hand_offset(number)
        goal = spot + offset[:2]
        low = max(rest + half + max(float(offset[2]), -0.01) + 0.003, rest + _LOW_M)
        yield from self.go(_at(goal, low + 0.03), place, within=within)
        yield from self.go(_at(goal, low), place, speed=0.4, within=0.004, steps=15)
        _, width = self.across(number, None)
        self.grip = _command(width / 2 + _STAND_OFF_M)
        yield from self.stay(_OPENING_STEPS, place)
        yield from self.go(_at(goal, low + HIGH_ENOUGH_M), place, within=0.03)

    def across(self, number: int, towards: Float[np.ndarray, "2"] | None) -> tuple[float, float]:
        """Direction in which the fingers close on a thing where they have most room, and the width between them."""
        thing, state = self.layout.things[number], self.simulator.state()
        axis = state.turns[number][:, 0]
        yaw = float(np.arctan2(axis[1], axis[0]))
        a, b, _ = thing.half
        turns = {"cube": 2, "cylinder": 8, "block": 1}[thing.kind]
        candidates = [yaw + k * np.pi / turns for k in range(turns)]
        width = 2 * (a if thing.kind != "cube" else b)
        others = np.array([p[:2] for i, p in enumerate(state.things) if i != number]).reshape(-1, 2)
        spots = [state.things[number][:2]] + ([] if towards is None else [towards])

        def cost(angle: float) -> float:
            finger = (width / 2 + _STAND_OFF_M + 0.012) * np.array([np.cos(angle), np.sin(angle)])
            ends = np.array([spot + sign * finger for spot in spots for sign in (1, -1)])
            room = np.linalg.norm(ends[:, None] - others[None], axis=2).min() if len(others) else 1.0
            # Room beyond 6 cm is worth nothing; then the smaller turn wins.
            return -30 * min(float(room), 0.06) + abs(_half_turn(angle - self.simulator.closing))

        return min(candidates, key=cost), width

    def _hand_offset(self, number: int) -> Point:
        return self.simulator.tip - self.simulator.state().things[number]


def _at(place: np.ndarray, height: float) -> Point:
    return np.array([place[0], place[1], height])


def _half_turn(angle: float) -> float:
    """The same direction of two fingers that are alike, between -90 and 90 degrees."""
    return float((angle + np.pi / 2) % np.pi - np.pi / 2)


def _command(opening: float) -> float:
    """The action's gripper value for an opening of each finger, metres."""
    return float(np.clip(2 * opening / FINGER_TRAVEL - 1, CLOSED, OPEN))
