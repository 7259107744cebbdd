"""Hashes of 64 bits that differ in few bits where pictures look alike, whatever their size and coding."""

import io
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int, UInt64
from PIL import Image
from scipy.fft import dctn

from egem.core.errors import RecordError

SIDE = 8
_SAMPLED = 4 * SIDE
_DRAFT = 4 * _SAMPLED
_AT_ONCE = 1 << 20
_BITS = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def perceptual_hash(image: Image.Image) -> int:
    """The hash of a picture: which of its 64 lowest frequencies are above their median.

    Grey, 32 x 32 pixels, cosine transform, the 8 x 8 lowest frequencies row by row, first bit highest: the pHash of
    Zauner, "Implementation and benchmarking of perceptual image hash functions" (2010), in the form of the Python
    package `imagehash`, whose values these are.
    """
    grey = image.convert("L").resize((_SAMPLED, _SAMPLED), Image.Resampling.LANCZOS)
    low = np.asarray(dctn(np.asarray(grey, np.float64), type=2))[:SIDE, :SIDE]
    bits = (low > np.median(low)).reshape(-1)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def hash_of_bytes(data: bytes, where: str) -> int:
    """The hash of an encoded picture; JPEGs are decoded at a fraction of their size.

    Raises:
        RecordError: it cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            # At the side that is kept, decoding reads an eighth of the coefficients of a usual photograph.
            image.draft("L", (_DRAFT, _DRAFT))
            return perceptual_hash(image)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise RecordError(f"{where}: a picture cannot be decoded ({error}).") from error


def distance(left: UInt64[np.ndarray, "*n"], right: UInt64[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
    """In how many bits hashes differ."""
    different = np.ascontiguousarray(np.bitwise_xor(left, right))
    return _BITS[different.view(np.uint8).reshape(*different.shape, 8)].sum(axis=-1, dtype=np.int64)


def near_pairs(
    left: UInt64[np.ndarray, "n"], right: UInt64[np.ndarray, "m"], max_distance: int
) -> Iterator[tuple[Int[np.ndarray, "pair"], Int[np.ndarray, "pair"]]]:
    """All pairs (i, j) with left[i] and right[j] at most so many bits apart, in batches, each pair once.

    Of `max_distance + 1` bands of bits, two such hashes agree in one at least, so only hashes with a band in common are
    compared.

    Args:
        left: hashes.
        right: hashes.
        max_distance: 0 to 16 bits.

    Raises:
        ValueError: a distance for which this is no better than comparing all.
    """
    if not 0 <= max_distance <= 16:
        raise ValueError(f"max_distance {max_distance} must lie in 0..16.")
    edges = np.linspace(0, 64, max_distance + 2).round().astype(int)
    masks = [np.uint64(((1 << (stop - start)) - 1) << start) for start, stop in pairwise(edges.tolist())]
    for number, mask in enumerate(masks):
        order = np.argsort(right & mask, kind="stable")
        keys = (right & mask)[order]
        first = np.searchsorted(keys, left & mask, side="left")
        counts = np.searchsorted(keys, left & mask, side="right") - first
        for start, stop in _batches(counts):
            i = np.repeat(np.arange(start, stop), counts[start:stop])
            ends = np.cumsum(counts[start:stop])
            within = np.arange(len(i)) - np.repeat(ends - counts[start:stop], counts[start:stop])
            j = order[np.repeat(first[start:stop], counts[start:stop]) + within]
            keep = distance(left[i], right[j]) <= max_distance
            # A pair with several bands in common was found at the first of them.
            keep &= ~_agree_before(left[i], right[j], masks[:number])
            if keep.any():
                yield i[keep], j[keep]


def _agree_before(
    left: UInt64[np.ndarray, "n"], right: UInt64[np.ndarray, "n"], masks: list[np.uint64]
) -> Bool[np.ndarray, "n"]:
    found = np.zeros(len(left), bool)
    for mask in masks:
        found |= (left & mask) == (right & mask)
    return found


def _batches(counts: Int[np.ndarray, "n"]) -> Iterator[tuple[int, int]]:
    """Ranges whose counts add up to about `_AT_ONCE`."""
    total = np.cumsum(counts)
    start = 0
    while start < len(counts):
        reached = int(total[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(total, reached + _AT_ONCE)))
        yield start, min(stop, len(counts))
        start = stop
