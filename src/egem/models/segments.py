"""Sequences of different lengths one after another, without padding between them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from egem.batch import to_device


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """Where each sequence lies in a flat row of tokens. Lengths are known on the CPU: nobody waits for them."""

    lengths: tuple[int, ...]
    boundaries: Int[Tensor, "segment_plus_1"]
    """Start of each sequence, and the end of the last: int32, where the tokens are."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "Segments":
        """Sequences of these lengths."""
        ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
        return cls(lengths=tuple(lengths), boundaries=to_device(ends, device))

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)


def segments_of(segment_ids: Int[Tensor, "sample token"], device: torch.device) -> Segments:
    """The segments of a batch in the order of its real tokens, row after row.

    Args:
        segment_ids: of the batch, on the CPU.
        device: of the tokens.
    """
    rows = torch.arange(len(segment_ids))[:, None] * (segment_ids.max() + 1)
    _, counts = torch.unique_consecutive((rows + segment_ids)[segment_ids > 0], return_counts=True)
    return Segments.of(counts.tolist(), device)


def real_tokens(segment_ids: Int[Tensor, "sample token"]) -> Int[Tensor, "real"] | None:
    """Rows of the flattened (sample, token) that are not padding; None where all are real."""
    real = segment_ids.flatten() > 0
    return None if bool(real.all()) else real.nonzero()[:, 0]
