"""What is on the table at the start: small things, plates and bins, a cabinet; and free places for them.

Frame: the table's top is z = 0, the robot's base stands at `BASE` and looks along +x, towards the front camera. Words
are as in the front camera's picture: right is +y, the front (near the viewer) is +x.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Float

from egem.environments.tabletop import model

BASE: Final = (-0.55, 0.0, 0.0)
"""Of the robot, metres."""

AREA: Final = ((-0.14, -0.22), (0.12, 0.22))
"""Corners of the part of the table on which things stand."""

COLORS: Final = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")

ThingKind = Literal["cube", "block", "cylinder"]
KINDS: Final[tuple[ThingKind, ...]] = ("cube", "block", "cylinder")
HolderKind = Literal["plate", "bin"]

Side = Literal["left", "right", "front", "behind"]
DIRECTIONS: Final[dict[Side, tuple[float, float]]] = {
    "left": (0.0, -1.0),
    "right": (0.0, 1.0),
    "front": (1.0, 0.0),
    "behind": (-1.0, 0.0),
}
"""On the table, as seen by the front camera."""

PLATE_RADIUS: Final = 0.07
PLATE_TOP: Final = 0.008
BIN_HALF: Final = 0.066
BIN_FLOOR: Final = 0.006
BIN_HEIGHT: Final = 0.042

_THING_ROOM: Final = 0.055
"""Between a thing's middle and the nearest point that anything else may have: an open finger fits."""
_TRIES: Final = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """Something to grasp."""

    kind: ThingKind
    color: str
    half: tuple[float, float, float]
    """Half edges in its own frame; a cylinder's radius twice, then half its height. Metres."""
    position: tuple[float, float, float]
    """Of its middle."""
    yaw: float

    @property
    def name(self) -> str:
        """Colour and kind: "red cube"."""
        return f"{self.color} {self.kind}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Something to put things on or in."""

    kind: HolderKind
    color: str
    position: tuple[float, float]
    yaw: float

    @property
    def name(self) -> str:
        """Colour and kind: "blue bin"."""
        return f"{self.color} {self.kind}"

    @property
    def floor(self) -> float:
        """Height at which things rest."""
        return PLATE_TOP if self.kind == "plate" else BIN_FLOOR


@dataclass(frozen=True, kw_only=True, slots=True)
class Cabinet:
    """A chest with one drawer that opens towards +x."""

    position: tuple[float, float]
    """Of the middle of its front."""
    opening: float
    """Of the drawer, metres."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """All of it."""

    things: tuple[Thing, ...]
    holders: tuple[Holder, ...] = ()
    cabinet: Cabinet | None = None


class NoRoomError(Exception):
    """A draw found no place; the task draws again."""


class Planner:
    """Draws things with different names at places with room for the gripper between them."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.things: list[Thing] = []
        self.holders: list[Holder] = []
        self.cabinet: Cabinet | None = None
        self._circles: list[tuple[Float[np.ndarray, "2"], float]] = []
        self._colors = [str(color) for color in rng.permutation(COLORS)]

    def layout(self) -> Layout:
        """What has been drawn."""
        return Layout(things=tuple(self.things), holders=tuple(self.holders), cabinet=self.cabinet)

    def color(self) -> str:
        """One that nothing has had yet."""
        return self._colors.pop()

    def keep_free(self, point: Float[np.ndarray, "2"], radius: float) -> None:
        """Let nothing that is drawn from now on stand there."""
        self._circles.append((point, radius))

    def spot(
        self, radius: float, area: tuple[tuple[float, float], tuple[float, float]] = AREA
    ) -> Float[np.ndarray, "2"]:
        """A free place, taken from now on.

        Raises:
            NoRoomError: none was found.
        """
        for _ in range(_TRIES):
            point = self.rng.uniform(*area)
            if self._is_free(point, radius):
                self._circles.append((point, radius))
                return point
        raise NoRoomError

    def thing(
        self,
        kind: ThingKind | None = None,
        *,
        color: str | None = None,
        at: tuple[float, float, float] | None = None,
        area: tuple[tuple[float, float], tuple[float, float]] = AREA,
    ) -> int:
        """Add a thing.

        Args:
            kind: None draws one.
            color: None draws one that nothing has had yet.
            at: where its underside stands, if not on a free place of the table.
            area: where on the table.

        Returns:
            Its number.

        Raises:
            NoRoomError: no place for it.
        """
        kind = kind or KINDS[int(self.rng.integers(len(KINDS)))]
        size = float(self.rng.uniform(0.95, 1.05))
        edges = {
            "cube": (0.021, 0.021, 0.021),
            "block": (0.019, 0.034, 0.018),
            "cylinder": (0.024, 0.024, 0.022),
        }
        a, b, c = (size * edge for edge in edges[kind])
        x, y, z = at or (*(float(v) for v in self.spot(_THING_ROOM, area)), 0.0)
        thing = Thing(
            kind=kind,
            color=color or self.color(),
            half=(a, b, c),
            position=(x, y, z + c + 0.0005),
            yaw=float(self.rng.uniform(-np.pi, np.pi)),
        )
        self.things.append(thing)
        return len(self.things) - 1

    def holder(self, kind: HolderKind, *, color: str | None = None) -> int:
        """Add a plate or bin; returns its number.

        Raises:
            NoRoomError: no place for it.
        """
        radius = PLATE_RADIUS + 0.008 if kind == "plate" else BIN_HALF + 0.016
        x, y = (float(v) for v in self.spot(radius))
        yaw = float(self.rng.uniform(-0.25, 0.25))
        self.holders.append(Holder(kind=kind, color=color or self.color(), position=(x, y), yaw=yaw))
        return len(self.holders) - 1

    def drawer(self, opening: float) -> None:
        """Put the cabinet at the left or right, first of all; the way of its drawer stays free."""
        side = float(self.rng.choice((-1.0, 1.0)))
        x, y = float(self.rng.uniform(-0.06, -0.02)), side * float(self.rng.uniform(0.15, 0.19))
        self.cabinet = Cabinet(position=(x, y), opening=opening)
        for along in np.linspace(-model.CABINET_DEPTH + 0.02, model.DRAWER_TRAVEL + 0.05, 6):
            self._circles.append((np.array([x + along, y]), model.CABINET_HALF_WIDTH + 0.012))

    def others(self, low: int, high: int) -> None:
        """Add things that the task is not about: `low` to `high`, as many as there is room and colours for."""
        for _ in range(int(self.rng.integers(low, high + 1))):
            if len(self.things) == model.NUM_THINGS or not self._colors:
                return
            try:
                self.thing()
            except NoRoomError:
                return

    def _is_free(self, point: Float[np.ndarray, "2"], radius: float) -> bool:
        return all(np.linalg.norm(point - other) >= radius + r for other, r in self._circles)
