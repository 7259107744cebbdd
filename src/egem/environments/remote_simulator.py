"""An environment whose simulator runs in another process: its answers as egem's nouns."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from egem.core.errors import ProtocolError
from egem.environments.environment import (
    Calibration,
    EnvironmentInfo,
    ExpertAction,
    Failure,
    Progress,
    Start,
    check_task,
)
from egem.environments.simulator_process import SimulatorProcess
from egem.episodes import ActionSpace
from egem.policy import Observation


class RemoteSimulator:
    """Implements `Environment` by asking a process; started when it is made, ended by `close`.

    An observation at the start of an episode is drawn only when the policy or the recorder asks for it; the one in
    `Start` is drawn, because a policy looks before it acts.

    Args:
        name: of the environment.
        process: the simulator; "describe" is asked at once.
        action_space: what actions mean there.
        limits: of each number of an action, and their negatives.
        control_hz: actions a second.
        effector_dims: see `EnvironmentInfo`.
    """

    def __init__(
        self,
        name: str,
        process: SimulatorProcess,
        *,
        action_space: ActionSpace,
        limits: tuple[float, ...],
        control_hz: float,
        effector_dims: tuple[int, ...] = (),
    ) -> None:
        self._process = process
        try:
            found = process.ask("describe")
        except Exception:
            process.close()
            raise
        self.instructions: Mapping[str, str] = found["instructions"]
        """Task to what is to be done, in the simulator's own words."""
        self._info = EnvironmentInfo(
            name=name,
            tasks=tuple(found["tasks"]),
            cameras=tuple(found["cameras"]),
            state_names=tuple(found["state_names"]),
            action_space=action_space,
            action_low=tuple(-limit for limit in limits),
            action_high=limits,
            control_hz=control_hz,
            effector_dims=effector_dims,
            note=found["note"],
        )

    @property
    def info(self) -> EnvironmentInfo:
        """What a policy has to fit."""
        return self._info

    def reset(self, task: str, seed: int) -> Start:
        """Begin an episode; see `Environment.reset`."""
        check_task(task, self._info)
        begun = self._process.ask("reset", task=task, seed=int(seed))
        return Start(observation=self.observe(), max_steps=begun["max_steps"], meta=begun["meta"])

    def step(self, action: Float[np.ndarray, "action"]) -> Progress:
        """Carry out one action, without drawing; numbers outside the limits are moved to them."""
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (self._info.action_space.dim,) or not np.isfinite(action).all():
            raise ProtocolError(
                f"an action of shape {action.shape} came; {self._info.action_space.dim} finite numbers are right."
            )
        clipped = np.clip(action, self._info.action_low, self._info.action_high)
        moved = self._process.ask("step", action=clipped.astype(np.float32))
        return Progress(success=moved["success"], over=moved["over"])

    def observe(self) -> Observation:
        """Draw what the cameras see now: RGB and metric depth."""
        seen = self._process.ask("observe")
        return Observation(
            images=seen["images"],
            state=seen["state"],
            instruction=seen["instruction"],
            depths=seen["depths"],
        )

    def failure(self) -> Failure:
        """Where the attempt stands, when it ends without success."""
        found = self._process.ask("failure")
        return Failure(stage=found["stage"], detail=found["detail"])

    def expert(self, seed: int) -> Iterator[ExpertAction]:
        """A scripted solution from the present start; see `Environment.expert`."""
        self._process.ask("expert", seed=int(seed))
        return self._expert_actions()

    def calibrations(self) -> dict[str, Calibration]:
        """Every camera at this moment; "base" is the frame of the robot's state."""
        found: Mapping[str, Any] = self._process.ask("calibrations")
        return {
            name: Calibration(
                intrinsics=camera["intrinsics"],
                camera_from_base=camera["camera_from_base"],
            )
            for name, camera in found.items()
        }

    def close(self) -> None:
        """End the simulator's process."""
        self._process.close()

    def _expert_actions(self) -> Iterator[ExpertAction]:
        while (step := self._process.ask("expert_next")) is not None:
            yield ExpertAction(action=step["action"], subtask=step["subtask"])
