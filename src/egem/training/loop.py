"""Training from start to end: stage after stage, step after step, in the order in which it happens."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path

from torch import nn

from egem.core.config import save_json, to_dict
from egem.core.errors import CheckpointError
from egem.core.files import write_atomically
from egem.data.prepare import Preparer
from egem.device import compute_dtype, device_of
from egem.models.gem import GEM
from egem.training.checkpoints import CheckpointWriter, Position, load_position
from egem.training.config import (
    StageConfig,
    TrainConfig,
    for_world_size,
    num_micro_batches,
    num_steps,
)
from egem.training.data import TrainingData, open_data
from egem.training.distributed import (
    World,
    any_over_ranks,
    current_world,
    failing_together,
    naming_lost_contact,
    require_equal,
)
from egem.training.duration import resolve_minutes
from egem.training.feed import stage_batches
from egem.training.host import keep_freed_memory
from egem.training.metrics import Metrics
from egem.training.model_options import apply_model_options
from egem.training.non_finite import report_non_finite
from egem.training.optimizer import (
    freeze,
    gradient_norm,
    log_report,
    make_optimizer,
    set_learning_rates,
    trained_parameters,
)
from egem.training.probes import Probe, run_probes
from egem.training.run import (
    INITIAL,
    MODEL_LINK,
    claim_run,
    export_model,
    latest_checkpoint,
    load_model,
    reconcile,
)
from egem.training.sharding import settle, shard
from egem.training.signals import Stopped, StopSignals
from egem.training.state import load_state, state_tensors
from egem.training.step import Clock, StepLosses, accumulate_gradient, step_seeds
from egem.training.stored import CONFIG_FILE
from egem.training.watchdog import Watchdog

logger = logging.getLogger(__name__)


def train(
    config: TrainConfig, *, probes: Sequence[Probe] = (), resume: bool = False, model: GEM | None = None
) -> Path:
    """Train all stages; returns the run folder, whose `model` is the trained checkpoint folder.

    Args:
        config: of the run.
        probes: what to measure meanwhile.
        resume: go on with the run in `config.run` from its latest whole checkpoint, exactly as if it had
            never stopped; starts it if there is none.
        model: start from this model instead of the configured preset or checkpoint.

    Raises:
        ConfigError: the configuration does not fit the model, the data or the run that is resumed.
        CheckpointError: no checkpoint of the run is whole.
        RecordError: data that cannot be read, or too much of it.
        TrainingError: a loss or gradient is not finite, or a checkpoint could not be saved.
        Stopped: SIGTERM or SIGUSR1 came; the state has been saved.
    """
    world = current_world()
    keep_freed_memory()
    with naming_lost_contact(world), StopSignals() as signals:
        described = [json.dumps(value) for value in to_dict(config).values()]
        require_equal([f"'{field.name}'" for field in fields(config)], described, world)
        # What cannot be read is refused before there is a run folder.
        with failing_together(world):
            groups = open_data(config)
            if model is None and not (config.run / MODEL_LINK).exists():
                model = load_model(config, groups)
            if model is not None and "preprocessor_config.json" not in model.processor_files:
                raise CheckpointError(
                    f"{config.checkpoint or config.preset} has no tokenizer and image processor to read data with; "
                    "start from a checkpoint that has them (egem init --backbone P --depth-head P)."
                )
        require_equal(["fingerprint of the data"], [groups.fingerprint], world)
        with (
            claim_run(config.run, world),
            Watchdog(world, minutes=config.stall_minutes, run=config.run) as watchdog,
        ):
            run = _prepare(config, model, groups, tuple(probes), world, signals, watchdog, resume=resume)
            _train_stages(run)
    return config.run


@dataclass(frozen=True, kw_only=True)
class Run:
    """What all stages of a run share."""

    config: TrainConfig
    """With batch sizes and accumulation as these processes use them."""
    lengths: tuple[int, ...]
    """Steps of each stage."""
    model: GEM
    groups: TrainingData
    preparer: Preparer
    probes: tuple[Probe, ...]
    world: World
    began_with: int
    """Processes that began the run."""
    signals: StopSignals
    watchdog: Watchdog
    checkpoint: Path | None
    """To go on from."""
    position: Position | None
    """Its position."""


def _prepare(
    config: TrainConfig,
    model: GEM | None,
    groups: TrainingData,
    probes: tuple[Probe, ...],
    world: World,
    signals: StopSignals,
    watchdog: Watchdog,
    *,
    resume: bool,
) -> Run:
    """Find out where the run stands, and bring model and configuration there."""
    with failing_together(world):
        config = reconcile(config, world, resume=resume)
    checkpoint = latest_checkpoint(config.run, world) if resume else None
    with failing_together(world):
        position = None if checkpoint is None else _checked_position(checkpoint, config, groups, world)
        if model is None or (config.run / MODEL_LINK).exists():
            model = load_model(config, groups)
        device = device_of(config.device)
    if checkpoint is None:
        export_model(model, config.run, INITIAL, world)
    apply_model_options(model, config, world)
    if world.size > 1:
        watchdog.begins("sharding")
        dtype = compute_dtype(config.dtype, device)
        shard(model, world, device=device, dtype=dtype, shard_size=config.shard_size)
    else:
        model.to(device)
    preparer = Preparer.from_checkpoint(config.run / MODEL_LINK, fast_resize=config.fast_resize)
    if position is None:
        config = resolve_minutes(config, model, groups, preparer, world)
        with failing_together(world):
            if world.is_first:
                save_json(config, config.run / CONFIG_FILE)
    began_with = world.size if position is None else position.world_size
    stages = tuple(for_world_size(stage, began_with, world.size) for stage in config.stages)
    return Run(
        config=replace(config, stages=stages),
        lengths=tuple(num_steps(stage, len(groups), began_with) for stage in config.stages),
        model=model,
        groups=groups,
        preparer=preparer,
        probes=probes,
        world=world,
        began_with=began_with,
        signals=signals,
        watchdog=watchdog,
        checkpoint=checkpoint,
        position=position,
    )


def _train_stages(run: Run) -> None:
    config, position = run.config, run.position
    finished = 0 if position is None else position.step
    total = sum(run.lengths)
    with (
        CheckpointWriter(config.run, keep=config.keep, world=run.world) as writer,
        Metrics(config, after=finished, num_steps=total, enabled=run.world.is_first) as metrics,
    ):
        names = [stage.name for stage in config.stages]
        current = 0 if position is None else names.index(position.stage)
        for index in range(current, len(config.stages)):
            start = position.stage_step if position is not None and index == current else 0
            train_stage(
                run,
                index,
                writer,
                metrics,
                start=start,
                checkpoint=run.checkpoint if index == current else None,
            )
    logger.info("finished %d steps; the model is %s", total, config.run / MODEL_LINK)


def train_stage(
    run: Run,
    index: int,
    writer: CheckpointWriter,
    metrics: Metrics,
    *,
    start: int = 0,
    checkpoint: Path | None = None,
) -> None:
    """Train one stage to its end.

    Args:
        run: what the stages share.
        index: which stage.
        writer: of checkpoints.
        metrics: where the numbers go.
        start: steps of it that are done already.
        checkpoint: to go on from.
    """
    config, model, world = run.config, run.model, run.world
    stage, steps, before = config.stages[index], run.lengths[index], sum(run.lengths[:index])

    # 1. Choose what learns.
    report = freeze(model, stage)
    settle(model)
    with failing_together(world):
        if world.is_first:
            log_report(report)
            content = json.dumps(to_dict(report), indent=2) + "\n"
            write_atomically(config.run / f"trainable-{stage.name}.json", content.encode())
    parameters = trained_parameters(model)
    optimizer = make_optimizer(model, stage, config)
    if checkpoint is not None:
        with failing_together(world):
            load_state(checkpoint, model, optimizer)
        logger.info("going on from %s: stage %s, step %d of %d", checkpoint, stage.name, start, steps)

    # 2. Open the data where the stage stands.
    with failing_together(world):
        loaded = stage_batches(
            config, index, run.groups, run.preparer, world, start=start, num_steps=steps - start
        )
    dtype, device = compute_dtype(config.dtype, model.device), model.device
    samples_per_step = stage.batch_size * stage.accumulation * world.size
    for step in range(start, steps):
        done = before + step + 1
        run.watchdog.begins("step", step=done)
        clock = Clock(begins=run.watchdog.begins)

        # 3. Learning rates of this step.
        rates = set_learning_rates(optimizer, stage, step, steps)

        # 4. The step's micro-batches.
        with clock.time("loader"), failing_together(world):
            micro_batches = list(islice(loaded, num_micro_batches(config, stage)))

        # 5. Gradient of the loss over all of them, on all processes.
        losses = accumulate_gradient(
            model,
            micro_batches,
            stage=stage,
            seeds=step_seeds(config, stage, step, world),
            device=device,
            dtype=dtype,
            world=world,
            clock=clock,
        )

        # 6. Stop before a broken gradient reaches the weights; limit its norm.
        with clock.time("optimizer"):
            norm_tensor = gradient_norm(parameters)
            norm = float(norm_tensor)
            if not (math.isfinite(losses.total) and math.isfinite(norm)):
                raise report_non_finite(
                    config.run,
                    model,
                    micro_batches,
                    losses,
                    norm=norm,
                    step=done,
                    stage=stage.name,
                    world=world,
                )
            if norm > config.clip_norm:
                nn.utils.clip_grads_with_norm_(parameters, config.clip_norm, norm_tensor)

            # 7. Update.
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        # 8. Probes that are due.
        is_last = step + 1 == steps
        values = _values(losses, rates, norm, clock)
        values["data/epoch"] = (step + 1) * samples_per_step / len(run.groups)
        run.watchdog.begins("probes")
        values |= run_probes(
            run.probes,
            model,
            run.preparer,
            step=done,
            stage=stage.name,
            is_last=is_last,
            folder=config.run,
            dtype=dtype,
            world=world,
        )

        # 9. Metrics.
        with failing_together(world):
            metrics.write(step=done, stage=stage.name, stage_step=step + 1, values=values)

        # 10. Checkpoint.
        run.watchdog.begins("checkpoint")
        stop, failed = any_over_ranks([run.signals.received is not None, writer.failed], world)
        if failed:
            writer.wait()
        if done % config.checkpoint_every == 0 or is_last or stop:
            with failing_together(world):
                # Who is told to stop may have seconds left; resuming compares the data too.
                if world.is_first and not stop:
                    run.groups.check_unchanged()
                metrics.sync()
            writer.save(state_tensors(model, optimizer), _position(run, stage, done, step + 1))

        # 11. Asked to stop?
        if stop:
            writer.wait()
            raise Stopped(
                f"stopped by {run.signals.received or 'a signal'} after step {done}, everything is saved; "
                f"go on with: egem train --resume {config.run}"
            )

    # 12. The stage's model.
    run.watchdog.begins("export")
    writer.wait()
    export_model(model, config.run, stage.name, world)


def _checked_position(checkpoint: Path, config: TrainConfig, groups: TrainingData, world: World) -> Position:
    position = load_position(checkpoint)
    if position.data != groups.fingerprint:
        raise CheckpointError(
            f"{', '.join(map(str, config.data))}: not the data that {config.run} was trained on so far; "
            "resume with that data, or start a new run folder."
        )
    if world.is_first and position.data_stamp != groups.stamp:
        logger.info("the data's files are newer than the checkpoint; comparing their content with its hashes")
        groups.check_content()
    return position


def _position(run: Run, stage: StageConfig, done: int, stage_step: int) -> Position:
    return Position(
        step=done,
        stage=stage.name,
        stage_step=stage_step,
        seed=run.config.seed,
        data=run.groups.fingerprint,
        data_stamp=run.groups.stamp,
        world_size=run.began_with,
    )


def _values(losses: StepLosses, rates: dict[str, float], norm: float, clock: Clock) -> dict[str, float]:
    seconds = sum(clock.seconds.values())
    values = {"loss/total": losses.total}
    if losses.language is not None:
        values["loss/language"] = losses.language
    if losses.depth is not None:
        values["loss/depth"] = losses.depth
    if losses.action is not None:
        values["loss/action"] = losses.action
    values |= {f"optimizer/learning_rate/{module}": rate for module, rate in rates.items()}
    values |= {
        "optimizer/gradient_norm": norm,
        "data/tokens": losses.num_tokens,
        "data/samples": losses.num_samples,
        "data/left_out": losses.num_left_out,
    }
    values |= {"time/step": seconds}
    values |= {f"time/share_{name}": part / seconds for name, part in clock.seconds.items()}
    values["throughput/samples_per_second"] = losses.num_samples / seconds
    values["throughput/tokens_per_second"] = losses.num_tokens / seconds
    return values
