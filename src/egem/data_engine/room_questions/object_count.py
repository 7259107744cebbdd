"""How many things of a kind the room holds."""

from collections import Counter

import numpy as np

from egem.data_engine.room_questions.family import Candidate, Facts, Family, within_another


def find(facts: Facts, rng: np.random.Generator) -> list[Candidate]:
    """A candidate for each kind of which every thing is clearly seen in some frame."""
    del rng
    facts.refused["structure"] += len(facts.room.objects) - len(facts.things)
    counts, found = Counter(thing.category for thing in facts.things), []
    for category, number in sorted(counts.items()):
        things = tuple(thing for thing in facts.things if thing.category == category)
        if within_another(category, counts):
            facts.refuse("name_within_name")
        elif any(thing.index not in facts.first_seen for thing in things):
            facts.refuse("hidden_instance")
        else:
            found.append(
                Candidate(
                    objects=things,
                    slots={"category": category},
                    answer=str(number),
                    number=float(number),
                    unit="count",
                    key=str(number),
                    numbers={"count": number},
                )
            )
    return found


FAMILY = Family(
    name="object_counting",
    find=find,
    published="How many {category}(s) are in this room?",
    phrasings=(
        "Counting over all frames, how many things of the kind '{category}' are there?",
        "Number of {category} items seen in this place, each counted once?",
        "Across these views, how many different objects would you call a {category}?",
        "Count every {category} here once. How many?",
    ),
)
