"""The embedded environment behind the protocol that all environments share."""

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from jaxtyping import Float

from egem.core.errors import ProtocolError
from egem.environments.environment import (
    Calibration,
    EnvironmentInfo,
    EnvironmentOptions,
    ExpertAction,
    Failure,
    Progress,
    Start,
    check_task,
)
from egem.environments.experts.motions import MAX_STEP_M, MAX_TURN_RAD
from egem.environments.experts.tabletop import script
from egem.environments.tabletop import goals, model
from egem.environments.tabletop.goals import SETTLED_STEPS, Goal, History
from egem.environments.tabletop.layout import Layout
from egem.environments.tabletop.scenery import Scenery, draw_scenery
from egem.environments.tabletop.simulator import CAMERAS, CONTROL_HZ, Simulator
from egem.environments.tabletop.tasks import TASKS, draw_task
from egem.environments.tabletop.views import look
from egem.episodes import ActionSpace
from egem.policy import Observation
from egem.scene import Scene, Task

_LIMITS: Final = (*([MAX_STEP_M] * 3), *([MAX_TURN_RAD] * 3), 1.0)

INFO: Final = EnvironmentInfo(
    name="tabletop",
    tasks=tuple(TASKS),
    cameras=CAMERAS,
    state_names=("x", "y", "z", "turn_x", "turn_y", "turn_z", "opening"),
    action_space=ActionSpace(
        control="end_effector_delta",
        dim=7,
        rotation="axis_angle",
        gripper_dims=(6,),
        gripper_open=1.0,
        gripper_closed=-1.0,
        names=("x", "y", "z", "turn_x", "turn_y", "turn_z", "gripper"),
    ),
    action_low=tuple(-limit for limit in _LIMITS),
    action_high=_LIMITS,
    control_hz=CONTROL_HZ,
    effector_dims=(0, 1, 2),
)
"""State: the tip in the base's frame (metres), its turn from pointing straight down (rotation vector), the opening
between the fingers (metres). Action: metres and radians by which the tip's target moves in the base's frame, and the
fingers' opening from -1, closed, to 1, open."""


class TabletopEnvironment:
    """Tasks on a table. The scene of a task and seed is always the same, and so is what an action does in it.

    Example:
        >>> environment = TabletopEnvironment(EnvironmentOptions(size=(96, 96)))
        >>> start = environment.reset("place_in", seed=7)
        >>> environment.step(np.zeros(7)).success
        False
    """

    def __init__(self, options: EnvironmentOptions) -> None:
        """Compile the model (half a second); the renderer opens with the first picture.

        Raises:
            RenderError: MuJoCo is missing, or the pictures' size is out of range.
        """
        self._varied = options.scenery == "varied"
        self._simulator = Simulator(options.size)
        self._task, self._seed = "", 0
        self._instruction = ""
        self._layout, self._goal = Layout(things=()), Goal()
        self._scenery: Scenery | None = None
        self._history: History | None = None
        self._lasted = 0

    @property
    def info(self) -> EnvironmentInfo:
        """See `INFO`."""
        return INFO

    def reset(self, task: str, seed: int) -> Start:
        """See `Environment`."""
        max_steps = self.begin(task, seed)
        return Start(observation=self.observe(), max_steps=max_steps, meta=self._meta())

    def begin(self, task: str, seed: int, *, reach: float = 1.0) -> int:
        """Like `reset`, without drawing.

        Args:
            task: as in `reset`.
            seed: likewise.
            reach: how many times as far as usual the gripper may be from its usual first place.

        Returns:
            How many actions the episode may have.
        """
        check_task(task, INFO)
        rng = np.random.default_rng([list(TASKS).index(task), seed])
        self._task, self._seed = task, seed
        self._layout, self._goal, self._instruction = draw_task(TASKS[task], rng)
        colors = {thing.color for thing in self._layout.things}
        offset = rng.uniform((-0.03, -0.05, -0.03), (0.03, 0.05, 0.03))
        self._scenery = draw_scenery(rng if self._varied else None, colors)
        self._simulator.write(self._layout, self._scenery, reach * offset)
        first = self._simulator.state()
        self._history = History(first=first, near=set(), held=set(), highest=first.things[:, 2].copy())
        self._lasted = 0
        return TASKS[task].max_steps

    def step(self, action: Float[np.ndarray, "action"]) -> Progress:
        """See `Environment`."""
        history = self._begun()
        values = np.asarray(action, float)
        if values.shape != (7,) or not np.isfinite(values).all():
            raise ProtocolError(
                f"the policy gave the action {values.tolist()} of shape {values.shape}; this environment takes "
                "7 finite numbers (see its action space)."
            )
        self._simulator.step(np.clip(values, INFO.action_low, INFO.action_high))
        state = self._simulator.state()
        history.highest = np.maximum(history.highest, state.things[:, 2])
        distances = np.linalg.norm(state.things - state.tip, axis=1)
        history.near |= {int(i) for i in np.flatnonzero(distances < goals.NEAR_M)}
        if (
            state.held is not None
            and state.things[state.held, 2] > history.first.things[state.held, 2] + 0.02
        ):
            history.held.add(state.held)
        cabinet = self._layout.cabinet
        if cabinet is not None:
            front = np.array([cabinet.position[0] + state.drawer + 0.03, cabinet.position[1]])
            at_front = np.linalg.norm(state.tip[:2] - front) < 0.07
            history.handle |= bool(at_front and state.tip[2] < model.CABINET_HEIGHT)
        done = TASKS[self._task].done(state, history, self._layout, self._goal)
        self._lasted = self._lasted + 1 if done else 0
        success = self._lasted >= SETTLED_STEPS
        return Progress(success=success, over=success or goals.is_lost(state, self._goal))

    def observe(self) -> Observation:
        """See `Environment`."""
        self._begun()
        images, depths = {}, {}
        for camera in CAMERAS:
            images[camera], depths[camera] = self._simulator.draw(camera)
        return Observation(
            images=images,
            depths=depths,
            state=self._simulator.proprioception(),
            instruction=self._instruction,
        )

    def scene(self, camera: str, id: str) -> Scene:
        """What a camera sees at a task's beginning, with everything that can be asked about it.

        Raises:
            RuntimeError: nothing was begun.
        """
        self._begun()
        assert self._scenery is not None
        subjects = self._goal.subjects
        task = Task(
            instruction=self._instruction,
            done=False,
            subtasks=(),
            next_subtask=None,
            path=np.zeros((0, 3)),
            # Sorting names no thing, opening a drawer has none.
            subject=subjects[0] + 1 if len(subjects) == 1 else None,
        )
        return look(self._simulator, self._layout, self._scenery, camera, id=id, task=task)

    def state(self) -> Float[np.ndarray, "7"]:
        """The state alone, without drawing."""
        return self._simulator.proprioception()

    def failure(self) -> Failure:
        """See `Environment`."""
        return goals.explain(self._simulator.state(), self._begun(), self._layout, self._goal)

    def expert(self, seed: int) -> Iterator[ExpertAction]:
        """See `Environment`; every task has one."""
        self._begun()
        rng = np.random.default_rng([seed, 1])
        return script(self._task, self._simulator, self._layout, self._goal, rng)

    def calibrations(self) -> Mapping[str, Calibration]:
        """See `Environment`."""
        return {camera: self._simulator.calibration(camera) for camera in CAMERAS}

    def close(self) -> None:
        """See `Environment`."""
        self._simulator.close()

    def _begun(self) -> History:
        if self._history is None:
            raise RuntimeError("reset(task, seed) the environment first")
        return self._history

    def _meta(self) -> dict[str, object]:
        return {
            "task": self._task,
            "seed": self._seed,
            "things": [thing.name for thing in self._layout.things],
            "holders": [holder.name for holder in self._layout.holders],
        }
