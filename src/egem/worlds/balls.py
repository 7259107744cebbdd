"""A world small enough to be learned in minutes: plain balls on a chequered table before a wall, one camera.

Six colours, one shape, nothing to download and no renderer: every picture is traced ray by ray in numpy. What a
controlled study compares shows here on one processor core, where the tabletop world wants a graphics card.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int, UInt8

from egem.records import Intrinsics
from egem.scene import Camera, Scene, SceneObject
from egem.worlds.request import check_request

CAMERAS: Final = ("front",)
SPLITS: Final = ("train", "held_out", "new_cameras", "new_objects")
"""Worlds to learn from; new seeds; also camera heights and pitches, or sizes of balls, that training never shows."""

COLORS: Final[dict[str, tuple[float, float, float]]] = {
    "red": (0.88, 0.10, 0.10),
    "yellow": (0.92, 0.88, 0.12),
    "green": (0.12, 0.75, 0.15),
    "cyan": (0.15, 0.80, 0.85),
    "blue": (0.12, 0.22, 0.90),
    "purple": (0.72, 0.15, 0.78),
}
"""sRGB, 0 to 1."""

SIZES: Final = {"small": 0.06, "medium": 0.085, "large": np.inf}
"""Word to the radius that it ends at, metres."""

_Range = tuple[float, float]

_GAP_M: Final = 0.012
_REACH_M: Final = (0.3, 0.38, 1.12)
"""Balls lie at most so far left and right of the camera's line, and between these distances in front of it."""
_WALL_M: Final = 2.0
"""From the camera to the wall, at which the table ends."""
_SQUARE_M: Final = 0.125
_SAMPLES: Final = 2
"""Rays a pixel and axis, for its colour; depth and mask are those of its middle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ranges:
    """From what a split draws; where there are several ranges, one is taken at random."""

    height: tuple[_Range, ...] = ((0.25, 0.45),)
    """Of the camera above the table, metres."""
    pitch: tuple[_Range, ...] = ((15.0, 35.0),)
    """Degrees below the horizon."""
    radius: tuple[_Range, ...] = ((0.04, 0.11),)
    """Metres."""


_SEEN: Final = _Ranges()
_RANGES: Final = {
    "train": _SEEN,
    "held_out": _SEEN,
    "new_cameras": _Ranges(height=((0.19, 0.24), (0.46, 0.53)), pitch=((10.0, 14.0), (36.0, 42.0))),
    "new_objects": _Ranges(radius=((0.03, 0.038), (0.112, 0.135))),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Balls:
    """What lies on the table."""

    colors: tuple[str, ...]
    centers: Float[np.ndarray, "ball 3"]
    radii: Float[np.ndarray, "ball"]


def scenes(
    seed: int,
    num: int,
    *,
    size: tuple[int, int] = (64, 64),
    split: str = "train",
    cameras: Sequence[str] = CAMERAS,
    start: int = 0,
) -> Iterator[Scene]:
    """Views of tables drawn from a seed: view i depends on nothing but (seed, i, split, size).

    Args:
        seed: integer >= 0.
        num: how many views.
        size: (height, width) in pixels.
        split: one of `SPLITS`.
        cameras: `CAMERAS`; there is one.
        start: number of the first view.

    Raises:
        ConfigError: unknown split or camera, no camera, or a negative number.
    """
    check_request(seed=seed, num=num, start=start, split=split, splits=SPLITS, cameras=cameras, known=CAMERAS)
    return (draw(seed, number, split, size) for number in range(start, start + num))


def draw(seed: int, number: int, split: str, size: tuple[int, int]) -> Scene:
    """One view; see `scenes`."""
    rng = np.random.default_rng([SPLITS.index(split), seed, number])
    ranges = _RANGES[split]
    balls = _place(rng, ranges)
    camera = _camera(rng, ranges, size)
    light = np.array([rng.uniform(-1, 1), rng.uniform(-1.5, -0.5), 2.0])
    tones = rng.uniform(0.35, 0.65), rng.uniform(0.04, 0.1), rng.uniform(0.7, 0.9)
    depth, mask = _trace(_rays(camera, size, 1), camera, balls)
    name = f"balls/{split}/{seed}/{number}"
    return Scene(
        id=name,
        source="balls",
        image=_paint(camera, size, balls, light / np.linalg.norm(light), tones),
        depth=depth.astype(np.float32),
        depth_origin="simulator",
        mask=np.maximum(mask, 0),
        camera=camera,
        objects=tuple(_object(balls, index) for index in range(len(balls.colors))),
        support=np.array([[-_WALL_M, 0.0], [_WALL_M, _WALL_M]]),
        meta={"scene": name, "world": "balls", "seed": seed, "split": split, "camera": camera.name},
    )


def _place(rng: np.random.Generator, ranges: _Ranges) -> _Balls:
    """Three to five balls of different colours that do not touch."""
    num = int(rng.integers(3, 6))
    colors = tuple(str(c) for c in rng.permutation(list(COLORS))[:num])
    half, near, far = _REACH_M
    centers: list[Float[np.ndarray, "3"]] = []
    radii: list[float] = []
    while len(centers) < num:
        radius = _draw(rng, ranges.radius)
        center = np.array([rng.uniform(-half, half), rng.uniform(near, far), radius])
        apart = [
            np.linalg.norm(center - c) > radius + r + _GAP_M for c, r in zip(centers, radii, strict=True)
        ]
        if all(apart):
            centers.append(center)
            radii.append(radius)
    return _Balls(colors=colors, centers=np.stack(centers), radii=np.array(radii))


def _camera(rng: np.random.Generator, ranges: _Ranges, size: tuple[int, int]) -> Camera:
    """Above the origin, looking along +y and down."""
    height, width = size
    focal = float(rng.uniform(0.85, 1.0)) * width
    pitch = np.radians(_draw(rng, ranges.pitch))
    forward = np.array([0.0, np.cos(pitch), -np.sin(pitch)])
    right = np.array([1.0, 0.0, 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[2, 3] = _draw(rng, ranges.height)
    intrinsics = Intrinsics(fx=focal, fy=focal, cx=width / 2, cy=height / 2)
    return Camera(name=CAMERAS[0], intrinsics=intrinsics, world_from_camera=pose)


def _draw(rng: np.random.Generator, ranges: tuple[_Range, ...]) -> float:
    return float(rng.uniform(*ranges[int(rng.integers(len(ranges)))]))


def _rays(camera: Camera, size: tuple[int, int], samples: int) -> Float[np.ndarray, "row column 3"]:
    """World directions through each sample; one metre of depth long, so that their parameter is the depth."""
    height, width = size
    k = camera.intrinsics
    rows, columns = ((np.arange(n * samples) + 0.5) / samples for n in (height, width))
    x, y = np.meshgrid((columns - k.cx) / k.fx, (rows - k.cy) / k.fy)
    return np.stack([x, y, np.ones_like(x)], axis=-1) @ camera.world_from_camera[:3, :3].T


def _trace(
    rays: Float[np.ndarray, "row column 3"], camera: Camera, balls: _Balls
) -> tuple[Float[np.ndarray, "row column"], Int[np.ndarray, "row column"]]:
    """Depth in metres and what is hit: 1 + number of the ball, 0 the table, -1 the wall."""
    origin = camera.world_from_camera[:3, 3]
    depth = (_WALL_M - origin[1]) / rays[..., 1]
    table = np.where(rays[..., 2] < 0, -origin[2] / np.minimum(rays[..., 2], -1e-9), np.inf)
    hit = np.where(table < depth, 0, -1)
    depth = np.minimum(depth, table)
    square = (rays**2).sum(-1)
    for number, (center, radius) in enumerate(zip(balls.centers, balls.radii, strict=True), 1):
        along = rays @ (center - origin)
        inside = along**2 - square * (((center - origin) ** 2).sum() - radius**2)
        near = (along - np.sqrt(np.maximum(inside, 0))) / square
        is_hit = (inside > 0) & (near > 0) & (near < depth)
        depth, hit = np.where(is_hit, near, depth), np.where(is_hit, number, hit)
    return depth, hit


def _paint(
    camera: Camera,
    size: tuple[int, int],
    balls: _Balls,
    light: Float[np.ndarray, "3"],
    tones: tuple[float, float, float],
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture: table and wall, balls shaded by one light; `tones`: table, its squares' contrast, wall."""
    rays = _rays(camera, size, _SAMPLES)
    depth, hit = _trace(rays, camera, balls)
    points = camera.world_from_camera[:3, 3] + rays * depth[..., None]
    table, contrast, wall = tones
    square = np.floor(points[..., :2] / _SQUARE_M).sum(-1) % 2
    picture = np.where(hit == 0, table + contrast * square, wall)[..., None] * np.array([1.0, 0.96, 0.9])
    for number, (color, center, radius) in enumerate(
        zip(balls.colors, balls.centers, balls.radii, strict=True), 1
    ):
        seen = hit == number
        shade = 0.4 + 0.6 * np.maximum((points[seen] - center) / radius @ light, 0)
        picture[seen] = shade[:, None] * np.array(COLORS[color])
    height, width = size
    pixels = picture.reshape(height, _SAMPLES, width, _SAMPLES, 3).mean(axis=(1, 3))
    return (255 * pixels.clip(0, 1)).round().astype(np.uint8)


def _object(balls: _Balls, index: int) -> SceneObject:
    center, radius, color = balls.centers[index], float(balls.radii[index]), balls.colors[index]
    pose = np.eye(4)
    pose[:2, 3] = center[:2]
    return SceneObject(
        index=index + 1,
        name=f"{color} ball",
        shape="ball",
        color=color,
        size=next(word for word, end in SIZES.items() if radius < end),
        material="matte",
        pose=pose,
        extent=np.full(3, 2 * radius),
        center=center,
    )
