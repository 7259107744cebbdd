"""In which order things come into view over the frames."""

from itertools import combinations

import numpy as np

from egem.data_engine.room_questions.family import Candidate, Facts, Family, tuples
from egem.data_engine.room_scene import RoomObject

NUM_THINGS = (4, 3)
"""Things to put in order; three where there are no four that can be told apart."""


def find(facts: Facts, rng: np.random.Generator) -> list[Candidate]:
    """Sets of things that each appear in a frame of their own, at once clearly."""
    things = [thing for thing in facts.named() if not _glimpsed(facts, thing)]
    for size in NUM_THINGS:
        found, seen = [], set()
        for drawn in tuples(things, size, rng):
            key = frozenset(thing.index for thing in drawn)
            if key not in seen:
                seen.add(key)
                if len({facts.first_seen[thing.index] for thing in drawn}) < size:
                    facts.refuse("same_frame")
                else:
                    found.append(_candidate(facts, drawn, rng))
        if found:
            return found
    return []


def _glimpsed(facts: Facts, thing: RoomObject) -> bool:
    before = facts.room.views[: facts.first_seen[thing.index]]
    seen = any(view.pixels.get(thing.index, 0) > 0 for view in before)
    if seen:
        facts.refuse("glimpsed")
    return seen


def _candidate(facts: Facts, things: tuple[RoomObject, ...], rng: np.random.Generator) -> Candidate:
    right = tuple(thing.name for thing in sorted(things, key=lambda thing: facts.first_seen[thing.index]))
    options = _options(right, rng)
    shown = [things[int(i)].name for i in rng.permutation(len(things))]
    return Candidate(
        objects=things,
        slots={"listed": ", ".join(shown)},
        answer=", ".join(right),
        options=tuple(", ".join(option) for option in options),
        numbers={"first_frame": {thing.name: facts.first_seen[thing.index] for thing in things}},
    )


def _options(right: tuple[str, ...], rng: np.random.Generator) -> list[tuple[str, ...]]:
    """One order and three that are an exchange away from it; the right one is any of the four.

    Were it always the one in the middle, it could be told without looking.
    """
    swaps = list(combinations(range(len(right)), 2))
    middle = right if rng.integers(4) == 0 else _swapped(right, swaps[int(rng.integers(len(swaps)))])
    around = [_swapped(middle, swap) for swap in swaps]
    if middle != right:
        around = [order for order in around if order != right]
    picked = rng.permutation(len(around))[: 3 if middle == right else 2]
    return list(dict.fromkeys([right, middle, *(around[int(i)] for i in picked)]))


def _swapped(order: tuple[str, ...], swap: tuple[int, int]) -> tuple[str, ...]:
    found = list(order)
    found[swap[0]], found[swap[1]] = found[swap[1]], found[swap[0]]
    return tuple(found)


FAMILY = Family(
    name="obj_appearance_order",
    find=find,
    published="What will be the first-time appearance order of the following categories in the video: {listed}?",
    phrasings=(
        "Going through the frames, in which order do these come into view for the first time: {options}?",
        "Which of these lists names the things in the order in which they first show up: {options}?",
        "The {listed}: sorted by the frame that shows each first, the order is {options}?",
        "From the first frame to the last, what turns up when: {options}?",
    ),
)
