"""Points and boxes in what a model wrote.

The same pair of numbers means pixels to one scorer, thousandths to another and fractions to a third, so
every reading says in its name or its arguments what it takes numbers for.
"""

import ast
import json
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from egem.scoring import parse_boxes, parse_points

Pixels = Int[np.ndarray, "point 2"]
"""Columns and rows, which may lie outside the image."""

_TUPLE = re.compile(r"\(([-+]?\d+\.?\d*(?:,\s*[-+]?\d+\.?\d*)*?)\)")
_PLAIN = r"(\d+\.?\d*)"
_SIGNED = r"([-+]?\d+\.?\d*)"
_LOOSE = (rf"\({_PLAIN}\s*,\s*{_PLAIN}\)", rf"\[{_PLAIN}\s*,\s*{_PLAIN}\]", rf"{_PLAIN}\s+{_PLAIN}")
_LARGEST_FRACTION = 1.5
"""Numbers up to here are fractions to VLMEvalKit, which allows for a point a little outside."""


def tuple_points(
    text: str,
    width: int,
    height: int,
    *,
    integers: Literal["pixels", "fractions"] = "pixels",
    boxes: Literal["like points", "fractions", "none"] = "none",
) -> Pixels:
    """Points "(x, y)", as RoboPoint and those after it read them.

    Args:
        text: what the model wrote.
        width: of the image, in pixels.
        height: likewise.
        integers: what a pair without any decimal point means; one with a point is fractions of the image.
        boxes: whether "(left, top, right, bottom)" stands for all its pixels, and whether its numbers are
            taken like those of points (by the first) or always for fractions.

    Raises:
        ValueError: a box whose sides are in the wrong order where `boxes` is "fractions" (RoboRefer fails there).
    """
    points: list[tuple[int, int]] = []
    for match in _TUPLE.findall(text):
        written = match.split(",")
        values = [float(number) for number in written]
        if len(values) == 2:
            x, y = values
            if integers == "fractions" or "." in match:
                x, y = x * width, y * height
            points.append((int(x), int(y)))
        elif len(values) == 4 and boxes != "none":
            if boxes == "fractions" or "." in written[0]:
                values = [value * size for value, size in zip(values, (width, height) * 2, strict=True)]
            points += _pixels_of_box([int(value) for value in values], width, height, boxes)
    return np.array(points, dtype=np.int64).reshape(-1, 2)


def listed_points(text: str, width: int, height: int) -> Pixels:
    """Points "[x, y]" or "(x, y)": integers in thousandths, decimals as fractions (lmms-eval, Qwen's JSON)."""
    points = []
    for x, y in re.findall(rf"[\[(]\s*{_SIGNED}\s*,\s*{_SIGNED}\s*[\])]", text):
        unit = 1 if "." in x or "." in y else 1000
        points.append((int(float(x) / unit * width), int(float(y) / unit * height)))
    return np.array(points, dtype=np.int64).reshape(-1, 2)


def json_points(text: str, width: int, height: int) -> Pixels:
    """Entries {"point_2d": [x, y]} in thousandths of the first fenced block (lmms-eval: RoboSpatial-Home)."""
    fenced = re.search(r"```(?:\w+)?\n(.*?)```", text, re.DOTALL)
    try:
        entries = json.loads(fenced.group(1).strip()) if fenced else []
    except json.JSONDecodeError:
        entries = []
    pairs = [_pair(entry, ("point_2d",)) for entry in (entries if isinstance(entries, list) else [])]
    points = [(int(p[0] / 1000 * width), int(p[1] / 1000 * height)) for p in pairs if p is not None]
    return np.array(points, dtype=np.int64).reshape(-1, 2)


def point_2d_list(text: str, width: int, height: int) -> Float[np.ndarray, "point 2"]:
    """Points as fractions of the image, from JSON entries or else from tuples (VLMEvalKit).

    In an entry, numbers up to 1.5 are fractions, up to 1000 thousandths, beyond that pixels; in a tuple, up
    to 1.5 fractions and beyond that pixels. A tuple of four is a box and stands for all its pixels.
    """
    inner = text.strip()
    if inner.startswith("```"):
        opening, newline, rest = inner.partition("\n")
        inner = (rest if newline else opening.lstrip("`")).strip().removesuffix("```").strip()
    entries = _literal(inner)
    entries = [entries] if isinstance(entries, dict) else entries
    if isinstance(entries, list):
        pairs = [_pair(entry, ("point_2d", "point")) for entry in entries]
        found = [_as_fraction(pair, width, height) for pair in pairs if pair is not None]
        if found:
            return np.array(found, dtype=np.float64)
    points: list[tuple[float, float]] = []
    for match in _TUPLE.findall(text):
        values = [float(number) for number in match.split(",")]
        is_fraction = max(map(abs, values)) <= _LARGEST_FRACTION
        if len(values) == 2:
            x, y = values
            points.append((x, y) if is_fraction else (x / width, y / height))
        elif len(values) == 4:
            scale = (width, height) * 2 if is_fraction else (1, 1) * 2
            left, top, right, bottom = (v * s for v, s in zip(values, scale, strict=True))
            rows = range(round(min(top, bottom)), round(max(top, bottom)))
            columns = range(round(min(left, right)), round(max(left, right)))
            points += [(column / width, row / height) for row in rows for column in columns]
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def first_point(text: str) -> tuple[float, float] | None:
    """The first "(x, y)", else the first "[x, y]", as it stands (RoboSpatial-Home).

    Where neither is there, the first entry of the first list that Python can read.
    """
    for pattern in (rf"\(\s*{_PLAIN}\s*,\s*{_PLAIN}\s*\)", rf"\[\s*{_PLAIN}\s*,\s*{_PLAIN}\s*\]"):
        found = re.search(pattern, text)
        if found:
            return float(found.group(1)), float(found.group(2))
    listed = re.search(r"\[(.*?)\]", text, re.DOTALL)
    values = _literal(f"[{listed.group(1).strip().removesuffix(',')}]") if listed else None
    if not isinstance(values, list) or not values:
        return None
    if len(values) == 2 and all(isinstance(value, int | float) for value in values):
        return float(values[0]), float(values[1])
    return _numbers(values[0])


def loose_points(text: str) -> list[tuple[float, float]]:
    """Every "(x, y)", "[x, y]", "x y" and "x,y", each form by itself (RoboAfford-Eval).

    "(3,4)" is two of these forms and so counts twice, as it does there.
    """
    patterns = (*_LOOSE, rf"{_PLAIN},{_PLAIN}")
    return [(float(x), float(y)) for pattern in patterns for x, y in re.findall(pattern, text)]


def any_points(text: str) -> list[tuple[float, float]]:
    """Points in thousandths of the image, in any common form, for benchmarks without a rule of their own.

    "[x, y]", "(x, y)", {"point_2d": [x, y]} or bare "x, y"; decimals that all lie in 0..1 are fractions.
    """
    return parse_points(text)


def box_values(text: str) -> tuple[float, float, float, float] | None:
    """The one box (left, top, right, bottom) of a text, in thousandths; decimals in 0..1 are fractions."""
    boxes = parse_boxes(text)
    return boxes[0] if len(boxes) == 1 else None


def _pixels_of_box(box: Sequence[int], width: int, height: int, boxes: str) -> list[tuple[int, int]]:
    left, top, right, bottom = box
    if boxes == "fractions":
        if right < left or bottom < top:
            raise ValueError(f"box ({left}, {top}, {right}, {bottom}) has its corners in the wrong order.")
        return [(column, row) for row in range(top, bottom) for column in range(left, right)]
    # A slice of the image: what lies outside is cut off, and a negative number counts from the far side.
    rows = range(*slice(top, bottom).indices(height))
    return [(column, row) for row in rows for column in range(*slice(left, right).indices(width))]


def _literal(text: str) -> Any:
    """The text as JSON or as a Python literal; None where it is neither."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _pair(entry: Any, keys: Sequence[str]) -> tuple[float, float] | None:
    if not isinstance(entry, dict):
        return None
    return _numbers(next((entry[key] for key in keys if entry.get(key)), None))


def _numbers(pair: Any) -> tuple[float, float] | None:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return None
    try:
        x, y = float(pair[0]), float(pair[1])
    except (TypeError, ValueError):
        return None
    return (x, y) if math.isfinite(x) and math.isfinite(y) else None


def _as_fraction(pair: tuple[float, float], width: int, height: int) -> tuple[float, float]:
    largest = max(abs(pair[0]), abs(pair[1]))
    if largest <= _LARGEST_FRACTION:
        return pair
    return (pair[0] / 1000, pair[1] / 1000) if largest <= 1000 else (pair[0] / width, pair[1] / height)
