"""Paired tests over seeds: both arms of a pair saw the same data in the same order, from the same start.

What varies between seeds is the order of the data, the turns that are asked, the depth head's first weights and all
noise (from random weights: the backbone's too), so the tests speak about training again, on the same questions.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

MOST_EXACT = 16
"""All sign patterns are gone through up to this many pairs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """How much higher the first arm scores than the second, seed by seed."""

    n: int
    difference: float
    """Mean over the seeds that both have."""
    low: float
    high: float
    """95 % interval by Student's t; infinite with one seed."""
    p_t: float | None
    """Two-sided paired t-test; None with one seed."""
    p_signs: float
    """Two-sided exact test over all sign patterns of the differences: at least 2 / 2^n."""
    effect: float | None
    """Cohen's d_z: mean difference over its standard deviation; None where that is 0 or n is 1."""


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Paired | None:
    """Compare two arms over the seeds that both have; None if there is none.

    Args:
        first: seed -> score.
        second: seed -> score.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    differences = np.array([first[seed] - second[seed] for seed in seeds])
    n, mean = len(differences), float(differences.mean())
    if n == 1:
        return Paired(n=1, difference=mean, low=-math.inf, high=math.inf, p_t=None, p_signs=1.0, effect=None)
    spread = float(differences.std(ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n)
    # Equal differences in every seed: no doubt at all if they are not 0, and nothing to doubt if they are.
    certain = 1.0 if mean == 0 else 0.0
    p_t = certain if spread == 0 else float(2 * stats.t.sf(abs(mean) / spread * math.sqrt(n), n - 1))
    return Paired(
        n=n,
        difference=mean,
        low=mean - half,
        high=mean + half,
        p_t=p_t,
        p_signs=sign_flip(differences.tolist()),
        effect=None if spread == 0 else mean / spread,
    )


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided exact permutation test (Fisher 1935).

    Had each pair been swapped or not by a fair coin: how often would the mean be at least as far from 0?

    Raises:
        ValueError: more than `MOST_EXACT` differences.
    """
    if len(differences) > MOST_EXACT:
        raise ValueError(f"{len(differences)} differences; all sign patterns of at most {MOST_EXACT}.")
    values = np.array(differences)
    observed = abs(values.sum())
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(values))))
    # Rounding must not make a pattern lose against itself.
    return float(np.mean(np.abs(signs @ values) >= observed * (1 - 1e-12) - 1e-15))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values adjusted for how many hypotheses are tested together (Holm 1979)."""
    ordered = sorted(p_values, key=lambda name: p_values[name])
    adjusted, largest = {}, 0.0
    for place, name in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - place) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
