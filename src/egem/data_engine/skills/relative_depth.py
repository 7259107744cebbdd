"""Which object is nearer to the camera: what is seen of it and where its centre is must agree."""

import numpy as np

from egem.data_engine.skills.skill import Question, choice, coin, listed, phrase, pick, shuffled, the
from egem.data_engine.view import Sighting, View

CLEAR_RATIO = 1.06
CLEAR_GAP_M = 0.03

_TWO = (
    "Which is {word}, {a} or {b}?",
    "Is {a} or {b} {word}?",
    "{word} to you: {a} or {b}?",
    "Of {a} and {b}, which is {word}?",
)
_WORDS = {True: ("nearer", "closer"), False: ("farther", "more distant")}
_MANY = (
    "Which is {word} the camera: {names}?",
    "{word} the camera: {names}?",
    "Of {names}, which is {word} the camera?",
    "What is {word} the camera, {names}?",
)


def nearer_object(view: View, rng: np.random.Generator) -> Question | None:
    """Which of two objects is nearer (or farther)?"""
    pairs = [(a, b) for a in view.sightings for b in view.sightings if clearly_nearer(view, a, b)]
    if not pairs:
        return None
    near, far = pick(rng, pairs)
    nearer = coin(rng)
    first, second = shuffled(rng, [near, far])
    wanted = near if nearer else far
    words = {"a": f"the {first.name}", "b": f"the {second.name}", "word": pick(rng, _WORDS[nearer])}
    text = phrase(rng, _TWO, **words)
    return Question(
        text=text[0].upper() + text[1:],
        answer=choice(wanted.name, (first.name, second.name)),
        topic=tuple(sorted((near.name, far.name))),
        meta={"depths": {s.name: s.depth for s in (first, second)}},
    )


def extreme_object(view: View, rng: np.random.Generator) -> Question | None:
    """Which of three objects is the nearest to (or farthest from) the camera?"""
    if len(view.sightings) < 3:
        return None
    nearest = coin(rng)
    for _ in range(8):
        chosen = shuffled(rng, view.sightings)[:3]
        winner = _extreme(view, chosen, nearest)
        if winner is not None:
            break
    else:
        return None
    names = [s.name for s in chosen]
    word = "nearest to" if nearest else "farthest from"
    text = phrase(rng, _MANY, word=word, names=listed(the(names)))
    return Question(
        text=text[0].upper() + text[1:],
        answer=choice(winner.name, names),
        topic=tuple(sorted(names)),
        meta={"depths": {s.name: s.depth for s in chosen}},
    )


def clearly_nearer(view: View, near: Sighting, far: Sighting) -> bool:
    """Whether the seen surface and (where known) the centre of one thing are nearer than another's."""
    if near is far or near.depth is None or far.depth is None:
        return False
    metric = view.scene.depth_kind == "metric"
    gap = CLEAR_GAP_M if metric else 0.0
    if far.depth < CLEAR_RATIO * near.depth or far.depth - near.depth < gap:
        return False
    if near.distance is None or far.distance is None or not metric:
        return True
    return far.distance >= near.distance + gap


def _extreme(view: View, chosen: list[Sighting], nearest: bool) -> Sighting | None:
    for one in chosen:
        others = [s for s in chosen if s is not one]
        if all(
            clearly_nearer(view, one, other) if nearest else clearly_nearer(view, other, one)
            for other in others
        ):
            return one
    return None
