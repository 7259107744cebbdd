"""Depth of single images: what an estimator gives, and how it is stored beside an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from egem.media import check_depth, encode_depth
from egem.records import DepthFile, DepthKind

DepthOutput = Literal["metric", "relative", "disparity"]
"""What a network's numbers are: metres, depth up to scale, or inverse depth up to scale and shift."""

METRIC_UNIT_M = 0.001
FARTHEST_M = 65.535
"""Metric readings beyond are stored as no reading: 16 bits of a millimetre end here."""

RELATIVE_UNIT = 0.001
DISPARITY_OFFSET = 0.05
"""Disparity 0 to 1 is stored as depth 1 / (disparity + offset): its inverse is the disparity up to scale and shift."""

_MEDIAN = 5.0
"""Relative depth is scaled so that its median is this many units: 5,000 counts of 16 bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthEstimate:
    """What an estimator says about one image."""

    depth: Float[np.ndarray, "height width"]
    """float32, as large as the image; metres, or relative units where far is large; 0 = no reading."""
    kind: DepthKind


@runtime_checkable
class DepthEstimator(Protocol):
    """Gives each image its depth, whatever stands beside it in the batch."""

    @property
    def origin(self) -> str:
        """`<estimator>/<checkpoint>`, stored with every map."""
        ...

    @property
    def licence(self) -> str:
        """Of the checkpoint."""
        ...

    def estimate(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], focals: Sequence[float | None]
    ) -> list[DepthEstimate]:
        """The depth of each image.

        Args:
            images: RGB, of any sizes.
            focals: of each image, in its own pixels; None where it is not known.

        Raises:
            RecordError: metric depth needs a focal length that is missing.
        """
        ...


def from_disparity(disparity: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """Inverse depth up to scale and shift as relative depth, far being large.

    Args:
        disparity: any range, near being large; values that are not finite mean no reading.

    Returns:
        float32 between 1 / (1 + offset) and 1 / offset; 0 = no reading. Its inverse is the disparity,
        scaled and shifted.
    """
    finite = np.isfinite(disparity)
    if not finite.any():
        return np.zeros(disparity.shape, np.float32)
    low, high = float(disparity[finite].min()), float(disparity[finite].max())
    level = (np.where(finite, disparity, low) - low) / max(high - low, 1e-12)
    return np.where(finite, 1.0 / (level + DISPARITY_OFFSET), 0.0).astype(np.float32)


def to_estimate(values: Float[np.ndarray, "height width"], output: DepthOutput) -> DepthEstimate:
    """A network's numbers as depth."""
    if output == "disparity":
        return DepthEstimate(depth=from_disparity(values), kind="relative")
    readable = np.isfinite(values) & (values > 0)
    depth = np.where(readable, values, 0.0).astype(np.float32)
    if output == "relative" and readable.any():
        depth *= _MEDIAN / float(np.median(depth[readable]))
    return DepthEstimate(depth=depth, kind="metric" if output == "metric" else "relative")


def to_file(estimate: DepthEstimate, origin: str, where: str) -> DepthFile:
    """An estimate as a stored depth map.

    Raises:
        RecordError: metric depth that is implausible.
    """
    unit = METRIC_UNIT_M if estimate.kind == "metric" else RELATIVE_UNIT
    depth = np.where(estimate.depth <= FARTHEST_M, estimate.depth, np.float32(0))
    check_depth(depth, estimate.kind, where=where, unit_m=unit)
    return DepthFile(data=encode_depth(depth, unit), unit_m=unit, kind=estimate.kind, origin=origin)


def by_size(images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[list[int]]:
    """Indices of images of one size each: networks take a batch of one size."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        sizes.setdefault(image.shape, []).append(index)
    return list(sizes.values())
