"""Boxes and floors: closest points of two boxes, what a path runs into, and how large a room is. All in metres."""

from itertools import product

import numpy as np
from jaxtyping import Float
from scipy.spatial import ConvexHull, Delaunay, QhullError

from egem.data_engine.room_scene import RoomObject

CELL_M = 0.05
"""Points of a scan are thinned to one in each cell of this size before the floor is measured."""
ALPHA_M = 0.5
"""Radius of the alpha shape: gaps up to twice this wide count as floor (furniture stands there)."""

_SIGNS = np.array(list(product((-0.5, 0.5), repeat=3)))
_EDGES = [
    (i, j) for i, j in product(range(8), repeat=2) if i < j and np.abs(_SIGNS[i] - _SIGNS[j]).sum() == 1
]
_STARTS, _ENDS = (np.array(ends) for ends in zip(*_EDGES, strict=True))


def corners(thing: RoomObject) -> Float[np.ndarray, "8 3"]:
    """The corners of a box, in the world."""
    return thing.center + (_SIGNS * thing.lengths) @ thing.axes


def closest_points(
    a: RoomObject, b: RoomObject
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]] | None:
    """The point of each box that is nearest to the other box; None where they touch or overlap.

    Two convex solids that are apart come nearest at a corner of one and some point of the other, or at two
    edges, so 16 corners and 144 pairs of edges are tried; that they are apart is told by separating axes.
    """
    if not _apart(a, b):
        return None
    ours, theirs = corners(a), corners(b)
    on_b, on_a = _clamped(ours, b), _clamped(theirs, a)
    first, second = np.concatenate([ours, on_a]), np.concatenate([on_b, theirs])
    along, across = ours[_ENDS] - ours[_STARTS], theirs[_ENDS] - theirs[_STARTS]
    u, v = np.repeat(along, 12, axis=0), np.tile(across, (12, 1))
    offset = np.repeat(ours[_STARTS], 12, axis=0) - np.tile(theirs[_STARTS], (12, 1))
    uu, uv, vv = (u * u).sum(1), (u * v).sum(1), (v * v).sum(1)
    uo, vo = (u * offset).sum(1), (v * offset).sum(1)
    parallel = uu * vv - uv * uv
    with np.errstate(divide="ignore", invalid="ignore"):
        s, t = (uv * vo - vv * uo) / parallel, (uu * vo - uv * uo) / parallel
    # Where lines come nearest outside an edge (or are parallel), a corner is nearest: those are in already.
    inside = (parallel > 1e-12 * uu * vv) & (s >= 0) & (s <= 1) & (t >= 0) & (t <= 1)
    s, t = s[inside, None], t[inside, None]
    first = np.concatenate([first, np.repeat(ours[_STARTS], 12, axis=0)[inside] + s * u[inside]])
    second = np.concatenate([second, np.tile(theirs[_STARTS], (12, 1))[inside] + t * v[inside]])
    best = int(((first - second) ** 2).sum(1).argmin())
    return first[best], second[best]


def box_distance(a: RoomObject, b: RoomObject) -> float:
    """Between the closest points of two boxes; 0 where they touch or overlap."""
    found = closest_points(a, b)
    return 0.0 if found is None else float(np.linalg.norm(found[0] - found[1]))


def meets_footprint(
    start: Float[np.ndarray, "2"], end: Float[np.ndarray, "2"], thing: RoomObject, margin: float
) -> bool:
    """Whether the straight way from one place on the floor to another comes within a margin of a box's outline."""
    try:
        hull = ConvexHull(corners(thing)[:, :2])
    except QhullError:
        return False
    normals, offsets = hull.equations[:, :2], hull.equations[:, 2] - margin
    at_start, change = normals @ start + offsets, normals @ (end - start)
    enter, leave = 0.0, 1.0
    for value, slope in zip(at_start.tolist(), change.tolist(), strict=True):
        if slope == 0:
            if value > 0:
                return False
        elif slope < 0:
            enter = max(enter, -value / slope)
        else:
            leave = min(leave, -value / slope)
    return enter <= leave


def floor_area(points: Float[np.ndarray, "point 3"]) -> float:
    """Square metres that a scan covers, seen from above: the alpha shape of its points (Edelsbrunner et al. 1983).

    That is the Delaunay triangles whose circumscribed circle has at most the radius `ALPHA_M`. 0 where too few points
    are there to span one.
    """
    cells, inverse, counts = np.unique(
        np.floor(points[:, :2] / CELL_M).astype(np.int64), axis=0, return_inverse=True, return_counts=True
    )
    if len(cells) < 4:
        return 0.0
    thinned = np.stack(
        [np.bincount(inverse.ravel(), points[:, axis], len(cells)) / counts for axis in (0, 1)], axis=1
    )
    try:
        corner = thinned[Delaunay(thinned).simplices]
    except QhullError:
        return 0.0
    a, b, c = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 1], corner[:, 0] - corner[:, 2]
    areas = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2
    edges = np.prod([np.linalg.norm(edge, axis=1) for edge in (a, b, c)], axis=0)
    # The circumradius is the product of the edges over four times the area.
    return float(areas[edges <= 4 * ALPHA_M * areas].sum())


def _clamped(points: Float[np.ndarray, "point 3"], thing: RoomObject) -> Float[np.ndarray, "point 3"]:
    half = thing.lengths / 2
    return thing.center + np.clip((points - thing.center) @ thing.axes.T, -half, half) @ thing.axes


def _apart(a: RoomObject, b: RoomObject) -> bool:
    crossed = np.cross(a.axes[:, None], b.axes[None]).reshape(9, 3)
    crossed = crossed[np.linalg.norm(crossed, axis=1) > 1e-9]
    directions = np.concatenate([a.axes, b.axes, crossed])
    ours, theirs = corners(a) @ directions.T, corners(b) @ directions.T
    return bool(((ours.min(0) > theirs.max(0)) | (theirs.min(0) > ours.max(0))).any())
