"""What surrounds the things: table, floor, walls, clutter that no question is about, and light."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Float

from egem.worlds.tabletop.body import IDENTITY
from egem.worlds.tabletop.catalog import COLORS
from egem.worlds.tabletop.textures import REPEATS, SURFACES

MAX_SLABS: Final = 26
"""Geoms of a room at most."""

FLOOR: Final = -0.74
"""Height of the floor, metres; the table's top is 0."""

CEILING: Final = 2.4

_WALL_AXES: Final = {
    # quaternions whose z axis is the wall's normal and whose y axis points up
    "x": (0.5, 0.5, 0.5, 0.5),
    "y": (0.0, 0.0, 2**-0.5, 2**-0.5),
}
_TINTS: Final = (
    (0.86, 0.78, 0.66), (0.72, 0.55, 0.38), (0.55, 0.40, 0.27), (0.80, 0.82, 0.84), (0.62, 0.66, 0.70),
    (0.70, 0.78, 0.72), (0.78, 0.72, 0.80), (0.66, 0.74, 0.84), (0.93, 0.91, 0.86), (0.40, 0.42, 0.46),
    (0.84, 0.70, 0.62), (0.56, 0.62, 0.52),
)  # fmt: skip
"""Of tables, walls, floors, clutter: paler or darker than any thing on the table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slab:
    """One geom of the room."""

    kind: Literal["box", "cylinder"]
    center: tuple[float, float, float]
    size: tuple[float, float, float]
    """MuJoCo's half sizes, metres."""
    color: tuple[float, float, float]
    surface: str | None = None
    """Name of a surface material."""
    quaternion: tuple[float, float, float, float] = IDENTITY


@dataclass(frozen=True, kw_only=True, slots=True)
class Light:
    """A lamp."""

    position: tuple[float, float, float]
    direction: tuple[float, float, float]
    diffuse: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """Everything that is neither robot nor a named thing."""

    slabs: tuple[Slab, ...]
    lamp: Light
    """Throws shadows."""
    fill: Light
    ambient: float
    headlight: float
    support: Float[np.ndarray, "2 2"]
    """The table top: ((x_min, y_min), (x_max, y_max)) at z = 0."""


def draw_room(
    rng: np.random.Generator,
    *,
    colors: set[str],
    base: tuple[float, float],
    viewpoints: Float[np.ndarray, "camera 3"],
) -> Room:
    """A room in which every camera is in front of the walls it sees.

    Args:
        rng: source of all choices.
        colors: of the things on the table, from which the table's must differ.
        base: x and y of the robot's base.
        viewpoints: positions of the cameras that do not move with the robot.
    """
    support = np.array(
        [
            (base[0] - rng.uniform(0.13, 0.30), -rng.uniform(0.48, 0.72)),
            (rng.uniform(0.40, 0.58), rng.uniform(0.48, 0.72)),
        ]
    )
    table = _table(rng, colors, support)
    walls, limits = _walls(rng, support, viewpoints)
    slabs = (*table, *walls, *_clutter(rng, support, limits))
    position = _above_walls(rng, limits)
    other = np.array([-position[0], -position[1], 1.6])
    ambient = rng.uniform(0.28, 0.38)
    return Room(
        slabs=slabs,
        lamp=_towards_table(position, rng.uniform(0.40, 0.58)),
        fill=_towards_table(other, rng.uniform(0.05, 0.14)),
        ambient=ambient,
        headlight=rng.uniform(0.08, 0.18),
        support=support,
    )


def _table(rng: np.random.Generator, colors: set[str], support: Float[np.ndarray, "2 2"]) -> list[Slab]:
    far = [t for t in _TINTS if all(np.abs(np.subtract(t, COLORS[c])).max() > 0.22 for c in colors)]
    tint = _tint(rng, far or list(_TINTS))
    middle, half = support.mean(axis=0), (support[1] - support[0]) / 2
    thickness = 0.02
    slabs = [
        Slab(
            kind="box",
            center=(middle[0], middle[1], -thickness),
            size=(half[0], half[1], thickness),
            color=tint,
            surface=_surface(rng, SURFACES, plain=0.2),
        )
    ]
    leg = (FLOOR + 2 * thickness) / -2
    slabs += [
        Slab(
            kind="box",
            center=(middle[0] + a * (half[0] - 0.05), middle[1] + b * (half[1] - 0.05), FLOOR + leg),
            size=(0.025, 0.025, leg),
            color=(0.6 * tint[0], 0.6 * tint[1], 0.6 * tint[2]),
        )
        for a in (-1, 1)
        for b in (-1, 1)
    ]
    return slabs


def _walls(
    rng: np.random.Generator, support: Float[np.ndarray, "2 2"], viewpoints: Float[np.ndarray, "camera 3"]
) -> tuple[list[Slab], Float[np.ndarray, "2 2"]]:
    # Behind the robot a wall always stands near; at the sides often; behind the front camera never.
    low = support[0] - (rng.uniform(0.3, 1.3), rng.uniform(0.3, 1.2) if rng.random() < 0.6 else 1.8)
    high = support[1] + (1.9, rng.uniform(0.3, 1.2) if rng.random() < 0.6 else 1.8)
    low = np.minimum(low, viewpoints[:, :2].min(axis=0) - 0.25)
    high = np.maximum(high, viewpoints[:, :2].max(axis=0) + 0.25)
    middle, half = (low + high) / 2, (high - low) / 2
    up, tall, thick = (FLOOR + CEILING) / 2, (CEILING - FLOOR) / 2, 0.02
    tint, surface = _tint(rng, _TINTS), _surface(rng, ("bricks", "plaster", "wallpaper", "tiles"), plain=0.4)
    side = _tint(rng, _TINTS) if rng.random() < 0.4 else tint
    slabs = [
        Slab(
            kind="box",
            center=(middle[0], middle[1], FLOOR - thick),
            size=(half[0] + 0.1, half[1] + 0.1, thick),
            color=_tint(rng, _TINTS),
            surface=_surface(rng, ("planks", "tiles", "plaster", "marble"), plain=0.2),
        )
    ]
    slabs += [
        Slab(
            kind="box",
            center=(x, middle[1], up),
            size=(half[1] + 0.1, tall, thick),
            color=tint,
            surface=surface,
            quaternion=_WALL_AXES["x"],
        )
        for x in (low[0] - thick, high[0] + thick)
    ]
    slabs += [
        Slab(
            kind="box",
            center=(middle[0], y, up),
            size=(half[0] + 0.1, tall, thick),
            color=side,
            surface=surface,
            quaternion=_WALL_AXES["y"],
        )
        for y in (low[1] - thick, high[1] + thick)
    ]
    return slabs, np.array([low, high])


def _clutter(
    rng: np.random.Generator, support: Float[np.ndarray, "2 2"], limits: Float[np.ndarray, "2 2"]
) -> list[Slab]:
    """Pictures and shelves on the walls, cupboards, stools and lamps on the floor."""
    slabs: list[Slab] = []
    for _ in range(int(rng.integers(0, 4))):  # on the wall behind the robot
        y, z = rng.uniform(limits[0, 1] + 0.2, limits[1, 1] - 0.2), rng.uniform(-0.1, 0.9)
        wide, tall, deep = rng.uniform(0.10, 0.32), rng.uniform(0.08, 0.28), rng.uniform(0.006, 0.07)
        slabs.append(
            Slab(
                kind="box",
                center=(limits[0, 0] + deep, y, z),
                size=(wide, tall, deep),
                color=_tint(rng, _TINTS),
                surface=_surface(rng, SURFACES, plain=0.4),
                quaternion=_WALL_AXES["x"],
            )
        )
    for side in range(2):  # on the side walls
        if rng.random() < 0.5:
            deep = rng.uniform(0.006, 0.10)
            slabs.append(
                Slab(
                    kind="box",
                    center=(
                        rng.uniform(limits[0, 0] + 0.3, 0.6),
                        limits[side, 1] + (deep if side == 0 else -deep),
                        rng.uniform(-0.2, 0.7),
                    ),
                    size=(rng.uniform(0.1, 0.35), rng.uniform(0.05, 0.25), deep),
                    color=_tint(rng, _TINTS),
                    surface=_surface(rng, SURFACES, plain=0.4),
                    quaternion=_WALL_AXES["y"],
                )
            )
    for _ in range(int(rng.integers(0, 5))):  # on the floor, beside and behind the table
        half = rng.uniform((0.10, 0.10, 0.15), (0.25, 0.25, 0.55))
        room = np.array([limits[0] + half[:2] + 0.02, limits[1] - half[:2] - 0.02])
        x, y = rng.uniform(np.minimum(room[0], room[1]), np.maximum(room[0], room[1]))
        clear_x = x + half[0] < support[0, 0] - 0.02
        clear_y = y + half[1] < support[0, 1] - 0.02 or y - half[1] > support[1, 1] + 0.02
        # In front of the table stand the cameras; low things only.
        if not (clear_x or (clear_y and x < 0.0)):
            continue
        is_round = rng.random() < 0.3
        radius = min(half[0], half[1])
        slabs.append(
            Slab(
                kind="cylinder" if is_round else "box",
                center=(x, y, FLOOR + half[2]),
                size=(radius, half[2], 0.0) if is_round else (half[0], half[1], half[2]),
                color=_tint(rng, _TINTS),
                surface=_surface(rng, SURFACES, plain=0.5),
            )
        )
    return slabs


def _above_walls(rng: np.random.Generator, limits: Float[np.ndarray, "2 2"]) -> Float[np.ndarray, "3"]:
    """A lamp so steep above the table that no wall throws its shadow on the things there."""
    angle, lean = rng.uniform(-np.pi, np.pi), np.tan(rng.uniform(0.15, 0.65))
    direction = np.array([np.cos(angle), np.sin(angle)])
    # Distance from the things (within 35 cm of the middle) to the wall on each axis, along the lamp's azimuth.
    room = np.where(direction > 0, limits[1], -limits[0]) - 0.35
    lean = min(lean, float((room / np.maximum(np.abs(direction), 1e-6)).min()) / CEILING)
    height = 1.9
    return np.array([*(height * lean * direction), height])


def _towards_table(position: Float[np.ndarray, "3"], diffuse: float) -> Light:
    direction = -position / np.linalg.norm(position)
    return Light(position=tuple(position), direction=tuple(direction), diffuse=float(diffuse))


def _tint(
    rng: np.random.Generator, tints: list[tuple[float, float, float]] | tuple[tuple[float, float, float], ...]
) -> tuple[float, float, float]:
    color = np.clip(np.asarray(tints[int(rng.integers(len(tints)))]) + rng.uniform(-0.05, 0.05, 3), 0, 1)
    return float(color[0]), float(color[1]), float(color[2])


def _surface(rng: np.random.Generator, names: tuple[str, ...], *, plain: float) -> str | None:
    name = f"{rng.choice(names)}_{rng.choice(list(REPEATS))}"
    return None if rng.random() < plain else name
