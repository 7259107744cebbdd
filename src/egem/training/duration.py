"""Stages given in minutes become stages given in steps, by timing some steps before the first stage starts.

A schedule that looked at the clock could not be resumed exactly; a number of steps can.
"""

import logging
import statistics
import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path

from egem.data.prepare import Preparer
from egem.device import compute_dtype, device_of
from egem.models.gem import GEM
from egem.training.config import TrainConfig, num_micro_batches
from egem.training.data import TrainingData, open_data
from egem.training.distributed import World, from_first
from egem.training.feed import stage_batches
from egem.training.host import keep_freed_memory
from egem.training.model_options import apply_model_options
from egem.training.optimizer import freeze, gradient_norm, make_optimizer, trained_parameters
from egem.training.run import load_model
from egem.training.sharding import settle
from egem.training.step import Clock, accumulate_gradient, step_seeds

logger = logging.getLogger(__name__)

_WARM_UP = 2
_MEASURED = 5


def measure_step_seconds(config: TrainConfig) -> dict[str, float]:
    """Seconds that one optimizer step of each stage takes in one process on this machine, loading included.

    Checkpoints and probes are not included. Nothing is left behind; `config.run` is not touched.
    """
    world = World()
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="egem-measure-") as folder:
        config = replace(config, run=Path(folder) / "run")
        groups = open_data(config)
        model = load_model(config, groups)
        model.save_pretrained(config.run / "model")
        apply_model_options(model, config, world)
        model.to(device_of(config.device))
        preparer = Preparer.from_checkpoint(config.run / "model", fast_resize=config.fast_resize)
        return {
            stage.name: _measure(config, index, model, groups, preparer, world)
            for index, stage in enumerate(config.stages)
        }


def resolve_minutes(
    config: TrainConfig, model: GEM, groups: TrainingData, preparer: Preparer, world: World
) -> TrainConfig:
    """The configuration with `steps` in place of every `max_minutes`.

    Args:
        config: of the run.
        model: on its device, sharded if there are several processes; its weights stay as they are.
        groups: the data.
        preparer: of the run's checkpoint.
        world: all processes take the first one's numbers.
    """
    stages = []
    for index, stage in enumerate(config.stages):
        if stage.max_minutes is not None:
            seconds = _measure(config, index, model, groups, preparer, world)
            steps = from_first(max(1, int(stage.max_minutes * 60 / seconds)), world)
            logger.info(
                "stage %s: %.2f s a step, so %d steps in %g minutes",
                stage.name,
                seconds,
                steps,
                stage.max_minutes,
            )
            stage = replace(stage, steps=steps, max_minutes=None)
        stages.append(stage)
    return replace(config, stages=tuple(stages))


def _measure(
    config: TrainConfig, index: int, model: GEM, groups: TrainingData, preparer: Preparer, world: World
) -> float:
    """Median seconds of a few steps, taken with a learning rate of 0 so that the weights stay as they are."""
    stage = config.stages[index]
    freeze(model, stage)
    settle(model)
    parameters = trained_parameters(model)
    optimizer = make_optimizer(model, stage, config)
    steps = _WARM_UP + _MEASURED
    loaded = stage_batches(config, index, groups, preparer, world, start=0, num_steps=steps)
    seconds = []
    for step in range(steps):
        clock = Clock()
        with clock.time("loader"):
            micro_batches = list(islice(loaded, num_micro_batches(config, stage)))
        accumulate_gradient(
            model,
            micro_batches,
            stage=stage,
            seeds=step_seeds(config, stage, step, world),
            device=model.device,
            dtype=compute_dtype(config.dtype, model.device),
            world=world,
            clock=clock,
        )
        with clock.time("optimizer"):
            float(gradient_norm(parameters))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seconds.append(sum(clock.seconds.values()))
    return statistics.median(seconds[_WARM_UP:])
