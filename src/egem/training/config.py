"""What a training run is, as data: nothing here computes anything or needs torch."""

import math
import re
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Literal

from egem.core.errors import ConfigError
from egem.data.depth import DepthTarget
from egem.data.robot_data import EpisodeOptions

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
    `backbone.qwen.model.visual`). The longest matching name counts, 0 freezes, and what no name matches is frozen."""
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
    accumulate_whole: bool = True
    """With several processes: sum gradients over them once a step, keeping whole gradients until then. False sums
    after each forward pass: more communication, but each process keeps only its share."""
    row_tokens: int | None = None
    """Pack the samples into rows of at most so many tokens, each a forward and backward pass of its own: memory is
    that of one row however large `batch_size` is, and no loss changes. By default all samples go in one pass."""
    language_weight: float = 1.0
    """Weight of the language loss; 0 computes no logits at all."""
    depth_weight: float = 0.1
    """Weight of the flow-matching loss of the depth head; 0 does not run the head."""
    action_weight: float = 0.0
    """Weight of the flow-matching loss of the action expert, in runs on robot episodes; 0 does not run it."""
    action_draws: int = 1
    """Noises and noise levels that each chunk of actions is learnt at in one step. The backbone runs once for all of
    them, so on a small expert a few cost little and make the gradient steadier; the loss is their mean."""
    language_batch_size: int | None = None
    """Samples of records beside each batch of robot episodes, where those have a language weight; as many as
    `batch_size` by default."""
    warmup_ratio: float = 0.03
    """Share of the steps in which the learning rate rises to its peak."""
    warmup_steps: int | None = None
    """Number of those steps, instead of a share."""
    min_learning_rate_ratio: float = 0.0
    """Learning rate at the end of the cosine, as a share of the peak."""
    mixture: dict[str, float] | None = None
    """Shares of the samples by source, e.g. {'robopoint': 2, 'vsi-590k': 1}; sources that are not named are not read.
    Each source goes through its own groups again and again, so a small one with a large share repeats; `epochs` then
    counts as many samples as there are groups. By default every group is read once an epoch."""
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
        for name in (
            "steps",
            "epochs",
            "max_minutes",
            "batch_size",
            "accumulation",
            "row_tokens",
            "max_turns",
            "language_batch_size",
            "action_draws",
        ):
            value = getattr(self, name)
            _require(value is None or value > 0, f"{where}: {name} {value} must be above 0.")
        for name in ("language_weight", "depth_weight", "action_weight"):
            value = getattr(self, name)
            _require(value >= 0, f"{where}: {name} {value} must not be negative.")
        _require(
            self.language_weight + self.depth_weight + self.action_weight > 0,
            f"{where}: language_weight, depth_weight and action_weight are all 0; one must be above 0.",
        )
        _require(
            self.action_draws == 1 or self.action_weight > 0,
            f"{where}: action_draws {self.action_draws} without an action_weight draws nothing; leave it out.",
        )
        for name in ("warmup_ratio", "min_learning_rate_ratio"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"{where}: {name} {value} must lie in 0..1.")
        _require(
            self.warmup_steps is None or self.warmup_steps >= 0,
            f"{where}: warmup_steps {self.warmup_steps} must not be negative.",
        )
        if self.mixture is not None:
            shares = self.mixture.values()
            _require(
                all(math.isfinite(share) and share >= 0 for share in shares) and any(shares),
                f"{where}: mixture {self.mixture}: give at least one source a share above 0, none below.",
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
    """Folders of record shards to train on; with `episodes`, of LeRobot datasets."""
    stages: tuple[StageConfig, ...]
    """Trained one after the other, each with a new optimizer."""
    preset: str | None = "tiny"
    """Preset of the model: its untrained weights or, with `checkpoint`, what that has to be one of."""
    episodes: EpisodeOptions | None = None
    """Train a policy: `data` are robot episodes, and this says what is made of them. A model without an action expert
    gets a new one."""
    expert_conditioning: Literal["keys_values", "hidden_states"] | None = None
    """What a new action expert looks at in the backbone's layers: `keys_values`, if None, as in the paper, or
    `hidden_states`, as in the released code. An expert that is there already stays as it is."""
    language_data: tuple[Path, ...] = ()
    """Folders of record shards that a policy goes on answering questions about, in stages with a language weight."""
    checkpoint: Path | None = None
    """Checkpoint folder to start from instead of untrained weights."""
    depth_long_side: int | None = None
    """Longer side of the depth maps to draw, in pixels, where it is not to be the checkpoint's."""
    seed: int = 0
    """Decides initial weights of a preset, reading order, noise, times and dropped conditions."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """`bfloat16` computes under autocast, with float32 weights where anything is trained; on one device what no stage
    trains stays as it is stored. `auto` takes bfloat16 where the processor has it."""
    device: str = "auto"
    """`auto` takes a GPU if there is one; or `cpu`, `cuda`, `cuda:1`."""
    shard_size: int | None = None
    """With several processes: split the model over so many neighbouring ones, usually the GPUs of a node, and keep
    equal copies elsewhere (hybrid sharding). By default it is split over all."""
    stall_minutes: float = 30.0
    """With several processes: end the run when none has moved for so long, naming the one to blame."""
    weight_decay: float = 0.0
    """AdamW's decay of matrices; norms, biases and other vectors never decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the running mean and the running square of the gradient."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """`adamw8bit` keeps AdamW's two means in 8 bits a value (2 bytes instead of 8 for a weight; bitsandbytes)."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """What each transformer block keeps for its backward pass: all; results of matrix products; its input alone. Less
    memory, more time, the same gradients."""
    compile_blocks: bool = False
    """Compile each transformer block by torch.compile: slow first steps, then faster ones."""
    lora_rank: int | None = None
    """Train low-rank adapters of this rank in place of the weights of `lora_modules`; saved models have them merged."""
    lora_alpha: float = 32.0
    """Adapters are scaled by `lora_alpha / lora_rank`."""
    lora_modules: tuple[str, ...] = ("backbone",)
    """`backbone`, `depth_head` or both: which modules adapters stand in for, in stages that train them."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm when they exceed it."""
    latents: Literal["auto", "off", "required"] = "auto"
    """Depth latents beside the data (`egem data annotate latents`): taken where all of it has them, never, or
    insisted upon. With them neither depth maps nor the codec are touched. Those of another codec are an error."""
    depth_target: DepthTarget = "depth"
    """What the depth head is taught to draw. Two controls show what depth itself is worth: `image` (the picture, RGB
    reconstruction; needs a codec of 3 channels), `shuffled` (each group of images gets another one's depth)."""
    fast_resize: bool = False
    """Resize pictures as transformers does where torchvision is installed, not as its twin on Pillow: about four
    times as fast, and one value in 400 differs by one level."""
    data_cache: Path | None = None
    """Folder for copies of shards whose data lies behind an address; by default only what is needed is fetched."""
    probe_data: Path | None = None
    """Folder of held-out records to measure on: losses; accuracy by skill and drawn depth where a stage trains them.
    The numbers join the metrics; panels of depth lie in `probes/` in the run folder."""
    probe_every: int = 500
    """Steps between two such measurements; one is also made at the end of each stage."""
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
        self._require_weights_fit()
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
        for name in ("checkpoint_every", "log_every", "probe_every"):
            value = getattr(self, name)
            _require(value >= 1, f"{name} {value} must be at least 1.")
        _require(
            self.depth_target == "depth" or self.episodes is None,
            f"depth_target '{self.depth_target}' is a control for training on records; leave it out with `episodes`.",
        )
        _require(
            self.depth_target != "image" or self.latents != "required",
            "depth_target 'image' with latents 'required': stored latents are of depth; leave one of the two out.",
        )
        _require(
            self.probe_data is None or self.episodes is None,
            "probe_data asks questions about records, and a run with `episodes` learns a policy; leave it out and "
            "measure the policy by `egem rollout`.",
        )
        _require(
            self.expert_conditioning is None or self.episodes is not None,
            f"expert_conditioning '{self.expert_conditioning}' is for training a policy; set `episodes`, or leave it "
            "out.",
        )
        _require(self.workers >= 0, f"workers {self.workers} must not be negative.")
        _require(self.stall_minutes > 0, f"stall_minutes {self.stall_minutes} must be above 0.")
        _require(
            self.shard_size is None or self.shard_size > 0,
            f"shard_size {self.shard_size} must be above 0; leave it out to split over all processes.",
        )
        _require(
            self.lora_rank is None or self.lora_rank > 0,
            f"lora_rank {self.lora_rank} must be above 0; leave it out to train the weights themselves.",
        )
        _require(self.clip_norm > 0, f"clip_norm {self.clip_norm} must be above 0 (inf never clips).")
        _require(self.weight_decay >= 0, f"weight_decay {self.weight_decay} must not be negative.")
        _require(all(0 <= beta < 1 for beta in self.betas), f"betas {self.betas} must lie in 0..1.")
        _require(
            0 <= self.max_bad_fraction <= 1, f"max_bad_fraction {self.max_bad_fraction} must lie in 0..1."
        )

    def _require_weights_fit(self) -> None:
        """Each loss needs data of its kind."""
        for stage in self.stages:
            where = f"stage '{stage.name}'"
            if self.episodes is None:
                _require(
                    stage.action_weight == 0,
                    f"{where}: action_weight {stage.action_weight} needs robot episodes; set `episodes`, or "
                    "the weight to 0.",
                )
                continue
            _require(
                stage.mixture is None, f"{where}: a mixture is of records; leave it out with `episodes`."
            )
            _require(
                stage.language_weight == 0 or bool(self.language_data),
                f"{where}: language_weight {stage.language_weight} with robot episodes needs records to answer "
                "questions about; give language_data, or set the weight to 0.",
            )


def kinds_of_batches(config: TrainConfig, stage: StageConfig) -> int:
    """2 with language co-training, where a batch of records follows each one of episodes; else 1."""
    return 2 if config.episodes is not None and stage.language_weight > 0 else 1


def num_micro_batches(config: TrainConfig, stage: StageConfig) -> int:
    """Batches in one optimizer step of a process."""
    return stage.accumulation * kinds_of_batches(config, stage)


def num_steps(stage: StageConfig, num_groups: int, world_size: int = 1) -> int:
    """Optimizer steps of a stage whose length is fixed: `steps`, or enough to see each group `epochs` times.

    Raises:
        ConfigError: the stage's length is in minutes and has not been measured yet.
    """
    if stage.steps is not None:
        return stage.steps
    groups_read = num_groups_read(stage, num_groups)
    if groups_read is not None:
        return max(1, math.ceil(groups_read / (stage.batch_size * stage.accumulation * world_size)))
    raise ConfigError(f"stage '{stage.name}': max_minutes must be turned into steps first.")


def num_groups_read(stage: StageConfig, num_groups: int) -> int | None:
    """Groups that a stage given in epochs reads: whole epochs are exactly that. None for other stages."""
    return None if stage.epochs is None else math.ceil(stage.epochs * num_groups - 1e-6)


def for_world_size(stage: StageConfig, began_with: int, size: int) -> StageConfig:
    """The stage as `size` processes train it when its numbers are meant for `began_with`.

    A step reads the same samples. Where only the accumulation changes, noise and times are the same too, and the
    curve goes on as it would have; where the batch has to be cut up, they are drawn anew.

    Args:
        stage: as configured.
        began_with: processes that began the run.
        size: processes now.

    Raises:
        ConfigError: a step's samples cannot be shared out evenly.
    """
    if size == began_with:
        return stage
    if stage.accumulation * began_with % size == 0:
        return replace(stage, accumulation=stage.accumulation * began_with // size)
    passes = stage.accumulation * began_with
    sizes = (
        [stage.batch_size]
        if stage.language_batch_size is None
        else [stage.batch_size, stage.language_batch_size]
    )
    for samples in (each * passes for each in sizes):
        _require(
            samples % size == 0,
            f"stage '{stage.name}': the {samples} samples of a step cannot be shared out evenly to {size} processes; "
            f"the run was begun by {began_with}, go on with a number that divides {samples}.",
        )
    shares = [each * passes // size for each in sizes]
    # The fewest passes that make no batch larger than configured and cut every kind evenly.
    accumulation = next(n for n in count(math.ceil(passes / size)) if all(share % n == 0 for share in shares))
    return replace(
        stage,
        batch_size=shares[0] // accumulation,
        accumulation=accumulation,
        language_batch_size=None if len(shares) == 1 else shares[1] // accumulation,
    )


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


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ConfigError(problem)
