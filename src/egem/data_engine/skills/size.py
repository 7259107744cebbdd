"""Which of two things is bigger or taller.

Only things of one shape are compared: that a tray is bigger than a mug needs no eyes. Things whose names
give their size away are left out.
"""

import numpy as np

from egem.data_engine.skills.skill import Question, choice, coin, phrase, pick, shuffled
from egem.data_engine.view import Sighting, View

CLEAR_RATIO = 1.15
"""Sizes closer than this are a tie."""
SIZE_WORDS = frozenset({"small", "medium", "large", "big", "tiny", "tall", "short"})

_PHRASINGS = (
    "Which is {word}, {a} or {b}?",
    "Is {a} or {b} {word}?",
    "{word}: {a} or {b}?",
    "Of {a} and {b}, which is {word}?",
)
_WORDS = {
    ("size", True): ("bigger", "larger"),
    ("size", False): ("smaller",),
    ("height", True): ("taller",),
    ("height", False): ("shorter",),
}


def compared_size(view: View, rng: np.random.Generator) -> Question | None:
    """Which of two things of one shape is bigger, smaller, taller or shorter?"""
    things = [s for s in view.with_box if not SIZE_WORDS & set(s.name.split())]
    pairs = [
        (a, b, of)
        for a in things
        for b in things
        for of in ("size", "height")
        if a.object.shape == b.object.shape and _measure(a, of) >= CLEAR_RATIO * _measure(b, of)
    ]
    if not pairs:
        return None
    larger, smaller, of = pick(rng, pairs)
    more = coin(rng)
    a, b = shuffled(rng, [larger, smaller])
    word = pick(rng, _WORDS[of, more])
    text = phrase(rng, _PHRASINGS, word=word, a=f"the {a.name}", b=f"the {b.name}")
    wanted = larger if more else smaller
    return Question(
        text=text[0].upper() + text[1:],
        answer=choice(wanted.name, (a.name, b.name)),
        topic=(of, *sorted((a.name, b.name))),
        meta={f"{of}_m": {s.name: round(_measure(s, of), 4) for s in (a, b)}},
    )


def _measure(sighting: Sighting, of: str) -> float:
    """Height, or the cube root of the 3D box's volume, metres."""
    extent = sighting.object.extent
    return float(extent[2]) if of == "height" else float(np.cbrt(np.prod(extent)))
