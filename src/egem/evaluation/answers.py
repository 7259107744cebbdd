"""One question after it was answered and scored: a line of `answers.jsonl`."""

from dataclasses import dataclass, field
from typing import Any

from egem.records import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredAnswer:
    """One question after it was answered."""

    id: str
    scene: str
    """Questions about one scene, from whatever camera, are not independent of each other."""
    category: str
    skill: str
    prediction: str
    score: float
    """In [0, 1], by the benchmark's rule."""
    labels: tuple[str, ...] = ()
    """What else the question belongs to, where headline numbers are made of such parts."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Other numbers of the rule, such as a distance."""

    @classmethod
    def from_line(cls, line: dict[str, Any]) -> "ScoredAnswer":
        """From a line of `answers.jsonl`."""
        return cls(**{**line, "labels": tuple(line.get("labels", ()))})


def scene_of(record: Record) -> str:
    """The scene a record's images show: `meta["scene"]` where several groups share one, else its group."""
    scene = record.meta.get("scene")
    return scene if isinstance(scene, str) else record.group
