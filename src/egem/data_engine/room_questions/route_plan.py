"""Which turns lead a robot from thing to thing to its goal."""

from itertools import pairwise, product

import numpy as np

from egem.data_engine.room_questions.family import BORDER_DEG, Candidate, Facts, Family, place, tuples, turn
from egem.data_engine.room_questions.geometry import meets_footprint
from egem.data_engine.room_scene import RoomObject

TURNS = ("Turn Left", "Turn Right", "Turn Back")
SIDE_DEG, BACK_DEG = 45.0, 135.0
"""A turn to a side is between these, a turn back is more; less is no turn, and such routes are refused."""
CLEARANCE_SPAN = 0.01
"""The straight way keeps this share of the room's span free of all other things' outlines."""
NUM_OPTIONS = 4
_BLANK = "[please fill in]"


def find(facts: Facts, rng: np.random.Generator) -> list[Candidate]:
    """Routes with one or two turns.

    One turn: from a thing straight to the thing faced, then on. Two turns: a third thing is faced at first.
    """
    things, free = facts.named(), {}
    one = [_candidate(facts, (s, a, e), a, free, rng) for s, a, e in tuples(things, 3, rng)]
    two = [_candidate(facts, (s, a, e), facing, free, rng) for s, facing, a, e in tuples(things, 4, rng)]
    return [candidate for candidate in (*one, *two) if candidate is not None]


def named_turn(degrees: float) -> tuple[str | None, float]:
    """The turn's name (None: as good as straight on), and how far from a border it is."""
    size = abs(degrees)
    margin = min(abs(size - SIDE_DEG), abs(size - BACK_DEG))
    if size < SIDE_DEG:
        return None, margin
    return (TURNS[2] if size >= BACK_DEG else TURNS[0] if degrees > 0 else TURNS[1]), margin


def _candidate(
    facts: Facts,
    stops: tuple[RoomObject, ...],
    facing: RoomObject,
    free: dict[tuple[int, int], bool],
    rng: np.random.Generator,
) -> Candidate | None:
    if not (facts.apart(stops[0], facing) and all(facts.apart(a, b) for a, b in pairwise(stops))):
        facts.refuse("too_close")
        return None
    places = [place(stop) for stop in stops]
    # Where one looks on arriving at a stop: as far again in the direction one came from.
    looks = [place(facing), *(2 * b - a for a, b in pairwise(places))]
    angles = [turn(places[i], looks[i], places[i + 1]) for i in range(len(stops) - 1)]
    if facing is stops[1]:
        angles = angles[1:]
    turns = []
    for degrees in angles:
        name, margin = named_turn(degrees)
        if name is None or margin < BORDER_DEG:
            facts.refuse("near_border")
            return None
        turns.append(name)
    if not all(_is_free(facts, a, b, free) for a, b in pairwise(stops)):
        facts.refuse("blocked")
        return None
    answer = ", ".join(turns)
    others = [", ".join(t) for t in product(TURNS, repeat=len(turns)) if ", ".join(t) != answer]
    picked = rng.choice(len(others), min(NUM_OPTIONS - 1, len(others)), replace=False)
    return Candidate(
        objects=(*stops, *(() if facing is stops[1] else (facing,))),
        slots={"start": stops[0].name, "facing": facing.name, "goal": stops[-1].name}
        | {"actions": _actions(stops, facing)},
        answer=answer,
        options=(answer, *(others[i] for i in sorted(picked.tolist()))),
        key=answer,
        numbers={"turns_left_degrees": angles},
    )


def _is_free(facts: Facts, a: RoomObject, b: RoomObject, known: dict[tuple[int, int], bool]) -> bool:
    """Whether nothing stands between two things; each pair is looked at once."""
    pair = (min(a.index, b.index), max(a.index, b.index))
    if pair not in known:
        margin = CLEARANCE_SPAN * facts.span
        others = (thing for thing in facts.things if thing is not a and thing is not b)
        known[pair] = not any(meets_footprint(a.center[:2], b.center[:2], thing, margin) for thing in others)
    return known[pair]


def _actions(stops: tuple[RoomObject, ...], facing: RoomObject) -> str:
    steps = [] if facing is stops[1] else [_BLANK]
    for number, stop in enumerate(stops[1:], 1):
        steps += [f"Go forward until the {stop.name}", *([_BLANK] if number < len(stops) - 1 else [])]
    return " ".join(f"{number}. {step}." for number, step in enumerate(steps, 1))


FAMILY = Family(
    name="route_planning",
    find=find,
    published="You are a robot beginning at the {start} and facing the {facing}. You want to navigate to the {goal}. "
    "You will perform the following actions (Note: for each [please fill in], choose either 'turn back,' "
    "'turn left,' or 'turn right.'): {actions} You have reached the final destination.",
    phrasings=(
        "A robot at the {start} looks towards the {facing} and has to get to the {goal}. Its plan: {actions} "
        "What belongs into the gaps: {options}?",
        "Complete this route from the {start} to the {goal}, setting out with the {facing} ahead: {actions} "
        "Choose from: {options}.",
        "Start: the {start}, facing the {facing}. Goal: the {goal}. {actions} Which turns are missing: {options}?",
        "Which turns bring you from the {start} to the {goal} if you face the {facing} at first? {actions} "
        "The gaps are: {options}?",
    ),
)
