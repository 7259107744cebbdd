"""Training from start to end: stage after stage, step after step, in the order in which it happens."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from egem.batch import Batch
from egem.core.config import save_json, to_dict
from egem.core.errors import CheckpointError, TrainingError
from egem.core.files import write_atomically
from egem.data.prepare import Preparer
from egem.models.gem import GEM
from egem.shards import RecordGroups
from egem.training.checkpoints import CheckpointWriter, Position, load_position
from egem.training.config import CONFIG_FILE, StageConfig, TrainConfig, num_steps
from egem.training.distributed import World, any_over_ranks, current_world, sum_gradients
from egem.training.duration import resolve_minutes
from egem.training.feed import stage_batches
from egem.training.host import device_of, keep_freed_memory
from egem.training.metrics import Metrics
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
from egem.training.signals import Stopped, StopSignals
from egem.training.state import load_state, state_tensors
from egem.training.step import Clock, StepLosses, accumulate_gradient, draw_seed

logger = logging.getLogger(__name__)

NON_FINITE_FILE = "non-finite.json"


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
    # What cannot be read is refused before there is a run folder.
    groups = RecordGroups(config.data)
    if model is None and not (config.run / MODEL_LINK).exists():
        model = load_model(config, world)
    with claim_run(config.run, world), StopSignals() as signals:
        config = reconcile(config, world, resume=resume)
        checkpoint = latest_checkpoint(config.run, world) if resume else None
        position = None if checkpoint is None else _checked_position(checkpoint, config, groups, world)
        if model is None or (config.run / MODEL_LINK).exists():
            model = load_model(config, world)
        model.to(device_of(config.device))
        if checkpoint is None:
            export_model(model, config.run, INITIAL, world)
        preparer = Preparer.from_checkpoint(config.run / MODEL_LINK)
        if position is None:
            config = resolve_minutes(config, model, groups, preparer, world)
            if world.is_first:
                save_json(config, config.run / CONFIG_FILE)

        lengths = [num_steps(stage, len(groups), world.size) for stage in config.stages]
        finished = 0 if position is None else position.step
        with (
            CheckpointWriter(config.run, keep=config.keep) as writer,
            Metrics(config, after=finished, num_steps=sum(lengths), enabled=world.is_first) as metrics,
        ):
            run = Run(config, model, groups, preparer, tuple(probes), world, writer, metrics, signals)
            names = [stage.name for stage in config.stages]
            current = 0 if position is None else names.index(position.stage)
            for index in range(current, len(config.stages)):
                resumed = checkpoint if index == current else None
                start = position.stage_step if position is not None and index == current else 0
                train_stage(
                    run,
                    index,
                    before=sum(lengths[:index]),
                    steps=lengths[index],
                    start=start,
                    checkpoint=resumed,
                )
    logger.info("finished %d steps; the model is %s", sum(lengths), config.run / MODEL_LINK)
    return config.run


@dataclass(frozen=True)
class Run:
    """What all stages of a run share."""

    config: TrainConfig
    model: GEM
    groups: RecordGroups
    preparer: Preparer
    probes: tuple[Probe, ...]
    world: World
    writer: CheckpointWriter
    metrics: Metrics
    signals: StopSignals


def train_stage(
    run: Run, index: int, *, before: int, steps: int, start: int = 0, checkpoint: Path | None = None
) -> None:
    """Train one stage to its end.

    Args:
        run: what the stages share.
        index: which stage.
        before: steps of all earlier stages.
        steps: of this one.
        start: steps of it that are done already.
        checkpoint: to go on from.
    """
    config, model, world = run.config, run.model, run.world
    stage = config.stages[index]

    # 1. Choose what learns.
    report = freeze(model, stage)
    if world.is_first:
        log_report(report)
        content = json.dumps(to_dict(report), indent=2) + "\n"
        write_atomically(config.run / f"trainable-{stage.name}.json", content.encode())
    parameters = trained_parameters(model)
    optimizer = make_optimizer(model, stage, config)
    if checkpoint is not None:
        load_state(checkpoint, model, optimizer)
        logger.info("going on from %s: stage %s, step %d of %d", checkpoint, stage.name, start, steps)

    # 2. Open the data where the stage stands.
    loaded = stage_batches(
        config, index, run.groups, run.preparer, world, start=start, num_steps=steps - start
    )
    dtype, device = getattr(torch, config.dtype), model.device
    samples_per_step = stage.batch_size * stage.accumulation * world.size
    for step in range(start, steps):
        clock = Clock()

        # 3. Learning rates of this step.
        rates = set_learning_rates(optimizer, stage, step, steps)

        # 4. The step's micro-batches.
        with clock.time("loader"):
            micro_batches = list(islice(loaded, stage.accumulation))

        # 5. Gradient of the loss over all of them, on all processes.
        seeds = [
            draw_seed(config.seed, stage.name, step, micro * world.size + world.rank)
            for micro in range(stage.accumulation)
        ]
        losses = accumulate_gradient(
            model,
            micro_batches,
            stage=stage,
            seeds=seeds,
            device=device,
            dtype=dtype,
            world=world,
            clock=clock,
        )
        with clock.time("backward"):
            sum_gradients(parameters, world)

        # 6. Stop before a broken gradient reaches the weights; limit its norm.
        with clock.time("optimizer"):
            norm_tensor = gradient_norm(parameters)
            norm = float(norm_tensor)
            if not (math.isfinite(losses.total) and math.isfinite(norm)):
                raise _non_finite(run, stage, before + step + 1, losses, norm, micro_batches)
            if norm > config.clip_norm:
                nn.utils.clip_grads_with_norm_(parameters, config.clip_norm, norm_tensor)

            # 7. Update.
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        # 8. Probes that are due.
        done = before + step + 1
        is_last = step + 1 == steps
        values = _values(losses, rates, norm, clock)
        values["data/epoch"] = (step + 1) * samples_per_step / len(run.groups)
        if world.is_first:
            values |= run_probes(
                run.probes,
                model,
                run.preparer,
                step=done,
                stage=stage.name,
                is_last=is_last,
                folder=config.run,
            )

        # 9. Metrics.
        run.metrics.write(step=done, stage=stage.name, stage_step=step + 1, values=values)

        # 10. Checkpoint.
        run.writer.check()
        stop = any_over_ranks(run.signals.received is not None, world)
        if done % config.checkpoint_every == 0 or is_last or stop:
            _save(run, optimizer, stage, done=done, stage_step=step + 1)

        # 11. Asked to stop?
        if stop:
            run.writer.wait()
            raise Stopped(
                f"stopped by {run.signals.received or 'a signal'} after step {done}, everything is saved; "
                f"go on with: egem train --resume {config.run}"
            )

    # 12. The stage's model.
    run.writer.wait()
    export_model(model, config.run, stage.name, world)


def _checked_position(checkpoint: Path, config: TrainConfig, groups: RecordGroups, world: World) -> Position:
    position = load_position(checkpoint)
    if position.data != groups.fingerprint:
        raise CheckpointError(
            f"{', '.join(map(str, config.data))}: not the data that {config.run} was trained on so far; "
            "resume with that data, or start a new run folder."
        )
    if position.world_size != world.size:
        raise CheckpointError(
            f"{config.run} was trained by {position.world_size} processes, these are {world.size}; "
            "resume with as many, or start a new run folder."
        )
    return position


def _save(
    run: Run, optimizer: torch.optim.Optimizer, stage: StageConfig, *, done: int, stage_step: int
) -> None:
    if not run.world.is_first:
        return
    run.metrics.sync()
    position = Position(
        step=done,
        stage=stage.name,
        stage_step=stage_step,
        seed=run.config.seed,
        data=run.groups.fingerprint,
        world_size=run.world.size,
    )
    run.writer.save(state_tensors(run.model, optimizer), position)


def _values(losses: StepLosses, rates: dict[str, float], norm: float, clock: Clock) -> dict[str, float]:
    seconds = sum(clock.seconds.values())
    values = {"loss/total": losses.total}
    if losses.language is not None:
        values["loss/language"] = losses.language
    if losses.depth is not None:
        values["loss/depth"] = losses.depth
    values |= {f"optimizer/learning_rate/{module}": rate for module, rate in rates.items()}
    values |= {
        "optimizer/gradient_norm": norm,
        "data/tokens": losses.num_tokens,
        "data/samples": losses.num_samples,
    }
    values |= {"time/step": seconds}
    values |= {f"time/share_{name}": part / seconds for name, part in clock.seconds.items()}
    values["throughput/samples_per_second"] = losses.num_samples / seconds
    values["throughput/tokens_per_second"] = losses.num_tokens / seconds
    return values


def _non_finite(
    run: Run, stage: StageConfig, step: int, losses: StepLosses, norm: float, micro_batches: list[Batch]
) -> TrainingError:
    name = NON_FINITE_FILE if run.world.is_first else f"non-finite-{run.world.rank}.json"
    broken = [
        name for name, p in run.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
    ]
    report = {
        "step": step,
        "stage": stage.name,
        "loss": {"total": losses.total, "language": losses.language, "depth": losses.depth},
        "gradient_norm": norm,
        "record_ids": [list(batch.record_ids) for batch in micro_batches],
        "non_finite_gradients": broken,
    }
    path = run.config.run / name
    write_atomically(path, (json.dumps(to_dict(report), indent=2) + "\n").encode())
    shown = ", ".join(f"{kind} {value}" for kind, value in report["loss"].items() if value is not None)
    return TrainingError(
        f"step {step} (stage {stage.name}): not finite: loss {shown}, gradient norm {norm}. The step was not "
        f"applied; its records are listed in {path}. Look at them, or lower the learning rate and resume."
    )
