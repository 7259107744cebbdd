"""What a skill is: a pure function from a view and a random generator to a question, or to a refusal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from egem.data_engine.view import View
from egem.records import Answer, Category

Need = Literal["depth", "metric", "masks", "camera", "boxes", "support", "robot", "task"]
"""What a skill cannot do without:

depth: any depth map; metric: one in metres; masks: objects with an instance mask; camera: intrinsics and
pose; boxes: at least one object with a 3D box (and a camera); support: the table's rectangle; robot: the
objects say whether they can be reached; task: something the robot is doing.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question with its answer and the numbers both came from."""

    text: str
    answer: Answer
    topic: tuple[str, ...]
    """What it is about; a group never holds two questions of one skill about the same thing."""
    meta: dict[str, Any] = field(default_factory=dict)
    """JSON values: the measurements that decided the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Skill:
    """One kind of question."""

    name: str
    category: Category
    needs: tuple[Need, ...]
    ask: Callable[[View, np.random.Generator], Question | None]
    """None = refused: this view has nothing unambiguous to ask, or asking would unbalance the answers."""
    weight: float = 1.0
    """How early it is tried among the others; above 1 for skills that are often refused."""
    on_request: bool = False
    """Asked only where it is named: it describes the picture, which is what comes before these questions."""


def applies(skill: Skill, view: View) -> bool:
    """Whether a scene has all that a skill needs."""
    return all(_HAS[need](view) for need in skill.needs)


_HAS: dict[Need, Callable[[View], bool]] = {
    "depth": lambda view: view.scene.depth is not None,
    "metric": lambda view: view.scene.depth is not None and view.scene.depth_kind == "metric",
    "masks": lambda view: len(view.sightings) > 0,
    "camera": lambda view: view.scene.camera is not None,
    "boxes": lambda view: view.scene.camera is not None and len(view.with_box) > 0,
    "support": lambda view: view.scene.support is not None,
    "robot": lambda view: any(s.object.reachable is not None for s in view.sightings),
    "task": lambda view: view.scene.task is not None,
}


def phrase(rng: np.random.Generator, phrasings: Sequence[str], **slots: str) -> str:
    """One of the phrasings, drawn evenly, with its slots filled."""
    return phrasings[int(rng.integers(len(phrasings)))].format(**slots)


def coin(rng: np.random.Generator) -> bool:
    """Heads or tails."""
    return bool(rng.integers(2))


def pick(rng: np.random.Generator, items: Sequence[Any]) -> Any:
    """One of the items, drawn evenly."""
    return items[int(rng.integers(len(items)))]


def shuffled(rng: np.random.Generator, items: Sequence[Any]) -> list[Any]:
    """The items in random order."""
    return [items[int(i)] for i in rng.permutation(len(items))]


def listed(names: Sequence[str], last: str = "or") -> str:
    """Names as a sentence lists them: "a, b or c"."""
    return f"{', '.join(names[:-1])} {last} {names[-1]}" if len(names) > 1 else names[0]


def the(names: Sequence[str]) -> list[str]:
    """Each name with its article."""
    return [f"the {name}" for name in names]


def choice(text: str, choices: Sequence[str]) -> Answer:
    """An answer that is one of the options."""
    return Answer(kind="choice", text=text, choices=tuple(choices))


def yes_or_no(value: bool) -> Answer:
    """Yes or no."""
    return choice("yes" if value else "no", ("yes", "no"))


def metres(value: float) -> Answer:
    """A length, written with two decimals."""
    return Answer(kind="number", text=f"{value:.2f} m", number=round(value, 4), unit="m")


def count(value: int) -> Answer:
    """How many."""
    return Answer(kind="number", text=str(value), number=float(value), unit="count")


def written(point: Sequence[int]) -> str:
    """A point or box as it stands in questions and answers: "[x, y]"."""
    return "[" + ", ".join(str(int(value)) for value in point) + "]"
