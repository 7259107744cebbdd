"""What was expected before the first run, and what the finished runs say about it."""

from collections.abc import Sequence
from dataclasses import dataclass

from egem.recipes.study.plan import Regime
from egem.recipes.study.results import RunResult
from egem.recipes.study.significance import Paired, holm, paired

ALPHA = 0.01


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """The first arm beats the second by at least so much."""

    name: str
    text: str
    first: str
    second: str
    measure: str = "held_out"
    regime: Regime = "pretrained"
    least: float = 0.0
    """What the mean difference must reach."""


HYPOTHESES = (
    Hypothesis(
        name="depth-language",
        text="H1: (b) beats (a) by at least 10 points in mean skill accuracy, held-out scenes",
        first="depth",
        second="language",
        least=0.10,
    ),
    Hypothesis(
        name="depth-skills",
        text="H2: and by more on the depth-like skills than on all",
        first="depth",
        second="language",
        measure="depth_excess",
    ),
    Hypothesis(
        name="depth-shuffled",
        text="H3: (b) beats (e), another image's depth",
        first="depth",
        second="shuffled",
    ),
    Hypothesis(name="depth-unused", text="H4: (b) beats (f), weight 0", first="depth", second="unused"),
    Hypothesis(
        name="depth-image",
        text="H5: (b) beats (c), RGB reconstruction",
        first="depth",
        second="image",
    ),
)
"""All about the pre-trained regime; tested together, so their p-values are adjusted by Holm's method."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the runs at hand say."""

    test: Paired | None
    p_holm: float | None
    says: str


def judged(results: Sequence[RunResult]) -> dict[str, Verdict]:
    """Hypothesis by name -> verdict. One without two pairs of runs is open."""
    tests = {hypothesis.name: _test(hypothesis, results) for hypothesis in HYPOTHESES}
    known = {name: test.p_t for name, test in tests.items() if test is not None and test.p_t is not None}
    adjusted = holm({name: p for name, p in known.items() if p is not None})
    return {
        hypothesis.name: Verdict(
            test=tests[hypothesis.name],
            p_holm=adjusted.get(hypothesis.name),
            says=_says(hypothesis, tests[hypothesis.name], adjusted.get(hypothesis.name)),
        )
        for hypothesis in HYPOTHESES
    }


def _test(hypothesis: Hypothesis, results: Sequence[RunResult]) -> Paired | None:
    def scores(arm: str) -> dict[int, float]:
        return {
            result.seed: result.score(hypothesis.measure)
            for result in results
            if result.arm == arm and result.regime == hypothesis.regime
        }

    return paired(scores(hypothesis.first), scores(hypothesis.second))


def _says(hypothesis: Hypothesis, test: Paired | None, p: float | None) -> str:
    if test is None or p is None:
        return "open"
    if test.difference <= 0:
        return "no: not above"
    if p >= ALPHA:
        return f"not shown at p < {ALPHA:g}"
    if test.difference < hypothesis.least:
        return f"above, but by less than {100 * hypothesis.least:.0f} points"
    return "yes"
