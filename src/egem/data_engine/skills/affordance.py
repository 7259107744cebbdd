"""Where to take a thing: its handle, rim or knob."""

import numpy as np

from egem.data_engine.skills.pointing import point_in
from egem.data_engine.skills.skill import Question, phrase, pick
from egem.data_engine.view import Sighting, View

REACH_M = 0.012
"""Surface this much farther from the grasp point than the nearest seen surface still counts as the part."""
HIDDEN_M = 0.03
"""If no seen surface of the object is this near to its grasp point, the part is hidden."""
MIN_PIXELS = 3

_PART = (
    "Point at the {part} of {a}.",
    "Where should a gripper take {a}? Point at its {part}.",
    "Give a point on the {part} of {a}.",
    "Where is the {part} of {a}? Give a point [x, y].",
)
_WHOLE = (
    "Where should a gripper take {a}? Give a point.",
    "Point where to grasp {a}.",
    "Give a grasp point [x, y] for {a}.",
    "Where can {a} be grasped? Give a point [x, y].",
)


def graspable_part(view: View, rng: np.random.Generator) -> Question | None:
    """A point on the part of an object that a gripper takes."""
    found = [(s, region) for s in view.with_box if (region := part_region(view, s)) is not None]
    if not found:
        return None
    thing, region = pick(rng, found)
    part = thing.object.grasp_part
    phrasings = _PART if part else _WHOLE
    column, row, _ = view.camera.project(thing.object.grasp_point[None])[0]
    return Question(
        text=phrase(rng, phrasings, a=f"the {thing.name}", part=part or ""),
        answer=point_in(view, region, near=(float(column), float(row))),
        topic=(thing.name,),
        meta={"part": part, "region_pixels": int(region.sum())},
    )


def part_region(view: View, sighting: Sighting) -> np.ndarray | None:
    """Pixels of an object around its grasp point, (height, width) bool; None where hidden or unknown."""
    thing = sighting.object
    if thing.grasp_point is None or not thing.is_graspable:
        return None
    gap = np.linalg.norm(view.world_points - thing.grasp_point, axis=-1)
    gap = np.where(sighting.pixels & np.isfinite(gap), gap, np.inf)
    nearest = float(gap.min())
    if nearest > HIDDEN_M:
        return None
    region = gap <= nearest + REACH_M
    return region if region.sum() >= MIN_PIXELS else None
