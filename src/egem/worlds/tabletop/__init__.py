"""The embedded world: a table with things on it and a robot arm, drawn from a seed. Nothing is downloaded."""

from egem.worlds.tabletop.cameras import CAMERAS
from egem.worlds.tabletop.catalog import SPLITS
from egem.worlds.tabletop.renderer import find_renderer
from egem.worlds.tabletop.scenes import scenes
from egem.worlds.tabletop.world import TabletopWorld

__all__ = ["CAMERAS", "SPLITS", "TabletopWorld", "find_renderer", "scenes"]
