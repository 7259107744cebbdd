"""A policy against recorded episodes, without a simulator: how far its chunks are from what was done.

An error says something only beside the spread of what was done: one as large is no better than giving the mean action
every time. A policy that goes to the right height and to no particular place shows it here, in seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from egem.core.errors import ConfigError
from egem.data.actions import chunk_of
from egem.data.robot_data import EpisodeOptions, RobotData
from egem.data_engine.episodes.lerobot import LeRobotDataset
from egem.episodes import ActionSpace
from egem.matching import require_match
from egem.policy import Observation, Policy

_BATCH = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenLoopError:
    """Of one number of the actions, root mean squares in its own unit."""

    name: str
    first: float
    """Error of a chunk's first action."""
    first_spread: float
    """Of the recorded first actions about their mean."""
    end: float
    """Error of where a chunk leads: of the sum of its actions, or of its last one where actions are places."""
    end_spread: float


def open_loop(
    policy: Policy, dataset: Path, *, num_windows: int = 256, seed: int = 0
) -> tuple[OpenLoopError, ...]:
    """Compare chunks with recorded ones.

    Args:
        policy: what is measured.
        dataset: a LeRobot dataset of the same robot; give one that it was not trained on.
        num_windows: moments to compare, drawn from all that a whole chunk follows; all, if there are fewer.
        seed: of the draw and of the policy's sampling noise.

    Returns:
        One error for each number of the action space.

    Raises:
        ConfigError: the policy and the dataset do not fit.
        RecordError: the dataset or one of its episodes cannot be read.
    """
    data = _data(policy, dataset)
    windows = _windows(data, num_windows, seed)
    given = []
    for first in range(0, len(windows), _BATCH):
        observations = [_observation(data, *window) for window in windows[first : first + _BATCH]]
        given += policy.act(observations, seed=seed + first)
    done = [_chunk(data, *window) for window in windows]
    return errors(np.stack(given), np.stack(done), policy.info.action_space)


def errors(
    given: Float[np.ndarray, "window horizon action"],
    done: Float[np.ndarray, "window horizon action"],
    space: ActionSpace,
) -> tuple[OpenLoopError, ...]:
    """See `OpenLoopError`."""
    changes = space.control in ("end_effector_delta", "joint_velocity")
    # A gripper's number is a place whatever the others are.
    sums = [changes and number not in space.gripper_dims for number in range(space.dim)]
    ends = [np.where(sums, chunks.sum(1), chunks[:, -1]) for chunks in (given, done)]
    found = zip(
        _rms(given[:, 0] - done[:, 0]),
        done[:, 0].std(0),
        _rms(ends[0] - ends[1]),
        ends[1].std(0),
        strict=True,
    )
    return tuple(
        OpenLoopError(
            name=space.names[number] if space.names else f"number {number + 1}",
            first=float(first),
            first_spread=float(first_spread),
            end=float(end),
            end_spread=float(end_spread),
        )
        for number, (first, first_spread, end, end_spread) in enumerate(found)
    )


def table(found: Sequence[OpenLoopError]) -> str:
    """As Markdown."""
    lines = [
        "| action | error of the first | spread | error at the chunk's end | spread |",
        "|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {e.name} | {e.first:.4f} | {e.first_spread:.4f} | {e.end:.4f} | {e.end_spread:.4f} |"
        for e in found
    ]
    return "\n".join(lines)


def _data(policy: Policy, dataset: Path) -> RobotData:
    info, space = policy.info, policy.info.action_space
    options = EpisodeOptions(
        horizon=info.horizon,
        cameras=info.cameras,
        control_hz=info.control_hz,
        state_names=info.state_names,
        control=space.control,
        rotation=space.rotation,
        gripper_dims=space.gripper_dims,
        gripper_open=space.gripper_open,
        gripper_closed=space.gripper_closed,
        augmentation=None,
        short_episodes="leave_out",
    )
    data = RobotData([LeRobotDataset(dataset)], options)
    require_match(
        info,
        str(dataset),
        cameras=data.cameras,
        state_dim=data.state_dim,
        action_space=data.action_space,
        control_hz=data.control_hz,
        state_names=data.state_names,
    )
    return data


def _windows(data: RobotData, num_windows: int, seed: int) -> list[tuple[int, int]]:
    """Episode and step, in order, so that videos are read forwards."""
    if num_windows < 1:
        raise ConfigError(f"--windows {num_windows}: at least one is needed.")
    cut_off = (data.options.horizon - 1) * data.stride
    whole = [
        (number, step)
        for number in range(data.num_episodes)
        for step in range(data.window(number + 1, 0) - data.window(number, 0) - cut_off)
    ]
    chosen = np.random.default_rng(seed).choice(len(whole), min(num_windows, len(whole)), replace=False)
    return [whole[place] for place in np.sort(chosen)]


def _observation(data: RobotData, number: int, step: int) -> Observation:
    episode = data.episode(number)
    assert episode.states is not None
    return Observation(
        images={name: episode.cameras[name].frames.read([step])[0] for name in data.cameras},
        state=episode.states[step],
        instruction=episode.instruction,
    )


def _chunk(data: RobotData, number: int, step: int) -> Float[np.ndarray, "horizon action"]:
    actions = data.episode(number).actions
    assert actions is not None
    return chunk_of(actions, step, data.options.horizon, data.stride).actions


def _rms(values: Float[np.ndarray, "window action"]) -> Float[np.ndarray, "action"]:
    return np.sqrt(np.square(values).mean(0))
