"""COCO's run-length masks against a plain re-writing of its C code, number after number."""

import numpy as np
import pytest

from egem.core.errors import RecordError
from egem.data_engine.formats.coco_rle import decode_runs, decode_segmentation, run_lengths
from sources.layouts import compressed, runs


def slow_run_lengths(text: str) -> list[int]:
    counts: list[int] = []
    position = 0
    while position < len(text):
        value = shift = 0
        while True:
            group = ord(text[position]) - 48
            value |= (group & 0x1F) << (5 * shift)
            position += 1
            shift += 1
            if not group & 0x20:
                if group & 0x10:
                    value |= -1 << (5 * shift)
                break
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
    return counts


def masks(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 300, 2)
    kind = seed % 4
    if kind == 0:
        return rng.random((height, width)) < rng.random()
    found = np.zeros((height, width), bool)
    if kind == 1:
        return found
    rows, columns = np.mgrid[:height, :width]
    radius = rng.integers(1, 120)
    found |= np.hypot(rows - rng.integers(height), columns - rng.integers(width)) < radius
    return ~found if kind == 3 else found


@pytest.mark.parametrize("seed", range(24))
def test_strings_and_masks(seed: int) -> None:
    mask = masks(seed)
    height, width = mask.shape
    counts = runs(mask)
    text = compressed(counts)
    assert slow_run_lengths(text) == counts
    assert run_lengths(text).tolist() == counts
    for form in (text, counts):
        found = decode_segmentation({"size": [height, width], "counts": form}, height, width, "a")
        np.testing.assert_array_equal(found, mask)


def test_polygons() -> None:
    found = decode_segmentation([[2, 1, 8, 1, 8, 5, 2, 5]], 10, 12, "a")
    assert found[1:6, 2:9].all()
    assert found.sum() == 35


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [4, 5], "counts": [20]}, r"size \[4, 5\], its image \[5, 4\]"),
        ({"size": [5, 4], "counts": [19]}, "runs cover 19 pixels"),
        ({"size": [5, 4], "counts": [30, -10]}, "runs cover 20 pixels"),
        ([[1, 2, 3, 4]], "at least three pairs"),
        (None, "neither run lengths nor polygons"),
    ],
)
def test_what_is_no_mask(segmentation: object, message: str) -> None:
    with pytest.raises(RecordError, match=f"^a: .*{message}"):
        decode_segmentation(segmentation, 5, 4, "a")


def test_empty_string() -> None:
    assert run_lengths("").tolist() == []
    with pytest.raises(RecordError, match="cover 0 pixels"):
        decode_runs([], 2, 2, "a")
