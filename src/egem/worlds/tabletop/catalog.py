"""The words of the world: colours, materials, sizes, and which combinations a split may use."""

from functools import cache
from typing import Final

import numpy as np

SPLITS: Final = ("train", "held_out", "new_cameras", "new_objects")
"""Worlds to learn from; new seeds; also new camera poses and fields of view; also new things."""

COLORS: Final[dict[str, tuple[float, float, float]]] = {
    "red": (0.85, 0.09, 0.08),
    "orange": (0.98, 0.48, 0.05),
    "yellow": (0.97, 0.86, 0.10),
    "green": (0.10, 0.58, 0.16),
    "cyan": (0.15, 0.80, 0.86),
    "blue": (0.10, 0.22, 0.85),
    "purple": (0.46, 0.12, 0.66),
    "pink": (0.98, 0.55, 0.72),
    "brown": (0.42, 0.24, 0.11),
    "white": (0.95, 0.95, 0.95),
    "gray": (0.50, 0.51, 0.53),
    "black": (0.07, 0.07, 0.08),
}
"""sRGB, 0 to 1."""

SIZES: Final[dict[str, tuple[float, ...]]] = {
    "small": (0.76, 0.83),
    "medium": (0.98, 1.05),
    "large": (1.24, 1.33),
}
"""Factors on a shape's middle dimensions. Meshes exist at these only, so all else keeps to them too."""

SCALES: Final = tuple(scale for scales in SIZES.values() for scale in scales)

MATERIALS: Final = ("matte", "glossy", "striped", "checkered", "wooden")

PATTERNED: Final = ("striped", "checkered", "wooden")
"""Materials that can be told apart in a small picture, hence may distinguish two things by name."""

NEW_SHAPES: Final = ("bottle", "pan")
"""Shapes that only `new_objects` has."""


def draw_material(rng: np.random.Generator, shape: str, color: str) -> str:
    """A material that shows on a thing: two thirds are plain.

    A pattern would be lost on black, and would hide what is box and what is lid or drawer.
    """
    if color == "black" or rng.random() < 0.65:
        return str(rng.choice(("matte", "glossy")))
    return "wooden" if shape in ("box", "drawer") else str(rng.choice(PATTERNED))


def is_new(shape: str, color: str, shapes: tuple[str, ...]) -> bool:
    """Whether only `new_objects` may have a thing of this shape and colour.

    One colour in six of every shape, another one for each shape, and every colour of `NEW_SHAPES`.

    Args:
        shape: one of `shapes`.
        color: one of `COLORS`.
        shapes: all shapes, in the order of their table.
    """
    return shape in NEW_SHAPES or (list(COLORS).index(color) + 5 * shapes.index(shape)) % 6 == 0


@cache
def pairs(split: str, shapes: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """All (shape, colour) that a split draws from."""
    wanted = split == "new_objects"
    return tuple((s, c) for s in shapes for c in COLORS if is_new(s, c, shapes) == wanted)


def unique_names(things: list[tuple[str, str, str, str]]) -> list[str] | None:
    """Names as short as they can be while no two things share one.

    Args:
        things: (shape, colour, size, material) of each.

    Returns:
        "red mug" where no other red mug is there, else with the size ("small red mug"), else with a visible
        material ("striped red mug"), else with both; None where that does not tell all of them apart.
    """
    names = [f"{color} {shape}" for shape, color, _, _ in things]
    for name in set(names):
        alike = [i for i, n in enumerate(names) if n == name]
        if len(alike) > 1:
            sizes = [things[i][2] for i in alike]
            materials = [things[i][3] for i in alike]
            chosen = _adjectives(sizes, materials)
            if chosen is None:
                return None
            for i, adjective in zip(alike, chosen, strict=True):
                names[i] = f"{adjective} {name}"
    return names


def _adjectives(sizes: list[str], materials: list[str]) -> list[str] | None:
    # "medium" beside "small" cannot be told in a picture, so sizes distinguish only as small and large.
    plain = [m if m in PATTERNED else "plain" for m in materials]
    if "medium" not in sizes and len(set(sizes)) == len(sizes):
        return sizes
    if len(set(plain)) == len(plain):
        return plain
    both = [f"{size} {material}" for size, material in zip(sizes, plain, strict=True)]
    return both if "medium" not in sizes and len(set(both)) == len(both) else None
