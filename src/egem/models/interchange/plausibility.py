"""Whether a depth head's weights were ever trained, told from their norms.

Loading a model whose constructor loads another one can silently re-initialise the inner weights; a checkpoint
saved afterwards holds random ones under the right names and shapes. Fresh weights give themselves away: the
root mean square of each matrix is the one its initialisation prescribes, to within sampling noise. Training
moves every matrix by another amount, so few land there by chance.
"""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from egem.core.errors import CheckpointError
from egem.models.interchange.tensors import TensorTable

FRESH_SHARE = 0.5
"""Share of matrices at an initialisation's norm from which the head counts as untrained: random heads are near 1,
trained ones hit three windows of 2 % by chance only (docs/weights.md)."""

RELATED_COSINE = 0.5
"""Cosine with the weights that training began with, below which it began with others. Independent weights
are at 0 (1e-4 for a billion values); fine-tuning keeps above 0.9."""

_TOLERANCE = 0.01
_SMALL = 1024
"""Matrices with fewer values say too little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What the weights look like."""

    num_matrices: int
    fresh_share: float
    """Of the matrices, how many have an initialisation's norm."""
    cosine: float | None
    """With the reference; None without one."""
    identical: bool
    """To the reference, bit for bit."""
    non_finite: tuple[str, ...]
    """Tensors that hold NaN or infinity."""

    def warnings(self) -> list[str]:
        """What the user should know before training or drawing with these weights."""
        lines = []
        if self.non_finite:
            lines.append(
                f"{len(self.non_finite)} tensors hold NaN or infinity, such as {self.non_finite[0]}."
            )
        if self.identical:
            return lines
        if self.cosine is not None and self.cosine < RELATED_COSINE:
            lines.append(
                f"sana.* did not start from --depth-head: their cosine is {self.cosine:.3f} "
                f"(the same start gives over {RELATED_COSINE})."
            )
        if self.num_matrices and self.fresh_share > FRESH_SHARE:
            lines.append(
                f"sana.* look like random initial values, not trained ones: {self.fresh_share:.0%} of "
                f"{self.num_matrices} matrices have the norm of a fresh initialisation."
            )
        return lines

    def summary(self) -> str:
        """One line."""
        if self.identical:
            return "sana.* equal --depth-head bit for bit"
        against = "" if self.cosine is None else f", cosine {self.cosine:.4f} to --depth-head"
        return f"{self.fresh_share:.0%} of {self.num_matrices} sana matrices at an initial norm{against}"


def examine(tensors: TensorTable, reference: TensorTable | None = None) -> Findings:
    """Read a depth head's weights once, and a reference's beside them.

    Args:
        tensors: of a Sana.
        reference: the Sana it should have started from.

    Raises:
        CheckpointError: the reference has other tensors.
    """
    if reference is not None and {n: t.shape for n, t in tensors.items()} != {
        n: t.shape for n, t in reference.items()
    }:
        raise CheckpointError("--depth-head has other tensors than sana.*; name the Sana of the same sizes.")
    fresh, matrices, non_finite = 0, 0, []
    product = square = reference_square = 0.0
    identical = reference is not None
    for name, stored in tensors.items():
        value = stored.load()
        if not bool(value.isfinite().all()):
            non_finite.append(name)
        if value.ndim >= 2 and value.numel() >= _SMALL:
            matrices += 1
            fresh += is_fresh(value)
        if reference is None:
            continue
        other = reference[name].load()
        identical = identical and value.dtype == other.dtype and torch.equal(value, other)
        ours, theirs = value.double().flatten(), other.double().flatten()
        product += float(ours @ theirs)
        square += float(ours @ ours)
        reference_square += float(theirs @ theirs)
    return Findings(
        num_matrices=matrices,
        fresh_share=fresh / max(matrices, 1),
        cosine=None if reference is None else product / max(sqrt(square * reference_square), 1e-30),
        identical=identical,
        non_finite=tuple(sorted(non_finite)),
    )


def is_fresh(weight: Tensor) -> bool:
    """Whether a matrix (out, in, ...) has the norm of one of the usual initialisations.

    N(0, 0.02) is transformers'; U(+-1 / sqrt(in)) is torch's for linear and convolution layers;
    U(+-sqrt(6 / (in + out))) is Xavier's. The norm of n random values scatters by 1 / sqrt(2 n); four times
    that, and a per cent for rounding and a few steps of training, are allowed.
    """
    rms = float(weight.double().square().mean().sqrt())
    num_out, num_in = weight.shape[0], weight[0].numel()
    expected = (0.02, 1 / sqrt(3 * num_in), sqrt(2 / (num_in + num_out)))
    allowed = _TOLERANCE + 4 / sqrt(2 * weight.numel())
    return any(abs(rms / value - 1) < allowed for value in expected)
