"""Depth of points given as coordinates in the text: all that a depth map alone can answer.

Points lie on flat pieces of surface, never on depth edges, and differ by a clear margin. A point lower in
the image is usually nearer, so two points are asked about only in views that also offer a pair where the
higher one is nearer, and one of the two cases is then drawn evenly, with equal distances in the image.
"""

import numpy as np
from jaxtyping import Float, Int

from egem.data_engine.skills.skill import (
    Question,
    choice,
    coin,
    listed,
    metres,
    phrase,
    pick,
    shuffled,
    written,
)
from egem.data_engine.view import View

CLEAR_RATIO = 1.08
"""Depths closer than this are a tie."""
CLEAR_GAP_M = 0.03
"""Metric depths closer than this are a tie, whatever their ratio."""
NUM_CANDIDATES = 96
NUM_TRIPLES = 1500
MAX_UNLIKE = 0.2
"""Of two cases of which one is drawn, points may differ by this much of the image."""
APART = 80
"""Two points of a question are at least this far from each other (0..1000 units)."""

_TWO = (
    "Which point is {word}, A {a} or B {b}?",
    "Points A {a} and B {b}: which is {word}?",
    "A {a}, B {b}. The {word} one?",
    "Is A {a} or B {b} {word}?",
)
_MANY = (
    "Which point is {word}: {points}?",
    "{points}: which is {word}?",
    "The {word} of these points: {points}?",
    "Of {points}, which one is {word}?",
)
_ORDER = (
    "{points}. Near to far: {orders}?",
    "Points {points}: from near to far, {orders}?",
    "Nearest first, is it {orders}: {points}?",
    "Depth order of {points}: {orders}?",
)
_DEPTH = (
    "How deep is the point {a}, in metres?",
    "Depth at {a} in metres?",
    "What is the depth of the point {a}?",
    "Give the depth at {a} in metres.",
)
_BETWEEN = (
    "How many metres apart in depth are {a} and {b}?",
    "Depth difference between {a} and {b} in metres?",
    "By how many metres do the depths at {a} and {b} differ?",
    "Difference in depth, {a} and {b}, in metres?",
)
_APART = (
    "How many metres apart are the points {a} and {b}?",
    "Distance between the points {a} and {b} in metres?",
    "How far is {a} from {b}, in metres?",
    "Give the distance from {a} to {b} in metres.",
)


def nearer_point(view: View, rng: np.random.Generator) -> Question | None:
    """Which of two points is nearer to (or farther from) the camera?"""
    pair = _balanced_pair(view, rng)
    if pair is None:
        return None
    near, far = pair
    word, wanted = ("nearer", near) if coin(rng) else ("farther", far)
    a, b = shuffled(rng, [near, far])
    first, second = view.coordinate(a), view.coordinate(b)
    return Question(
        text=phrase(rng, _TWO, word=word, a=written(first), b=written(second)),
        answer=choice("A" if wanted == a else "B", ("A", "B")),
        topic=_topic(a, b),
        meta={"points": [first, second], "depths": [_at(view, a), _at(view, b)]},
    )


def extreme_point(view: View, rng: np.random.Generator) -> Question | None:
    """Which of three points is the nearest (or farthest)?

    Only where triples alike in the image have the winner at the top, in the middle and at the bottom; which
    of the three is asked about is drawn evenly.
    """
    pixels = _candidates(view, rng)
    if len(pixels) < 3:
        return None
    nearest = coin(rng)
    triples, orders = _ordered_triples(view, rng, pixels)
    winners = orders[:, 0 if nearest else 2]
    by_place = [np.flatnonzero(winners == place) for place in range(3)]
    rarest = min(by_place, key=len)
    if not len(rarest):
        return None
    look, one = _look(view, pixels, triples), int(rng.choice(rarest))
    asked = []
    for indices in by_place:
        unlike = np.abs(look[indices] - look[one]).max(axis=1)
        if unlike.min() > 1.5 * MAX_UNLIKE:
            return None
        asked.append(int(indices[np.argmin(unlike)]))
    chosen = pick(rng, asked)
    points = [_pixel(pixels[i]) for i in triples[chosen]]
    return _many(view, rng, points, points[int(winners[chosen])], nearest)


def _many(
    view: View, rng: np.random.Generator, points: list[tuple[int, int]], winner: tuple[int, int], near: bool
) -> Question:
    points = shuffled(rng, points)
    labels = "ABC"
    text = ", ".join(f"{n} {written(view.coordinate(p))}" for n, p in zip(labels, points, strict=True))
    return Question(
        text=phrase(rng, _MANY, word="nearest" if near else "farthest", points=text),
        answer=choice(labels[points.index(winner)], tuple(labels)),
        topic=_topic(*points),
        meta={"points": [view.coordinate(p) for p in points], "depths": [_at(view, p) for p in points]},
    )


def order_points(view: View, rng: np.random.Generator) -> Question | None:
    """Which of two orders of depth three points have.

    The other order is one that three points alike in the image do have in the same view; which of the two
    triples is asked about is drawn evenly.
    """
    pixels = _candidates(view, rng)
    if len(pixels) < 3:
        return None
    triples, orders = _ordered_triples(view, rng, pixels)
    kinds = sorted({tuple(order) for order in orders.tolist()})
    if len(kinds) < 2:
        return None
    first, second = shuffled(rng, kinds)[:2]
    ones, others = (np.flatnonzero((orders == kind).all(axis=1)) for kind in (first, second))
    ones, others = (ones, others) if len(ones) <= len(others) else (others, ones)
    one = int(rng.choice(ones))
    look = _look(view, pixels, triples)
    unlike = np.abs(look[others] - look[one]).max(axis=1)
    if unlike.min() > MAX_UNLIKE:
        return None
    asked = one if coin(rng) else int(others[np.argmin(unlike)])
    place = [int(i) for i in rng.permutation(3)]  # of the labels A, B, C among the points from top to bottom
    points = [_pixel(pixels[triples[asked][i]]) for i in place]
    options = [", ".join("ABC"[place.index(i)] for i in order) for order in shuffled(rng, [first, second])]
    answer = ", ".join("ABC"[place.index(int(i))] for i in orders[asked])
    text = ", ".join(f"{n} {written(view.coordinate(p))}" for n, p in zip("ABC", points, strict=True))
    return Question(
        text=phrase(rng, _ORDER, points=text, orders=listed([option.replace(",", "") for option in options])),
        answer=choice(answer, options),
        topic=_topic(*points),
        meta={"points": [view.coordinate(p) for p in points], "depths": [_at(view, p) for p in points]},
    )


def _look(view: View, pixels: np.ndarray, triples: np.ndarray) -> Float[np.ndarray, "triple 6"]:
    """What a text shows of triples: where their points are, as shares of the image, from top to bottom."""
    return (pixels[triples] / [view.width, view.height]).reshape(len(triples), 6)


def _ordered_triples(
    view: View, rng: np.random.Generator, pixels: Int[np.ndarray, "point 2"]
) -> tuple[Int[np.ndarray, "triple 3"], Int[np.ndarray, "triple 3"]]:
    """Random triples with clear depths, points from top to bottom; and their places from near to far."""
    triples = rng.integers(len(pixels), size=(NUM_TRIPLES, 3))
    triples = np.take_along_axis(triples, np.argsort(pixels[triples, 1], axis=1, kind="stable"), axis=1)
    depths = _depths(view, pixels)
    orders = np.argsort(depths[triples], axis=1)
    near, middle, far = np.take_along_axis(triples, orders, axis=1).T
    clear = _clear_matrix(view, depths)
    gaps = np.linalg.norm(_scaled(view, pixels[triples] - pixels[np.roll(triples, 1, axis=1)]), axis=2)
    usable = clear[near, middle] & clear[middle, far] & (gaps >= APART).all(axis=1)
    return triples[usable], orders[usable]


def point_depth(view: View, rng: np.random.Generator) -> Question | None:
    """How deep a point is, in metres."""
    pixels = _candidates(view, rng)
    if not len(pixels):
        return None
    # Depths, not pixels, are drawn evenly: otherwise the large far wall would be most answers.
    depths = _depths(view, pixels)
    target = rng.uniform(depths.min(), depths.max())
    point = _pixel(pixels[int(np.argmin(np.abs(depths - target)))])
    at = view.coordinate(point)
    return Question(
        text=phrase(rng, _DEPTH, a=written(at)),
        answer=metres(_at(view, point)),
        topic=_topic(point),
        meta={"points": [at], "depths": [_at(view, point)]},
    )


def depth_difference(view: View, rng: np.random.Generator) -> Question | None:
    """By how much two points differ in depth, in metres."""
    pixels = _candidates(view, rng)
    depths = _depths(view, pixels)
    return _between(view, rng, _BETWEEN, pixels, np.abs(depths[:, None] - depths[None]))


def points_apart(view: View, rng: np.random.Generator) -> Question | None:
    """How far two points are from each other in space, in metres."""
    pixels = _candidates(view, rng)
    world = view.world_points[pixels[:, 1], pixels[:, 0]]
    return _between(view, rng, _APART, pixels, np.linalg.norm(world[:, None] - world[None], axis=2))


def _between(
    view: View,
    rng: np.random.Generator,
    phrasings: tuple[str, ...],
    pixels: Int[np.ndarray, "point 2"],
    lengths: Float[np.ndarray, "point point"],
) -> Question | None:
    """A question about two points whose length is near one drawn evenly from what this view offers."""
    separated = np.linalg.norm(_scaled(view, pixels[:, None] - pixels[None]), axis=2) >= APART
    first, second = np.nonzero(separated & (lengths >= CLEAR_GAP_M))
    if not len(first):
        return None
    values = lengths[first, second]
    best = int(np.argmin(np.abs(values - rng.uniform(values.min(), values.max()))))
    a, b = _pixel(pixels[first[best]]), _pixel(pixels[second[best]])
    points = [view.coordinate(a), view.coordinate(b)]
    return Question(
        text=phrase(rng, phrasings, a=written(points[0]), b=written(points[1])),
        answer=metres(float(values[best])),
        topic=_topic(a, b),
        meta={"points": points, "depths": [_at(view, a), _at(view, b)]},
    )


def _balanced_pair(view: View, rng: np.random.Generator) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """(nearer, farther): as often with the nearer one higher in the image as lower.

    A pair whose nearer point is the higher one is found first, because it is the rarer case; a view
    without one is refused. Where the opposite is wanted, the pair most like it in the image is taken.
    """
    pixels = _candidates(view, rng)
    near, far = np.nonzero(_clear_matrix(view, _depths(view, pixels)))
    separated = np.linalg.norm(_scaled(view, pixels[near] - pixels[far]), axis=1) >= APART
    near, far = near[separated], far[separated]
    drop = (pixels[near, 1] - pixels[far, 1]) / view.height
    higher, lower = np.flatnonzero(drop < -0.01), np.flatnonzero(drop > 0.01)
    if not len(higher) or not len(lower):
        return None
    chosen = int(rng.choice(higher))
    # What the text will show of a pair: where its upper and its lower point are.
    places = pixels / [view.width, view.height]
    upper = np.where((drop < 0)[:, None], places[near], places[far])
    under = np.where((drop < 0)[:, None], places[far], places[near])
    look = np.concatenate([upper, under], axis=1)
    unlike = np.abs(look[lower] - look[chosen]).max(axis=1)
    twin = int(lower[np.argmin(unlike)])
    if unlike.min() > MAX_UNLIKE:
        return None
    pair = chosen if coin(rng) else twin
    return _pixel(pixels[near[pair]]), _pixel(pixels[far[pair]])


def _candidates(view: View, rng: np.random.Generator) -> Int[np.ndarray, "point 2"]:
    points = view.flat_points
    if len(points) > NUM_CANDIDATES:
        points = points[rng.choice(len(points), NUM_CANDIDATES, replace=False)]
    return points


def _depths(view: View, pixels: Int[np.ndarray, "point 2"]) -> Float[np.ndarray, "point"]:
    return view.depth[pixels[:, 1], pixels[:, 0]]


def _pixel(point: np.ndarray) -> tuple[int, int]:
    return int(point[0]), int(point[1])


def _at(view: View, pixel: tuple[int, int]) -> float:
    return round(float(view.depth[pixel[1], pixel[0]]), 4)


def _clear_matrix(view: View, depths: Float[np.ndarray, "point"]) -> np.ndarray:
    """[i, j]: i is clearly nearer than j."""
    gap = CLEAR_GAP_M if view.scene.depth_kind == "metric" else 0.0
    near, far = depths[:, None], depths[None, :]
    return (far >= CLEAR_RATIO * near) & (far - near >= gap)


def _scaled(view: View, offsets: np.ndarray) -> np.ndarray:
    return offsets * np.array([1000 / view.width, 1000 / view.height])


def _topic(*points: tuple[int, int]) -> tuple[str, ...]:
    return tuple(sorted(f"{column},{row}" for column, row in points))
