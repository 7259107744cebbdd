"""What a family of questions about a room is, what all of them measure, and the rules by which they refuse."""

import cmath
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import permutations
from typing import Any, Literal

import numpy as np

from egem.data_engine.room_questions.geometry import box_distance
from egem.data_engine.room_scene import Room, RoomObject
from egem.data_engine.sources.rooms import STRUCTURE

SEEN_FRACTION = 0.002
"""An object is clearly seen where it covers this share of a frame ..."""
SEEN_PIXELS = 16
"""... and at least so many pixels."""
TIE_SPAN = 0.04
"""Lengths that must differ differ by this share of the room's span (20 cm in a room of 5 m) ..."""
TIE_RATIO = 1.15
"""... and by this factor."""
APART_SPAN = 0.08
"""Directions are asked about between things at least this share of the span apart on the floor."""
BORDER_DEG = 10.0
"""Directions nearer than this to where the answer changes are refused."""
MAX_TRIED = 1500
"""Of the tuples of things that a family could ask about, at most so many are looked at, drawn evenly."""

RULES = {
    "structure": "walls, floors and labels that say nothing are no things to ask about",
    "hidden": "no frame shows the thing clearly",
    "doubled_name": "another thing has the same name",
    "name_within_name": "another thing's name ends in this one: a coffee table is a table too",
    "hidden_instance": "one of the things to count is in no frame clearly",
    "touching": "the boxes touch or overlap",
    "near_tie": "the two nearest are about equally near",
    "implausible": "the other options are far off",
    "too_close": "the things are too close on the floor to say in which direction one is",
    "near_border": "the direction is near to where the answer changes",
    "depends_on_spot": "the answer changes with where beside the thing one stands",
    "blocked": "something stands in the way",
    "glimpsed": "an earlier frame shows some pixels of the thing",
    "same_frame": "two of the things appear in the same frame",
    "no_points": "the room has no point cloud",
    "small_floor": "the point cloud covers too little",
}
"""Rule -> what it refuses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An unambiguous thing to ask."""

    objects: tuple[RoomObject, ...]
    """What it is about, in the order in which the numbers mean them."""
    slots: dict[str, str]
    """What goes into the phrasings."""
    answer: str
    options: tuple[str, ...] = ()
    """For choices: all of them; empty for numbers."""
    number: float | None = None
    unit: Literal["m", "cm", "count"] | None = None
    key: str = ""
    """Candidates of one family with different keys are asked equally often."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """JSON values: the measurements that decided the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One kind of question."""

    name: str
    """The question type's name in VSI-Bench."""
    find: Callable[["Facts", np.random.Generator], list[Candidate]]
    published: str
    """The question as VSI-Bench puts it; options and form of the answer are added."""
    phrasings: tuple[str, ...]
    """Our own; `{options}` lists the options."""
    keys: tuple[str, ...] = ()
    """All keys where they are known: then no key is asked `MAX_LEAD` times more than another in one room."""


class Facts:
    """Everything that families measure in a room, each measured once; and what they refused, by rule."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.refused: Counter[str] = Counter()
        self._distances: dict[tuple[int, int], float] = {}

    def refuse(self, rule: str) -> None:
        """Count a refusal.

        Raises:
            KeyError: the rule is not in `RULES`.
        """
        if rule not in RULES:
            raise KeyError(rule)
        self.refused[rule] += 1

    @cached_property
    def things(self) -> tuple[RoomObject, ...]:
        """All that is no part of the building."""
        return tuple(thing for thing in self.room.objects if thing.category.lower() not in STRUCTURE)

    @cached_property
    def span(self) -> float:
        """Diagonal of the floor's rectangle that holds the centres of all things, metres: the room's scale."""
        if not self.things:
            return 0.0
        places = np.stack([thing.center[:2] for thing in self.things])
        return float(np.linalg.norm(places.max(0) - places.min(0)))

    @cached_property
    def first_seen(self) -> dict[int, int]:
        """Object's index -> number of the first view that shows it clearly."""
        found: dict[int, int] = {}
        for number, view in enumerate(self.room.views):
            least = max(SEEN_PIXELS, SEEN_FRACTION * view.size[0] * view.size[1])
            for index, count in view.pixels.items():
                if count >= least:
                    found.setdefault(index, number)
        return found

    def named(self) -> list[RoomObject]:
        """The things that a name picks out and a frame shows clearly; the others are counted as refused."""
        names = Counter(thing.name for thing in self.things)
        self.refused["structure"] += len(self.room.objects) - len(self.things)
        found = []
        for thing in self.things:
            if names[thing.name] > 1:
                self.refuse("doubled_name")
            elif within_another(thing.name, names):
                self.refuse("name_within_name")
            elif thing.index not in self.first_seen:
                self.refuse("hidden")
            else:
                found.append(thing)
        return found

    def distance(self, a: RoomObject, b: RoomObject) -> float:
        """Between the closest points of two boxes, metres; 0 where they touch."""
        key = (min(a.index, b.index), max(a.index, b.index))
        if key not in self._distances:
            self._distances[key] = box_distance(a, b)
        return self._distances[key]

    def apart(self, a: RoomObject, b: RoomObject) -> bool:
        """Whether two things are far enough apart on the floor for directions between them."""
        return abs(place(a) - place(b)) >= APART_SPAN * self.span > 0


def within_another(name: str, names: Sequence[str] | Counter[str]) -> bool:
    """Whether a name is what another one ends in."""
    return any(other.endswith(f" {name}") for other in names)


def tuples(
    things: Sequence[RoomObject], size: int, rng: np.random.Generator
) -> Iterator[tuple[RoomObject, ...]]:
    """Ordered choices of different things, each at most once: all of them, or `MAX_TRIED` drawn evenly."""
    if math.perm(len(things), size) <= MAX_TRIED:
        yield from permutations(things, size)
        return
    seen = set()
    while len(seen) < MAX_TRIED:
        drawn = tuple(int(i) for i in rng.choice(len(things), size, replace=False))
        if drawn not in seen:
            seen.add(drawn)
            yield tuple(things[i] for i in drawn)


def place(thing: RoomObject) -> complex:
    """Where a thing stands on the floor, x + iy in metres: what directions are reckoned with."""
    return complex(thing.center[0], thing.center[1])


def turn(stand: complex, facing: complex, target: complex) -> float:
    """Degrees from facing one place to facing another, from where one stands: -180 to 180, to the left positive."""
    return math.degrees(cmath.phase((target - stand) * (facing - stand).conjugate()))
