"""Formulas of public benchmarks: relative accuracy of numbers, points in masks and polygons, BLEU."""

import math
import re
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""0.50, 0.55, ... 0.95: a number is right at a threshold if its relative error is at most 1 - threshold."""


def mean_relative_accuracy(given: float, true: float) -> float:
    """The share of ten thresholds at which a number is right (VSI-Bench, Yang et al. 2025, equation 1).

    The paper writes "<", every implementation "<="; this is "<=". Around a true 0 the error is absolute.
    """
    error = abs(given - true) / true if true > 0 else abs(given - true) / (abs(true) or 1.0)
    return float(np.mean(error <= 1 - THRESHOLDS))


def mask_share(mask: Float[np.ndarray, "height width"], points: Int[np.ndarray, "point 2"]) -> float:
    """The mean of a mask over points (column, row); a point outside the image counts 0, no point is 0."""
    if len(points) == 0:
        return 0.0
    height, width = mask.shape
    columns, rows = points[:, 0], points[:, 1]
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return float(np.sum(mask[rows[inside], columns[inside]], dtype=np.float64) / len(points))


def in_polygon(x: float, y: float, polygon: Sequence[tuple[float, float]], *, edges: bool = False) -> bool:
    """Whether a ray from the point to the right crosses the polygon an odd number of times.

    Args:
        x: of the point.
        y: likewise.
        polygon: corners in order.
        edges: VLMEvalKit's variant: a point on an edge to the right counts as crossing it, and an upright
            edge as crossed wherever the point is, so that nothing is inside an upright rectangle. Without,
            as in RoboSpatial's own code.
    """
    inside = False
    for (ax, ay), (bx, by) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        if edges:
            if min(ay, by) < y <= max(ay, by) and (ax == bx or x <= (y - ay) * (bx - ax) / (by - ay) + ax):
                inside = not inside
        elif (by > y) != (ay > y) and x < (ax - bx) * (y - by) / (ay - by) + bx:
            inside = not inside
    return inside


def bleu(
    given: Sequence[str], true: Sequence[str], weights: Sequence[float] = (0.25, 0.25, 0.25, 0.25)
) -> float:
    """BLEU of one sentence against one reference, unsmoothed, as NLTK's `sentence_bleu` computes it.

    Args:
        given: words of the answer.
        true: words of the reference.
        weights: of the 1-grams, 2-grams, ...; need not sum to 1.

    Returns:
        0 where no word is shared; an order without a match counts as the smallest positive float.
    """
    matches, totals = _matches(given, true, len(weights))
    if matches[0] == 0:
        return 0.0
    precisions = [m / max(1, n) if m else sys.float_info.min for m, n in zip(matches, totals, strict=True)]
    penalty = 1.0 if len(given) > len(true) else math.exp(1 - len(true) / len(given))
    return penalty * math.exp(math.fsum(w * math.log(p) for w, p in zip(weights, precisions, strict=True)))


def smoothed_bleu(given: str, true: str) -> float:
    """BLEU in [0, 1] as sacreBLEU's `sentence_bleu` computes it, divided by 100.

    Tokens as mteval-v13a makes them, orders 1 to 4 as far as the answer is long enough, and an order
    without a match smoothed by halving (Chen and Cherry 2014, method 3).
    """
    words, reference = _tokens(given), _tokens(true)
    matches, totals = _matches(words, reference, 4)
    if not any(matches):
        return 0.0
    logs, halving = [], 1.0
    for match, total in zip(matches, totals, strict=True):
        if total == 0:
            break
        if match == 0:
            halving *= 2
        logs.append(math.log(match / total if match else 1 / (halving * total)))
    penalty = 1.0 if len(words) >= len(reference) else math.exp(1 - len(reference) / len(words))
    return penalty * math.exp(sum(logs) / len(logs))


def _matches(given: Sequence[str], true: Sequence[str], orders: int) -> tuple[list[int], list[int]]:
    """For each order, how many n-grams of the answer stand in the reference (clipped), and how many it has."""
    matches, totals = [], []
    for order in range(1, orders + 1):
        ours, theirs = (
            Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))
            for words in (given, true)
        )
        matches.append(sum((ours & theirs).values()))
        totals.append(sum(ours.values()))
    return matches, totals


def _tokens(text: str) -> list[str]:
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for name, character in (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")):
        text = text.replace(name, character)
    text = re.sub(r"([{-~\[-` -&(-+:-@/])", r" \1 ", f" {text} ")
    text = re.sub(r"([^0-9])([.,])", r"\1 \2 ", text)
    text = re.sub(r"([.,])([^0-9])", r" \1 \2", text)
    return re.sub(r"([0-9])(-)", r"\1 \2 ", text).split()
