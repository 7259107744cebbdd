"""Inside, on, above and below.

Each is asked only where the scene offers both a true and a false case about the same kind of things, and
one of the two is drawn evenly; the false case keeps the container (or support) of the true one where it can.
"""

from collections.abc import Callable

import numpy as np

from egem.data_engine.skills.skill import Question, choice, coin, phrase, pick, yes_or_no
from egem.data_engine.view import Sighting, View

_INSIDE = (
    "Is {a} inside {b}?",
    "Is {a} in {b}? Yes or no.",
    "{a}: inside {b}, yes or no?",
    "Does {b} contain {a}?",
)
_ON = (
    "Is {a} on {b}?",
    "Does {a} stand on {b}?",
    "{a}: on {b}, yes or no?",
    "Is {b} holding {a} on top of it?",
)
_ABOVE = (
    "Is {a} directly {word} {b}?",
    "Is {a} right {word} {b}? Yes or no.",
    "{a}: directly {word} {b}, yes or no?",
    "Is {a} straight {word} {b}?",
)
_WHERE = (
    "Is {a} {preposition} {b} or on the table?",
    "Where is {a}: {preposition} {b} or on the table?",
    "{a}: {preposition} {b} or on the table?",
    "On the table or {preposition} {b}: where is {a}?",
)

TABLE_TOLERANCE_M = 0.015
"""The table's top is z = 0; a thing whose box ends this near to it stands on it."""

Pair = tuple[Sighting, Sighting]


def inside(view: View, rng: np.random.Generator) -> Question | None:
    """Is one thing inside another?"""
    return _yes_or_no(view, rng, _INSIDE, lambda a, b: a.object.inside == b.object.index)


def on(view: View, rng: np.random.Generator) -> Question | None:
    """Does one thing rest on another?"""
    return _yes_or_no(view, rng, _ON, lambda a, b: a.object.on == b.object.index)


def above(view: View, rng: np.random.Generator) -> Question | None:
    """Is one thing directly above (or below) another?"""
    cases = held_and_free(view, lambda a, b: b.object.index in (a.object.on, a.object.inside))
    if cases is None:
        return None
    wanted = coin(rng)
    upper, lower = pair_for(rng, cases, wanted)
    word = "above" if coin(rng) else "below"
    a, b = (upper, lower) if word == "above" else (lower, upper)
    return _question(rng, _ABOVE, a, b, yes_or_no(wanted), word=word)


def resting_place(view: View, rng: np.random.Generator) -> Question | None:
    """Is something on the table, or in or on another thing?"""
    cases = held_and_free(view, lambda a, b: b.object.index in (a.object.on, a.object.inside))
    if cases is None:
        return None
    held, free = cases
    free = [(a, b) for a, b in free if on_table(a)]
    if not free:
        return None
    wanted = coin(rng)
    a, b = pair_for(rng, (held, free), wanted)
    within = any(b is other and a.object.inside == b.object.index for a, other in held)
    answer = choice(b.name if wanted else "table", (b.name, "table"))
    return _question(rng, _WHERE, a, b, answer, preposition="in" if within else "on")


def held_and_free(view: View, holds: Callable[[Sighting, Sighting], bool]) -> tuple[list, list] | None:
    """All pairs (thing, holder) that hold, and pairs alike that do not; None unless there are both."""
    things = view.with_box
    held = [(a, b) for a in things for b in things if a is not b and holds(a, b)]
    holders = [b for _, b in held]
    free = [
        (a, b)
        for b in holders
        for a in things
        if a is not b and not holds(a, b) and not holds(b, a) and fits(a, b) and not _within(view, a, b)
    ]
    return (held, free) if held and free else None


def pair_for(rng: np.random.Generator, cases: tuple[list[Pair], list[Pair]], wanted: bool) -> Pair:
    """A pair that holds or, of the same holder where possible, one that does not."""
    held, free = cases
    about = pick(rng, [b for _, b in held if any(b is other for _, other in free)] or [held[0][1]])
    pairs = held if wanted else free
    return pick(rng, [pair for pair in pairs if pair[1] is about] or pairs)


def fits(a: Sighting, b: Sighting) -> bool:
    """Whether a thing is small enough that one could expect it in or on another."""
    return float(max(a.object.extent[:2])) < float(max(b.object.extent[:2]))


def on_table(sighting: Sighting) -> bool:
    """Whether a thing stands on the table itself: not on another thing, and not in the gripper."""
    thing = sighting.object
    bottom = thing.center[2] - 0.5 * np.abs(thing.pose[2, :3]) @ thing.extent
    return thing.on is None and thing.inside is None and abs(float(bottom)) < TABLE_TOLERANCE_M


def _within(view: View, a: Sighting, b: Sighting) -> bool:
    """Whether a thing is held by something that the other holds, at any depth."""
    by_index = {thing.index: thing for thing in view.scene.objects}
    thing, seen = a.object, set()
    while thing is not None and thing.index not in seen:
        seen.add(thing.index)
        holder = thing.inside if thing.inside is not None else thing.on
        if holder == b.object.index:
            return True
        thing = by_index.get(holder) if holder is not None else None
    return False


def _yes_or_no(view: View, rng, phrasings, holds) -> Question | None:
    cases = held_and_free(view, holds)
    if cases is None:
        return None
    wanted = coin(rng)
    a, b = pair_for(rng, cases, wanted)
    return _question(rng, phrasings, a, b, yes_or_no(wanted))


def _question(rng, phrasings, a: Sighting, b: Sighting, answer, **slots: str) -> Question:
    text = phrase(rng, phrasings, a=f"the {a.name}", b=f"the {b.name}", **slots)
    meta = {"inside": a.object.inside == b.object.index, "on": a.object.on == b.object.index}
    return Question(text=text[0].upper() + text[1:], answer=answer, topic=(a.name, b.name), meta=meta)
