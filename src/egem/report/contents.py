"""What a report shows, as plain values: whoever trains or scores fills these in.

Nothing here knows how the numbers came about, so that every kind of run can have a report.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from egem.report.curves import Chart
from egem.report.drawing import Marks
from egem.report.panels import DepthPicture

State = Literal["good", "bad", "plain"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """One of the few numbers at the top of the page."""

    label: str
    value: str
    note: str = ""
    """What to compare it with: "mean depth map: 0.41"."""
    state: State = "plain"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRow:
    """One training stage."""

    name: str
    modules: tuple[str, ...]
    """What was trained."""
    trainable_parameters: int
    steps: int
    losses: str = ""
    """Such as "flow" or "language + 0.1 * depth", ..."""
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRow:
    """A mean score in [0, 1] with its 95 % interval, beside what can be had without looking."""

    name: str
    category: str = ""
    n: int
    mean: float
    low: float
    high: float
    blind_mean: float | None = None
    blind_low: float | None = None
    blind_high: float | None = None
    above_blind: bool = False
    """The two intervals do not touch and this one lies higher."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SkillTable:
    """Scores of one benchmark."""

    benchmark: str
    overall: ScoreRow
    rows: tuple[ScoreRow, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainTable:
    """Any table of words and numbers; the first column is words."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthRow:
    """Depth errors of one source of depth maps, averaged over images."""

    name: str
    family: str
    """How maps were aligned: rows of different families are not to be compared."""
    num_images: int
    abs_rel: float
    rmse: float
    delta1: float
    delta2: float
    delta3: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthTable:
    """Depth errors on one benchmark: generated maps, what can be guessed, and the encoding's ceiling."""

    benchmark: str
    rows: tuple[DepthRow, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A question with the picture it is about, the right answer and the one that was given."""

    image: UInt8[np.ndarray, "height width 3"]
    skill: str
    question: str
    expected: str
    given: str
    score: float
    right_marks: Marks = field(default_factory=Marks)
    given_marks: Marks = field(default_factory=Marks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything on the page, from top to bottom; what is empty is left out."""

    title: str
    summary: str = ""
    """A sentence or two: what this run is."""
    headlines: tuple[Headline, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    """(name, value): data, machine, commit, seed, wall time."""
    stages: tuple[StageRow, ...] = ()
    charts: tuple[Chart, ...] = ()
    totals: tuple[PlainTable, ...] = ()
    """Headline numbers of published benchmarks, or a comparison of two results."""
    skill_tables: tuple[SkillTable, ...] = ()
    depth_tables: tuple[DepthTable, ...] = ()
    depth_pictures: tuple[DepthPicture, ...] = ()
    depth_panel: UInt8[np.ndarray, "height width 3"] | None = None
    """Maps that were drawn while training, as one picture."""
    examples: tuple[Example, ...] = ()
    mistakes: tuple[Example, ...] = ()
    """The worst answers."""
    notes: tuple[str, ...] = ()
    """What a reader must know to judge the numbers."""
