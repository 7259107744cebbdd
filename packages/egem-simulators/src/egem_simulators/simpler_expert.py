"""Scripted pick-and-place for SimplerEnv's WidowX tasks, from the simulator's state.

The gripper comes from above and is not turned to the thing, so long things that lie across it are sometimes lost.
Numbers are metres.
"""

from collections.abc import Callable, Iterator

import numpy as np

from egem_simulators.libero_expert import Step

OPEN, CLOSED = 1.0, -1.0
HOVER, CARRY = 0.10, 0.12
FASTEST = 0.04
"""Of one action."""

DROP = {"stack_cube": 0.034, "carrot_on_plate": 0.03, "spoon_on_towel": 0.03, "eggplant_in_basket": 0.06}
"""Height above the goal at which the thing is let go."""


def solve(
    look: Callable[[], tuple[np.ndarray, np.ndarray, np.ndarray]],
    base: np.ndarray,
    *,
    task: str,
    rng: np.random.Generator,
) -> Iterator[Step]:
    """Actions until the thing is let go; the caller carries each out before it asks for the next.

    Args:
        look: where the gripper, the thing and the goal are now, in the world.
        base: rotation of the robot's base in the world; actions are in its frame.
        task: one of `DROP`.
        rng: of a small sideways choice, so that demonstrations differ.
    """
    jitter = np.array([*rng.normal(0.0, 0.001, 2), 0.0])

    def act(shift: np.ndarray, gripper: float, subtask: str) -> Step:
        return Step(np.r_[base.T @ shift, 0.0, 0.0, 0.0, gripper], subtask)

    def towards(target: np.ndarray, gripper: float, steps: int, near: float, subtask: str) -> Iterator[Step]:
        for _ in range(steps):
            error = target - look()[0]
            if np.linalg.norm(error) < near:
                return
            shift = error * 0.5
            length = float(np.linalg.norm(shift))
            yield act(shift * min(1.0, FASTEST / length), gripper, subtask)

    def hold(gripper: float, steps: int, subtask: str) -> Iterator[Step]:
        for _ in range(steps):
            yield act(np.zeros(3), gripper, subtask)

    thing = look()[1] + jitter
    yield from towards(thing + np.array([0.0, 0.0, HOVER]), OPEN, 14, 0.006, "reach for the thing")
    yield from towards(thing, OPEN, 14, 0.003, "reach for the thing")
    yield from hold(CLOSED, 3, "grasp it")
    lifted = look()[0] + [0.0, 0.0, CARRY]
    yield from towards(lifted, CLOSED, 10, 0.015, "lift it")
    hand, thing, goal = look()
    held = hand - thing
    above = np.array([*(goal + held)[:2], lifted[2]])
    yield from towards(above, CLOSED, 16, 0.008, "carry it to the goal")
    low = np.array([*above[:2], goal[2] + DROP[task] + held[2]])
    yield from towards(low, CLOSED, 8, 0.006, "carry it to the goal")
    yield from hold(OPEN, 6, "let go")
