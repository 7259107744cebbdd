"""A 3D scene to records: which questions are asked, in which words, and how they are stored."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from egem.core.errors import unknown_name
from egem.data_engine.room_questions import FAMILIES, Family
from egem.data_engine.room_questions.family import Candidate, Facts
from egem.data_engine.room_scene import Room, RoomObject
from egem.data_engine.skills.skill import listed, phrase, shuffled
from egem.data_engine.sources.choices import letter, with_options
from egem.records import IMAGE_MARK, Answer, Message, Record

Wording = Literal["both", "published", "own"]
"""`published`: as VSI-Bench puts it, answered by a letter; `own`: our phrasings, answered by the option itself."""

MAX_LEAD = 2
"""In a family whose answers are known beforehand none is asked so many times more than the rarest in one room."""

_FRAMES = "These are frames of a video."
_LETTER = "Answer with the option's letter from the given choices directly."
_WORD = "Please answer the question using a single word or phrase."


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What came of a room."""

    records: tuple[Record, ...]
    refused: dict[str, dict[str, int]]
    """Family -> rule -> how many times it refused."""
    held_back: dict[str, int]
    """Family -> unambiguous questions that would have made one answer more frequent than others."""


def ask_room(
    room: Room,
    rng: np.random.Generator,
    *,
    num_questions: int,
    families: Sequence[str] = (),
    wording: Wording = "both",
) -> Asked:
    """Up to `num_questions` records about a 3D scene, spread evenly over the families.

    The records share the frames (with depth and cameras where known) and the group `room.id`.

    Args:
        room: what to ask about.
        rng: the only source of chance: equal states give equal records.
        num_questions: fewer come back where the room has not so many unambiguous things to ask.
        families: names of `FAMILIES`; all if empty.
        wording: whose words; `both` draws them evenly.

    Raises:
        ConfigError: a family does not exist.
    """
    found, refused = {}, {}
    for family in chosen(families):
        facts = Facts(room)
        found[family.name] = _Choice(family, family.find(facts, rng), rng)
        refused[family.name] = {rule: count for rule, count in sorted(facts.refused.items()) if count}
    picked = list(_in_turn(found, num_questions))
    records = tuple(
        _record(room, number, family, candidate, wording, rng)
        for number, (family, candidate) in enumerate(picked)
    )
    held_back = {name: choice.left for name, choice in found.items() if len(records) < num_questions}
    return Asked(records=records, refused=refused, held_back=held_back)


def chosen(names: Sequence[str]) -> list[Family]:
    """The families of these names; all if there are none.

    Raises:
        ConfigError: a name is in no table; the nearest one is suggested.
    """
    for name in names:
        if name not in FAMILIES:
            raise unknown_name("question family", name, FAMILIES)
    return [FAMILIES[name] for name in names or FAMILIES]


class _Choice:
    """A family's candidates, to be taken so that all keys come equally often."""

    def __init__(self, family: Family, candidates: Sequence[Candidate], rng: np.random.Generator) -> None:
        self.family = family
        self._waiting: dict[str, list[Candidate]] = {}
        for candidate in shuffled(rng, candidates):
            self._waiting.setdefault(candidate.key, []).append(candidate)
        self._asked = Counter(dict.fromkeys(family.keys or self._waiting, 0))
        self._rng = rng

    @property
    def left(self) -> int:
        """Candidates not taken."""
        return sum(map(len, self._waiting.values()))

    def take(self) -> Candidate | None:
        """A candidate of the key that was asked least, if that leaves the keys in balance."""
        open_keys = [key for key in sorted(self._waiting) if self._waiting[key]]
        if not open_keys:
            return None
        least = min(self._asked[key] for key in open_keys)
        if self.family.keys and least >= min(self._asked.values()) + MAX_LEAD:
            return None
        keys = [key for key in open_keys if self._asked[key] == least]
        key = keys[int(self._rng.integers(len(keys)))]
        self._asked[key] += 1
        return self._waiting[key].pop()


def _in_turn(choices: dict[str, _Choice], num: int) -> Iterator[tuple[Family, Candidate]]:
    asked = 0
    waiting = list(choices.values())
    while waiting:
        for choice in list(waiting):
            if asked >= num:
                return
            candidate = choice.take()
            if candidate is None:
                waiting.remove(choice)
                continue
            asked += 1
            yield choice.family, candidate


def _record(
    room: Room, number: int, family: Family, candidate: Candidate, wording: Wording, rng: np.random.Generator
) -> Record:
    published = bool(rng.integers(2)) if wording == "both" else wording == "published"
    options = tuple(shuffled(rng, candidate.options))
    if published:
        question = family.published.format(**candidate.slots)
        text = with_options(f"{question}\nOptions:", options) if options else question
        text = f"{_FRAMES}\n{text}\n{_LETTER if options else _WORD}"
        said = letter(options.index(candidate.answer)) if options else candidate.answer
    else:
        text = phrase(rng, family.phrasings, **candidate.slots, options=listed(options) if options else "")
        said = candidate.answer
    views = room.views
    return Record(
        id=f"{room.id}/{number:03d}",
        source=room.source,
        category="spatial",
        skill=family.name,
        group=room.id,
        images=tuple(view.image for view in views),
        timestamps=_timestamps(room),
        depths=tuple(view.depth for view in views) if any(view.depth for view in views) else (),
        intrinsics=tuple(view.intrinsics for view in views),
        messages=(
            Message(role="user", content=f"{IMAGE_MARK * len(views)}\n{text[0].upper()}{text[1:]}"),
            Message(role="assistant", content=said),
        ),
        answer=_answer(candidate, options),
        meta={
            **room.meta,
            "licence": room.licence,
            "room": room.id,
            "frames": [view.name for view in views],
            "wording": "published" if published else "own",
            "objects": [_traced(thing) for thing in candidate.objects],
            "numbers": candidate.numbers,
        },
    )


def _answer(candidate: Candidate, options: tuple[str, ...]) -> Answer:
    if options:
        return Answer(kind="choice", text=candidate.answer, choices=options)
    return Answer(kind="number", text=candidate.answer, number=candidate.number, unit=candidate.unit)


def _timestamps(room: Room) -> tuple[float, ...] | None:
    seconds = [view.seconds for view in room.views if view.seconds is not None]
    return tuple(seconds) if len(seconds) == len(room.views) else None


def _traced(thing: RoomObject) -> dict[str, object]:
    return {
        "id": thing.index,
        "category": thing.category,
        "name": thing.name,
        "center": thing.center.round(6).tolist(),
        "axes": thing.axes.round(6).tolist(),
        "lengths": thing.lengths.round(6).tolist(),
    }
