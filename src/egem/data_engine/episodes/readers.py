"""The table of readers of robot episodes. Each is imported where it is used, as it loads decoders."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from egem.core.errors import ConfigError
from egem.data_engine.episodes.pending import PendingEpisode
from egem.data_engine.sources.splits import Split


def _lerobot(path: Path, split: Split) -> Iterator[PendingEpisode]:
    from egem.data_engine.episodes.lerobot import LeRobotDataset

    _refuse_held_out("lerobot", split)
    dataset = LeRobotDataset(path)
    return (
        PendingEpisode(where=dataset.where(number), load=partial(dataset.episode, number))
        for number in range(len(dataset))
    )


def _open_x(path: Path, split: Split) -> Iterator[PendingEpisode]:
    from egem.data_engine.episodes.rlds import read_rlds

    return read_rlds(path, source="open-x", split=split)


def _droid(path: Path, split: Split) -> Iterator[PendingEpisode]:
    from egem.data_engine.episodes.rlds import read_rlds

    return read_rlds(path, source="droid", set_name="droid", split=split)


def _robomind(path: Path, split: Split) -> Iterator[PendingEpisode]:
    from egem.data_engine.episodes.robomind import read_robomind

    return read_robomind(path, split=split)


def _agibot(path: Path, split: Split) -> Iterator[PendingEpisode]:
    from egem.data_engine.episodes.agibot import read_agibot

    _refuse_held_out("agibot-world", split)
    return read_agibot(path)


def _refuse_held_out(name: str, split: Split) -> None:
    if split == "test":
        raise ConfigError(f"'{name}' names no episodes that are held out; leave --split away.")


READERS: Final[dict[str, Callable[[Path, Split], Iterator[PendingEpisode]]]] = {
    "lerobot": _lerobot,
    "open-x": _open_x,
    "droid": _droid,
    "robomind": _robomind,
    "agibot-world": _agibot,
}
"""Format -> what finds its episodes; `egem data sources` says what each folder must hold."""
