"""Numbers in what a model wrote, in digits or in words. Every function gives a float, or None."""

import ast
import math
import re

from egem.evaluation.parsing.thoughts import behind_thoughts, without_invisible
from egem.scoring import ONES, TENS

_WORDS = {
    **{word: value for value, word in enumerate(ONES)},
    **{word: 10 * (place + 2) for place, word in enumerate(TENS)},
    "hundred": 100,
    "thousand": 1000,
}
_SCIENTIFIC = r"[-+]?(?:\d*\.\d+|\d+)(?:[eE][-+]?\d+)?"
_TAGGED = re.compile(
    rf"<\s*answer\b[^>]*>\s*({_SCIENTIFIC})(?:[^\d<][^<]*)?<\s*/\s*answer\s*>", re.IGNORECASE | re.DOTALL
)
_TO_TWENTY = re.compile(rf"\b({'|'.join((*ONES, 'twenty'))})\b", re.IGNORECASE)


def plain_float(text: str) -> float | None:
    """The whole text as a number, or None; "nan" is None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value


def first_word_as_number(text: str) -> float | None:
    """What stands before the first space, as a number (VSI-Bench): "3.5 m" is 3.5, "about 3" is None."""
    return plain_float(text.split(" ")[0].rstrip(".").strip())


def first_number(text: str) -> float | None:
    """The first number, in digits or in words (lmms-eval: VSI-Bench).

    "twenty-one" is 21, "three hundred and two" is 302, "one apple, room 2" is 1. A minus sign belongs to
    digits only.
    """
    text = text.strip().lower()
    digits = re.search(r"-?\d+(?:\.\d+)?", text)
    words: list[str] = []
    begin = len(text)
    for match in re.finditer(r"[a-z]+", text):
        if match.group() in _WORDS:
            begin = min(begin, match.start())
            words.append(match.group())
        elif words and match.group() != "and":
            break
    if digits and (not words or digits.start() < begin):
        return float(digits.group())
    return _value_of(words) if words else None


def last_number(text: str) -> float | None:
    """The number an answer ends on (VLMEvalKit's rule for spatial benchmarks).

    Words up to twenty count as digits. An <answer> tag that opens with a number wins; then the last number
    behind the thoughts; then the last of all. The first entry of a text that is a list stands for it; brackets
    that hold no list are no number.
    """
    if text.strip().startswith("[") and text.strip().endswith("]"):
        try:
            listed = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return None
        text = str(listed[0]) if isinstance(listed, list) and listed else text
    text = without_invisible(text)
    text = _TO_TWENTY.sub(lambda match: str(_WORDS[match.group().lower()]), text)
    tagged = _TAGGED.search(text)
    if tagged:
        return float(tagged.group(1))
    for part in (behind_thoughts(text), text):
        found = re.findall(_SCIENTIFIC, part)
        if found:
            return float(found[-1])
    return None


def digits_in(text: str) -> list[float]:
    """All numbers in digits, without signs and without exponents behind ^ (SPAR-Bench)."""
    return [float(number) for number in re.findall(r"(?<!\^)\d+\.\d+|(?<!\^)\d+", text)]


def _value_of(words: list[str]) -> float:
    total = current = 0
    for word in words:
        value = _WORDS[word]
        if value == 100:
            current = max(current, 1) * 100
        elif value == 1000:
            total, current = total + max(current, 1) * 1000, 0
        else:
            current += value
    return float(total + current)
