"""Where a thing is for somebody who stands beside a second one and faces a third: three grades of difficulty."""

from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np

from egem.data_engine.room_questions.family import (
    BORDER_DEG,
    Candidate,
    Facts,
    Family,
    place,
    tuples,
    turn,
)
from egem.data_engine.room_scene import RoomObject

BACK_DEG = 135.0
"""Medium: what one must turn at least this far to face is at one's back."""
SPOT = 0.5
"""One may stand anywhere in the middle of the box's outline, so much of its edges wide."""

EASY = ("left", "right")
MEDIUM = ("left", "right", "back")
HARD = ("front-left", "front-right", "back-left", "back-right")


def easy(degrees: float) -> tuple[str, float]:
    """Left or right, and how many degrees away from a border the direction is."""
    return ("left" if degrees > 0 else "right"), min(abs(degrees), 180 - abs(degrees))


def medium(degrees: float) -> tuple[str, float]:
    """Left, right or back (no front: what is straight ahead is near a border)."""
    margin = min(abs(degrees), abs(abs(degrees) - BACK_DEG))
    return ("back" if abs(degrees) >= BACK_DEG else "left" if degrees > 0 else "right"), margin


def hard(degrees: float) -> tuple[str, float]:
    """One of the four quarters."""
    front = "front" if abs(degrees) < 90 else "back"
    side = "left" if degrees > 0 else "right"
    return f"{front}-{side}", min(abs(degrees), 180 - abs(degrees), abs(90 - abs(degrees)))


def find(
    judge: Callable[[float], tuple[str, float]],
    options: tuple[str, ...],
    facts: Facts,
    rng: np.random.Generator,
) -> list[Candidate]:
    """Candidates whose answer is clear, and the same for every spot beside the thing one stands at."""
    found = []
    for stand, facing, target in tuples(facts.named(), 3, rng):
        if not (facts.apart(stand, facing) and facts.apart(stand, target) and facts.apart(facing, target)):
            facts.refuse("too_close")
            continue
        degrees = turn(place(stand), place(facing), place(target))
        answer, margin = judge(degrees)
        if margin < BORDER_DEG:
            facts.refuse("near_border")
            continue
        if any(judge(turn(spot, place(facing), place(target)))[0] != answer for spot in _spots(stand)):
            facts.refuse("depends_on_spot")
            continue
        found.append(
            Candidate(
                objects=(stand, facing, target),
                slots={"stand": stand.name, "facing": facing.name, "target": target.name},
                answer=answer,
                options=options,
                key=answer,
                numbers={"turn_left_degrees": degrees},
            )
        )
    return found


def _spots(thing: RoomObject) -> list[complex]:
    """Corners of the inner part of a box's outline on the floor."""
    edges = [
        complex(axis[0], axis[1]) * float(length)
        for axis, length in zip(thing.axes, thing.lengths, strict=True)
    ]
    # The upright edge is the one that is shortest seen from above.
    *_, along, across = sorted(edges, key=abs)
    return [place(thing) + SPOT / 2 * (a * along + b * across) for a, b in product((-1, 1), repeat=2)]


_PHRASINGS = (
    "You stand at the {stand} and look at the {facing}. Where is the {target}: {options}?",
    "With the {stand} at your feet and the {facing} straight ahead, the {target} is {options}?",
    "Someone beside the {stand} turns to the {facing}. Seen from there, is the {target} {options}?",
    "From the {stand}, looking towards the {facing}: {options}, where would you find the {target}?",
)
_STANDING = "If I am standing by the {stand} and facing the {facing}, is the {target} to "

EASY_FAMILY = Family(
    name="object_rel_direction_easy",
    find=partial(find, easy, EASY),
    published=_STANDING + "the left or the right of the {facing}?",
    phrasings=_PHRASINGS,
    keys=EASY,
)
MEDIUM_FAMILY = Family(
    name="object_rel_direction_medium",
    find=partial(find, medium, MEDIUM),
    published=_STANDING
    + "my left, right, or back? An object is to my back if I would have to turn at least 135 "
    "degrees in order to face it.",
    phrasings=tuple(f"{text} (Back: a turn of 135 degrees or more.)" for text in _PHRASINGS),
    keys=MEDIUM,
)
HARD_FAMILY = Family(
    name="object_rel_direction_hard",
    find=partial(find, hard, HARD),
    published=_STANDING + "my front-left, front-right, back-left, or back-right? The directions refer to the "
    "quadrants of a Cartesian plane (if I am standing at the origin and facing along the positive y-axis).",
    phrasings=_PHRASINGS,
    keys=HARD,
)
