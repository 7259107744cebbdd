"""Which samples share a row."""

from collections.abc import Sequence


def fill_rows(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Cut samples, in their order, into rows of at most `row_tokens` tokens.

    The order is kept, so a batch has the same images and depth maps in the same places however it is packed,
    and random draws fall on the same maps. What this leaves empty at a row's end costs nothing: padding is
    never computed. A sample that is longer than a row gets a longer row of its own.

    Args:
        lengths: tokens of each sample.
        row_tokens: of a row.

    Returns:
        Samples of each row.
    """
    rows: list[list[int]] = []
    filled = 0
    for sample, length in enumerate(lengths):
        if not rows or filled + length > row_tokens:
            rows.append([])
            filled = 0
        rows[-1].append(sample)
        filled += length
    return rows
