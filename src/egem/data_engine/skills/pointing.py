"""Where things are in the image: point at one, draw its box, say what is at a point."""

import numpy as np
from scipy import ndimage

from egem.data_engine.skills.relative_depth import clearly_nearer
from egem.data_engine.skills.skill import Question, choice, listed, phrase, pick, shuffled, the, written
from egem.data_engine.view import Sighting, View
from egem.media import encode_region
from egem.records import COORDINATE_RANGE, Answer, ImageFile

CLEAR_SIDE_IMAGE = 0.05
"""The leftmost thing is at least this share of the width farther left than the next."""

_POINT = (
    "Point at {a}.",
    "Where is {a}? Give a point [x, y].",
    "Give a point on {a}.",
    "Locate {a} with a point [x, y].",
)
_BOX = (
    "Give the box of {a}.",
    "Box of {a} as [x1, y1, x2, y2]?",
    "Draw a box around {a}.",
    "Where is {a}? Give its box [x1, y1, x2, y2].",
)
_AT = (
    "What is at {point}: {names}?",
    "Which is at {point}: {names}?",
    "At {point} you see {names}: which?",
    "{point} is on which, {names}?",
)
_EXTREME = (
    "Point at the {word} object.",
    "Where is the {word} object? Give a point [x, y].",
    "Give a point on the {word} object.",
    "Locate the {word} object with a point [x, y].",
)


def point_at_object(view: View, rng: np.random.Generator) -> Question | None:
    """A point on a named object."""
    thing = pick(rng, view.sightings)
    text = phrase(rng, _POINT, a=f"the {thing.name}")
    return Question(text=text, answer=point_in(view, thing.pixels), topic=(thing.name,))


def box_of_object(view: View, rng: np.random.Generator) -> Question | None:
    """The box around the visible part of a named object."""
    thing = pick(rng, view.sightings)
    left, top, right, bottom = thing.box
    x_scale, y_scale = COORDINATE_RANGE / view.width, COORDINATE_RANGE / view.height
    box = (round(left * x_scale), round(top * y_scale), round(right * x_scale), round(bottom * y_scale))
    text = phrase(rng, _BOX, a=f"the {thing.name}")
    return Question(text=text, answer=Answer(kind="box", text=written(box), box=box), topic=(thing.name,))


def object_at_point(view: View, rng: np.random.Generator) -> Question | None:
    """Which of a few objects is at a point."""
    if len(view.sightings) < 2:
        return None
    chosen = shuffled(rng, view.sightings)[: int(rng.integers(2, 4))]
    thing = pick(rng, chosen)
    thickness = _thickness(thing.pixels)
    rows, columns = np.nonzero(thickness >= 0.5 * thickness.max())
    at = int(rng.integers(len(rows)))
    point = view.coordinate((int(columns[at]), int(rows[at])))
    names = [s.name for s in chosen]
    return Question(
        text=phrase(rng, _AT, point=written(point), names=listed(the(names))),
        answer=choice(thing.name, names),
        topic=(thing.name,),
        meta={"point": point},
    )


def point_at_extreme(view: View, rng: np.random.Generator) -> Question | None:
    """A point on the leftmost, rightmost, nearest or farthest object."""
    if not view.all_or_nothing or len(view.sightings) < 2:
        return None
    if len(view.sightings) < sum(view.pixel_counts.get(o.index, 0) > 0 for o in view.scene.objects):
        return None
    word = pick(rng, ("leftmost", "rightmost", "nearest", "farthest"))
    winners = [
        s for s in view.sightings if all(_beats(view, word, s, o) for o in view.sightings if o is not s)
    ]
    if not winners:
        return None
    text = phrase(rng, _EXTREME, word=word)
    return Question(text=text, answer=point_in(view, winners[0].pixels), topic=(word,))


def point_in(view: View, region: np.ndarray, near: tuple[float, float] | None = None) -> Answer:
    """A point answer with the region of right points.

    Args:
        view: where.
        region: (height, width) bool, not empty.
        near: (column, row) to be near to; the middle of the region's thickest part if None.
    """
    if near is None:
        row, column = np.unravel_index(int(np.argmax(_thickness(region))), region.shape)
    else:
        rows, columns = np.nonzero(region)
        best = int(np.argmin((columns + 0.5 - near[0]) ** 2 + (rows + 0.5 - near[1]) ** 2))
        row, column = rows[best], columns[best]
    point = view.coordinate((int(column), int(row)))
    return Answer(
        kind="point", text=written(point), points=(point,), region=ImageFile(data=encode_region(region))
    )


def _beats(view: View, word: str, one: Sighting, other: Sighting) -> bool:
    if word == "nearest":
        return clearly_nearer(view, one, other)
    if word == "farthest":
        return clearly_nearer(view, other, one)
    gap = (other.box[0] + other.box[2] - one.box[0] - one.box[2]) / (2 * view.width)
    return (gap if word == "leftmost" else -gap) >= CLEAR_SIDE_IMAGE


def _thickness(region: np.ndarray) -> np.ndarray:
    """Distance of each pixel of a region to its edge; the image's border is an edge too."""
    return np.asarray(ndimage.distance_transform_edt(np.pad(region, 1)))[1:-1, 1:-1]
