"""How large the floor is, from the scan's points."""

import numpy as np

from egem.data_engine.room_questions.family import Candidate, Facts, Family
from egem.data_engine.room_questions.geometry import floor_area

MIN_AREA_M2 = 1.0
"""A scan that covers less shows no room."""


def find(facts: Facts, rng: np.random.Generator) -> list[Candidate]:
    """One candidate, where the room was scanned."""
    del rng
    if facts.room.points is None:
        facts.refuse("no_points")
        return []
    area = floor_area(facts.room.points)
    if area < MIN_AREA_M2:
        facts.refuse("small_floor")
        return []
    numbers = {"area_m2": area, "points": len(facts.room.points)}
    # Areas have no unit among records' units, so a number is right only as it is written.
    answer = f"{area:.1f}"
    return [Candidate(objects=(), slots={}, answer=answer, number=float(answer), numbers=numbers)]


FAMILY = Family(
    name="room_size_estimation",
    find=find,
    published="What is the size of this room (in square meters)? If multiple rooms are shown, estimate the size "
    "of the combined space.",
    phrasings=(
        "How many square metres of floor does the place in these frames have, furniture included?",
        "Estimate the floor area in square metres; several rooms count together.",
        "What floor space, in square metres, do these views cover in all?",
        "Laying carpet from wall to wall here: how many square metres are needed?",
    ),
)
