"""Metric distances from the camera to objects and between objects, centre to centre."""

import numpy as np

from egem.data_engine.skills.skill import Question, choice, listed, metres, phrase, pick, shuffled, the
from egem.data_engine.view import Sighting, View

CLEAR_RATIO = 1.25
"""The second nearest object is at least this much farther away, ..."""
CLEAR_GAP_M = 0.03
"""... and at least this far farther."""

_CAMERA = (
    "How far from the camera is {a}, in metres?",
    "Distance from the camera to {a} in metres?",
    "How many metres away is {a}?",
    "{a}: how far away, in metres?",
)
_BETWEEN = (
    "How far apart are {a} and {b}, in metres?",
    "Distance between {a} and {b} in metres?",
    "How many metres from {a} to {b}?",
    "{a} to {b}: how far, in metres?",
)
_NEAREST = (
    "Which is nearest to {a}: {names}?",
    "What is closest to {a}, {names}?",
    "Nearest to {a}: {names}?",
    "Of {names}, which is closest to {a}?",
)


def camera_distance(view: View, rng: np.random.Generator) -> Question | None:
    """How far an object's centre is from the camera."""
    thing = pick(rng, view.with_box)
    text = phrase(rng, _CAMERA, a=f"the {thing.name}")
    return Question(
        text=text[0].upper() + text[1:],
        answer=metres(thing.distance),
        topic=(thing.name,),
        meta={"distance_m": round(thing.distance, 4)},
    )


def object_distance(view: View, rng: np.random.Generator) -> Question | None:
    """How far the centres of two objects are apart."""
    things = view.with_box
    pairs = [(a, b) for i, a in enumerate(things) for b in things[i + 1 :]]
    pairs = [pair for pair in pairs if apart(*pair) >= CLEAR_GAP_M]
    if not pairs:
        return None
    # Distances are drawn evenly over what the view offers, so that the usual one is no good guess.
    values = np.array([apart(*pair) for pair in pairs])
    target = rng.uniform(values.min(), values.max())
    best = int(np.argmin(np.abs(values - target)))
    a, b = shuffled(rng, pairs[best])
    text = phrase(rng, _BETWEEN, a=f"the {a.name}", b=f"the {b.name}")
    return Question(
        text=text[0].upper() + text[1:],
        answer=metres(float(values[best])),
        topic=tuple(sorted((a.name, b.name))),
        meta={"distance_m": round(float(values[best]), 4)},
    )


def nearest_neighbour(view: View, rng: np.random.Generator) -> Question | None:
    """Which of two objects is nearest to another one?"""
    if len(view.with_box) < 3:
        return None
    for _ in range(8):
        anchor, *others = shuffled(rng, view.with_box)[:3]
        ordered = sorted(others, key=lambda s: apart(anchor, s))
        first, second = apart(anchor, ordered[0]), apart(anchor, ordered[1])
        if second >= CLEAR_RATIO * first and second - first >= CLEAR_GAP_M:
            break
    else:
        return None
    names = [s.name for s in others]
    return Question(
        text=phrase(rng, _NEAREST, a=f"the {anchor.name}", names=listed(the(names))),
        answer=choice(ordered[0].name, names),
        topic=(anchor.name, *sorted(names)),
        meta={"distances_m": {s.name: round(apart(anchor, s), 4) for s in others}},
    )


def apart(a: Sighting, b: Sighting) -> float:
    """Distance between two objects' centres in metres."""
    return float(np.linalg.norm(a.object.center - b.object.center))
