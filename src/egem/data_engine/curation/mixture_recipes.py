"""Named mixtures, and mixtures from a JSON file."""

from dataclasses import dataclass
from pathlib import Path

from egem.core.config import load_json
from egem.core.errors import ConfigError, unknown_name
from egem.records import Category

_QUESTION_SETS = ("paco-lvis", "robopoint", "roboafford", "sharerobot", "roborefit")
_ROBOT_FRAMES = ("robomind", "droid", "agibot-world", "open-x", "lerobot")
_ROOMS = ("scannet", "scannetpp", "arkitscenes")
_ROBOT_QUESTIONS = ("robovqa", "robo2vlm", "refspatial")
_SPATIAL_SETS = ("mindcube", "vica-322k", "spar-7m", "vsi-590k")


@dataclass(frozen=True, kw_only=True)
class Portion:
    """Records of some kind, and how many: a count or a weight."""

    name: str
    category: Category | None = None
    """Any if None; so with the following."""
    sources: tuple[str, ...] = ()
    skills: tuple[str, ...] = ()
    count: int | None = None
    weight: float | None = None

    def fits(self, source: str, category: str, skill: str) -> bool:
        """Whether a record belongs here."""
        return (
            self.category in (None, category)
            and (not self.sources or source in self.sources)
            and (not self.skills or skill in self.skills)
        )


@dataclass(frozen=True, kw_only=True)
class MixtureRecipe:
    """Portions; a record counts for the first that it fits. All have counts, or all have weights."""

    name: str
    portions: tuple[Portion, ...]
    total: int | None = None
    """Records in all, for weights; as many as they allow if None."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigError: names the portion.
        """
        if not self.portions:
            raise ConfigError(f"recipe '{self.name}' has no portions.")
        for portion in self.portions:
            if (portion.count is None) == (portion.weight is None):
                raise ConfigError(
                    f"recipe '{self.name}', portion '{portion.name}': give a count or a weight, not both."
                )
            value = portion.count if portion.weight is None else portion.weight
            if value is not None and value <= 0:
                raise ConfigError(f"recipe '{self.name}', portion '{portion.name}': {value} is not positive.")
        if len({portion.weight is None for portion in self.portions}) == 2:
            raise ConfigError(f"recipe '{self.name}' mixes counts and weights; give one kind.")

    @property
    def has_weights(self) -> bool:
        """Rather than counts."""
        return self.portions[0].weight is not None


MIXTURES: dict[str, MixtureRecipe] = {
    # The paper's sizes: 1M grounding, of which 100k are boxes and points on robot frames; 2.9M spatial (what 4M less
    # the other two leaves), of which 1M are about robots and 100k from scans of rooms; 50k planning.
    "gem-4m": MixtureRecipe(
        name="gem-4m",
        portions=(
            Portion(name="grounding", category="grounding", sources=_QUESTION_SETS, count=900_000),
            Portion(
                name="grounding, robot frames", category="grounding", sources=_ROBOT_FRAMES, count=100_000
            ),
            Portion(name="spatial, rooms", category="spatial", sources=_ROOMS, count=100_000),
            Portion(name="spatial, robots", category="spatial", sources=_ROBOT_QUESTIONS, count=1_000_000),
            Portion(name="spatial", category="spatial", sources=_SPATIAL_SETS, count=1_800_000),
            Portion(name="planning", category="planning", count=50_000),
        ),
    ),
    # The public sample's sizes.
    "gem-250k": MixtureRecipe(
        name="gem-250k",
        portions=(
            Portion(name="grounding", category="grounding", count=100_000),
            Portion(name="spatial", category="spatial", count=100_000),
            Portion(name="planning", category="planning", count=50_000),
        ),
    ),
}
"""Name to recipe."""


def open_mixture(name: str) -> MixtureRecipe:
    """A recipe by name, or from a JSON file with its fields.

    Raises:
        ConfigError: neither, or the file is no recipe.
    """
    if name in MIXTURES:
        return MIXTURES[name]
    if name.endswith(".json") or Path(name).is_file():
        return load_json(MixtureRecipe, Path(name))
    raise unknown_name("mixture", name, [*MIXTURES, "FILE.json"])
