"""How far apart two things are, from the closest point of one's box to that of the other."""

from itertools import combinations

import numpy as np

from egem.data_engine.room_questions.family import Candidate, Facts, Family
from egem.data_engine.room_questions.geometry import closest_points


def find(facts: Facts, rng: np.random.Generator) -> list[Candidate]:
    """A candidate for each pair that does not touch; which of the two is named first is drawn."""
    found = []
    for pair in combinations(facts.named(), 2):
        a, b = pair if rng.integers(2) else pair[::-1]
        points = closest_points(a, b)
        if points is None:
            facts.refuse("touching")
            continue
        distance = float(np.linalg.norm(points[0] - points[1]))
        found.append(
            Candidate(
                objects=(a, b),
                slots={"a": a.name, "b": b.name},
                answer=f"{distance:.2f}",
                number=round(distance, 4),
                unit="m",
                numbers={"distance_m": distance, "closest_points": [point.tolist() for point in points]},
            )
        )
    return found


FAMILY = Family(
    name="object_abs_distance",
    find=find,
    published="Measuring from the closest point of each object, what is the distance between the {a} and the {b} "
    "(in meters)?",
    phrasings=(
        "How many metres of free space lie between the {a} and the {b} where they come nearest?",
        "What is the shortest gap between the {a} and the {b}, in metres?",
        "From the nearest point of the {a} to the nearest point of the {b}: how many metres?",
        "A string is stretched from the {a} to the {b} as short as it can be. How long is it, in metres?",
    ),
)
