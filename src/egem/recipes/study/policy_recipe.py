"""The sizes of the robot half, its arms and its runs."""

from dataclasses import dataclass, field, replace

from egem.core.config import fingerprint_of
from egem.recipes.study.recipe import StudyRecipe, tabletop


@dataclass(frozen=True, kw_only=True)
class PolicyArm:
    """One way to come to a policy."""

    name: str
    title: str
    backbone: str
    """The arm of the perception half, of the same seed, whose backbone it starts from."""
    draws_depth: bool
    """Whether its loss is `action + 0.1 * depth`, or the action's alone."""


POLICY_ARMS: dict[str, PolicyArm] = {
    arm.name: arm
    for arm in (
        PolicyArm(
            name="plain", title="language backbone, action loss", backbone="language", draws_depth=False
        ),
        PolicyArm(
            name="loss", title="language backbone, action + depth", backbone="language", draws_depth=True
        ),
        PolicyArm(name="backbone", title="depth backbone, action loss", backbone="depth", draws_depth=False),
        PolicyArm(name="both", title="depth backbone, action + depth", backbone="depth", draws_depth=True),
    )
}
"""Name -> arm. The head of `loss` is new: its backbone never had one; that of `both` has learned to draw."""


@dataclass(frozen=True, kw_only=True)
class PolicyRecipe:
    """Everything that decides a policy's number besides its arm and seed."""

    name: str = "policies"
    tasks: tuple[str, ...] = ("lift", "place_on", "place_in", "push_to_side", "stack")
    demonstrations: int = 200
    """Of each task."""
    noise: float = 0.2
    """Of the expert's executed actions (what is recorded stays clean), so that policies see how to recover."""
    size: tuple[int, int] = (96, 96)
    expert_steps: int = 3000
    """Of `tiny-vla`'s first stage, in which the vision tower is left as it is."""
    joint_steps: int = 1000
    """Of its second stage, in which everything learns."""
    batch_size: int = 16
    episodes: int = 50
    """Of each task that a policy is scored by; no scene of a demonstration is among them."""
    seeds: int = 3
    backbones: StudyRecipe = field(default_factory=tabletop)

    @property
    def fingerprint(self) -> str:
        """Equal only for recipes whose runs can be compared; the number of seeds does not matter."""
        return fingerprint_of(
            replace(self, seeds=1, backbones=replace(self.backbones, main_seeds=2, other_seeds=2))
        )


def policy_plan(recipe: PolicyRecipe) -> tuple[tuple[PolicyArm, int], ...]:
    """All runs, seed after seed."""
    return tuple((arm, seed) for seed in range(recipe.seeds) for arm in POLICY_ARMS.values())
