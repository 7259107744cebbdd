"""The robot half: does a policy act better for having drawn depth before it learns to act, or while it does?

Two backbones of the perception half, taught language alone or language and depth from the same start, times two
losses, the action's alone or with depth beside it. All learn from the same demonstrations for equally many steps.

    out/demos/                the scripted expert's episodes, a LeRobot dataset with depth
    out/backbones/            of the perception half, what is needed of it
    out/runs/<arm>-<seed>/    a policy's training; its episodes in rollout/
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from egem.core.config import load_json, save_json
from egem.core.errors import ConfigError
from egem.core.files import locked
from egem.core.machine import commit
from egem.models.vla_policy import CheckpointPolicy
from egem.recipes.study.parts import Made, Study, lock_of, make_missing, trained
from egem.recipes.study.plan import StudyRun
from egem.recipes.study.policy_recipe import POLICY_ARMS, PolicyArm, PolicyRecipe, policy_plan
from egem.recipes.study.run import machine_of, minutes_of
from egem.recipes.vla import tiny_vla, tiny_vla_without_depth
from egem.rollout.recording import NOTES_FILE
from egem.rollout.run import RolloutConfig, rollout
from egem.rollout.summary import TaskResult
from egem.training.config import TrainConfig
from egem.training.metrics import read_metrics
from egem.training.run import MODEL_LINK


@dataclass(frozen=True, kw_only=True)
class PolicyResult:
    """One trained and scored policy."""

    version: int = 1
    recipe_fingerprint: str
    arm: str
    seed: int
    overall: TaskResult
    tasks: tuple[TaskResult, ...]
    action_loss: float
    """Mean over the last twentieth of the training."""
    minutes: float
    """Of training, without the backbone's."""
    machine: str
    commit: str | None
    """Of the code; None for an installed package."""

    @property
    def name(self) -> str:
        """Of its run's folder and of its file."""
        return f"{self.arm}-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class PolicyStudy:
    """The robot half being made: its sizes and its folder."""

    recipe: PolicyRecipe
    out: Path
    backbones: Path | None = None
    """Folder of the perception half, to go on with what is there; `out/backbones` otherwise."""
    device: str = "auto"
    """As in training."""
    workers: int = 1
    """Processes that prepare a run's batches; 0: episodes, too, are played in this process."""

    def make(
        self,
        results: Path,
        *,
        arms: Sequence[str] = (),
        max_runs: int | None = None,
        keep_models: bool = False,
    ) -> Made:
        """Make the runs that have no file of results yet, in order; several processes may do this side by side.

        Args:
            results: folder of the small files.
            arms: only these; all if empty.
            max_runs: stop after so many.
            keep_models: keep each run's folder.

        Raises:
            ConfigError: results of a study with other sizes are there.
        """
        load_policy_results(results, self.recipe)
        wanted = [(arm, seed) for arm, seed in policy_plan(self.recipe) if not arms or arm.name in arms]
        paths = [_path_of(results, self.recipe, f"{arm.name}-{seed}") for arm, seed in wanted]

        def make_one(number: int) -> None:
            save_json(self.run(*wanted[number]), paths[number])

        return make_missing(paths, make_one, out=self.out, max_runs=max_runs, keep_models=keep_models)

    def demonstrations(self) -> Path:
        """The folder of the expert's episodes.

        Raises:
            ConfigError: they were recorded for a study with other sizes.
        """
        folder, recipe = self.out / "demos", self.recipe
        config = RolloutConfig(
            tasks=recipe.tasks,
            episodes=recipe.demonstrations,
            noise=recipe.noise,
            size=recipe.size,
            out=self.out / "expert",
            record=folder,
            films=0,
        )
        note = self.out / "demos.json"
        with locked(lock_of(self.out, "demos")):
            if not (folder / NOTES_FILE).exists():
                save_json(config, note)
                rollout(replace(config, workers=self._players), "expert")
            elif load_json(RolloutConfig, note) != config:
                raise ConfigError(
                    f"{folder} was recorded with other options (see {note}); give each its own --out."
                )
        return folder

    def training(self, arm: PolicyArm, seed: int) -> TrainConfig:
        """The configuration of a policy's training: `tiny-vla` from the backbone of the arm."""
        recipe = tiny_vla() if arm.draws_depth else tiny_vla_without_depth()
        expert, joint = recipe.stages
        batch_size = self.recipe.batch_size
        backbones = Study(
            recipe=self.recipe.backbones,
            out=self.backbones or self.out / "backbones",
            device=self.device,
            workers=self.workers,
        )
        run = StudyRun(regime="pretrained", arm=arm.backbone, seed=seed)
        with locked(lock_of(self.out, f"backbone-{run.name}")):
            backbone = backbones.finished(run)
        return replace(
            recipe,
            run=self.out / "runs" / f"{arm.name}-{seed}",
            data=(self.demonstrations(),),
            checkpoint=backbone / MODEL_LINK,
            stages=(
                replace(expert, steps=self.recipe.expert_steps, batch_size=batch_size),
                replace(joint, steps=self.recipe.joint_steps, batch_size=batch_size),
            ),
            seed=seed,
            device=self.device,
            workers=self.workers,
            log_every=50,
            trackers=(),
        )

    def run(self, arm: PolicyArm, seed: int) -> PolicyResult:
        """Train and score one policy."""
        folder = trained(self.training(arm, seed))
        policy = CheckpointPolicy.from_checkpoint(folder / MODEL_LINK, device=self.device)
        config = RolloutConfig(
            tasks=self.recipe.tasks,
            episodes=self.recipe.episodes,
            size=self.recipe.size,
            out=folder / "rollout",
            workers=self._players,
        )
        summary = rollout(config, str(folder / MODEL_LINK), policy)
        rows = read_metrics(folder)
        last = [row["loss/action"] for row in rows[-max(1, len(rows) // 20) :]]
        return PolicyResult(
            recipe_fingerprint=self.recipe.fingerprint,
            arm=arm.name,
            seed=seed,
            overall=summary.overall,
            tasks=summary.tasks,
            action_loss=fmean(last),
            minutes=minutes_of(rows),
            machine=machine_of(policy.model.device),
            commit=commit(),
        )

    @property
    def _players(self) -> int | None:
        """Processes that play episodes: one for each core, or none but this one."""
        return 0 if self.workers == 0 else None


def load_policy_results(folder: Path, recipe: PolicyRecipe) -> list[PolicyResult]:
    """All finished policies, by name.

    Raises:
        ConfigError: a file is broken, or of other sizes.
    """
    found = [(path, load_json(PolicyResult, path)) for path in sorted((folder / recipe.name).glob("*.json"))]
    for path, result in found:
        if path.stem != result.name or result.arm not in POLICY_ARMS:
            raise ConfigError(f"{path} is the result of {recipe.name}/{result.name}; give it its name back.")
        if result.recipe_fingerprint != recipe.fingerprint:
            raise ConfigError(
                f"{path} comes from a study of other sizes ({result.recipe_fingerprint}, not {recipe.fingerprint}); "
                "move it elsewhere or give the options it was made with."
            )
    return [result for _, result in found]


def _path_of(results: Path, recipe: PolicyRecipe, name: str) -> Path:
    return results / recipe.name / f"{name}.json"
