"""Options, numbers and letters in questions and answers, as spatial question sets write them."""

import re
from collections.abc import Sequence

from egem.question_options import inline_options
from egem.records import Answer

_LETTER = re.compile(r"\(?([A-Z])(?:[.):]\s*(.*)|\))?\s*\.?", re.DOTALL)
_NUMBER = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*(m|cm|meters?|metres?|centimeters?|centimetres?)?\.?\s*")
_COUNTING = re.compile(r"\bhow many\b|\bnumber of\b|\bcount\b", re.IGNORECASE)
_AREA = re.compile(r"\bsquare (?:meter|metre|feet|foot)|\bm\^?2\b|m²", re.IGNORECASE)
_CENTIMETRES = re.compile(r"\bcentimet(?:er|re)s?\b|\bcm\b", re.IGNORECASE)
_METRES = re.compile(r"\bmet(?:er|re)s?\b|\bin m\b", re.IGNORECASE)


def choice_answer(text: str, options: Sequence[str]) -> Answer | None:
    """An answer that is the letter or the text of an option; None where it is neither.

    The answer's text is the option's, so that options count by what they say, not by their place; options
    that say the same stand for themselves by letter.
    """
    index = option_index(text, options)
    if index is None:
        return None
    names = tuple(options)
    if len({name.lower() for name in names}) < len(names) or not all(name.strip() for name in names):
        names = tuple(letter(i) for i in range(len(names)))
    return Answer(kind="choice", text=names[index], choices=names)


def option_index(text: str, options: Sequence[str]) -> int | None:
    """Which option an answer means, by its text or its letter."""
    stripped = text.strip()
    same = [i for i, option in enumerate(options) if option.lower() == stripped.lower().rstrip(".")]
    if len(same) == 1:
        return same[0]
    found = _LETTER.fullmatch(stripped)
    if found is None:
        return None
    index, rest = ord(found.group(1)) - ord("A"), (found.group(2) or "").strip().rstrip(".")
    if index >= len(options) or (rest and rest.lower() != options[index].strip().rstrip(".").lower()):
        return None
    return index


def letter(index: int) -> str:
    """A for 0, B for 1."""
    return chr(ord("A") + index)


def with_options(question: str, options: Sequence[str]) -> str:
    """A question with a line for each of its options."""
    lines = [f"{letter(i)}. {option}" for i, option in enumerate(options)]
    return "\n".join([question, *lines])


def unit_of(question: str) -> str | None:
    """The unit a question wants its number in: `count`, `cm`, `m`, or None for areas and anything else."""
    if _AREA.search(question):
        return None
    if _CENTIMETRES.search(question):
        return "cm"
    if _METRES.search(question):
        return "m"
    return "count" if _COUNTING.search(question) else None


def plain_answer(question: str, text: str) -> Answer:
    """What an answer means to its question: an option, a number with the question's unit, or text."""
    options = inline_options(question)
    chosen = choice_answer(text, options) if options else None
    if chosen is not None:
        return chosen
    if text.strip().rstrip(".").lower() in ("yes", "no"):
        word = text.strip().rstrip(".")
        pair = ("Yes", "No") if word[0].isupper() else ("yes", "no")
        return (
            Answer(kind="choice", text=word, choices=pair) if word in pair else Answer(kind="text", text=text)
        )
    number = _NUMBER.fullmatch(text)
    if number is not None:
        given = (number.group(2) or "").lower()
        unit = "cm" if given.startswith("c") else "m" if given else unit_of(question)
        return Answer(kind="number", text=text, number=float(number.group(1)), unit=unit)
    return Answer(kind="text", text=text)
