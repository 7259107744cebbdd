"""Grey patterns, computed here and multiplied with a colour when drawn."""

from typing import Final

import numpy as np
from jaxtyping import Float, UInt8

SIDE: Final = 128
"""Pixels of a texture's edge (of each of the six faces of an object's)."""

SURFACES: Final = ("planks", "tiles", "bricks", "plaster", "cloth", "wallpaper", "marble")
"""Tables, walls and floors; each exists as `<name>_wide` and `<name>_fine`."""

REPEATS: Final = {"wide": 1.3, "fine": 3.2}
"""How often a surface's pattern repeats in a metre."""


def surface(name: str) -> UInt8[np.ndarray, "128 128"]:
    """One of `SURFACES`, periodic."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    if name == "planks":
        board = np.floor(4 * y)
        joint = ((4 * y) % 1 < 0.05) | ((x + 0.37 * board) % 1 < 0.012)
        grain = 0.12 * _noise(11, (2, 40)) + 0.05 * np.sin(2 * np.pi * 9 * y + 6 * _noise(12, (2, 4)))
        value = 0.82 + grain + 0.09 * np.sin(2.7 * board) - 0.35 * joint
    elif name == "tiles":
        grout = ((4 * x) % 1 < 0.06) | ((4 * y) % 1 < 0.06)
        shade = np.sin(12.9 * np.floor(4 * x) + 78.2 * np.floor(4 * y))
        value = 0.85 + 0.08 * shade - 0.35 * grout
    elif name == "bricks":
        row = np.floor(8 * y)
        mortar = ((8 * y) % 1 < 0.12) | ((4 * x + 0.5 * (row % 2)) % 1 < 0.06)
        shade = np.sin(12.9 * np.floor(4 * x + 0.5 * (row % 2)) % 4 + 5.1 * row)
        value = 0.72 + 0.10 * shade + 0.08 * _noise(13, (30, 30)) + 0.24 * mortar
    elif name == "plaster":
        value = 0.90 + 0.10 * _noise(14, (24, 24)) + 0.05 * _noise(15, (5, 5))
    elif name == "cloth":
        value = 0.72 + 0.14 * ((8 * x).astype(int) % 2 + (8 * y).astype(int) % 2)
    elif name == "wallpaper":
        value = 0.80 + 0.15 * np.sign(np.sin(2 * np.pi * 6 * x))
    else:  # marble
        vein = np.abs(np.sin(np.pi * (2 * x + 2 * y + 2.5 * _noise(16, (4, 4)))))
        value = 0.80 + 0.16 * vein**0.5 + 0.05 * _noise(17, (20, 20))
    return _bytes(value)


def wrapping(name: str) -> UInt8[np.ndarray, "768 128"]:
    """The six faces (right, left, up, down, front, back) of a patterned object material."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    if name == "striped":
        face = np.where((4 * y + 0.25) % 1 < 0.5, 1.0, 0.28)
    elif name == "checkered":
        face = np.where(((4 * x).astype(int) + (4 * y).astype(int)) % 2 == 0, 1.0, 0.30)
    else:  # wooden
        rings = np.sin(2 * np.pi * (5 * y + 1.3 * _noise(21, (2, 3))))
        face = 0.68 + 0.22 * rings + 0.16 * _noise(22, (3, 50))
    return np.concatenate([_bytes(face)] * 6)


def _noise(seed: int, cells: tuple[int, int]) -> Float[np.ndarray, "128 128"]:
    """Smooth periodic noise between -1 and 1 with so many cells along x and y."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-1, 1, (cells[1], cells[0]))
    result = coarse
    for axis, count in enumerate(reversed(cells)):
        at = np.arange(SIDE) * count / SIDE
        low = at.astype(int)
        share = at - low
        share = share * share * (3 - 2 * share)
        shape = (-1, 1) if axis == 0 else (1, -1)
        first = np.take(result, low % count, axis=axis)
        second = np.take(result, (low + 1) % count, axis=axis)
        result = first + share.reshape(shape) * (second - first)
    return result


def _bytes(value: Float[np.ndarray, "128 128"]) -> UInt8[np.ndarray, "128 128"]:
    return np.round(255 * np.clip(value, 0, 1)).astype(np.uint8)
