"""A simulator process for tests: a point that moves along a line, behind the real channel of `egem_simulators`."""

import os
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "packages" / "egem-simulators" / "src"))
from egem_simulators.channel import (
    ActionProblem,
    ConfigProblem,
    answer_all,
    end_with_parent,
    methods_of,
    private_pipes,
)


class Line:
    def __init__(self) -> None:
        self.place = np.zeros(3)

    def describe(self) -> dict:
        print("a simulator that chatters on its standard output")
        return {
            "tasks": ["go/0", "go/1"],
            "instructions": {"go/0": "go right", "go/1": "go up"},
            "cameras": ["image"],
            "state_names": ["x", "y", "z"],
            "note": "a point on a line",
        }

    def feelings(self) -> dict:
        return {"state": self.place.astype(np.float32), "instruction": "go right"}

    def reset(self, task: str, seed: int) -> dict:
        if seed == 99:
            raise ConfigProblem("seed 99 has no initial state; take another.")
        if seed == 98:
            Path(os.environ["LINE_IS_BUSY"]).write_text(str(os.getpid()))
            time.sleep(60)
        self.place = np.array([float(seed), 0, 0])
        return {"max_steps": 9, "meta": {"task": task}, **self.feelings()}

    def step(self, action: np.ndarray) -> dict:
        if action[6] == -1:
            raise ActionProblem("the hand is stuck.")
        if action[5] == 1:
            raise ValueError("physics exploded")
        if action[4] == 1:
            print("last words before the fall", file=sys.stderr, flush=True)
            os._exit(7)
        if action[3] == 1:
            time.sleep(30)
        self.place = self.place + action[:3]
        done = bool(self.place[0] > 2)
        return {"success": done, "over": done, **self.feelings()}

    def observe(self) -> dict:
        picture = np.full((4, 6, 3), int(10 * self.place[0]), np.uint8)
        depth = np.ones((4, 6), np.float32)
        return {"images": {"image": picture}, "depths": {"image": depth}, **self.feelings()}

    def failure(self) -> dict:
        return {"stage": "reach", "detail": "did not arrive"}

    def calibrations(self) -> dict:
        return {"image": {"intrinsics": np.eye(3), "camera_from_base": np.eye(4)}}

    def expert(self, seed: int) -> None:
        self.left = 2 + seed

    def expert_next(self) -> dict | None:
        if self.left == 0:
            return None
        self.left -= 1
        return {"action": np.array([1, 0, 0, 0, 0, 0, 1], np.float32), "subtask": "go"}


if __name__ == "__main__":
    end_with_parent()
    line = Line()
    questions, answers = private_pipes()
    answer_all(questions, answers, methods_of(line))
