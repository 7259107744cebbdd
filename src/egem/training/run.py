"""The run folder: who may write to it, what it stores besides checkpoints and metrics, where the model is.

```
config.json  trainable-<stage>.json  metrics.jsonl  quarantine.jsonl
model -> model-<stage>    the checkpoint folder after the latest finished stage (at first model-initial)
last -> checkpoints/step-N
```
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from torch.distributed.fsdp import FSDPModule

from egem.core.errors import ConfigError
from egem.core.files import locked
from egem.data.robot_data import RobotData
from egem.matching import require_match
from egem.models.gem import GEM
from egem.models.gem_vla import GEMVLA, add_action_expert
from egem.models.presets import build, expert_config
from egem.models.vla_policy import policy_files, read_policy_files
from egem.training.checkpoints import find_latest, point_to, remove_after
from egem.training.config import TrainConfig
from egem.training.data import EpisodeData, TrainingData
from egem.training.distributed import World, failing_together, from_first, wait_for_all
from egem.training.sharding import whole_model
from egem.training.stored import CONFIG_FILE, check_same_run, load_run

logger = logging.getLogger(__name__)

MODEL_LINK = "model"
INITIAL = "initial"
_LOCK_FILE = ".lock"


@contextmanager
def claim_run(run: Path, world: World) -> Iterator[None]:
    """Create the folder if need be, and keep other runs out of it; all processes of this one enter together.

    The lock vanishes with the process, however it ends.

    Raises:
        ConfigError: another run is training there.
        EgemError: the folder cannot be written.
    """
    with ExitStack() as stack:
        with failing_together(world):
            if world.is_first:
                mine = stack.enter_context(locked(run / _LOCK_FILE, wait=False))
                if not mine:
                    raise ConfigError(
                        f"another process is training in {run}; wait for it, stop it, or choose another run folder."
                    )
        yield


def reconcile(config: TrainConfig, world: World, *, resume: bool) -> TrainConfig:
    """The configuration to train with: as given, or as the run that is resumed has it.

    A run exists once its configuration is stored, which happens when everything else is in place; remains of
    an earlier start are removed.

    Raises:
        ConfigError: the folder holds a run already, or one with another configuration.
    """
    begun = bool(from_first(int((config.run / CONFIG_FILE).exists()), world))
    if not begun:
        if world.is_first:
            (config.run / MODEL_LINK).unlink(missing_ok=True)
            remove_models(config.run)
        wait_for_all(world)
        return config
    if not resume:
        raise ConfigError(
            f"{config.run} holds a run already; go on with it (egem train --resume {config.run}), "
            "or choose another run folder."
        )
    return check_same_run(config, load_run(config.run))


def latest_checkpoint(run: Path, world: World) -> Path | None:
    """The checkpoint to go on from, the same on every process; later remains of a crash are removed.

    Raises:
        CheckpointError: there are checkpoints, all of them damaged.
    """
    step = -1
    with failing_together(world):
        if world.is_first:
            found = find_latest(run)
            step = -1 if found is None else int(found.name.removeprefix("step-"))
            remove_after(run, step)
    step = from_first(step, world)
    return None if step < 0 else run / "checkpoints" / f"step-{step}"


def load_model(config: TrainConfig, data: TrainingData | None = None) -> GEM:
    """The run's model on the CPU: from the run folder if it is there already, else from preset or checkpoint.

    Its weights are as they are stored; `apply_model_options` raises what is trained to float32.

    Args:
        config: of the run.
        data: of a run on robot episodes: a model without an action expert gets a new one that fits them, with their
            normalisation; one that has an expert keeps its own.

    Raises:
        CheckpointError: the checkpoint folder is not whole or of another preset.
        ConfigError: no such preset.
    """
    stored = config.run / MODEL_LINK
    if stored.exists():
        return GEM.from_pretrained(stored)
    if config.checkpoint is None:
        assert config.preset is not None
        model = build(config.preset, seed=config.seed)
    else:
        from egem.models.pretrained import load

        model = load(config.checkpoint, preset=config.preset)
    if config.depth_long_side is not None:
        depth = replace(model.config.depth, long_side=config.depth_long_side)
        model.config = replace(model.config, depth=depth)
    if isinstance(data, EpisodeData):
        return _with_expert(model, data.robot, config)
    return model


def _with_expert(model: GEM, data: RobotData, config: TrainConfig) -> GEMVLA:
    """The model as a policy of the data's robot."""
    wanted = config.expert_conditioning
    if isinstance(model, GEMVLA) and wanted not in (None, model.action_expert.config.conditioning):
        raise ConfigError(
            f"{config.checkpoint} has an action expert that looks at {model.action_expert.config.conditioning}, "
            f"expert_conditioning is '{wanted}'; leave it out, or start from a checkpoint without an expert."
        )
    if isinstance(model, GEMVLA) and model.policy_files:
        info, normalization = read_policy_files(model, str(config.checkpoint))
        if info.horizon != data.options.horizon:
            raise ConfigError(
                f"{config.checkpoint} gives chunks of {info.horizon} actions, horizon is {data.options.horizon}; set "
                f"episodes.horizon to {info.horizon}."
            )
        if info.cameras != data.cameras:
            raise ConfigError(
                f"{config.checkpoint} looks at cameras {', '.join(info.cameras)}, the data gives "
                f"{', '.join(data.cameras)}; name them in that order by episodes.cameras."
            )
        require_match(
            info,
            ", ".join(each.name for each in data.sets),
            state_dim=data.state_dim,
            action_space=data.action_space,
            control_hz=data.control_hz,
            state_names=data.state_names,
        )
        # It goes on with these pictures, of whatever size the ones before were.
        info = replace(info, picture_sizes=data.picture_sizes())
        model.policy_files = policy_files(info, normalization)
        return model
    if not isinstance(model, GEMVLA):
        expert = expert_config(
            model,
            action_dim=data.action_space.dim,
            state_dim=data.state_dim,
            horizon=data.options.horizon,
            conditioning=wanted or "keys_values",
        )
        model = add_action_expert(model, expert, seed=config.seed)
    logger.info("reading states and actions of %d episodes for their normalisation", data.num_episodes)
    model.policy_files = policy_files(data.info(config.run.name), data.normalization())
    read_policy_files(model, str(config.checkpoint or config.preset))
    return model


def export_model(model: GEM, run: Path, name: str, world: World) -> None:
    """Write `model-<name>` and let `model` lead to it; the one before it is removed afterwards.

    Does nothing but the missing parts if a crash interrupted an earlier call. All processes must call it; a
    sharded model is put together in the first one's memory.
    """
    folder = run / f"{MODEL_LINK}-{name}"
    whole: GEM | None = model
    if isinstance(model, FSDPModule) and not from_first(int(folder.exists()), world):
        whole = whole_model(model, run / MODEL_LINK, world)
    with failing_together(world):
        if world.is_first:
            if not folder.exists():
                assert whole is not None
                whole.save_pretrained(folder)
            point_to(run / MODEL_LINK, folder)
            remove_models(run, but=folder)
            logger.info("model saved as %s", run / MODEL_LINK)


def remove_models(run: Path, *, but: Path | None = None) -> None:
    """Remove the exported models of a run, all `but` one."""
    for folder in run.glob(f"{MODEL_LINK}-*"):
        if folder != but:
            shutil.rmtree(folder, ignore_errors=True)
