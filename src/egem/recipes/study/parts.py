"""What the runs of a study share: rendered data, the backbone they start from, depth heads after stages 1 and 2.

    out/data/{train-1,train-2,train-3,described,held_out,new_cameras,new_objects}/    records, and NAME.json beside each
    out/seeing/                 the run that taught the backbone to describe pictures
    out/heads/<head>-<seed>/    stages 1 and 2: the backbone frozen, a new connector and depth head

Each is made once, by whichever process needs it first, while others wait for it.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from egem.core.config import load_json, save_json
from egem.core.errors import ConfigError
from egem.core.files import locked, new_folder
from egem.models.depth_codec import PixelCodecConfig
from egem.models.gem import GEM
from egem.models.presets import PRESETS, Preset, build
from egem.recipes.render import RenderConfig, render
from egem.recipes.study.arms import ARMS, Arm
from egem.recipes.study.plan import StudyRun
from egem.recipes.study.recipe import StudyRecipe
from egem.recipes.tiny import tiny_describe
from egem.recipes.tiny_start import ReadOutConfig, train_with_read_out
from egem.shards import MANIFEST
from egem.training.config import StageConfig, TrainConfig
from egem.training.loop import train
from egem.training.run import MODEL_LINK

logger = logging.getLogger(__name__)

IMAGE_CODEC = PixelCodecConfig(channels=3, factor=4, scale=2.9, shift=-0.12)
"""Of pictures: latents of the tabletop's have about the mean 0 and the variance 1 of the tiny preset's log depth."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study being made: its sizes and its folder."""

    recipe: StudyRecipe
    out: Path
    device: str = "auto"
    """As in training."""
    workers: int = 1
    """Processes that prepare a run's batches."""

    def records(self, name: str, config: RenderConfig) -> Path:
        """The folder of rendered records of that name.

        Raises:
            ConfigError: it was rendered otherwise, for a study with other sizes.
            RenderError: no renderer can be had.
        """
        folder = self.out / "data" / name
        note = folder.with_suffix(".json")
        # How many processes rendered changes nothing.
        config = replace(config, workers=0)
        with locked(lock_of(self.out, f"data-{name}")):
            if not (folder / MANIFEST).exists():
                save_json(config, note)
                render(config, folder)
            elif load_json(RenderConfig, note) != config:
                raise ConfigError(
                    f"{folder} was rendered for a study with other sizes (see {note}); give each its own --out."
                )
        return folder

    def training_data(self, num_parts: int | None = None) -> tuple[Path, ...]:
        """The training records' folders: all parts, or the first few."""
        parts = self.recipe.training_data()[:num_parts]
        return tuple(self.records(f"train-{n}", config) for n, config in enumerate(parts, 1))

    def test_data(self) -> dict[str, Path]:
        """Split -> folder of its records."""
        return {split: self.records(split, config) for split, config in self.recipe.test_data().items()}

    def seeing(self) -> Path:
        """The checkpoint whose backbone all runs of the regime `pretrained` start from."""
        recipe, describe = self.recipe, tiny_describe()
        (stage,) = describe.stages
        stage = replace(
            stage,
            steps=recipe.seeing_steps,
            batch_size=recipe.seeing_batch,
            max_turns=recipe.seeing_turns,
        )
        config = replace(
            describe,
            run=self.out / "seeing",
            data=(self.records("described", recipe.described_data()),),
            stages=(stage,),
            device=self.device,
            workers=self.workers,
            log_every=50,
            trackers=(),
        )
        looking = self.out / "looking"
        with locked(lock_of(self.out, "seeing")):
            seen = trained(config, lambda: build(PRESETS["tiny"], seed=config.seed)) / MODEL_LINK
            if not recipe.looking_steps:
                return seen
            if not looking.exists():
                with new_folder(looking) as folder:
                    train_with_read_out(
                        ReadOutConfig(
                            data=config.data,
                            checkpoint=seen,
                            out=folder / MODEL_LINK,
                            steps=recipe.looking_steps,
                            batch_size=recipe.seeing_batch,
                            max_turns=recipe.seeing_turns + 1,
                            language_weight=1.0,
                            with_depth=False,
                            workers=self.workers,
                            device=self.device,
                        )
                    )
        return looking / MODEL_LINK

    def start(self, run: StudyRun, arm: Arm) -> GEM:
        """The model a run starts from when there is no depth head yet: the same backbone in every arm.

        From random weights every seed has a backbone of its own.
        """
        model = build(_preset(arm), seed=run.seed)
        if run.regime == "pretrained":
            seeing = GEM.from_pretrained(self.seeing(), dtype=None)
            model.backbone.load_state_dict(seeing.backbone.state_dict())
        return model

    def head(self, run: StudyRun, arm: Arm) -> Path | None:
        """The run folder of stages 1 and 2; None where the arm or the regime has none."""
        if run.regime == "scratch" or arm.head is None:
            return None
        recipe = self.recipe
        shared = StageConfig(
            name="connector",
            learning_rates={"connector": recipe.head_rate},
            steps=recipe.connector_steps,
            batch_size=recipe.head_batch,
            max_turns=1,
            language_weight=0.0,
            depth_weight=1.0,
        )
        depth_head = replace(
            shared,
            name="depth_head",
            learning_rates={"connector": recipe.head_rate, "depth_head": 2 * recipe.head_rate},
            steps=recipe.head_steps,
        )
        folder = self.out / "heads" / f"{arm.head}-{run.seed}"
        config = replace(self._config(run, arm), run=folder, stages=(shared, depth_head))
        with locked(lock_of(self.out, f"head-{folder.name}")):
            return trained(config, lambda: self.start(run, arm))

    def joint(self, run: StudyRun, arm: Arm) -> TrainConfig:
        """The configuration of a run's last stage, in which the arms differ in nothing but their depth branch."""
        recipe = self.recipe
        weight = recipe.depth_weight if arm.depth_weight is None else arm.depth_weight
        rates = {"backbone": recipe.backbone_rate}
        if arm.has_head:
            rates |= {"connector": recipe.backbone_rate, "depth_head": recipe.backbone_rate}
        stage = StageConfig(
            name="joint",
            learning_rates=rates,
            steps=recipe.joint_steps if run.regime == "pretrained" else recipe.scratch_steps,
            batch_size=recipe.joint_batch,
            max_turns=recipe.turns,
            language_weight=1.0,
            depth_weight=weight,
            min_learning_rate_ratio=0.02,
        )
        return replace(self._config(run, arm), stages=(stage,))

    def finished(self, run: StudyRun) -> Path:
        """The run folder of a run's whole training, which is begun or gone on with if need be."""
        arm = ARMS[run.arm]
        head = self.head(run, arm)

        def start() -> GEM:
            if head is None:
                return self.start(run, arm)
            return GEM.from_pretrained(head / MODEL_LINK, dtype=torch.float32).train()

        return trained(self.joint(run, arm), start)

    def _config(self, run: StudyRun, arm: Arm) -> TrainConfig:
        placeholder = StageConfig(name="none", learning_rates={"connector": 1.0}, steps=1)
        return TrainConfig(
            run=self.out / "runs" / run.name,
            data=self.training_data(arm.num_parts),
            stages=(placeholder,),
            preset="tiny",
            depth_target=arm.target,
            latents="off",
            seed=run.seed,
            dtype="auto",
            device=self.device,
            weight_decay=0.01,
            betas=(0.9, 0.95),
            workers=self.workers,
            checkpoint_every=250,
            log_every=50,
            trackers=(),
        )


@dataclass(frozen=True, kw_only=True)
class Made:
    """What one call of `make_missing` did."""

    results: tuple[Path, ...]
    """Files of the runs it made."""
    num_left: int
    """Runs that are not finished yet: beyond the limit, or in the hands of other processes."""


def make_missing(
    paths: Sequence[Path],
    make_one: Callable[[int], None],
    *,
    out: Path,
    max_runs: int | None,
    keep_models: bool,
) -> Made:
    """Make the runs that have no file of results yet, in order; several processes may do so side by side.

    Args:
        paths: of their results; a file's stem is also the name of the run's folder in `out/runs`.
        make_one: given a run's place among the paths, trains, measures and writes its file.
        out: the study's folder.
        max_runs: stop after so many.
        keep_models: keep each run's folder; otherwise it is removed once its results are safe.
    """
    made: list[Path] = []
    for number, path in enumerate(paths):
        if max_runs is not None and len(made) >= max_runs:
            break
        with locked(lock_of(out, f"run-{path.stem}"), wait=False) as mine:
            if path.exists() or not mine:
                continue
            logger.info("run %d of %d: %s", number + 1, len(paths), path.stem)
            make_one(number)
            made.append(path)
            if not keep_models:
                shutil.rmtree(out / "runs" / path.stem)
    return Made(results=tuple(made), num_left=sum(not path.exists() for path in paths))


def trained(config: TrainConfig, start: Callable[[], GEM] | None = None) -> Path:
    """The run folder of a finished training, which is begun or gone on with if need be.

    Args:
        config: of the training.
        start: makes the model that it begins with; the configured checkpoint otherwise.
    """
    last = f"{MODEL_LINK}-{config.stages[-1].name}"
    if (config.run / MODEL_LINK).resolve().name == last:
        return config.run
    folder = train(config, model=None if start is None else start(), resume=True)
    # Nothing goes on from here, and a study has many runs.
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "last").unlink(missing_ok=True)
    return folder


def lock_of(out: Path, name: str) -> Path:
    """The lock file of something that a study makes."""
    # Names hold dots: depth-weight-0.1-0 and depth-weight-0.1-1 are two locks.
    return out / "locks" / f"{name}.lock"


def _preset(arm: Arm) -> Preset:
    """The tiny preset with the arm's depth head: of a picture's three channels, or for regression."""
    tiny = PRESETS["tiny"]
    config = replace(tiny.config, objective=arm.objective)
    if arm.target != "image":
        return replace(tiny, config=config)
    # Only the number of channels is taken from the encoding: what is drawn is the picture.
    depth = replace(config.depth, encoding="spectral")
    channels = IMAGE_CODEC.channels * IMAGE_CODEC.factor**2
    return replace(
        tiny,
        config=replace(config, depth=depth),
        depth_head=tiny.depth_head | {"in_channels": channels, "out_channels": channels},
        depth_codec=IMAGE_CODEC,
    )
