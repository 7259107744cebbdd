"""Scripted pick-and-place for libero_spatial and libero_object, from the simulator's state.

Every task of both suites takes one thing and puts it on or in another. The hand moves by proportional control of its
position; its orientation stays as it is. Numbers are metres.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

GAIN = 12.0
"""Action per metre of error: the controller moves 5 cm at full action."""

OPEN, CLOSED = -1.0, 1.0
HOVER = 0.12
CARRY = 0.22
RIM = np.array([0.0, 0.052, 0.03])
"""From a bowl's origin to its rim, where it can be held."""

TALL_GRASP = 0.02
"""Above the origin of tall things; flat ones are held at their origin."""

FLAT = ("cream", "butter", "pudding")


@dataclass(frozen=True)
class Step:
    """One action and what it is for."""

    action: np.ndarray
    subtask: str


def solve(
    look: Callable[[], Mapping[str, Any]], interest: list[str], rng: np.random.Generator
) -> Iterator[Step]:
    """Actions until the thing is let go; the caller carries each out before it asks for the next.

    Args:
        look: what the simulator knows now: "robot0_eef_pos" and "<object>_pos".
        interest: the thing to move and where to, as the task names them.
        rng: of a small sideways choice, so that demonstrations differ.
    """
    source, goal = interest[0], interest[1]
    thing = " ".join(word for word in source.split("_") if not word.isdigit())
    place = " ".join(word for word in goal.split("_") if not word.isdigit())
    offset = RIM.copy() if "bowl" in source else np.zeros(3)
    offset[2] += 0.0 if "bowl" in source or any(word in source for word in FLAT) else TALL_GRASP
    offset[:2] += rng.normal(0.0, 0.002, 2)

    def at(name: str) -> np.ndarray:
        return np.array(look()[f"{name}_pos"], dtype=np.float64)

    def towards(target: np.ndarray, gripper: float, steps: int, near: float, subtask: str) -> Iterator[Step]:
        for _ in range(steps):
            error = target - np.asarray(look()["robot0_eef_pos"])
            if np.linalg.norm(error) < near:
                return
            yield Step(np.r_[np.clip(error * GAIN, -1.0, 1.0), 0.0, 0.0, 0.0, gripper], subtask)

    def hold(gripper: float, steps: int, subtask: str) -> Iterator[Step]:
        for _ in range(steps):
            yield Step(np.array([0.0] * 6 + [gripper]), subtask)

    yield from towards(at(source) + offset + [0.0, 0.0, HOVER], OPEN, 60, 0.008, f"reach for the {thing}")
    yield from towards(at(source) + offset, OPEN, 60, 0.006, f"reach for the {thing}")
    yield from hold(CLOSED, 12, f"grasp the {thing}")
    height = float(look()["robot0_eef_pos"][2]) + CARRY
    lifted = np.array([*look()["robot0_eef_pos"][:2], height])
    yield from towards(lifted, CLOSED, 50, 0.02, f"lift the {thing}")
    held = np.asarray(look()["robot0_eef_pos"]) - at(source)
    # A goal may be a part of a thing ("basket_1_contain_region").
    target = at(goal if f"{goal}_pos" in look() else "_".join(goal.split("_")[:2]))
    above = np.array([*(target + held)[:2], height])
    yield from towards(above, CLOSED, 100, 0.012, f"carry the {thing} to the {place}")
    low = np.array([*above[:2], target[2] + 0.10 + max(float(held[2]), 0.0)])
    yield from towards(low, CLOSED, 40, 0.015, f"carry the {thing} to the {place}")
    yield from hold(OPEN, 30, f"let go of the {thing}")
