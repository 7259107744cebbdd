"""The files that finished runs leave: one JSON of a few kilobytes each, to be committed and gathered from anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from egem.core.config import load_json, save_json
from egem.core.errors import ConfigError
from egem.recipes.study.arms import ARMS
from egem.recipes.study.plan import Regime, StudyRun
from egem.recipes.study.recipe import DEPTH_SKILLS
from egem.recipes.study.scoring import BySkill, Measured

SPLITS = ("held_out", "new_cameras", "new_objects")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run took; stages 1 and 2 are counted in full, also where another run had made them."""

    head_minutes: float
    joint_minutes: float
    joint_samples: int
    joint_tokens: int
    machine: str


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One finished run."""

    version: int = 1
    recipe: str
    recipe_fingerprint: str
    regime: Regime
    arm: str
    seed: int
    data: str
    """Fingerprint of the training records."""
    questions: dict[str, str]
    """Split -> fingerprint of its questions."""
    blind: dict[str, BySkill]
    """Split -> skill -> what the best guess without the picture scores."""
    measured: Measured
    joint_loss: tuple[float, float]
    """Language loss over the first and the last twentieth of the joint stage."""
    cost: Cost
    commit: str | None
    """Of the code; None for an installed package."""
    egem: str
    torch: str

    @property
    def run(self) -> StudyRun:
        """Which run it is of."""
        return StudyRun(regime=self.regime, arm=self.arm, seed=self.seed)

    def score(self, measure: str) -> float:
        """One of `MEASURES`.

        Raises:
            ConfigError: no such measure, or the run has none of it.
        """
        if measure not in MEASURES:
            raise ConfigError(f"unknown measure '{measure}'; known: {', '.join(MEASURES)}.")
        measured = self.measured
        if measure in SPLITS:
            return fmean(measured.accuracy[measure].values())
        if measure == "depth_skills":
            return fmean([measured.accuracy["held_out"][skill] for skill in _depth_skills(measured)])
        if measure == "depth_excess":
            return self.score("depth_skills") - self.score("held_out")
        if measure == "answer_loss":
            return fmean(measured.answer_loss.values())
        if measure == "probe_depth":
            return measured.probes.depth.r2
        return measured.probes.position.r2


MEASURES: dict[str, str] = {
    "held_out": "mean over skills, held-out scenes",
    "depth_skills": "mean over depth-like skills, held-out scenes",
    "depth_excess": "depth-like skills minus all skills, held-out scenes",
    "new_cameras": "mean over skills, new camera poses",
    "new_objects": "mean over skills, new colours and shapes",
    "answer_loss": "loss of right answers, nats per token (less is better)",
    "probe_depth": "linear probe: depth, R2",
    "probe_position": "linear probe: 3D position, R2",
}
"""Name -> what it is."""


def path_of(folder: Path, recipe: str, run: StudyRun) -> Path:
    """Where the result of a run is kept."""
    return folder / recipe / f"{run.name}.json"


def save_result(folder: Path, result: RunResult) -> Path:
    """Write a run's file."""
    path = path_of(folder, result.recipe, result.run)
    save_json(result, path)
    return path


def load_results(folder: Path, recipe: str) -> list[RunResult]:
    """All finished runs of a study, by name.

    Raises:
        ConfigError: a file is broken, or runs of different sizes or questions lie side by side.
    """
    found = [(path, load_json(RunResult, path)) for path in sorted((folder / recipe).glob("*.json"))]
    for path, result in found:
        if path.stem != result.run.name or result.recipe != recipe or result.arm not in ARMS:
            raise ConfigError(
                f"{path} is the result of {result.recipe}/{result.run.name}; give it its name back."
            )
        for what in ("recipe_fingerprint", "questions"):
            expected, given = getattr(found[0][1], what), getattr(result, what)
            if expected != given:
                raise ConfigError(
                    f"{path} and {found[0][0]} cannot be compared: {what} is {given!r} in one and "
                    f"{expected!r} in the other. Move the runs of one of the two elsewhere and make them anew."
                )
    return [result for _, result in found]


def by_run(results: Sequence[RunResult]) -> dict[StudyRun, RunResult]:
    """The results by what they are of."""
    return {result.run: result for result in results}


def _depth_skills(measured: Measured) -> list[str]:
    found = [skill for skill in DEPTH_SKILLS if skill in measured.accuracy["held_out"]]
    if not found:
        raise ConfigError(f"none of the depth-like skills ({', '.join(DEPTH_SKILLS)}) was asked.")
    return found
