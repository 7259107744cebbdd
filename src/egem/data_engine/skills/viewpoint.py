"""Left, right, front and behind: from the camera, from an object's own front, and from where one stands."""

import numpy as np
from jaxtyping import Float

from egem.data_engine.skills.skill import Question, choice, phrase, pick, shuffled
from egem.data_engine.view import Sighting, View

CLEAR_SIDE_M = 0.03
"""Objects nearer to each other than this, sideways or in depth, are a tie."""
CLEAR_SIDE_IMAGE = 0.04
"""Their boxes' centres are also this far apart in the picture (share of its width)."""
CLEAR_ANGLE = 0.4
"""Sine of the least angle off a direction at which a side is clear."""
CONE = float(np.cos(np.deg2rad(30)))
"""An object is in front of (left of, ...) another within 30 degrees of that direction."""
MIN_APART_M = 0.06

FRONTED_SHAPES = frozenset({"mug", "drawer", "pan"})
"""Shapes whose front (their own +x) can be told by looking: where the handle is."""

_SIDE = (
    "Is {a} left or right of {b}?",
    "{a}: left or right of {b}?",
    "On which side of {b} is {a}, left or right?",
    "Left or right of {b}: where is {a}?",
)
_ORDER = (
    "Is {a} in front of or behind {b}?",
    "{a}: in front of or behind {b}?",
    "In front of or behind {b}: where is {a}?",
    "Seen from the camera, is {a} in front of or behind {b}?",
)
_OWN = (
    "{b} faces where its {front} points. Is {a} to its front, back, left or right?",
    "Seen from {b}, whose {front} is its front: {a} is front, back, left or right?",
    "{front} side first, where is {a} from {b}: front, back, left or right?",
    "From {b}'s own view ({front} in front), is {a} front, back, left or right?",
)
_FACING = (
    "Standing at {a} facing {b}, is {c} left or right?",
    "From {a} looking at {b}: is {c} left or right?",
    "You are at {a} and face {b}. Is {c} left or right?",
    "If you look from {a} to {b}, is {c} on the left or right?",
)


def camera_side(view: View, rng: np.random.Generator) -> Question | None:
    """Left or right of another object, as the camera sees both."""
    right, _ = view.ground_axes
    pairs = []
    for a, b in _pairs(view):
        sideways = float((a.object.center - b.object.center)[:2] @ right)
        in_image = (_middle(a) - _middle(b)) / view.width
        if abs(sideways) >= CLEAR_SIDE_M and abs(in_image) >= CLEAR_SIDE_IMAGE and sideways * in_image > 0:
            pairs.append((a, b, sideways))
    if not pairs:
        return None
    a, b, sideways = pick(rng, pairs)
    answer = "right" if sideways > 0 else "left"
    return _question(rng, _SIDE, (a, b), choice(answer, ("left", "right")), {"sideways_m": sideways})


def camera_order(view: View, rng: np.random.Generator) -> Question | None:
    """In front of or behind another object, as the camera sees both."""
    _, away = view.ground_axes
    pairs = []
    for a, b in _pairs(view):
        behind = float((a.object.center - b.object.center)[:2] @ away)
        agrees = a.depth is None or b.depth is None or behind * (a.depth - b.depth) > 0
        if abs(behind) >= CLEAR_SIDE_M and agrees and not _stacked(a, b):
            pairs.append((a, b, behind))
    if not pairs:
        return None
    a, b, behind = pick(rng, pairs)
    answer = choice("behind" if behind > 0 else "in front", ("in front", "behind"))
    return _question(rng, _ORDER, (a, b), answer, {"behind_m": behind})


def own_view(view: View, rng: np.random.Generator) -> Question | None:
    """Where something is as seen from an object with a visible front."""
    found: dict[str, list[tuple[Sighting, Sighting]]] = {}
    for a, b in _pairs(view):
        if b.object.shape not in FRONTED_SHAPES or _stacked(a, b):
            continue
        side = own_side(b.object.pose, (a.object.center - b.object.center)[:2])
        if side is not None:
            found.setdefault(side, []).append((a, b))
    if not found:
        return None
    side = pick(rng, sorted(found))
    a, b = pick(rng, found[side])
    answer = choice(side, ("front", "back", "left", "right"))
    return _question(rng, _OWN, (a, b), answer, {}, front="handle")


def facing(view: View, rng: np.random.Generator) -> Question | None:
    """Left or right of someone who stands at one object and faces another."""
    if len(view.with_box) < 3:
        return None
    for _ in range(10):
        a, b, c = shuffled(rng, view.with_box)[:3]
        ahead = (b.object.center - a.object.center)[:2]
        aside = (c.object.center - a.object.center)[:2]
        lengths = np.linalg.norm(ahead) * np.linalg.norm(aside)
        near = min(np.linalg.norm(ahead), np.linalg.norm(aside))
        sine = float(ahead[0] * aside[1] - ahead[1] * aside[0]) / max(float(lengths), 1e-9)
        if near >= MIN_APART_M and abs(sine) >= CLEAR_ANGLE:
            break
    else:
        return None
    text = phrase(rng, _FACING, a=f"the {a.name}", b=f"the {b.name}", c=f"the {c.name}")
    return Question(
        text=text,
        answer=choice("left" if sine > 0 else "right", ("left", "right")),
        topic=(a.name, b.name, c.name),
        meta={"sine": round(sine, 4)},
    )


def own_side(pose: Float[np.ndarray, "4 4"], offset: Float[np.ndarray, "2"]) -> str | None:
    """Front, back, left or right of an object with this pose, or None off those directions.

    Args:
        pose: world from object; its +x is its front and its +y its left.
        offset: from the object to the other one, on the ground, metres.
    """
    length = float(np.linalg.norm(offset))
    front, left = pose[:2, 0], pose[:2, 1]
    scale = length * max(float(np.linalg.norm(front)), 1e-9)
    ahead, aside = float(offset @ front) / max(scale, 1e-9), float(offset @ left) / max(scale, 1e-9)
    if length < MIN_APART_M:
        return None
    sides = {"front": ahead, "back": -ahead, "left": aside, "right": -aside}
    best = max(sides, key=lambda side: sides[side])
    return best if sides[best] >= CONE else None


def _pairs(view: View) -> list[tuple[Sighting, Sighting]]:
    return [(a, b) for a in view.with_box for b in view.with_box if a is not b]


def _middle(sighting: Sighting) -> float:
    return (sighting.box[0] + sighting.box[2]) / 2


def _stacked(a: Sighting, b: Sighting) -> bool:
    """Whether one holds the other: front and behind mean little then."""
    return b.object.index in (a.object.inside, a.object.on) or a.object.index in (
        b.object.inside,
        b.object.on,
    )


def _question(rng, phrasings, pair, answer, meta, **slots) -> Question:
    a, b = pair
    text = phrase(rng, phrasings, a=f"the {a.name}", b=f"the {b.name}", **slots)
    return Question(
        text=text[0].upper() + text[1:],
        answer=answer,
        topic=tuple(sorted((a.name, b.name))),
        meta={key: round(value, 4) for key, value in meta.items()},
    )
