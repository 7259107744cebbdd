"""Points and boxes of every convention to this project's: integers 0 to 1000, x then y, origin top left.

Pixels are distances from the image's top left corner, so x becomes round(1000 * x / width).
"""

import re
from collections.abc import Sequence
from typing import Literal

from egem.core.errors import RecordError
from egem.records import COORDINATE_RANGE, Answer

Number = float | int
Point = tuple[int, int]
Box = tuple[int, int, int, int]
BoxForm = Literal["corners", "size"]
"""Left, top, right, bottom; or left, top, width, height."""

TOLERANCE = 0.01
"""Annotators round and click beside: a coordinate beyond the image by this share of it is moved to the edge."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_TUPLE = re.compile(
    rf"[(\[]\s*({_NUMBER})\s*,\s*({_NUMBER})(?:\s*,\s*({_NUMBER})\s*,\s*({_NUMBER}))?\s*[)\]]"
)
_INTEGER_POINT = re.compile(r"[\[(]\s*(-?\d+)\s*,\s*(-?\d+)\s*[\])]")
_INTEGER_POINTS = re.compile(rf"\[?\s*{_INTEGER_POINT.pattern}(?:\s*,\s*{_INTEGER_POINT.pattern})*\s*\]?")
_INTEGER_BOX = re.compile(r"\[?\s*[\[(]\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*[\])]\s*\]?")

# What questions say about the form of the answer, and what they must say once coordinates are converted.
_FORM = (
    (
        re.compile(r"\(x(\d?), y\1, (?:w\1, h\1|width\1?, height\1?|x\d, y\d)\)"),
        r"[left\1, top\1, right\1, bottom\1]",
    ),
    (re.compile(r"\(x(\d?), ?y\1\)"), r"[x\1, y\1]"),
    (
        re.compile(r"\b(between|from|in the range(?: of)?) 0(?:\.0+)? (and|to) 1(?:\.0+)?(?![\d.]*\d)"),
        r"\1 0 \2 1000",
    ),
    (re.compile(r"[\[(]0(?:\.0+)?, ?1(?:\.0+)?[\])]"), "[0, 1000]"),
    (
        re.compile(r"\bnormali[sz]ed (pixel )?(locations|coordinates|values)"),
        r"\2 (thousandths of width and height)",
    ),
    (re.compile(r"\btuple(s?)\b"), r"list\1"),
    (
        re.compile(r"\b(rounded|accurate|precise) to (two|three|2|3) decimal(?: place)?s?"),
        "rounded to integers",
    ),
)


def point_from_pixels(x: Number, y: Number, width: Number, height: Number, where: str) -> Point:
    """A pixel position.

    Raises:
        RecordError: outside the image.
    """
    found = (_thousandth(x, width), _thousandth(y, height))
    if found[0] is None or found[1] is None:
        raise RecordError(
            f"{where}: point ({x:g}, {y:g}) lies outside its image of {width:g} x {height:g} pixels."
        )
    return found[0], found[1]


def box_from_pixels(box: Sequence[Number], form: BoxForm, width: Number, height: Number, where: str) -> Box:
    """Four numbers in pixels.

    Raises:
        RecordError: outside the image, or without extent.
    """
    left, top, right, bottom = _corners(box, form)
    found = [
        _thousandth(v, size) for v, size in ((left, width), (top, height), (right, width), (bottom, height))
    ]
    named = f"box ({left:g}, {top:g}, {right:g}, {bottom:g})"
    if any(value is None for value in found):
        raise RecordError(f"{where}: {named} lies outside its image of {width:g} x {height:g} pixels.")
    x0, y0, x1, y1 = (int(value) for value in found if value is not None)
    if left >= right or top >= bottom:
        raise RecordError(f"{where}: {named} is empty; left < right and top < bottom are needed.")
    return _widened(x0, y0, x1, y1)


def in_thousandths(text: str, where: str, *, form: BoxForm = "size", strict: bool = True) -> str:
    """A text whose pairs and quadruples of fractions (0 to 1) are written as 0 to 1000 instead.

    Args:
        text: "[(0.461, 0.527), (0.498, 0.521)]" becomes "[[461, 527], [498, 521]]".
        where: for messages.
        form: of its quadruples; they become left, top, right, bottom.
        strict: every pair must be a fraction; else pairs of other numbers are left as they are.

    Raises:
        RecordError: fractions (or, if strict, any number) outside 0 to 1.
    """

    def converted(match: re.Match[str]) -> str:
        groups = [group for group in match.groups() if group is not None]
        values = [float(group) for group in groups]
        fractional = any("." in group for group in groups) or all(value in (0, 1) for value in values)
        if not fractional and not strict:
            return match.group(0)
        if len(values) == 4:
            return written(box_from_pixels(values, form, 1, 1, where))
        return written(point_from_pixels(values[0], values[1], 1, 1, where))

    return _TUPLE.sub(converted, text)


def restated(question: str) -> str:
    """A question whose words about the form of the answer say 0 to 1000 and brackets instead of 0 to 1 and tuples."""
    for pattern, replacement in _FORM:
        question = pattern.sub(replacement, question)
    return question


def read_answer(text: str) -> Answer:
    """What a free answer means: a box or points when it is nothing but those, in integers; else text."""
    stripped = text.strip()
    box = _INTEGER_BOX.fullmatch(stripped)
    if box is not None:
        left, top, right, bottom = (int(value) for value in box.groups())
        return Answer(kind="box", text=text, box=(left, top, right, bottom))
    if _INTEGER_POINTS.fullmatch(stripped):
        return point_answer([(int(x), int(y)) for x, y in _INTEGER_POINT.findall(stripped)], text)
    return Answer(kind="text", text=text)


def point_answer(points: Sequence[Point], text: str) -> Answer:
    """Points as an answer."""
    return Answer(kind="point", text=text, points=tuple(points))


def written(values: Sequence[int]) -> str:
    """A point or box as it stands in a text."""
    return "[" + ", ".join(str(value) for value in values) + "]"


def written_list(points: Sequence[Point]) -> str:
    """Points as they stand in a text."""
    return "[" + ", ".join(written(point) for point in points) + "]"


def _thousandth(value: Number, size: Number) -> int | None:
    """None where it lies outside (or is not a number)."""
    share = value / size
    if not -TOLERANCE <= share <= 1 + TOLERANCE:
        return None
    return round(min(max(share, 0.0), 1.0) * COORDINATE_RANGE)


def _corners(box: Sequence[Number], form: BoxForm) -> tuple[Number, Number, Number, Number]:
    a, b, c, d = box
    return (a, b, c, d) if form == "corners" else (a, b, a + c, b + d)


def _widened(left: int, top: int, right: int, bottom: int) -> Box:
    """Boxes thinner than a thousandth get one, so that they stay boxes."""
    if left == right:
        left, right = (left, right + 1) if right < COORDINATE_RANGE else (left - 1, right)
    if top == bottom:
        top, bottom = (top, bottom + 1) if bottom < COORDINATE_RANGE else (top - 1, bottom)
    return left, top, right, bottom
