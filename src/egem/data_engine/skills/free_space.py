"""Free spots on the table beside something: found from depth, mask and the table's rectangle.

A pixel is free when it shows the table's top (by its point in space), lies inside the table's rectangle
and keeps clear of the footprint of every object, seen or not.
"""

import numpy as np
from jaxtyping import Bool

from egem.data_engine.skills.containment import on_table
from egem.data_engine.skills.pointing import point_in
from egem.data_engine.skills.skill import Question, phrase, pick
from egem.data_engine.view import Sighting, View

CLEARANCE_M = 0.02
"""Free spots keep this far from every footprint and from the table's edge."""
REACH_M = 0.14
"""How far from the object's footprint a spot still counts as beside it."""
TABLE_TOLERANCE_M = 0.012
MIN_REGION = 0.003
"""Least share of the image that the free region must cover."""
MAX_REGION = 0.08
"""A larger region would be hit without looking."""

_PHRASINGS = (
    "Point to a free spot {side} {a}.",
    "Give a free point {side} {a}.",
    "Where is free space {side} {a}? Give a point [x, y].",
    "Find an empty place {side} {a}.",
)
_SIDES = {
    "left of": (-1.0, 0.0),
    "right of": (1.0, 0.0),
    "in front of": (0.0, -1.0),
    "behind": (0.0, 1.0),
}
"""(to the viewer's right, away from the viewer)."""


def free_spot(view: View, rng: np.random.Generator) -> Question | None:
    """A free spot on the table, on one side of an object as the camera sees it."""
    standing = [s for s in view.with_box if on_table(s)]
    if not standing:
        return None
    thing, side = pick(rng, standing), pick(rng, sorted(_SIDES))
    region = free_table(view) & _beside(view, thing, _SIDES[side])
    if not MIN_REGION * region.size <= region.sum() <= MAX_REGION * region.size:
        return None
    return Question(
        text=phrase(rng, _PHRASINGS, side=side, a=f"the {thing.name}"),
        answer=point_in(view, region),
        topic=(side, thing.name),
        meta={"region_pixels": int(region.sum())},
    )


def free_table(view: View) -> Bool[np.ndarray, "height width"]:
    """Pixels that show a free piece of the table's top."""
    scene = view.scene
    assert scene.support is not None
    points = view.world_points
    low, high = scene.support[0] + CLEARANCE_M, scene.support[1] - CLEARANCE_M
    with np.errstate(invalid="ignore"):
        free = np.abs(points[..., 2]) <= TABLE_TOLERANCE_M
        free &= np.all((points[..., :2] >= low) & (points[..., :2] <= high), axis=-1)
        for thing in scene.objects:
            free &= _outside(points, thing, CLEARANCE_M)
    if scene.mask is not None:
        free &= scene.mask == 0
    return free if scene.robot_mask is None else free & ~scene.robot_mask


def _outside(points: np.ndarray, thing, margin: float) -> Bool[np.ndarray, "height width"]:
    """Which points are farther than `margin` from the footprint of an object's box on the ground."""
    if not np.isfinite(thing.extent).all():
        return np.ones(points.shape[:2], bool)
    front = thing.pose[:2, 0] / max(float(np.linalg.norm(thing.pose[:2, 0])), 1e-9)
    offset = points[..., :2] - thing.center[:2]
    along = np.abs(offset @ front) - thing.extent[0] / 2
    across = np.abs(offset @ np.array([-front[1], front[0]])) - thing.extent[1] / 2
    return np.hypot(np.maximum(along, 0), np.maximum(across, 0)) > margin


def _beside(view: View, thing: Sighting, side: tuple[float, float]) -> Bool[np.ndarray, "height width"]:
    """Points near an object and within 45 degrees of a direction from its centre."""
    right, away = view.ground_axes
    offset = view.world_points[..., :2] - thing.object.center[:2]
    direction = side[0] * right + side[1] * away
    with np.errstate(invalid="ignore"):
        along = offset @ direction
        across = np.abs(offset @ np.array([-direction[1], direction[0]]))
        return (along > across) & ~_outside(view.world_points, thing.object, REACH_M)
