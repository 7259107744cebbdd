"""Which of some things is nearest to another, from closest point to closest point."""

from collections import Counter

import numpy as np

from egem.data_engine.room_questions.family import TIE_RATIO, TIE_SPAN, Candidate, Facts, Family, tuples
from egem.data_engine.room_scene import RoomObject

NUM_OPTIONS = 4
"""Options of a question; fewer where the room has fewer things, at least two."""
MAX_RATIO = 4.0
"""The nearest of the other options is at most this many times as far as the answer (and a tie's margin)."""


def find(facts: Facts, rng: np.random.Generator) -> list[Candidate]:
    """Candidates with a clear answer and a rival to it."""
    things, found = facts.named(), []
    size = min(NUM_OPTIONS, len(things) - 1)
    if size < 2:
        return []
    tried = set()
    for anchor, *options in tuples(things, size + 1, rng):
        key = (anchor.index, frozenset(thing.index for thing in options))
        if key not in tried:
            tried.add(key)
            candidate = _candidate(facts, anchor, tuple(options))
            if candidate is not None:
                found.append(candidate)
    return _one_of_each_kind(found, rng)


def _candidate(facts: Facts, anchor: RoomObject, options: tuple[RoomObject, ...]) -> Candidate | None:
    distances = {thing.name: facts.distance(anchor, thing) for thing in options}
    nearest, second = sorted(distances.values())[:2]
    margin = TIE_SPAN * facts.span
    if second - nearest < margin or second < TIE_RATIO * nearest:
        facts.refuse("near_tie")
        return None
    if second > MAX_RATIO * nearest + margin * MAX_RATIO:
        facts.refuse("implausible")
        return None
    answer = min(distances, key=lambda name: distances[name])
    return Candidate(
        objects=(anchor, *options),
        slots={"anchor": anchor.name, "listed": ", ".join(distances)},
        answer=answer,
        options=tuple(distances),
        key=anchor.name,
        numbers={"distances_m": distances},
    )


def _one_of_each_kind(found: list[Candidate], rng: np.random.Generator) -> list[Candidate]:
    """At most as many with one answer as twice the rarest: what stands in the middle is nearest too often."""
    counts = Counter(candidate.answer for candidate in found)
    most = 2 * min(counts.values(), default=0)
    kept: Counter[str] = Counter()
    even = []
    for i in rng.permutation(len(found)):
        kept[found[i].answer] += 1
        if kept[found[i].answer] <= most:
            even.append(found[i])
    return even


FAMILY = Family(
    name="object_rel_distance",
    find=find,
    published="Measuring from the closest point of each object, which of these objects ({listed}) is the closest "
    "to the {anchor}?",
    phrasings=(
        "What is nearest to the {anchor}: {options}?",
        "Which has the smallest gap to the {anchor}: {options}?",
        "Reaching out from the {anchor}, which would you touch first: {options}?",
        "Pick the neighbour that is closest to the {anchor}: {options}.",
    ),
)
