"""What `egem data render` can draw."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from egem.environments.tabletop import scenes as tasks
from egem.environments.tabletop.simulator import CAMERAS
from egem.scene import Scene
from egem.worlds import balls, tabletop


@dataclass(frozen=True, kw_only=True)
class World:
    """A row of the table."""

    scenes: Callable[..., Iterator[Scene]]
    """Views of a seed, each a function of its number alone; called as `egem.worlds.tabletop.scenes` is."""
    cameras: tuple[str, ...]
    splits: tuple[str, ...]


WORLDS: dict[str, World] = {
    "tabletop": World(scenes=tabletop.scenes, cameras=tabletop.CAMERAS, splits=tabletop.SPLITS),
    "tasks": World(scenes=tasks.scenes, cameras=CAMERAS, splits=tasks.SPLITS),
    "balls": World(scenes=balls.scenes, cameras=balls.CAMERAS, splits=balls.SPLITS),
}
"""Name -> world; `tasks` are the beginnings of the tabletop environment's tasks."""
