"""What a robot policy is asked and what it answers; environments, servers and rollouts know nothing else of one.

Nothing here needs torch: the same two nouns travel through the wire protocol to simulators in other environments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from egem.core.errors import ConfigError
from egem.episodes import ActionSpace


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What the robot knows at one moment."""

    images: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]
    """Camera name to RGB picture."""
    state: Float[np.ndarray, "state"]
    """Proprioception in the robot's own units, float32; what each number means is `PolicyInfo.state_names`."""
    instruction: str
    depths: Mapping[str, Float[np.ndarray, "_ _"]] = field(default_factory=dict)
    """Camera name to metres, 0 = no reading; only for recording and joint training, no policy needs it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyInfo:
    """What a policy wants and gives: compared with data and environments before anything runs."""

    name: str
    cameras: tuple[str, ...]
    """Names it looks at, in its order; others are ignored."""
    state_dim: int
    action_space: ActionSpace
    horizon: int
    """Actions in a chunk."""
    control_hz: float | None = None
    """Actions a second in the data that it was trained on; None where that is not known."""
    state_names: tuple[str, ...] = ()
    picture_sizes: tuple[tuple[int, int], ...] = ()
    """Height and width of each camera's pictures in the data that it was trained on; empty where not known or mixed."""
    fingerprint: str = ""
    """Of its checkpoint's files, where they are known: two policies of one name can be told apart by it."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ConfigError: picture sizes for another number of cameras.
        """
        if self.picture_sizes and len(self.picture_sizes) != len(self.cameras):
            raise ConfigError(
                f"picture_sizes has {len(self.picture_sizes)} sizes for the {len(self.cameras)} cameras "
                f"{', '.join(self.cameras)}; give one height and width for each, or none."
            )


@runtime_checkable
class Policy(Protocol):
    """Turns observations into chunks of actions."""

    @property
    def info(self) -> PolicyInfo:
        """What it wants and gives."""
        ...

    def act(
        self,
        observations: Sequence[Observation],
        *,
        previous: Sequence[Float[np.ndarray, "kept action"] | None] | None = None,
        committed: Sequence[int] | None = None,
        seed: int | None = None,
    ) -> list[Float[np.ndarray, "horizon action"]]:
        """A chunk of actions for each observation, in the robot's own units, float32, all finite.

        Args:
            observations: any number, answered in one batch.
            previous: for each, what is left of its last chunk from now on, or None: the new chunk continues it
                (real-time chunking).
            committed: how many of each are executed in any case, because the robot plays them while this is computed:
                they come out unchanged, those after them only guide. None: all of them.
            seed: of the sampling noise; None draws anew each time.

        Raises:
            ConfigError: a camera is missing, or a picture or state has another shape than `info` says, or more
                actions are committed than there are.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthGuess:
    """Depth that the checkpoint draws for one camera."""

    values: Float[np.ndarray, "height width"]
    kind: str
    """"metric" (metres) or "inverse_relative" (inverse depth from 0, far, to 1, near)."""


@runtime_checkable
class Explains(Protocol):
    """A policy whose checkpoint can also be asked what it sees."""

    def explain(self, observation: Observation, question: str) -> str:
        """The checkpoint's answer to a question about the pictures."""
        ...

    def draw_depth(self, observation: Observation) -> Mapping[str, DepthGuess]:
        """Camera name to the depth that it sees there."""
        ...
