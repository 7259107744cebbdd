"""What several readings do to a text first."""

import re

_INVISIBLE = re.compile("[\u200b\u200c\u200d\ufeff]")


def without_invisible(text: str) -> str:
    """The text without outer white space and without characters of no width."""
    return _INVISIBLE.sub("", text.strip())


def behind_thoughts(text: str) -> str:
    """What follows the last </think>, or the last <think> where none was closed; else the whole text."""
    for tag in (r"</\s*think\s*>", r"<\s*think\s*>"):
        tags = list(re.finditer(tag, text, re.IGNORECASE))
        if tags:
            return text[tags[-1].end() :].strip()
    return text
