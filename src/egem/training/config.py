"""What a training run is, as data: nothing here computes anything or needs torch."""

import math
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from egem.core.config import load_json, to_dict
from egem.core.errors import ConfigError

CONFIG_FILE = "config.json"
"""Name of the stored configuration inside a run folder."""

Tracker = Literal["tensorboard", "wandb", "trackio"]


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage: what is trained, on which losses, for how long.

    Exactly one of `steps`, `epochs` and `max_minutes` says how long; `max_minutes` is turned into steps by
    timing a few of them before the first stage starts, because a schedule that looked at the clock could
    not be resumed exactly.
    """

    name: str
    """Name in logs, metrics and file names: `connector`, `depth_head`, `joint`."""
    learning_rates: dict[str, float]
    """Peak learning rate of each trained module (`backbone`, `connector`, `depth_head`, or a part such as
    `backbone.visual`). The longest matching name counts, 0 freezes, and what no name matches is frozen."""
    steps: int | None = None
    """Number of optimizer steps."""
    epochs: float | None = None
    """Passes over the data instead of a number of steps."""
    max_minutes: float | None = None
    """Minutes on this machine instead of a number of steps; measured once and stored as `steps`."""
    batch_size: int = 8
    """Samples (groups of records about the same images) in one forward pass of one process."""
    accumulation: int = 1
    """Forward passes in one optimizer step."""
    language_weight: float = 1.0
    """Weight of the language loss; 0 computes no logits at all."""
    depth_weight: float = 0.1
    """Weight of the flow-matching loss of the depth head; 0 does not run the head."""
    warmup_ratio: float = 0.03
    """Share of the steps in which the learning rate rises to its peak."""
    warmup_steps: int | None = None
    """Number of those steps, instead of a share."""
    min_learning_rate_ratio: float = 0.0
    """Learning rate at the end of the cosine, as a share of the peak."""
    max_turns: int = 16
    """Question-answer turns of one sample; a group with more gives a new choice of them each epoch."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            ConfigError: names the stage, the field and what to set instead.
        """
        _require(
            bool(re.fullmatch(r"[a-z0-9_-]+", self.name)),
            f"stage name '{self.name}' must be lower-case letters, digits, '_' or '-' (it names files).",
        )
        where = f"stage '{self.name}'"
        lengths = [self.steps, self.epochs, self.max_minutes]
        given = sum(length is not None for length in lengths)
        _require(given == 1, f"{where}: give exactly one of steps, epochs and max_minutes, not {given}.")
        for name in ("steps", "epochs", "max_minutes", "batch_size", "accumulation", "max_turns"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"{where}: {name} {value} must be above 0.")
        for name in ("language_weight", "depth_weight"):
            value = getattr(self, name)
            _require(value >= 0, f"{where}: {name} {value} must not be negative.")
        _require(
            self.language_weight + self.depth_weight > 0,
            f"{where}: language_weight and depth_weight are both 0; one must be above 0.",
        )
        for name in ("warmup_ratio", "min_learning_rate_ratio"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"{where}: {name} {value} must lie in 0..1.")
        _require(
            self.warmup_steps is None or self.warmup_steps >= 0,
            f"{where}: warmup_steps {self.warmup_steps} must not be negative.",
        )
        for module, rate in self.learning_rates.items():
            _require(
                rate >= 0 and math.isfinite(rate),
                f"{where}: learning rate {rate} of '{module}' must be a finite number, 0 or above.",
            )
        _require(
            any(rate > 0 for rate in self.learning_rates.values()),
            f"{where}: learning_rates trains nothing; name a module, e.g. {{'connector': 1e-4}}.",
        )

    @property
    def trainable(self) -> tuple[str, ...]:
        """Names of the modules that are trained."""
        return tuple(name for name, rate in self.learning_rates.items() if rate > 0)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run: model, data, stages, bookkeeping. Stored as `config.json` in the run folder."""

    run: Path
    """Folder of the run: metrics, checkpoints, trained model. Must be new unless the run is resumed."""
    data: tuple[Path, ...]
    """Folders of record shards to train on."""
    stages: tuple[StageConfig, ...]
    """Trained one after the other, each with a new optimizer."""
    preset: str | None = "tiny"
    """Preset of the model: its untrained weights or, with `checkpoint`, what that has to be one of."""
    checkpoint: Path | None = None
    """Checkpoint folder to start from instead of untrained weights."""
    seed: int = 0
    """Decides initial weights of a preset, reading order, noise, times and dropped conditions."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16` computes under autocast with float32 weights."""
    device: str = "auto"
    """`auto` takes a GPU if there is one; or `cpu`, `cuda`, `cuda:1`."""
    weight_decay: float = 0.0
    """AdamW's decay of matrices; norms, biases and other vectors never decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the running mean and the running square of the gradient."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm when they exceed it."""
    workers: int = 0
    """Processes that prepare batches; 0 prepares them in the training process. Never changes a batch."""
    max_bad_fraction: float = 0.005
    """Share of groups that may be unreadable before the run stops."""
    checkpoint_every: int = 200
    """Steps between checkpoints; one is also written at the end of each stage and on SIGTERM or SIGUSR1."""
    keep: int = 2
    """Checkpoints to keep, at least 2."""
    log_every: int = 10
    """Steps between log lines and points on the trackers' charts; metrics.jsonl holds every step."""
    trackers: tuple[Tracker, ...] | None = None
    """Besides metrics.jsonl: `tensorboard`, `wandb`, `trackio`. By default TensorBoard if installed."""
    project: str = "egem"
    """Project name for wandb and trackio."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            ConfigError: names the field and what to set instead.
        """
        _require(bool(self.data), "no data; give at least one folder of record shards.")
        _require(bool(self.stages), "no stages; give at least one.")
        names = [stage.name for stage in self.stages]
        _require(len(set(names)) == len(names), f"stage names {names} must differ from each other.")
        _require(
            self.preset is not None or self.checkpoint is not None,
            "no model to start from; give a preset, a checkpoint folder, or both.",
        )
        _require(
            self.keep >= 2,
            f"keep {self.keep}: at least 2 checkpoints must be kept, because a crash may tear the newest.",
        )
        for name in ("checkpoint_every", "log_every"):
            value = getattr(self, name)
            _require(value >= 1, f"{name} {value} must be at least 1.")
        _require(self.workers >= 0, f"workers {self.workers} must not be negative.")
        _require(self.clip_norm > 0, f"clip_norm {self.clip_norm} must be above 0 (inf never clips).")
        _require(self.weight_decay >= 0, f"weight_decay {self.weight_decay} must not be negative.")
        _require(all(0 <= beta < 1 for beta in self.betas), f"betas {self.betas} must lie in 0..1.")
        _require(
            0 <= self.max_bad_fraction <= 1, f"max_bad_fraction {self.max_bad_fraction} must lie in 0..1."
        )


def num_steps(stage: StageConfig, num_groups: int, world_size: int = 1) -> int:
    """Optimizer steps of a stage whose length is fixed: `steps`, or enough to see each group `epochs` times.

    Raises:
        ConfigError: the stage's length is in minutes and has not been measured yet.
    """
    if stage.steps is not None:
        return stage.steps
    if stage.epochs is not None:
        groups_per_step = stage.batch_size * stage.accumulation * world_size
        return max(1, math.ceil(stage.epochs * num_groups / groups_per_step))
    raise ConfigError(f"stage '{stage.name}': max_minutes must be turned into steps first.")


def warmup_steps(stage: StageConfig, steps: int) -> int:
    """Steps until the learning rate is at its peak."""
    return math.ceil(stage.warmup_ratio * steps) if stage.warmup_steps is None else stage.warmup_steps


def learning_rate_factor(stage: StageConfig, step: int, steps: int) -> float:
    """Share of the peak learning rate that step `step` of `steps` (counted from 0) uses.

    Rises linearly over the warm-up, its last step at the peak, then follows half a cosine that would reach
    `min_learning_rate_ratio` at step `steps`.
    """
    warmup = warmup_steps(stage, steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    low = stage.min_learning_rate_ratio
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))


FREE_TO_CHANGE = frozenset(
    {"run", "data", "workers", "checkpoint_every", "keep", "log_every", "trackers", "project"}
)
"""Fields that may differ when a run is resumed: none changes a loss. That the data is the same data, wherever
it lies now, is checked by its fingerprint."""


def load_run(folder: Path) -> TrainConfig:
    """The configuration stored in a run folder, with `run` set to where the folder is now.

    Raises:
        ConfigError: no configuration there, or a broken one.
    """
    return replace(load_json(TrainConfig, Path(folder) / CONFIG_FILE), run=Path(folder))


def check_same_run(config: TrainConfig, stored: TrainConfig) -> TrainConfig:
    """The configuration to go on with: what was given, with stage lengths as they were measured.

    Raises:
        ConfigError: a field differs that would make this another run.
    """
    stages = tuple(
        replace(given, steps=kept.steps, max_minutes=None) if given.max_minutes is not None else given
        for given, kept in zip(config.stages, stored.stages, strict=False)
    )
    config = replace(config, stages=stages + config.stages[len(stages) :])
    for field in fields(config):
        now, then = to_dict(getattr(config, field.name)), to_dict(getattr(stored, field.name))
        if field.name in FREE_TO_CHANGE or now == then:
            continue
        raise ConfigError(
            f"{stored.run}: '{field.name}' is {now!r} now but was {then!r} when the run started; "
            "resume with what it was, or start a new run folder."
        )
    return config


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ConfigError(problem)
