"""The configuration that a run folder keeps, and what of it may differ when the run goes on."""

from dataclasses import fields, replace
from pathlib import Path

from egem.core.config import load_json, to_dict
from egem.core.errors import ConfigError
from egem.training.config import TrainConfig

CONFIG_FILE = "config.json"
"""Its name inside a run folder."""

FREE_TO_CHANGE = frozenset(
    {
        "run",
        "data",
        "data_cache",
        "language_data",
        "probe_data",
        "probe_every",
        "workers",
        "shard_size",
        "stall_minutes",
        "activation_checkpointing",
        "compile_blocks",
        "checkpoint_every",
        "keep",
        "log_every",
        "trackers",
        "project",
    }
)
"""Fields that may differ when a run is resumed: none changes a loss, beyond rounding. That the data is the same
data, wherever it lies now, is checked by its fingerprint."""


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
