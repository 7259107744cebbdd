"""What is put together from the layers below: training recipes, the rendered data, the demo."""

from collections.abc import Callable

from egem.recipes.gem import gem_2b, gem_2b_24gb, gem_8b
from egem.recipes.tiny import tiny, tiny_describe, tiny_draw, tiny_real
from egem.recipes.vla import gem_vla_2b, tiny_vla, tiny_vla_without_depth
from egem.training.config import TrainConfig

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "tiny": tiny,
    "tiny-describe": tiny_describe,
    "tiny-draw": tiny_draw,
    "tiny-real": tiny_real,
    "gem-2b": gem_2b,
    "gem-2b-24gb": gem_2b_24gb,
    "gem-8b": gem_8b,
    "tiny-vla": tiny_vla,
    "tiny-vla-without-depth": tiny_vla_without_depth,
    "gem-vla-2b": gem_vla_2b,
}
"""Name -> function returning a complete configuration; the command line overrides its fields."""
