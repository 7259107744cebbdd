"""Which licences let data be passed on. A table of words, not legal advice: what it does not know is unknown."""

import re
from typing import Any, Literal

from egem.data_engine.sources import SOURCES

PassingOn = Literal["yes", "no", "unknown"]

_FORBIDS = (
    "not to be passed on",
    "no redistribution",
    "terms of use",
    "research only",
    "-nd",
    "all rights reserved",
)
_ALLOWS = re.compile(
    r"^(mit|apache|bsd|isc|cc0|cc[ -]by|cc-zero|public domain|odc-by|odbl|pddl|cdla"
    r"|made by (egem|the embedded world))\b",
    re.IGNORECASE,
)
_OWN = {"tabletop": "made by egem (no licence is needed)"}
"""Sources of this project itself, whose records state none."""
NOT_STATED = "not stated"


def licence_of(source: str, meta: dict[str, Any]) -> str:
    """What a record states, else its source, else that nothing is stated."""
    stated = meta.get("licence") or meta.get("license")
    if isinstance(stated, str) and stated:
        return stated
    if source in _OWN:
        return _OWN[source]
    return SOURCES[source].licence if source in SOURCES else NOT_STATED


def passing_on(licence: str) -> PassingOn:
    """Whether a licence, as its publisher words it, lets the data be passed on.

    Non-commercial and share-alike licences do, under their conditions; what stands in brackets (images that keep the
    licences of their own sets) is shown to people but not judged.
    """
    words = licence.lower()
    if any(word in words for word in _FORBIDS):
        return "no"
    return "yes" if _ALLOWS.match(licence.strip()) else "unknown"
