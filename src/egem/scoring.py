"""How one answer is scored: the single rule that `data stats`, training probes and benchmarks share.

`score(answer, text)` compares what a model wrote with what is right. The parsers are lenient about form
(brackets, JSON, units, number words, a sentence around the answer) and strict about content: a text that
names two different options or two different numbers is wrong, however it goes on.
"""

import re
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from egem.media import decode_region
from egem.records import COORDINATE_RANGE, Answer

Number = float | int

RELATIVE_TOLERANCE = 0.1
"""A measured number is right within this fraction of the true value ..."""
ABSOLUTE_TOLERANCE_M = 0.02
"""... or within this many metres, whichever is more."""
POINT_RADIUS = 50
"""Without a region, a point is right this near the true one (0..1000 units)."""
BOX_IOU = 0.5
"""A box is right at this intersection over union."""
TRAJECTORY_RADIUS = 80
"""A trajectory is right at this mean distance after resampling (0..1000 units)."""
TRAJECTORY_SAMPLES = 16

_METRES = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 0.01),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 0.001),
}
ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
"""The words of 0 to 19."""
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
"""Of 20, 30, ... 90."""
_NUMBER_WORDS = {
    "no": 0.0,
    "none": 0.0,
    **{word: float(value) for value, word in enumerate(ONES)},
    **{word: 10.0 * (value + 2) for value, word in enumerate(TENS)},
}
_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+|\.\d+|\d+)"
_NUMBER_WITH_UNIT = re.compile(rf"(?<![\w.])({_NUMBER})\s*([a-zA-Z]+)?")
_COORDINATE = r"\s*([-+]?(?:\d+\.\d+|\.\d+|\d+))\s*"
_PAIR = re.compile(rf"[\[(]{_COORDINATE},{_COORDINATE}[\])]")
_QUAD = re.compile(rf"[\[(]{_COORDINATE},{_COORDINATE},{_COORDINATE},{_COORDINATE}[\])]")
_LABEL = re.compile(r"\(?([A-Za-z])(?:\)|[.:](?=\s|$)|$)\s*(.*)", re.DOTALL)
_FINAL = re.compile(r"(?:</think>|<answer>|\banswer\s*(?:is|:)|\\boxed\{)", re.IGNORECASE)
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))
_ARTICLES = {"a", "an", "the"}


def score(answer: Answer, text: str, *, root: Path | None = None) -> float:
    """How right a written answer is, in [0, 1].

    By kind of answer:
      choice: 1 when exactly the right option is named (text, or letter of its place); case, articles and
        punctuation do not matter; several options named score 0.
      number: unit "count" must be equal; lengths are right within 10 % or 2 cm, whichever is more; a number
        without a unit is read in the answer's unit.
      point: the fraction of the points written that lie in `answer.region`; without a region, within 50
        units of one of `answer.points`.
      box: 1 at an intersection over union of at least 0.5 with `answer.box`; exactly one box must be written.
      trajectory: 1 when the mean distance between both curves, resampled to 16 points equally spaced along
        their length, is at most 80 units.
      text: 1 when equal in lower case without articles and punctuation.

    Args:
        answer: what is right.
        text: what the model wrote.
        root: folder that relative paths of `answer.region` start from.

    Raises:
        RecordError: the region cannot be decoded.
    """
    if answer.kind == "choice":
        return float(parse_choice(text, answer.choices) == answer.text)
    if answer.kind == "number":
        return float(_number_is_right(answer, text))
    if answer.kind == "point":
        return _point_score(answer, parse_points(text), root)
    if answer.kind == "box":
        boxes = parse_boxes(text)
        return float(len(boxes) == 1 and box_iou(boxes[0], answer.box or (0, 0, 0, 0)) >= BOX_IOU)
    if answer.kind == "trajectory":
        points = parse_points(text)
        return float(bool(points) and trajectory_distance(points, answer.points) <= TRAJECTORY_RADIUS)
    letters = "a" in _words(answer.text)
    return float(_normal(_final(text), letters) == _normal(answer.text, letters))


def parse_choice(text: str, choices: Sequence[str]) -> str | None:
    """The one option that a text names, or None when it names none or several.

    "B", "(b)", "B. the bowl" name the second option by its place (unless an option is itself a letter);
    otherwise an option is named where its words stand in the text. A longer option hides a shorter one
    inside it: "the small red mug" does not also name "red mug".
    """
    text = _final(text)
    letters = any("a" in _words(choice) for choice in choices)  # then "a" is an option, not an article
    words = _normal(text, letters)
    normal = {choice: _normal(choice, letters) for choice in choices}
    for choice, wanted in normal.items():
        if words == wanted:
            return choice
    label = _LABEL.fullmatch(text.strip().rstrip(" .!"))
    if label is not None and not any(len(wanted) == 1 for wanted in normal.values()):
        place = ord(label.group(1).upper()) - ord("A")
        if place < len(choices):
            rest = _mentioned(_normal(label.group(2), letters), normal)
            return choices[place] if not rest or rest == {choices[place]} else None
    named = _mentioned(words, normal)
    return named.pop() if len(named) == 1 else None


def parse_number(text: str, *, unit: str | None) -> float | None:
    """The one number a text gives, in metres, or as it stands when `unit` is not one of length.

    Digits count before number words ("one of them is 0.84 m" is 0.84). The same length in two units is one
    number; two different numbers are none.

    Args:
        text: what the model wrote.
        unit: unit to read a number in that has none: "m", "cm", or anything else for no unit.
    """
    text = _final(text)
    is_length = unit in _METRES
    factor = _METRES.get(unit or "", 1.0)
    found = [(float(digits.replace(",", "")), word) for digits, word in _NUMBER_WITH_UNIT.findall(text)]
    if not found:
        units = [word for word in re.findall(r"[a-z]+", text.lower()) if word in _METRES]
        found = [(value, units[0] if units else "") for value in _number_words(text)]
    values = [value * _METRES.get(word.lower(), factor) if is_length else value for value, word in found]
    tolerance = 0.01 if is_length else 0.0
    if not values or any(abs(value - values[0]) > tolerance * abs(values[0]) for value in values):
        return None
    return values[0]


def parse_points(text: str) -> list[tuple[float, float]]:
    """All points of a text in 0..1000 units: "[x, y]", "(x, y)", {"point_2d": [x, y]}, or bare "x, y".

    Decimals that all lie in 0..1 are fractions of the image and are scaled. Outside 0..1000 is kept as it is.
    """
    text = _final(text)
    points = [(float(x), float(y)) for x, y in _PAIR.findall(text)]
    if not points:
        bare = [float(n) for n in re.findall(r"(?<![\w.])[-+]?(?:\d+\.\d+|\.\d+|\d+)(?![\w])", text)]
        points = [(bare[0], bare[1])] if len(bare) == 2 else []
    scale = _scale([value for point in points for value in point], text)
    return [(x * scale, y * scale) for x, y in points]


def parse_boxes(text: str) -> list[tuple[float, float, float, float]]:
    """All boxes of a text in 0..1000 units: "[x1, y1, x2, y2]", {"bbox_2d": [...]}, two points, four numbers.

    Corners may come in any order; decimals that all lie in 0..1 are scaled.
    """
    text = _final(text)
    boxes = [tuple(float(value) for value in quad) for quad in _QUAD.findall(text)]
    pairs = _PAIR.findall(text)
    if not boxes and len(pairs) == 2:
        boxes = [tuple(float(value) for pair in pairs for value in pair)]
    if not boxes:
        bare = [float(n) for n in re.findall(r"(?<![\w.])[-+]?(?:\d+\.\d+|\.\d+|\d+)(?![\w])", text)]
        boxes = [tuple(bare)] if len(bare) == 4 else []
    scale = _scale([value for box in boxes for value in box], text)
    return [
        (min(a, c) * scale, min(b, d) * scale, max(a, c) * scale, max(b, d) * scale) for a, b, c, d in boxes
    ]


def box_iou(first: Sequence[Number], second: Sequence[Number]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom); 0 when both are empty."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0.0) * max(height, 0.0)
    total = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)) - shared
    return shared / total if total > 0 else 0.0


def trajectory_distance(
    first: Sequence[tuple[Number, Number]],
    second: Sequence[tuple[Number, Number]],
    num: int = TRAJECTORY_SAMPLES,
) -> float:
    """Mean distance of two curves after each is resampled to `num` points equally spaced along its length."""
    difference = resample_curve(first, num) - resample_curve(second, num)
    return float(np.linalg.norm(difference, axis=1).mean())


def resample_curve(points: Sequence[tuple[Number, Number]], num: int) -> Float[np.ndarray, "num 2"]:
    """`num` points equally spaced along a curve, its ends included."""
    curve = np.asarray(points, dtype=np.float64)
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    wanted = np.linspace(0.0, along[-1], num)
    return np.stack([np.interp(wanted, along, curve[:, axis]) for axis in range(2)], axis=1)


def _number_is_right(answer: Answer, text: str) -> bool:
    given = parse_number(text, unit=answer.unit)
    if given is None or answer.number is None:
        return False
    if answer.unit not in ("m", "cm"):
        return given == answer.number
    true = answer.number * _METRES[answer.unit]
    return abs(given - true) <= max(RELATIVE_TOLERANCE * abs(true), ABSOLUTE_TOLERANCE_M) + 1e-9


def _point_score(answer: Answer, points: list[tuple[float, float]], root: Path | None) -> float:
    if not points:
        return 0.0
    if answer.region is None:
        right = [min(np.hypot(x - a, y - b) for a, b in answer.points) <= POINT_RADIUS for x, y in points]
        return float(np.mean(right))
    region = decode_region(answer.region, root=root)
    return float(np.mean([_inside(region, x, y) for x, y in points]))


def _inside(region: np.ndarray, x: float, y: float) -> bool:
    if not (0 <= x <= COORDINATE_RANGE and 0 <= y <= COORDINATE_RANGE):
        return False
    height, width = region.shape
    column = min(int(x * width / COORDINATE_RANGE), width - 1)
    row = min(int(y * height / COORDINATE_RANGE), height - 1)
    return bool(region[row, column])


def _final(text: str) -> str:
    """What follows the last "answer:", "answer is", <answer>, box or closed thought; else the whole text."""
    rest = text[max((match.end() for match in _FINAL.finditer(text)), default=0) :]
    return rest.replace("</answer>", " ") if rest.strip() else text


def _normal(text: str, letters: bool) -> str:
    """Words in lower case; without articles, unless single letters mean something (`letters`)."""
    words = _words(text)
    without = [word for word in words if letters or word not in _ARTICLES]
    return " ".join(without or words)


def _words(text: str) -> list[str]:
    return text.lower().translate(_PUNCTUATION).split()


def _mentioned(words: str, normal: dict[str, str]) -> set[str]:
    """Options whose words stand in the text outside the words of a longer option that stands there too."""
    found = set()
    padded = f" {words} "
    for choice in sorted(normal, key=lambda option: -len(normal[option])):
        target = f" {normal[choice]} "
        if target.strip() and target in padded:
            found.add(choice)
            padded = padded.replace(target, " | ").replace(target, " | ")
    return found


def _number_words(text: str) -> list[float]:
    values: list[float] = []
    tens = False
    for word in re.findall(r"[a-z]+", text.lower()):
        value = _NUMBER_WORDS.get(word)
        if value is not None and tens and 0 < value < 10:
            values[-1] += value
        elif value is not None:
            values.append(value)
        tens = value is not None and value >= 20
    return values


def _scale(values: Sequence[float], text: str) -> float:
    fractions = bool(values) and all(0.0 <= value <= 1.0 for value in values) and "." in text
    return float(COORDINATE_RANGE) if fractions else 1.0
