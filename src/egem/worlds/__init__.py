"""Simulated worlds: they give scenes, and know nothing of questions or models."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from egem.scene import Scene
from egem.worlds import balls, tabletop


@dataclass(frozen=True, kw_only=True)
class World:
    """What can be drawn."""

    scenes: Callable[..., Iterator[Scene]]
    """Views of a seed, each a function of its number alone; called as `egem.worlds.tabletop.scenes` is."""
    cameras: tuple[str, ...]
    splits: tuple[str, ...]


WORLDS: dict[str, World] = {
    "tabletop": World(scenes=tabletop.scenes, cameras=tabletop.CAMERAS, splits=tabletop.SPLITS),
    "balls": World(scenes=balls.scenes, cameras=balls.CAMERAS, splits=balls.SPLITS),
}
"""Name -> world."""
