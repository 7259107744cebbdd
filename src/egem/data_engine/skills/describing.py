"""What is in the picture and where, in two dimensions: what a backbone learns before it learns geometry.

No distances, no relations in space. `layout` writes the picture as text, cell by cell, as Text4Seg does (Lan et
al. 2024, arXiv 2410.09855): every visual token gets a word of its own to explain.
"""

from collections import Counter

import numpy as np

from egem.data_engine.skills.counting import COLORS
from egem.data_engine.skills.pointing import point_in
from egem.data_engine.skills.skill import Question, choice, coin, phrase, pick, yes_or_no
from egem.data_engine.view import View
from egem.records import Answer
from egem.scene import SceneObject

GRID = 6
"""Rows and columns of `layout`: one cell for each visual token of the tiny preset at 96 x 96."""

LEAST_SHARE = 0.3
"""A cell is named after the object that covers most of it, if that is at least this share."""

TABLE_HEIGHT_M = 0.01
"""A surface this near to the support's height, and within its edges, is the table."""

_CAPTION = ("Describe the picture.", "What do you see?", "List the objects.", "What is where?")
_LAYOUT = ("Describe the picture cell by cell.", "What is in each cell?")
_THERE = ("Is there a {a}?", "Do you see a {a}?", "Can a {a} be seen?", "A {a}: is it there?")
_COLOR = (
    "What color is the {a}?",
    "Which color has the {a}?",
    "The {a} has which color?",
    "Name the color of the {a}.",
)
_SHAPE = ("What is the {a} thing?", "What is {a} here?", "Which object is {a}?", "Name the {a} thing.")


def caption(view: View, rng: np.random.Generator) -> Question | None:
    """All clearly seen objects from left to right, each with a point on it."""
    if not view.sightings:
        return None
    ordered = sorted(view.sightings, key=lambda s: s.box[0] + s.box[2])
    parts = [f"{point_in(view, thing.pixels).text} {thing.name}" for thing in ordered]
    answer = Answer(kind="text", text="; ".join(parts))
    return Question(text=phrase(rng, _CAPTION), answer=answer, topic=())


def layout(view: View, rng: np.random.Generator) -> Question | None:
    """What each cell of a grid shows, row by row: an object's colour and shape, robot, table or room."""
    labels = _surfaces(view)
    rows = [" ".join(_cell(view, labels, row, column) for column in range(GRID)) for row in range(GRID)]
    answer = Answer(kind="text", text="; ".join(rows))
    return Question(text=phrase(rng, _LAYOUT), answer=answer, topic=())


def is_there(view: View, rng: np.random.Generator) -> Question | None:
    """Whether a thing of some colour and shape is seen; half of the wrong ones share one of the two."""
    if not view.all_or_nothing:
        return None
    seen = _seen(view)
    pairs = sorted({(thing.color, thing.shape) for thing in seen})
    if len(pairs) < 2:
        return None
    present = coin(rng)
    color, shape = pick(rng, pairs)
    if not present:
        if coin(rng):
            color = pick(rng, COLORS)
        else:
            shape = pick(rng, [s for _, s in pairs])
        if (color, shape) in pairs:
            return None
    text = phrase(rng, _THERE, a=f"{color} {shape}")
    return Question(text=text, answer=yes_or_no(present), topic=(color, shape))


def color_of(view: View, rng: np.random.Generator) -> Question | None:
    """The colour of the only thing of its shape."""
    found = _only(view, "shape")
    if found is None:
        return None
    thing = pick(rng, found)
    text = phrase(rng, _COLOR, a=thing.shape)
    return Question(text=text, answer=choice(thing.color, COLORS), topic=(thing.shape,))


def shape_of(view: View, rng: np.random.Generator) -> Question | None:
    """The shape of the only thing of its colour."""
    found = _only(view, "color")
    if found is None:
        return None
    thing = pick(rng, found)
    text = phrase(rng, _SHAPE, a=thing.color)
    return Question(text=text, answer=Answer(kind="text", text=thing.shape), topic=(thing.color,))


def _seen(view: View) -> list[SceneObject]:
    return [thing for thing in view.scene.objects if view.pixel_counts.get(thing.index, 0) > 0]


def _only(view: View, attribute: str) -> list[SceneObject] | None:
    """Clearly seen things that share the attribute with nothing else in the picture."""
    if not view.all_or_nothing:
        return None
    counts = Counter(getattr(thing, attribute) for thing in _seen(view))
    return [s.object for s in view.sightings if counts[getattr(s.object, attribute)] == 1] or None


def _surfaces(view: View) -> np.ndarray:
    """(height, width): index of the object, -1 robot, -2 table, -3 room."""
    scene = view.scene
    assert scene.mask is not None
    assert scene.support is not None
    low, high = scene.support
    points = view.world_points
    with np.errstate(invalid="ignore"):
        on_table = np.all((points[..., :2] >= low) & (points[..., :2] <= high), axis=-1)
        on_table &= np.abs(points[..., 2]) < TABLE_HEIGHT_M
    labels = np.where(on_table, -2, -3)
    if scene.robot_mask is not None:
        labels[scene.robot_mask] = -1
    return np.where(scene.mask > 0, scene.mask, labels)


def _cell(view: View, labels: np.ndarray, row: int, column: int) -> str:
    height, width = labels.shape
    cell = labels[
        row * height // GRID : (row + 1) * height // GRID,
        column * width // GRID : (column + 1) * width // GRID,
    ]
    values, counts = np.unique(cell, return_counts=True)
    things = [(n, int(v)) for v, n in zip(values, counts, strict=True) if v > 0]
    if things and max(things)[0] >= LEAST_SHARE * cell.size:
        thing = next(o for o in view.scene.objects if o.index == max(things)[1])
        return f"{thing.color} {thing.shape}"
    rest = [(n, int(v)) for v, n in zip(values, counts, strict=True) if v <= 0] or [(1, -3)]
    return {-1: "robot", -2: "table", -3: "room"}[max(rest)[1]]
