"""The table of shapes."""

from types import MappingProxyType
from typing import Final

from egem.worlds.tabletop import compounds, primitives

SHAPES: Final = MappingProxyType({**primitives.SHAPES, **compounds.SHAPES})
"""Word to how it is built; the order fixes what a seed draws and which pairs are new, so append only."""
