"""Robot episodes to train on: one or more datasets of one robot, opened, compared with each other, and counted.

Every step of every episode begins a window: what the cameras showed then, the state, and the actions that followed.
`egem.data.actions` makes samples of windows.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from egem.core.errors import ConfigError, RecordError
from egem.data.action_conversion import converted_actions, converted_space
from egem.data.augment import Augmentation
from egem.data.normalization import DimensionStatistics, Method, Normalization
from egem.episodes import ActionSpace, Control, Episode, Rotation
from egem.matching import require_match
from egem.policy import PolicyInfo

_OPEN_EPISODES = 16
_CHANGE_WINDOWS = (
    "state_key",
    "action_key",
    "convert_rotation",
    "convert_gripper_open",
    "convert_gripper_closed",
)
"""Options that make other numbers of the same files."""


@runtime_checkable
class EpisodeSet(Protocol):
    """A dataset of episodes; readers such as `LeRobotDataset` are one."""

    @property
    def name(self) -> str:
        """For messages: the folder."""
        ...

    @property
    def lengths(self) -> Sequence[int]:
        """Steps of each episode, known without reading them."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints mean equal episodes in equal order."""
        ...

    def episode(self, number: int) -> Episode:
        """One episode, checked.

        Raises:
            RecordError: missing, damaged or inconsistent.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class EpisodeOptions:
    """What is made of robot episodes."""

    horizon: int = 16
    """Actions of a chunk."""
    cameras: tuple[str, ...] = ()
    """Cameras to look at, in this order; none named: all that the data has, in its order."""
    state_key: str = "observation.state"
    """Feature of a LeRobot dataset with the robot's state ("state" in openpi's)."""
    action_key: str = "action"
    """Likewise its actions ("actions" in openpi's)."""
    state_names: tuple[str, ...] = ()
    """What the state's numbers are, in the words of the robot or environment, where the data says nothing or uses
    other words."""
    rate: float | None = None
    """Steps a second, where the data does not say so rightly (published LIBERO sets of 20 steps a second say 10)."""
    control_hz: float | None = None
    """Actions a second, where it is not to be the data's rate; the rate must be a multiple of it."""
    control: Control | None = None
    """What the actions control, where the data does not say; then the next four describe it too."""
    rotation: Rotation | None = None
    """Of end-effector control."""
    gripper_dims: tuple[int, ...] = ()
    """Which dimensions of an action are grippers."""
    gripper_open: float | None = None
    """The value that means fully open."""
    gripper_closed: float | None = None
    """The value that means closed."""
    convert_rotation: Rotation | None = None
    """Rewrite the rotations of the data's actions, euler_xyz as axis_angle or the other way."""
    convert_gripper_open: float | None = None
    """Map the gripper's numbers so that this one means fully open; together with the next."""
    convert_gripper_closed: float | None = None
    """The value that is to mean closed."""
    normalization: Method = "quantiles"
    """How states and actions are normalised; see `egem.data.normalization`."""
    augmentation: Augmentation | None = Augmentation()  # noqa: RUF009 - frozen
    """How pictures are changed at random in training; None leaves them as they are."""
    short_episodes: Literal["refuse", "leave_out", "pad"] = "refuse"
    """What to do with episodes shorter than a chunk."""
    instruction: str = ""
    """Of episodes that come without one."""

    def __post_init__(self) -> None:
        """Refuse what cannot be cut.

        Raises:
            ConfigError: names the field.
        """
        if self.horizon < 1:
            raise ConfigError(f"horizon {self.horizon} must be at least 1.")
        if self.control_hz is not None and self.control_hz <= 0:
            raise ConfigError(f"control_hz {self.control_hz:g} must be above 0.")
        if self.rate is not None and self.rate <= 0:
            raise ConfigError(f"rate {self.rate:g} must be above 0.")
        if (self.convert_gripper_open is None) != (self.convert_gripper_closed is None):
            raise ConfigError("convert_gripper_open and convert_gripper_closed belong together; give both.")
        if len(set(self.cameras)) != len(self.cameras):
            raise ConfigError(f"cameras {', '.join(self.cameras)}: one is named twice.")


class RobotData:
    """The windows of some datasets of one robot, numbered from 0.

    Args:
        sets: at least one; the first says what the others must be like.
        options: what to make of them.

    Raises:
        ConfigError: no set, one unlike the first, no action space, a camera that is not there, a rate that does not
            divide, or an episode shorter than a chunk.
        RecordError: an episode cannot be read.
    """

    def __init__(self, sets: Sequence[EpisodeSet], options: EpisodeOptions) -> None:
        if not sets:
            raise ConfigError("no robot data; give at least one dataset folder.")
        self.sets = tuple(sets)
        self.options = options
        for each in self.sets:
            if len(each.lengths) == 0:
                raise RecordError(f"{each.name} has no episode.")
        first = self.sets[0].episode(0)
        self.action_space = self._space(first, self.sets[0].name)
        self.cameras = options.cameras or tuple(first.cameras)
        self.stride = _stride(options.rate or first.fps, options.control_hz, self.sets[0].name)
        self.state_dim = 0 if first.states is None else first.states.shape[1]
        self.state_names = self._state_names(first)
        self.control_hz = self._control_hz(first)
        if first.states is None or first.actions is None:
            lacking = "states" if first.states is None else "actions"
            raise ConfigError(
                f"{self.sets[0].name} has no {lacking}, which a policy needs; if they have another name there, say it: "
                f"{'state_key' if first.states is None else 'action_key'}."
            )
        if options.state_names and len(options.state_names) != self.state_dim:
            raise ConfigError(
                f"state_names has {len(options.state_names)} names, the state of {self.sets[0].name} "
                f"{self.state_dim} numbers; give one name for each."
            )
        if not self.cameras:
            raise ConfigError(f"{self.sets[0].name} has no camera; a policy needs at least one.")
        for each in self.sets:
            episode = each.episode(0)
            require_match(
                self._info("of these options"),
                each.name,
                cameras=episode.cameras,
                state_dim=0 if episode.states is None else episode.states.shape[1],
                action_space=self._space(episode, each.name),
                control_hz=self._control_hz(episode),
                state_names=self._state_names(episode),
            )
        self._members, lengths = self._kept()
        self._ends = np.cumsum(lengths - self.stride + 1)
        self._opened = functools.lru_cache(maxsize=_OPEN_EPISODES)(self._read)

    def __len__(self) -> int:
        """Windows: one for each step that an action follows."""
        return int(self._ends[-1])

    @property
    def num_episodes(self) -> int:
        """Of all sets, without those left out."""
        return len(self._members)

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints mean equal windows in equal order."""
        digest = hashlib.sha256(
            f"{self.stride}/{self.options.short_episodes}/{self.options.horizon}".encode()
        )
        for each in fields(self.options):
            value = getattr(self.options, each.name)
            if each.name in _CHANGE_WINDOWS and value != each.default:
                digest.update(f"/{each.name}={value}".encode())
        for each in self.sets:
            digest.update(each.fingerprint.encode())
        return digest.hexdigest()

    def info(self, name: str) -> PolicyInfo:
        """What a policy that is trained on these windows wants and gives; reads the first pictures."""
        return replace(self._info(name), picture_sizes=self.picture_sizes())

    def _info(self, name: str) -> PolicyInfo:
        return PolicyInfo(
            name=name,
            cameras=self.cameras,
            state_dim=self.state_dim,
            action_space=self.action_space,
            horizon=self.options.horizon,
            control_hz=self.control_hz,
            state_names=self.state_names,
        )

    def place(self, window: int) -> tuple[int, int]:
        """Episode and step of a window."""
        if not 0 <= window < len(self):
            raise IndexError(window)
        episode = int(np.searchsorted(self._ends, window, side="right"))
        return episode, window - (int(self._ends[episode - 1]) if episode else 0)

    def window(self, episode: int, step: int) -> int:
        """The inverse of `place`."""
        return step + (int(self._ends[episode - 1]) if episode else 0)

    def episode(self, number: int) -> Episode:
        """An episode whose actions are those of the windows: action i is what follows step i, for a period of control.

        The last few that were asked for stay open.

        Raises:
            RecordError: it cannot be read, or is unlike the first.
        """
        return self._opened(number)

    def normalization(self) -> Normalization:
        """Exact statistics over all steps; frames are not touched.

        Raises:
            RecordError: an episode cannot be read.
        """
        states, actions = [], []
        for number in range(self.num_episodes):
            episode = self._read(number)
            assert episode.states is not None
            assert episode.actions is not None
            states.append(episode.states)
            actions.append(episode.actions)
        return Normalization(
            method=self.options.normalization,
            state=DimensionStatistics.of(np.concatenate(states)),
            action=DimensionStatistics.of(
                np.concatenate(actions), whole_range=self.action_space.gripper_dims
            ),
        )

    def _read(self, number: int) -> Episode:
        which, inside = self._members[number]
        episode = self.sets[which].episode(inside)
        where = f"{self.sets[which].name}, episode {inside}"
        if episode.states is None or episode.actions is None:
            raise RecordError(f"{where}: no states or no actions.")
        widths = (episode.states.shape[1], episode.actions.shape[1])
        if widths != (self.state_dim, self.action_space.dim):
            raise RecordError(
                f"{where}: {widths[0]} state and {widths[1]} action dimensions, {self.state_dim} and "
                f"{self.action_space.dim} in the first episode."
            )
        missing = [name for name in self.cameras if name not in episode.cameras]
        if missing:
            raise RecordError(
                f"{where}: no camera {', '.join(missing)}; it has {', '.join(episode.cameras) or 'none'}."
            )
        if not episode.instruction and not self.options.instruction:
            raise RecordError(f"{where} has no instruction; give one for all by the option 'instruction'.")
        return replace(
            episode,
            instruction=episode.instruction or self.options.instruction,
            states=episode.states.astype(np.float32),
            actions=slower_actions(
                converted_actions(episode.actions, self._native_space(episode, where), self.action_space),
                self.stride,
                self.action_space,
            ),
        )

    def _kept(self) -> tuple[list[tuple[int, int]], np.ndarray]:
        """Set and number of each episode that is used, and their lengths."""
        members, lengths = [], []
        needed = self.options.horizon * self.stride
        least = self.stride if self.options.short_episodes == "pad" else needed
        for which, each in enumerate(self.sets):
            for number, length in enumerate(each.lengths):
                if length >= least:
                    members.append((which, number))
                    lengths.append(length)
                elif self.options.short_episodes == "refuse":
                    raise ConfigError(
                        f"{each.name}, episode {number}: {length} steps, a chunk of {self.options.horizon} actions "
                        f"spans {needed}; lower horizon, or set short_episodes to 'leave_out' or 'pad'."
                    )
        if not members:
            raise ConfigError(
                f"{', '.join(each.name for each in self.sets)}: no episode is as long as a chunk ({needed} steps)."
            )
        return members, np.array(lengths, np.int64)

    def picture_sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each camera's first picture; none if the sets differ, or one cannot be read."""
        try:
            found = {
                tuple(each.episode(0).cameras[name].frames.read([0])[0].shape[:2] for name in self.cameras)
                for each in self.sets
            }
        except RecordError:
            return ()  # whoever reads the window of a damaged picture counts it
        return found.pop() if len(found) == 1 else ()

    def _state_names(self, episode: Episode) -> tuple[str, ...]:
        """As the options declare them, or the data, if it has one for each number (openpi's sets name the whole)."""
        dim = 0 if episode.states is None else episode.states.shape[1]
        return self.options.state_names or (episode.state_names if len(episode.state_names) == dim else ())

    def _control_hz(self, episode: Episode) -> float | None:
        rate = self.options.rate or episode.fps
        return None if rate is None else rate / self.stride

    def _space(self, episode: Episode, name: str) -> ActionSpace:
        """What the windows' actions mean."""
        return converted_space(
            self._native_space(episode, name),
            rotation=self.options.convert_rotation,
            gripper_open=self.options.convert_gripper_open,
            gripper_closed=self.options.convert_gripper_closed,
            name=name,
        )

    def _native_space(self, episode: Episode, name: str) -> ActionSpace:
        """As the data declares it, or the options; both must agree."""
        options, declared = self.options, episode.action_space
        if options.control is None:
            if declared is None:
                raise ConfigError(
                    f"{name} does not say what its actions mean; declare it: control (and rotation, gripper_dims, "
                    "gripper_open, gripper_closed)."
                )
            return declared
        dim = (
            declared.dim
            if declared is not None
            else 0
            if episode.actions is None
            else episode.actions.shape[1]
        )
        outside = [place for place in options.gripper_dims if not 0 <= place < dim]
        if outside:
            raise ConfigError(
                f"gripper_dims {list(options.gripper_dims)}: {name} has actions of {dim} dimensions."
            )
        given = ActionSpace(
            control=options.control,
            dim=dim,
            rotation=options.rotation,
            gripper_dims=options.gripper_dims,
            gripper_open=options.gripper_open,
            gripper_closed=options.gripper_closed,
            names=episode.action_names,
        )
        if declared is not None and given.differences(declared):
            raise ConfigError(
                f"the action space given in the options (here) is not the one that {name} declares (there): "
                f"{'; '.join(given.differences(declared))}. Leave the options out, or correct the data."
            )
        return given

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_opened"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._opened = functools.lru_cache(maxsize=_OPEN_EPISODES)(self._read)


def slower_actions(
    actions: Float[np.ndarray, "step dim"], stride: int, space: ActionSpace
) -> Float[np.ndarray, "window dim"]:
    """Row i: the one action that does in `stride` steps what actions i to i + stride - 1 did.

    Absolute targets: the last of them. Deltas: their sum (rotations of small steps add up to second order). Velocities:
    their mean. Grippers: the last.

    Args:
        actions: one a step, in the robot's units.
        stride: steps of the data in a period of control; 1 changes nothing.
        space: what the numbers mean.
    """
    actions = np.asarray(actions, np.float32)
    last = actions[stride - 1 :]
    if stride == 1 or space.control in ("joint_position", "end_effector_absolute"):
        return last
    total = np.lib.stride_tricks.sliding_window_view(actions, stride, axis=0).sum(axis=-1, dtype=np.float64)
    found = (total if space.control == "end_effector_delta" else total / stride).astype(np.float32)
    grippers = list(space.gripper_dims)
    found[:, grippers] = last[:, grippers]
    return found


def _stride(fps: float | None, control_hz: float | None, name: str) -> int:
    if control_hz is None:
        return 1
    if fps is None:
        raise ConfigError(f"{name} does not say its rate, so control_hz {control_hz:g} cannot be reached.")
    stride = round(fps / control_hz)
    if stride < 1 or abs(fps / control_hz - stride) > 1e-3 * stride:
        rates = ", ".join(f"{fps / n:g}" for n in range(1, 5))
        raise ConfigError(
            f"{name} has {fps:g} steps a second, control_hz {control_hz:g} does not divide it; give one of {rates}, ..."
        )
    return stride
