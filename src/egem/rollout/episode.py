"""One episode: an environment, and whatever chooses its actions."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Float

from egem.core.errors import ConfigError, ProtocolError, SimulatorError
from egem.environments.environment import Environment, EnvironmentInfo
from egem.episodes import ActionSpace
from egem.policy import DepthGuess, Observation
from egem.rollout.film import Shot, write_film
from egem.rollout.recording import Recorder

Actor = Literal["policy", "expert", "replay"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a policy makes of an observation."""

    chunk: Float[np.ndarray, "horizon action"]
    drawn: Mapping[str, DepthGuess] = field(default_factory=dict)
    """Camera to the depth that it sees there; only for films."""


Ask = Callable[[Observation, int], Reply]
"""An observation, and the number of the chunk in the episode, to a reply."""

STATUSES: Final = ("success", "failure", "crash")
"""A crash is the simulator's; it says nothing about the policy and is kept out of the success rate."""

_FILM_EVERY: Final = 2
"""Steps between two frames of a film."""


NoiseOf = Literal["limits", "moves"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """What disturbs an expert."""

    share: float
    """Standard deviation, as a share of what `of` says."""
    of: NoiseOf = "limits"
    """`limits`: of each number's limit, always: it strays far, arrives nowhere exactly, and sometimes fails.
    `moves`: of how far it moves (of the longest translation for each of the three, of itself for every other number):
    much on the way, little where it is exact, never about axes that it does not turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """An episode to be played."""

    task: str
    seed: int
    """Of the scene."""
    actor: Actor
    execute: int | None = None
    """Actions of a chunk that are carried out before the policy looks again; None: all."""
    noise: Noise | None = None
    """Of the expert's executed actions; what is recorded stays clean."""
    actions: Float[np.ndarray, "step action"] | None = None
    """To be replayed."""
    film: str | None = None
    """File for a film."""
    record: str | None = None
    """File for a recording; written if the episode succeeds."""

    @property
    def id(self) -> str:
        """Task and seed."""
        return f"{self.task}/{self.seed}"


def play(environment: Environment, job: Job, ask: Ask) -> dict[str, Any]:
    """Play one episode.

    Returns:
        A journal's entry: id, task, seed, instruction, status, steps, for a failure its stage and detail, seconds of
        simulation and of waiting for actions, for an expert the sub-tasks as (text, first step, step after the last).

    Raises:
        ConfigError: the task is unknown or has no expert.
    """
    entry: dict[str, Any] = {"id": job.id, "task": job.task, "seed": job.seed}
    began, steps, actor = time.perf_counter(), 0, None
    try:
        start = environment.reset(job.task, job.seed)
        entry["instruction"] = start.observation.instruction
        actor = _Actor(environment, job, ask, start.observation)
        recorder = Recorder(environment) if job.record else None
        film = [Shot(seen=start.observation)] if job.film else []
        success = False
        while steps < start.max_steps:
            if recorder is not None:
                recorder.look()
            chosen = actor.next()
            if chosen is None:
                break
            executed, wanted = chosen
            if recorder is not None:
                recorder.add(wanted)
            progress = environment.step(executed)
            steps += 1
            if job.film and steps % _FILM_EVERY == 0:
                film.append(Shot(seen=environment.observe(), drawn=actor.drawn))
            success = progress.success
            if progress.over:
                break
        entry["status"] = "success" if success else "failure"
        if not success:
            failure = environment.failure()
            entry |= {"stage": failure.stage, "detail": failure.detail}
        entry["subtasks"] = actor.subtasks(steps)
        if job.film:
            film.append(Shot(seen=environment.observe(), drawn=actor.drawn))
            write_film(job.film, film, environment.info.control_hz / _FILM_EVERY)
        if recorder is not None and job.record and success:
            recorder.write(job.record)
    except SimulatorError as error:
        entry |= {"status": "crash", "detail": str(error)}
    except ProtocolError as error:  # actions that cannot be carried out are the policy's failure
        entry |= {"status": "failure", "stage": "other", "detail": str(error)}
    waited = actor.seconds if actor is not None else 0.0
    entry |= {
        "steps": steps,
        "seconds": round(time.perf_counter() - began - waited, 3),
        "waited": round(waited, 3),
    }
    return entry


def disturbed(
    action: Float[np.ndarray, "action"],
    noise: Noise,
    limits: Float[np.ndarray, "action"],
    space: ActionSpace,
    rng: np.random.Generator,
) -> Float[np.ndarray, "action"]:
    """An action with normal noise, so that what is shown is how to correct a course.

    Args:
        action: as the expert wants it.
        noise: how much, and of what.
        limits: the largest value of each number.
        space: says what the numbers are; grippers stay as they are.
        rng: of the noise.

    Raises:
        ConfigError: noise of moves, and the numbers are places, not changes.
    """
    scale = np.array(limits, np.float64)
    if noise.of == "moves":
        if space.control in ("end_effector_absolute", "joint_position"):
            raise ConfigError(
                f"noise of moves is for actions that say how to change, not where to be ({space.control})."
            )
        scale = np.abs(action).astype(np.float64)
        if space.control == "end_effector_delta":
            scale[:3] = scale[:3].max()
    scale[list(space.gripper_dims)] = 0
    return action + rng.normal(0, 1, len(action)) * noise.share * scale


class _Actor:
    """Gives the executed and the wanted action of each step."""

    def __init__(self, environment: Environment, job: Job, ask: Ask, first: Observation) -> None:
        self.environment, self.job, self.ask = environment, job, ask
        self.seconds = 0.0
        self.drawn: Mapping[str, DepthGuess] = {}
        """What the policy saw when it last looked."""
        self._names: list[str] = []
        self._rng = np.random.default_rng([job.seed, 2])
        info = environment.info
        if job.actor == "expert":
            self._stream = self._expert(info)
        elif job.actor == "replay":
            self._stream = ((a, a) for a in ([] if job.actions is None else job.actions))
        else:
            self._stream = self._policy(first)

    def next(self) -> tuple[Float[np.ndarray, "action"], Float[np.ndarray, "action"]] | None:
        began = time.perf_counter()
        chosen = next(self._stream, None)
        self.seconds += time.perf_counter() - began
        return chosen

    def subtasks(self, steps: int) -> list[tuple[str, int, int]]:
        """Stretches of equal names."""
        names = self._names[:steps]
        edges = [0, *(i for i in range(1, len(names)) if names[i] != names[i - 1]), len(names)]
        return [(names[a], a, b) for a, b in pairwise(edges) if b > a]

    def _expert(self, info: EnvironmentInfo) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        low, high = np.array(info.action_low), np.array(info.action_high)
        for move in self.environment.expert(self.job.seed):
            self._names.append(move.subtask)
            # As the recording will hold it, so that a replay repeats it exactly.
            wanted = np.clip(move.action, low, high).astype(np.float32)
            if self.job.noise is None:
                yield wanted, wanted
                continue
            moved = disturbed(wanted, self.job.noise, high, info.action_space, self._rng)
            yield np.clip(moved, low, high).astype(np.float32), wanted

    def _policy(self, observation: Observation) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        number = 0
        while True:
            reply = self.ask(observation, number)
            chunk, self.drawn = reply.chunk, reply.drawn
            if self.job.execute is not None:
                chunk = chunk[: self.job.execute]
            yield from ((action, action) for action in chunk)
            observation, number = self.environment.observe(), number + 1
