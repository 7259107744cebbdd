"""What every simulated robot offers, however it is simulated: tasks, observations, steps, success.

Pictures are drawn only when `observe` is called: a policy looks once a chunk of actions, the physics between are cheap.
Nothing here needs torch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from egem.core.errors import unknown_name
from egem.episodes import ActionSpace
from egem.matching import require_match
from egem.policy import Observation, PolicyInfo

Stage = Literal["reach", "grasp", "wrong object", "transport", "release", "push", "other"]
STAGES: Final = ("reach", "grasp", "wrong object", "transport", "release", "push", "other")
"""Where an attempt can end without success, in the order in which they come."""
DEMONSTRATION_SEED: Final = 1_000_000
"""Recordings begin with this seed, evaluations with 0. An environment with a fixed list of starts draws others from
here on, so that no policy is scored where it was shown what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentOptions:
    """What can be chosen when an environment is opened."""

    size: tuple[int, int]
    """Height and width of the pictures in pixels, where the simulator can draw at any size."""
    scenery: Literal["plain", "varied"] = "plain"
    """Whether room, light and camera poses are the same in all episodes or drawn from the seed (tabletop)."""
    assets: Path | None = None
    """Folder with what the simulator needs and may not be shipped; the environment says what belongs there."""
    python: Path | None = None
    """Interpreter of the simulator's own environment, for those that run in one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentInfo:
    """What a policy has to fit."""

    name: str
    tasks: tuple[str, ...]
    cameras: tuple[str, ...]
    """The first is the one that sees most of the scene."""
    state_names: tuple[str, ...]
    action_space: ActionSpace
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    """Actions outside are clipped to these limits, dimension by dimension."""
    control_hz: float
    """Actions a second."""
    effector_dims: tuple[int, ...] = ()
    """Which numbers of the state are the gripper's x, y and z in the frame of `calibrations`; empty where none are."""
    note: str = ""
    """What must be said beside every score from here, such as "placeholder pictures"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """The first moment of an episode."""

    observation: Observation
    max_steps: int
    """Actions after which the episode counts as failed."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """JSON values: what the scene holds, for the record of the episode."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """After an action."""

    success: bool
    over: bool
    """Nothing can be gained by going on: success, or what was to be moved is out of reach."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why an episode is no success so far."""

    stage: Stage
    detail: str
    """One phrase: "the red cube was never held"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertAction:
    """What a scripted expert does next."""

    action: Float[np.ndarray, "action"]
    subtask: str
    """"reach for the red cube"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A camera at this moment."""

    intrinsics: Float[np.ndarray, "3 3"]
    camera_from_base: Float[np.ndarray, "4 4"]
    """Takes the robot's base frame to the camera's: x right, y down, z forward."""


@runtime_checkable
class Environment(Protocol):
    """A simulated robot with language-conditioned tasks. The same task and seed give the same start."""

    @property
    def info(self) -> EnvironmentInfo:
        """What a policy has to fit."""
        ...

    def reset(self, task: str, seed: int) -> Start:
        """Begin an episode.

        Args:
            task: one of `info.tasks`.
            seed: of the scene; see `DEMONSTRATION_SEED`.

        Raises:
            ConfigError: unknown task.
        """
        ...

    def step(self, action: Float[np.ndarray, "action"]) -> Progress:
        """Carry out one action, without drawing.

        Raises:
            ProtocolError: the action has another shape or is not finite: the policy's fault.
        """
        ...

    def observe(self) -> Observation:
        """Draw what the cameras see now: RGB and metric depth."""
        ...

    def failure(self) -> Failure:
        """Where the attempt stands, when it ends without success."""
        ...

    def expert(self, seed: int) -> Iterator[ExpertAction]:
        """A scripted solution from the present start, closed loop on the simulator's state.

        Args:
            seed: of its small free choices.

        Raises:
            ConfigError: there is none for this task.
        """
        ...

    def calibrations(self) -> Mapping[str, Calibration]:
        """Every camera at this moment; empty where the simulator does not tell."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


def check_policy(policy: PolicyInfo, environment: EnvironmentInfo) -> None:
    """Refuse a policy that the environment's observations and actions do not fit, before anything runs.

    Raises:
        ConfigError: says every difference, and what to do.
    """
    require_match(
        policy,
        f"environment '{environment.name}'",
        cameras=environment.cameras,
        state_dim=len(environment.state_names),
        state_names=environment.state_names,
        action_space=environment.action_space,
        control_hz=environment.control_hz,
    )


def check_task(task: str, info: EnvironmentInfo) -> None:
    """Refuse a task that the environment has not.

    Raises:
        ConfigError: names the nearest one.
    """
    if task not in info.tasks:
        raise unknown_name(f"task of '{info.name}'", task, info.tasks)
