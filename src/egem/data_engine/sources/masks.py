"""One good point inside a mask."""

import numpy as np
from jaxtyping import Bool

from egem.core.errors import RecordError
from egem.records import COORDINATE_RANGE

_GRID = 96
"""Masks are searched on a grid of at most this many rows and columns: a better point is not worth milliseconds."""


def interior_point(mask: Bool[np.ndarray, "height width"], where: str) -> tuple[int, int]:
    """The pixel of the mask farthest from its edge, as 0 to 1000 (x, y).

    Raises:
        RecordError: the mask is empty.
    """
    from scipy import ndimage  # half a second to import; lists of sources do without

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise RecordError(f"{where}: the mask is empty.")
    top, left = int(rows[0]), int(columns[0])
    crop = mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
    step = max(1, -(-max(crop.shape) // _GRID))
    coarse = crop[::step, ::step]
    if not coarse.any():
        step, coarse = 1, crop
    inside = np.asarray(ndimage.distance_transform_cdt(np.pad(coarse, 1)))[1:-1, 1:-1]
    # Of equally deep pixels the most central one: the ridge of a long thing ends near its corners.
    deepest = np.argwhere(inside == inside.max())
    middle = (np.array(inside.shape) - 1) / 2
    row, column = deepest[np.abs(deepest - middle).sum(axis=1).argmin()]
    x, y = left + int(column) * step, top + int(row) * step
    height, width = mask.shape
    return round((x + 0.5) * COORDINATE_RANGE / width), round((y + 0.5) * COORDINATE_RANGE / height)
