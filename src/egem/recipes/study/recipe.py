"""The sizes of a study: what is rendered, how long everything trains, how much is asked in the end."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from egem.core.config import fingerprint_of
from egem.core.errors import ConfigError
from egem.recipes.render import RenderConfig

PARTS = (0.1, 0.2, 0.7)
"""The training views come in three folders, so that the first, and the first two, are 10 and 30 % of them."""

DEPTH_SKILLS = ("nearer_object", "extreme_object", "nearer_point", "point_depth", "camera_distance")
"""Answered by depth at one or a few places of the picture; a study asks some of them."""
SEEING_SKILLS = (
    "caption",
    "layout",
    "is_there",
    "color_of",
    "shape_of",
    "point_at_object",
    "box_of_object",
    "object_at_point",
)
"""What the pre-trained backbone was asked: what is where in the picture; no distances, no relations in space."""


@dataclass(frozen=True, kw_only=True)
class StudyRecipe:
    """Everything that decides a run's numbers besides its arm, regime and seed."""

    name: str
    world: str = "tabletop"
    size: tuple[int, int] = (96, 96)
    cameras: tuple[str, ...] = ("front", "side")
    skills: tuple[str, ...] = (
        "nearer_object",
        "nearer_point",
        "point_depth",
        "camera_distance",
        "object_distance",
        "camera_side",
    )
    """Most are answered by depth at a place or two (`DEPTH_SKILLS`); left and right needs none."""
    views: int = 6000
    """Training views."""
    questions: int = 10
    """About each of them."""
    render_seed: int = 51

    seen_views: int = 16_000
    """Views that the backbone is pre-trained to describe; others than the training views."""
    seen_questions: int = 9
    seen_skills: tuple[str, ...] = SEEING_SKILLS
    seen_seed: int = 31
    seeing_steps: int = 2400
    seeing_batch: int = 16
    seeing_turns: int = 3
    looking_steps: int = 0
    """Then so many steps with read-outs of what each visual token shows and of where what is asked for lies."""

    connector_steps: int = 20
    head_steps: int = 300
    """Stages 1 and 2, the backbone frozen."""
    head_batch: int = 12
    joint_steps: int = 500
    """Stage 3 from the pre-trained backbone."""
    scratch_steps: int = 1500
    """The only stage from random weights: there is nothing yet for stages 1 and 2 to connect."""
    joint_batch: int = 8
    turns: int = 6
    """Questions about each view that a step asks."""
    backbone_rate: float = 8e-4
    head_rate: float = 1e-3
    depth_weight: float = 0.3
    """The paper's is 0.1; the arms `depth-weight-*` say what it does."""

    test_views: int = 120
    """Held-out views; each of the two other splits gets half of it."""
    probe_views: int = 120
    """Held-out views whose visual tokens the linear probes read."""
    drawn_views: int = 60
    """Held-out views whose depth is drawn."""

    main_seeds: int = 5
    other_seeds: int = 3

    def __post_init__(self) -> None:
        """Refuse what cannot be studied.

        Raises:
            ConfigError: names the field.
        """
        if self.views * PARTS[0] < 2:
            raise ConfigError(f"views {self.views}: a tenth of them must be at least 2.")
        if self.main_seeds < 2:
            raise ConfigError(f"main_seeds {self.main_seeds}: paired tests need at least 2.")

    @property
    def fingerprint(self) -> str:
        """Equal only for recipes whose runs can be compared; the number of seeds does not matter."""
        return fingerprint_of(replace(self, main_seeds=2, other_seeds=2))

    def training_data(self) -> tuple[RenderConfig, ...]:
        """What to render for training, part after part."""
        base = RenderConfig(
            world=self.world,
            size=self.size,
            cameras=self.cameras,
            questions=self.questions,
            skills=self.skills,
        )
        return tuple(
            replace(base, num=round(share * self.views), seed=self.render_seed + part)
            for part, share in enumerate(PARTS)
        )

    def described_data(self) -> RenderConfig:
        """What to render for the backbone's pre-training."""
        return RenderConfig(
            world=self.world,
            num=self.seen_views,
            size=self.size,
            cameras=self.cameras,
            seed=self.seen_seed,
            questions=self.seen_questions,
            skills=self.seen_skills,
        )

    def test_data(self) -> dict[str, RenderConfig]:
        """Split -> what to render for scoring."""
        base = RenderConfig(
            world=self.world,
            size=self.size,
            cameras=self.cameras,
            questions=self.questions,
            skills=self.skills,
            seed=self.render_seed,
        )
        half = max(1, self.test_views // 2)
        return {
            "held_out": replace(base, num=self.test_views, split="held_out"),
            "new_cameras": replace(base, num=half, split="new_cameras"),
            "new_objects": replace(base, num=half, split="new_objects"),
        }


def tabletop() -> StudyRecipe:
    """One processor core: 96 x 96 pixels, two cameras, six skills; about six minutes a run."""
    return StudyRecipe(name="tabletop")


def tabletop_gpu() -> StudyRecipe:
    """One GPU, several runs side by side: the same world and model, ten times the samples a run."""
    return StudyRecipe(
        name="tabletop-gpu",
        views=20_000,
        seeing_steps=6000,
        seeing_batch=32,
        head_steps=1500,
        head_batch=32,
        joint_steps=3000,
        scratch_steps=6000,
        joint_batch=32,
        test_views=400,
        probe_views=300,
        drawn_views=200,
    )


def balls() -> StudyRecipe:
    """One processor core: a world of plain balls, 96 x 96 pixels, five skills; a quarter of an hour a run."""
    return StudyRecipe(
        name="balls",
        world="balls",
        cameras=("front",),
        skills=("nearer_object", "extreme_object", "camera_distance", "nearest_neighbour", "camera_side"),
        views=8000,
        questions=15,
        seen_views=10_000,
        seen_skills=("layout", "is_there", "point_at_object", "object_at_point"),
        # The read-outs teach from the first step on.
        seeing_steps=1,
        looking_steps=1500,
        joint_steps=1200,
        turns=8,
    )


STUDIES: dict[str, Callable[[], StudyRecipe]] = {
    "balls": balls,
    "tabletop": tabletop,
    "tabletop-gpu": tabletop_gpu,
}
"""Name -> function returning the recipe; the command line overrides its fields."""
