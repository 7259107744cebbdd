"""COCO's run-length masks (cocodataset/cocoapi, common/maskApi.h): column after column, zeros first.

`counts` is a list of run lengths, or a string: each number in groups of five bits, lowest first, one group a
character from "0" on; bit 32 of a character says that another group follows, bit 16 of the last one that the
number is negative; from the fourth on, a number is the difference to the one two places before.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image, ImageDraw

from egem.core.errors import RecordError


def decode_segmentation(
    segmentation: Any, height: int, width: int, where: str
) -> Bool[np.ndarray, "height width"]:
    """The mask of an annotation: run lengths {"size", "counts"}, or polygons [[x, y, x, y, ...], ...] in pixels.

    Raises:
        RecordError: of another form, or of another size than the image.
    """
    if isinstance(segmentation, dict) and "counts" in segmentation:
        size = segmentation.get("size")
        if size != [height, width]:
            raise RecordError(
                f"{where}: the mask has size {size}, its image {[height, width]} (height, width)."
            )
        counts = segmentation["counts"]
        return decode_runs(run_lengths(counts) if isinstance(counts, str) else counts, height, width, where)
    if isinstance(segmentation, list) and segmentation and all(isinstance(p, list) for p in segmentation):
        return _polygons(segmentation, height, width, where)
    raise RecordError(
        f"{where}: 'segmentation' is neither run lengths nor polygons: {str(segmentation)[:60]}."
    )


def run_lengths(text: str) -> Int[np.ndarray, "run"]:
    """The numbers of a compressed string."""
    groups = np.frombuffer(text.encode("latin-1"), np.uint8).astype(np.int64) - 48
    if not len(groups):
        return np.zeros(0, np.int64)
    last = (groups & 0x20) == 0
    number = np.concatenate([[0], np.cumsum(last)[:-1]])
    begin = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    place = np.arange(len(groups)) - begin[np.minimum(number, len(begin) - 1)]
    values = np.zeros(int(number[-1]) + 1, np.int64)
    np.add.at(values, number, (groups & 0x1F) << (5 * place))
    negative = last & ((groups & 0x10) != 0)
    values[number[negative]] -= np.int64(1) << (5 * (place[negative] + 1))
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def decode_runs(
    runs: Sequence[int] | Int[np.ndarray, "run"], height: int, width: int, where: str
) -> Bool[np.ndarray, "height width"]:
    """Run lengths to a mask.

    Raises:
        RecordError: they do not fill the image exactly.
    """
    lengths = np.asarray(runs, np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != height * width:
        raise RecordError(
            f"{where}: the mask's runs cover {int(lengths.sum())} pixels, the image has {height} x {width}."
        )
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(width, height).T


def _polygons(polygons: list[Any], height: int, width: int, where: str) -> Bool[np.ndarray, "height width"]:
    canvas = Image.new("1", (width, height))
    pen = ImageDraw.Draw(canvas)
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2 or not all(isinstance(v, int | float) for v in polygon):
            raise RecordError(
                f"{where}: a polygon needs at least three pairs of numbers, got {str(polygon)[:60]}."
            )
        pen.polygon([float(v) for v in polygon], fill=1, outline=1)
    return np.array(canvas)
