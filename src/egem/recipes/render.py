"""Records from an embedded world: views are drawn and asked about by several processes.

View `i` depends on `(world, seed, i, split, size)` alone, so the shards are the same whatever the number of workers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from egem.core.errors import ConfigError, unknown_name
from egem.data_engine.engine.local import LocalEngine
from egem.records import Record
from egem.shards import Manifest

CHUNK = 24
"""Views that a worker draws in one go; small, so that memory stays low and the bar moves."""


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """What to draw and how much to ask."""

    world: str = "tabletop"
    """tabletop; tasks: how the tabletop robot's tasks begin; balls: six colours, one shape, learned in minutes."""
    num: int = 1000
    """Views to draw."""
    seed: int = 0
    size: tuple[int, int] = (96, 96)
    """Height and width in pixels."""
    split: str = "train"
    """train, held_out, new_cameras or new_objects."""
    cameras: tuple[str, ...] = ()
    """Cameras to take in turn; if empty, all of the world's (tabletop: front, side and wrist)."""
    questions: int = 12
    """Questions about each view."""
    skills: tuple[str, ...] = ()
    """Skills to ask about; if empty, all but those that only describe the picture."""
    workers: int = 0
    """Processes; 0 means one per processor."""


def render(config: RenderConfig, out: Path) -> Manifest:
    """Draw views of a world, ask about them, and write the records to the folder `out`.

    Raises:
        ConfigError: a number, world, split or camera makes no sense, or `out` exists.
        RenderError: no renderer can be had.
    """
    _check(config)
    from egem.data_engine import write_records

    with tqdm(total=config.num, desc="render", unit="view", disable=None) as progress:

        def drawn() -> Iterator[Record]:
            for records in _chunks(config):
                yield from records
                progress.update(len({record.group for record in records}))

        return write_records(drawn(), out)


def _check(config: RenderConfig) -> None:
    from egem.data_engine.skills import SKILLS
    from egem.recipes.worlds import WORLDS

    if config.world not in WORLDS:
        raise unknown_name("world", config.world, WORLDS)
    world = WORLDS[config.world]
    for name, value in (("num", config.num), ("questions", config.questions), ("size", min(config.size))):
        if value < 1:
            raise ConfigError(f"--{name} is {value}; it must be at least 1.")
    for kind, given, known in (
        ("split", (config.split,), world.splits),
        ("camera", config.cameras, world.cameras),
        ("skill", config.skills, SKILLS),
    ):
        for name in given:
            if name not in known:
                raise unknown_name(kind, name, known)


def _chunks(config: RenderConfig) -> Iterator[Sequence[Record]]:
    """The records of each chunk, in order, though workers finish in any."""
    early: dict[int, list[Record]] = {}
    wanted = 0
    starts = range(0, config.num, CHUNK)
    for start, records in LocalEngine(workers=config.workers).map(partial(_chunk, config), starts):
        early[start] = records
        while wanted in early:
            yield early.pop(wanted)
            wanted += CHUNK


def _chunk(config: RenderConfig, start: int) -> tuple[int, list[Record]]:
    return start, draw_and_ask(config, start, min(CHUNK, config.num - start))


def draw_and_ask(config: RenderConfig, start: int, num: int) -> list[Record]:
    """The records of views `start` to `start + num`: what one worker does."""
    from egem.data_engine import ask
    from egem.recipes.worlds import WORLDS

    records = []
    world = WORLDS[config.world]
    drawn = world.scenes(
        config.seed,
        num,
        size=config.size,
        split=config.split,
        cameras=config.cameras or world.cameras,
        start=start,
    )
    for index, scene in enumerate(drawn, start):
        rng = np.random.default_rng([config.seed, index])
        skills = config.skills or None
        records += ask(scene, rng, num_questions=config.questions, skills=skills)
    return records
