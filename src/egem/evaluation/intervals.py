"""Means with 95 % confidence intervals, for scores between 0 and 1 that come in clusters.

Questions about one scene share its picture, so their scores are not independent: groups, not questions,
are what was drawn at random.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

Z_95 = 1.959963984540054
"""Two-sided 95 % point of the standard normal distribution."""

NUM_RESAMPLES = 2000

FEWEST_GROUPS = 10
"""With fewer clusters than this a bootstrap interval is too narrow to be believed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean score and where it would lie, had other scenes been drawn."""

    n: int
    """Number of scores."""
    mean: float
    low: float
    high: float

    def is_above(self, other: "Estimate") -> bool:
        """Whether this interval lies wholly above the other one, without touching it."""
        return self.low > other.high


def estimate(scores: Sequence[float], groups: Sequence[str], *, seed: int = 0) -> Estimate:
    """Mean and 95 % interval of scores that belong to groups.

    Scores of 0 and 1 get a Wilson interval on the effective number of questions (the number divided by
    the design effect, Kish 1965; the plain Wilson interval where no two questions share a group). Other
    scores get a percentile bootstrap that draws whole groups. Where a bootstrap cannot say anything (few
    groups, or all groups alike) the Wilson interval on the number of groups stands in: among scores in
    [0, 1] with a given mean, 0/1 scores vary most, so it errs on the wide side.

    Args:
        scores: one per question, each in [0, 1].
        groups: the group (scene) of each question.
        seed: of the bootstrap; the same scores always get the same interval.

    Raises:
        ValueError: no scores, lengths differ, or a score outside [0, 1].
    """
    if len(scores) == 0 or len(scores) != len(groups):
        raise ValueError(f"{len(scores)} scores for {len(groups)} groups; one each, and at least one.")
    values = np.asarray(scores, dtype=np.float64)
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError("a score lies outside [0, 1].")
    sums, counts = _group_sums(values, groups)
    mean = float(values.mean())
    if np.all((values == 0) | (values == 1)):
        low, high = wilson(mean, _effective_number(values, sums, counts))
    elif len(sums) < FEWEST_GROUPS or np.ptp(sums / counts) == 0:
        low, high = wilson(mean, len(sums))
    else:
        low, high = _bootstrap(sums, counts, seed)
    return Estimate(n=len(values), mean=mean, low=low, high=high)


def wilson(mean: float, n: float | int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927).

    Args:
        mean: the share of successes.
        n: number of trials; an effective number need not be whole.
    """
    centre = (mean + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 / (1 + Z_95**2 / n) * np.sqrt(mean * (1 - mean) / n + Z_95**2 / (4 * n**2))
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def _group_sums(
    values: Float[np.ndarray, "score"], groups: Sequence[str]
) -> tuple[Float[np.ndarray, "group"], Int[np.ndarray, "group"]]:
    names, rows = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    return np.bincount(rows, values, len(names)), np.bincount(rows, minlength=len(names))


def _effective_number(values: Any, sums: Any, counts: Any) -> float:
    n, num_groups, mean = len(values), len(sums), values.mean()
    if num_groups == n:
        return float(n)
    if mean in (0.0, 1.0) or num_groups < 2:
        return float(num_groups)
    residuals = sums - counts * mean
    variance_clustered = num_groups / (num_groups - 1) * np.sum(residuals**2) / n**2
    design_effect = variance_clustered / (mean * (1 - mean) / n)
    return float(n / max(1.0, design_effect))


def _bootstrap(sums: Any, counts: Any, seed: int) -> tuple[float, float]:
    num_groups = len(sums)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=NUM_RESAMPLES)
    means = (drawn @ sums) / (drawn @ counts)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
