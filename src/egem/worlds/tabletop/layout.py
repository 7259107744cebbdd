"""Things drawn from a seed, and places for them: on the table, next to, on and inside one another."""

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from jaxtyping import Float

from egem.worlds.tabletop import meshes
from egem.worlds.tabletop.body import Body, Rest
from egem.worlds.tabletop.catalog import SIZES, draw_material, pairs, unique_names
from egem.worlds.tabletop.shapes import SHAPES

MAX_THINGS: Final = 8
MIN_THINGS: Final = 3

_GAP: Final = 0.006
"""Least distance between things that stand side by side, metres."""

_FACING: Final = ("drawer", "box")
"""These face the robot's far side rather than anywhere, so that one can look into them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """A named thing at its place."""

    body: Body
    name: str
    color: str
    size: str
    material: str
    position: tuple[float, float, float]
    """Of its bottom's centre in the world, metres."""
    yaw: float
    host: int | None = None
    """Number of the thing that it rests on or in; None: the table."""
    relation: Literal["on", "inside"] = "on"

    @property
    def pose(self) -> Float[np.ndarray, "4 4"]:
        """World from object."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        pose = np.eye(4)
        pose[:2, :2] = [[c, -s], [s, c]]
        pose[:3, 3] = self.position
        return pose

    def world(self, point: tuple[float, float, float] | Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
        """A point of the object's frame in the world."""
        return self.pose[:3, :3] @ np.asarray(point, float) + np.asarray(self.position)


def draw_layout(rng: np.random.Generator, split: str) -> list[Thing]:
    """Three to eight things with unique names, at rest, none inside the matter of another."""
    while True:
        things = _arrange(_draw_things(rng, split), rng)
        if things is not None:
            return things


def outline(body: Body, x: float, y: float, yaw: float) -> Float[np.ndarray, "corner 2"]:
    """The outline from above, in the world."""
    c, s = np.cos(yaw), np.sin(yaw)
    return body.footprint @ np.array([[c, s], [-s, c]]) + (x, y)


def apart(a: Float[np.ndarray, "m 2"], b: Float[np.ndarray, "n 2"], gap: float) -> bool:
    """Whether two convex outlines leave a gap between them (separating axes)."""
    edges = np.concatenate([a[1:] - a[:-1], a[:1] - a[-1:], b[1:] - b[:-1], b[:1] - b[-1:]])
    normals = np.stack([edges[:, 1], -edges[:, 0]]) / np.hypot(edges[:, 0], edges[:, 1])
    on_a, on_b = a @ normals, b @ normals
    distance = np.maximum(on_a.min(axis=0) - on_b.max(axis=0), on_b.min(axis=0) - on_a.max(axis=0))
    return bool(distance.max() >= gap)


def find_spot(
    guest: Body, host: int, rest: Rest, things: list[Thing], rng: np.random.Generator, tries: int = 12
) -> tuple[tuple[float, float, float], float] | None:
    """Where a thing can stand on or inside another one.

    Args:
        guest: what is to be placed.
        host: number of the other thing.
        rest: one of its places.
        things: all that stand already.
        rng: source of the choice among possible spots.
        tries: give up after so many.

    Returns:
        Position and yaw in the world, or None.
    """
    if not guest.can_stand or (guest.rolls and not rest.has_rim):
        return None
    there = [t for t in things if t.host == host and t.relation == rest.relation]
    if len(there) >= rest.room:
        return None
    if rest.profile:
        z = _height_in_hollow(guest, rest)
        return None if z is None else (tuple(things[host].world((0.0, 0.0, z))), rng.uniform(-np.pi, np.pi))
    base = things[host]
    taken = [outline(t.body, t.position[0], t.position[1], t.yaw) for t in there]
    slack = -0.0015 if rest.has_rim or rest.room > 1 else 0.003
    turns = base.yaw + np.pi / 2 * rng.integers(4)
    for attempt in range(tries):
        yaw = turns + np.pi / 2 * attempt + (0.0 if attempt % 2 else rng.uniform(-0.5, 0.5))
        free = 1.0 if rest.room > 1 or rest.has_rim else 0.15
        local = np.asarray(rest.center) + free * rng.uniform(-1, 1, 2) * _play(guest, rest)
        if not _is_within(outline(guest, local[0], local[1], yaw - base.yaw), rest, slack):
            continue
        x, y, z = base.world((local[0], local[1], rest.z))
        here = outline(guest, x, y, yaw)
        if all(apart(here, other, 0.004) for other in taken):
            return (float(x), float(y), float(z)), float(yaw)
    return None


def _draw_things(rng: np.random.Generator, split: str) -> list[tuple[Body, str, str, str, str]]:
    shapes = tuple(SHAPES)
    allowed = pairs(split, shapes)
    big_shapes = sorted({s for s, _ in allowed if SHAPES[s].is_big})
    small_shapes = sorted({s for s, _ in allowed if not SHAPES[s].is_big})
    while True:
        total = int(rng.integers(MIN_THINGS, MAX_THINGS + 1))
        num_big = min(int(rng.choice(4, p=(0.08, 0.42, 0.38, 0.12))), total - 1)
        chosen = list(rng.choice(big_shapes, num_big, replace=False))
        words: list[tuple[str, str, str, str]] = []
        for i in range(total):
            # Now and then a twin: only size or material tells it from another thing.
            if i >= num_big and words and rng.random() < 0.15 and not SHAPES[words[-1][0]].is_big:
                shape, color = words[-1][:2]
            else:
                shape = str(chosen[i]) if i < num_big else str(rng.choice(small_shapes))
                color = str(rng.choice([c for s, c in allowed if s == shape]))
            size, material = str(rng.choice(list(SIZES))), draw_material(rng, shape, color)
            words.append((shape, color, size, material))
        names = unique_names(words)
        if names is not None:
            break
    return [
        (SHAPES[shape].build(float(rng.choice(SIZES[size])), rng), name, color, size, material)
        for (shape, color, size, material), name in zip(words, names, strict=True)
    ]


def _arrange(drawn: list[tuple[Body, str, str, str, str]], rng: np.random.Generator) -> list[Thing] | None:
    half = np.array([0.09 + 0.016 * len(drawn), 0.11 + 0.024 * len(drawn)])
    middle = rng.uniform((-0.05, -0.06), (0.05, 0.06))
    things: list[Thing] = []
    for body, name, color, size, material in drawn:
        place = _place(body, things, rng, middle, half)
        if place is None:
            return None
        position, yaw, host, relation = place
        things.append(
            Thing(
                body=body,
                name=name,
                color=color,
                size=size,
                material=material,
                position=position,
                yaw=yaw,
                host=host,
                relation=relation,
            )
        )
    # Numbers must not tell big things from small ones.
    order = rng.permutation(len(things))
    number = {int(old): new for new, old in enumerate(order)}
    return [replace(t, host=None if t.host is None else number[t.host]) for t in (things[i] for i in order)]


Place = tuple[tuple[float, float, float], float, int | None, Literal["on", "inside"]]


def _place(
    body: Body,
    things: list[Thing],
    rng: np.random.Generator,
    middle: Float[np.ndarray, "2"],
    half: Float[np.ndarray, "2"],
) -> Place | None:
    kind = rng.random()
    if kind < 0.36 and body.can_stand:
        hosts = [
            (i, rest) for i, thing in enumerate(things) if thing.host is None for rest in thing.body.rests
        ]
        for k in rng.permutation(len(hosts)):
            host, rest = hosts[k]
            spot = find_spot(body, host, rest, things, rng)
            if spot is not None:
                return (*spot, host, rest.relation)
    standing = [t for t in things if t.host is None]
    taken = [outline(t.body, t.position[0], t.position[1], t.yaw) for t in standing]
    near = 0.36 <= kind < 0.6 and bool(standing)
    for attempt in range(60):
        yaw = rng.uniform(-1.7, 1.7) if body.shape in _FACING else rng.uniform(-np.pi, np.pi)
        x, y = middle + rng.uniform(-1, 1, 2) * half
        if body.shape in _FACING:
            x -= 0.07  # their handles point away from the robot, which must get there
        if near and attempt < 20:
            x, y = _beside(body, yaw, standing[int(rng.integers(len(standing)))], rng)
            if abs(x - middle[0]) > half[0] or abs(y - middle[1]) > half[1]:
                continue
        here = outline(body, x, y, yaw)
        if all(apart(here, other, _GAP) for other in taken):
            return (float(x), float(y), 0.0), float(yaw), None, "on"
    return None


def _beside(body: Body, yaw: float, other: Thing, rng: np.random.Generator) -> tuple[float, float]:
    angle = rng.uniform(-np.pi, np.pi)
    direction = np.array([np.cos(angle), np.sin(angle)])
    x, y, _ = other.position
    distance = (
        (outline(other.body, 0.0, 0.0, other.yaw) @ direction).max()
        - (outline(body, 0.0, 0.0, yaw) @ direction).min()
        + rng.uniform(_GAP + 0.001, 0.02)
    )
    return x + distance * direction[0], y + distance * direction[1]


def _play(guest: Body, rest: Rest) -> Float[np.ndarray, "2"]:
    """How far from the rest's centre the guest's centre may be, at most."""
    smallest = np.abs(guest.footprint).max(axis=0).min()
    return np.maximum(np.asarray(rest.half) - smallest, 0.0)


def _is_within(corners: Float[np.ndarray, "corner 2"], rest: Rest, slack: float) -> bool:
    local = corners - np.asarray(rest.center)
    if rest.round:
        return bool(np.hypot(local[:, 0], local[:, 1]).max() <= rest.half[0] + slack)
    return bool((np.abs(local) <= np.asarray(rest.half) + slack).all())


def _height_in_hollow(guest: Body, rest: Rest) -> float | None:
    """Height at which a thing, centred, comes to rest in a round hollow; None if it does not fit."""
    if not guest.underside:
        return None
    profile = meshes.inner_profile(rest.profile, rest.scale)
    # The mesh is a prism of many sides: its wall is a little closer than the profile says.
    wall_radii, wall_heights = profile[:, 0] * 0.993, profile[:, 1]
    radii, heights = np.array(guest.underside).T
    if radii.max() >= wall_radii[-1]:
        return None
    # Every point of the underside must stay above the wall at its own distance from the middle.
    z = float((np.interp(radii, wall_radii, wall_heights) - heights).max()) + 0.0003
    floor, rim = wall_heights[1], wall_heights[-1]
    return z if z < floor + 0.45 * (rim - floor) else None
