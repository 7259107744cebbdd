"""Solids of revolution and bent tubes, computed here: nothing is read from files."""

from functools import cache
from itertools import pairwise
from typing import Final

import numpy as np
from jaxtyping import Float, Int

Mesh = tuple[Float[np.ndarray, "vertex 3"], Float[np.ndarray, "vertex 3"], Int[np.ndarray, "face 3"]]
"""Vertices in metres, their unit normals, triangles seen counter-clockwise from outside."""

PROFILES: Final[dict[str, tuple[tuple[float, float], ...]]] = {
    "cone": ((0.0, 0.0), (0.036, 0.0), (0.036, 0.006), (0.003, 0.085), (0.0, 0.085)),
    "mug": (
        (0.0, 0.0), (0.034, 0.0), (0.037, 0.004), (0.037, 0.082),
        (0.033, 0.082), (0.033, 0.008), (0.0, 0.008),
    ),
    "bowl": (
        (0.0, 0.0), (0.036, 0.0), (0.039, 0.008), (0.055, 0.020), (0.065, 0.038), (0.070, 0.058),
        (0.066, 0.058), (0.061, 0.040), (0.051, 0.024), (0.036, 0.013), (0.0, 0.011),
    ),
    "plate": (
        (0.0, 0.0), (0.055, 0.0), (0.060, 0.004), (0.088, 0.014), (0.088, 0.017),
        (0.084, 0.017), (0.058, 0.008), (0.0, 0.008),
    ),
    "bottle": (
        (0.0, 0.0), (0.029, 0.0), (0.031, 0.004), (0.031, 0.085), (0.026, 0.102), (0.013, 0.116),
        (0.011, 0.140), (0.015, 0.140), (0.015, 0.158), (0.0, 0.158),
    ),
    "pan": (
        (0.0, 0.0), (0.060, 0.0), (0.064, 0.004), (0.072, 0.036),
        (0.068, 0.036), (0.060, 0.007), (0.0, 0.007),
    ),
}  # fmt: skip
"""Outline (radius, height) of each solid of revolution at scale 1, from the bottom's centre outwards."""

RING_RADIUS: Final = 0.033
RING_TUBE: Final = 0.011
HANDLE_RADIUS: Final = 0.024
HANDLE_TUBE: Final = 0.0055

NAMES: Final = (*PROFILES, "ring", "mug_handle")


def mesh_name(name: str, scale: float) -> str:
    """The name in the MuJoCo model of one of `NAMES` at a scale of the catalog."""
    return f"{name}_{round(1000 * scale)}"


@cache
def build(name: str, scale: float) -> Mesh:
    """One of `NAMES`, bottom centre at the origin (ring, handle: centre of the bend); not to be written to.

    Args:
        name: which.
        scale: factor on all dimensions.
    """
    if name == "ring":
        return _tube(RING_RADIUS * scale, RING_TUBE * scale, 0.0, 2 * np.pi, around=28, across=12)
    if name == "mug_handle":
        return _tube(HANDLE_RADIUS * scale, HANDLE_TUBE * scale, -np.pi / 2, np.pi / 2, around=12, across=8)
    return _lathe(np.asarray(PROFILES[name]) * scale)


def inner_profile(name: str, scale: float) -> Float[np.ndarray, "point 2"]:
    """Wall (radius, height) of the hollow of a mug, bowl, plate or pan, floor's centre to rim."""
    points = np.asarray(PROFILES[name]) * scale
    rim = int(np.argmax(points[:, 1]))
    # The rim's outer edge comes first in the outline; the hollow starts at its inner edge.
    return points[rim + 1 :][::-1]


def outer_radius(name: str, scale: float) -> float:
    """Largest radius of a solid of revolution, metres."""
    return scale * max(radius for radius, _ in PROFILES[name])


def height(name: str, scale: float) -> float:
    """Height of a solid of revolution, metres."""
    return scale * max(z for _, z in PROFILES[name])


def to_xml(name: str, mesh: Mesh) -> str:
    """A MuJoCo `<mesh>` element with the data in it."""
    vertices, normals, faces = mesh
    text = [" ".join(f"{value:.6g}" for value in array.ravel()) for array in (vertices, normals, faces)]
    return f'<mesh name="{name}" inertia="shell" vertex="{text[0]}" normal="{text[1]}" face="{text[2]}"/>'


def _lathe(profile: Float[np.ndarray, "point 2"], segments: int = 28) -> Mesh:
    # Every stretch of the outline has two rings of vertices of its own: edges stay sharp.
    angles = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    direction = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    vertices, normals, faces = [], [], []
    for (r0, z0), (r1, z1) in pairwise(profile):
        length = np.hypot(r1 - r0, z1 - z0)
        outward, upward = (z1 - z0) / length, (r0 - r1) / length
        first = sum(len(v) for v in vertices)
        for radius, z in ((r0, z0), (r1, z1)):
            # A tip of radius 0 would make degenerate faces, which MuJoCo refuses.
            ring = np.column_stack([max(radius, 1e-4) * direction, np.full(segments, z)])
            vertices.append(ring)
            normals.append(np.column_stack([outward * direction, np.full(segments, upward)]))
        faces.append(_strip(first, first + segments, segments, closed=True))
    return np.concatenate(vertices), np.concatenate(normals), np.concatenate(faces)


def _tube(bend: float, tube: float, start: float, stop: float, *, around: int, across: int) -> Mesh:
    """A tube bent round the z axis in the plane z = 0."""
    closed = stop - start > 2 * np.pi - 1e-6
    angles = np.linspace(start, stop, around, endpoint=not closed)
    turn = np.linspace(0, 2 * np.pi, across, endpoint=False)
    outward = np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=1)[:, None, :]
    up = np.array([0.0, 0.0, 1.0])
    normals = np.cos(turn)[None, :, None] * outward + np.sin(turn)[None, :, None] * up
    vertices = bend * outward + tube * normals
    faces = [
        _strip(across * ((i + 1) % around), across * i, across, closed=True)
        for i in range(around if closed else around - 1)
    ]
    return vertices.reshape(-1, 3), normals.reshape(-1, 3), np.concatenate(faces)


def _strip(lower: int, upper: int, count: int, *, closed: bool) -> Int[np.ndarray, "face 3"]:
    """Two triangles between each pair of neighbours of two rings."""
    here = np.arange(count if closed else count - 1)
    there = (here + 1) % count
    first = np.stack([lower + here, lower + there, upper + there], axis=1)
    second = np.stack([lower + here, upper + there, upper + here], axis=1)
    return np.concatenate([first, second])
