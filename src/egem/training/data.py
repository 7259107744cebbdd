"""What a run is trained on: records, or robot episodes with records for the language beside them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from egem.core.errors import ConfigError
from egem.data.robot_data import EpisodeOptions, RobotData
from egem.data_engine.episodes.lerobot import LeRobotDataset
from egem.shards import RecordGroups
from egem.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class EpisodeData:
    """Robot episodes, and the records of language co-training."""

    robot: RobotData
    language: RecordGroups | None

    def __len__(self) -> int:
        """Windows of the episodes, which epochs count."""
        return len(self.robot)

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints mean equal data in equal order."""
        if self.language is None:
            return self.robot.fingerprint
        return hashlib.sha256(f"{self.robot.fingerprint}/{self.language.fingerprint}".encode()).hexdigest()

    @property
    def stamp(self) -> str:
        """Of the records; of episodes, the fingerprint is all there is to compare."""
        return "" if self.language is None else self.language.stamp

    def check_content(self) -> None:
        """See `RecordGroups`."""
        if self.language is not None:
            self.language.check_content()

    def check_unchanged(self) -> None:
        """See `RecordGroups`."""
        if self.language is not None:
            self.language.check_unchanged()


TrainingData = RecordGroups | EpisodeData


def open_data(config: TrainConfig) -> TrainingData:
    """Open what a run names; only indices and first episodes are read.

    Raises:
        RecordError: a folder cannot be read.
        ConfigError: a folder is no dataset, datasets do not fit each other or the options, or a stage is to learn
            depth from records without any.
    """
    if config.episodes is None:
        groups = RecordGroups(config.data, cache=config.data_cache)
        _require_depth(config, groups)
        return groups
    language = RecordGroups(config.language_data, cache=config.data_cache) if config.language_data else None
    sets = [_open_episodes(_local(path), config.episodes) for path in config.data]
    return EpisodeData(robot=RobotData(sets, config.episodes), language=language)


def _require_depth(config: TrainConfig, groups: RecordGroups) -> None:
    """Without it a stage would train on placeholders to its end, its loss 0."""
    stage = next((stage for stage in config.stages if stage.depth_weight > 0), None)
    if stage is not None and all(manifest.depths == 0 for manifest in groups.manifests):
        raise ConfigError(
            f"{', '.join(map(str, config.data))}: no picture has a depth map, but stage '{stage.name}' has "
            f"depth_weight {stage.depth_weight:g}. Give the records depth (egem data annotate depth), add a folder "
            "that has it, or set the weight to 0."
        )


def _open_episodes(path: Path, options: EpisodeOptions) -> LeRobotDataset:
    found = LeRobotDataset(path, state_key=options.state_key, action_key=options.action_key)
    for name, kind, there in (
        ("state_key", "state", found.state_keys),
        ("action_key", "actions", found.action_keys),
    ):
        if not there:
            rows = [
                key for key, feature in found.features.items() if str(feature["dtype"]).startswith("float")
            ]
            raise ConfigError(
                f"{path} has no feature '{getattr(options, name)}'; say which holds the robot's {kind}: "
                f"--episodes.{name.replace('_', '-')}. It has {', '.join(rows) or 'no numbers at all'}."
            )
    return found


def _local(path: Path) -> Path:
    if "://" in str(path) or ":/" in str(path):
        raise ConfigError(f"{path}: robot episodes are read from a local folder; copy the dataset first.")
    return path
