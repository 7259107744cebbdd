"""How many things: of a colour, of a shape, or all.

Counted only in views where every object is either clearly seen or not seen at all, and (boxes being known)
all objects are listed. A colour (or shape) is counted only in views that offer each of a few counts for
some colour, and which of those counts is to be the answer is drawn evenly.
"""

from collections import Counter

import numpy as np

from egem.data_engine.skills.skill import Question, count, phrase, pick
from egem.data_engine.view import View

COLORS = (
    "red",
    "orange",
    "yellow",
    "green",
    "cyan",
    "blue",
    "purple",
    "pink",
    "brown",
    "white",
    "gray",
    "black",
)
SHAPES = ("cube", "cylinder", "ball", "cone", "block", "ring", "arch", "mug")
"""Shapes that are counted: things of which a scene may hold several."""
COUNTS = (0, 1, 2)
"""Of a colour or shape."""

_OF = (
    "How many {what} are there?",
    "Count the {what}.",
    "How many {what} do you see?",
    "Number of {what}?",
)


def count_color(view: View, rng: np.random.Generator) -> Question | None:
    """How many things of a colour."""
    return _count(view, rng, "color", COLORS, "{} things")


def count_shape(view: View, rng: np.random.Generator) -> Question | None:
    """How many things of a shape."""
    return _count(view, rng, "shape", SHAPES, "{}s")


def count_all(view: View, rng: np.random.Generator) -> Question | None:
    """How many things in all, the robot and the table not counted."""
    if not view.all_or_nothing:
        return None
    visible = sum(view.pixel_counts.get(thing.index, 0) > 0 for thing in view.scene.objects)
    text = phrase(rng, _OF, what=pick(rng, ("objects", "things")))
    return Question(text=text, answer=count(visible), topic=(), meta={"count": visible})


def _count(view: View, rng, attribute: str, known: tuple[str, ...], form: str) -> Question | None:
    if not view.all_or_nothing:
        return None
    seen = [thing for thing in view.scene.objects if view.pixel_counts.get(thing.index, 0) > 0]
    counts = Counter(getattr(thing, attribute) for thing in seen)
    counts = Counter({value: number for value, number in counts.items() if value in known})
    values = {number: sorted(value for value in counts if counts[value] == number) for number in COUNTS}
    values[0] = [value for value in known if value not in counts]
    if not all(values.values()):
        return None
    wanted = int(pick(rng, COUNTS))
    value = pick(rng, values[wanted])
    text = phrase(rng, _OF, what=form.format(_plural(value) if attribute == "shape" else value))
    return Question(text=text, answer=count(wanted), topic=(value,), meta={"count": wanted})


def _plural(word: str) -> str:
    return f"{word}e" if word.endswith(("s", "x", "sh", "ch")) else word
