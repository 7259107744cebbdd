"""What a run is trained on: records, or robot episodes with records for the language beside them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from egem.core.errors import ConfigError
from egem.data.robot_data import RobotData
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


TrainingData = RecordGroups | EpisodeData


def open_data(config: TrainConfig) -> TrainingData:
    """Open what a run names; only indices and first episodes are read.

    Raises:
        RecordError: a folder cannot be read.
        ConfigError: a folder is no dataset, or datasets do not fit each other or the options.
    """
    if config.episodes is None:
        return RecordGroups(config.data, cache=config.data_cache)
    language = RecordGroups(config.language_data, cache=config.data_cache) if config.language_data else None
    sets = [LeRobotDataset(_local(path)) for path in config.data]
    return EpisodeData(robot=RobotData(sets, config.episodes), language=language)


def _local(path: Path) -> Path:
    if "://" in str(path) or ":/" in str(path):
        raise ConfigError(f"{path}: robot episodes are read from a local folder; copy the dataset first.")
    return path
