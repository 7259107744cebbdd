"""Which runs a study has, the decisive ones first."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from egem.recipes.study.arms import ARMS, DEPTH, FRACTIONS, LANGUAGE, MAIN, OTHERS, WEIGHTS, Arm
from egem.recipes.study.recipe import StudyRecipe

Regime = Literal["pretrained", "scratch"]
"""Where the backbone starts: it can describe pictures of this world (the paper's situation), or knows nothing."""


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """One training with its measurements."""

    regime: Regime
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder and of its file of results."""
        return f"{self.regime}-{self.arm}-{self.seed}"


def plan(recipe: StudyRecipe) -> tuple[StudyRun, ...]:
    """All runs, in the order in which they are made.

    The arms that decide the hypotheses come first, seed after seed, so that every finished round of them can be
    compared. Weights and fractions of the data are tried from the pre-trained backbone only.
    """
    return tuple(
        StudyRun(regime=regime, arm=arm.name, seed=seed)
        for regime, arms, seeds in _blocks(recipe)
        for seed in range(seeds)
        for arm in arms
    )


def reference_of(arm: str) -> str:
    """The arm that another is compared with: language only, on as much data."""
    parts = ARMS[arm].num_parts
    return next(a.name for a in (LANGUAGE, *FRACTIONS) if not a.has_head and a.num_parts == parts)


def _blocks(recipe: StudyRecipe) -> Iterator[tuple[Regime, tuple[Arm, ...], int]]:
    weights = tuple(arm for arm in WEIGHTS if arm.depth_weight != recipe.depth_weight)
    # From random weights there are no stages 1 and 2 to leave out.
    without_direct = tuple(arm for arm in OTHERS if arm.warm_up)
    assert DEPTH in MAIN
    yield "pretrained", MAIN, recipe.main_seeds
    yield "pretrained", OTHERS, recipe.other_seeds
    yield "pretrained", weights, recipe.other_seeds
    yield "pretrained", FRACTIONS, recipe.other_seeds
    yield "scratch", MAIN, recipe.main_seeds
    yield "scratch", without_direct, recipe.other_seeds
