"""How good a depth map is: errors per image after a stated alignment, then averaged over images.

The affine-invariant protocol of Marigold (Ke et al. 2024, `src/util/alignment.py` and `metric.py`): scale
and shift that fit the truth best by least squares over valid pixels, clipping to the data set's depth range,
errors per image first. Families are never mixed: a map in metres may go unaligned, a map of depth up to
scale and shift is aligned in depth, a map of inverse depth is aligned in inverse depth and inverted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Final, Literal

import numpy as np
from jaxtyping import Float
from PIL import Image

from egem.core.errors import RecordError

Family = Literal["metric", "depth-affine", "disparity-affine"]
"""What is fitted: nothing, scale and shift to depth, or scale and shift to inverse depth."""
RESIZING: Final = Image.Resampling.BICUBIC
"""How `resized` interpolates: results that were interpolated otherwise are not gone on with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthMetrics:
    """Errors of one map, or their mean over `num_images` maps."""

    abs_rel: float
    """Mean of |predicted - true| / true."""
    rmse: float
    """Root of the mean squared error, in the truth's unit (metres when metric)."""
    delta1: float
    """Share of pixels whose ratio to the truth, larger over smaller, is below 1.25."""
    delta2: float
    """Below 1.25 squared."""
    delta3: float
    """Below 1.25 cubed."""
    num_images: int = 1


def align(
    prediction: Float[np.ndarray, "pred_height pred_width"],
    truth: Float[np.ndarray, "height width"],
    family: Family,
    depth_range: tuple[float, float],
) -> Float[np.ndarray, "height width"]:
    """The prediction as depth in the truth's unit, clipped to the data set's range.

    Args:
        prediction: depth (`metric`, `depth-affine`) or inverse depth (`disparity-affine`), any resolution.
        truth: depth, 0 = no reading; only its readings take part in the fit.
        family: what may be fitted.
        depth_range: least and greatest depth of the data set.

    Raises:
        RecordError: the truth has no reading, or the prediction is not finite.
    """
    near, far = depth_range
    valid = truth > 0
    if not valid.any():
        raise RecordError("a depth map without a single reading cannot be scored; leave it out.")
    values = resized(prediction, truth.shape, inverse=family == "disparity-affine").astype(np.float64)
    if not np.isfinite(values).all():
        raise RecordError("the predicted depth map is not finite; the checkpoint's weights may be damaged.")
    if family == "metric":
        return np.clip(values, near, far)
    if family == "depth-affine":
        scale, shift = fit_scale_and_shift(values[valid], truth[valid])
        return np.clip(scale * values + shift, near, far)
    scale, shift = fit_scale_and_shift(values[valid], 1.0 / truth[valid].astype(np.float64))
    # Clipped before it is inverted: a fitted disparity may be zero or negative far away.
    return 1.0 / np.clip(scale * values + shift, 1.0 / far, 1.0 / near)


def fit_scale_and_shift(
    prediction: Float[np.ndarray, "pixel"], target: Float[np.ndarray, "pixel"]
) -> tuple[float, float]:
    """(scale, shift) of least sum((scale * prediction + shift - target)^2), in closed form and float64.

    A constant prediction gets scale 0 and the target's mean as shift.
    """
    x, y = prediction.astype(np.float64), target.astype(np.float64)
    centred = x - x.mean()
    spread = float(centred @ centred)
    if spread <= 1e-12 * max(1.0, float(x @ x)):
        return 0.0, float(y.mean())
    scale = float(centred @ (y - y.mean())) / spread
    return scale, float(y.mean() - scale * x.mean())


def measure(
    aligned: Float[np.ndarray, "height width"], truth: Float[np.ndarray, "height width"]
) -> DepthMetrics:
    """Errors of an aligned map over the truth's readings; pixels without a reading (0) never enter.

    Raises:
        RecordError: the truth has no reading.
    """
    valid = truth > 0
    if not valid.any():
        raise RecordError("a depth map without a single reading cannot be scored; leave it out.")
    predicted, true = aligned[valid].astype(np.float64), truth[valid].astype(np.float64)
    difference = predicted - true
    ratio = np.maximum(predicted / true, true / np.maximum(predicted, 1e-12))
    return DepthMetrics(
        abs_rel=float(np.mean(np.abs(difference) / true)),
        rmse=float(np.sqrt(np.mean(difference**2))),
        delta1=float(np.mean(ratio < 1.25)),
        delta2=float(np.mean(ratio < 1.25**2)),
        delta3=float(np.mean(ratio < 1.25**3)),
    )


def average(metrics: Sequence[DepthMetrics]) -> DepthMetrics:
    """The mean over images, every image counting the same whatever its number of readings."""
    if not metrics:
        raise ValueError("no depth map to average over.")
    names = [f.name for f in fields(DepthMetrics) if f.name != "num_images"]
    means = {name: float(np.mean([getattr(m, name) for m in metrics])) for name in names}
    return DepthMetrics(num_images=len(metrics), **means)


def depth_range(truths: Iterable[Float[np.ndarray, "_ _"]]) -> tuple[float, float]:
    """Least and greatest reading over a data set's depth maps.

    Raises:
        RecordError: no map has a reading.
    """
    readings = [truth[truth > 0] for truth in truths]
    readings = [values for values in readings if values.size]
    if not readings:
        raise RecordError("none of the depth maps has a reading; there is nothing to score.")
    return float(min(values.min() for values in readings)), float(max(values.max() for values in readings))


def mean_depth_map(
    truths: Iterable[Float[np.ndarray, "_ _"]], size: tuple[int, int] | None = None
) -> Float[np.ndarray, "height width"]:
    """Per-pixel mean over the readings of many maps: what can be guessed without looking at the image.

    Args:
        truths: depth maps, 0 = no reading.
        size: (height, width) they are brought to by nearest neighbour; the first map's when None.

    Returns:
        float32; where no map has a reading, the mean of all readings.

    Raises:
        RecordError: no map has a reading.
    """
    total = count = None
    for truth in truths:
        height, width = size or truth.shape
        size = (height, width)
        # Nearest, because any smoothing would mix readings with missing ones.
        rows = (np.arange(height) + 0.5) * truth.shape[0] / height
        columns = (np.arange(width) + 0.5) * truth.shape[1] / width
        values = truth[np.ix_(rows.astype(int), columns.astype(int))].astype(np.float64)
        if total is None or count is None:
            total, count = np.zeros(size), np.zeros(size)
        total += values
        count += values > 0
    if total is None or count is None or not count.any():
        raise RecordError("none of the training depth maps has a reading; a mean depth map needs some.")
    mean = np.where(count > 0, total / np.maximum(count, 1), total.sum() / count.sum())
    return mean.astype(np.float32)


def resized(
    values: Float[np.ndarray, "height width"], size: tuple[int, ...], *, inverse: bool
) -> Float[np.ndarray, "new_height new_width"]:
    """A drawn map at another size, by bicubic interpolation; depth is interpolated as its logarithm.

    A small map holds means over areas. Bicubic gives their edges back better than bilinear does, which Marigold uses:
    docs/log.md has the difference from 24 to 96 pixels (0.004 of delta1); at full size it was not measured.

    Args:
        values: without missing readings.
        size: (height, width).
        inverse: inverse depth, which is interpolated as it is.
    """
    if values.shape == tuple(size):
        return values
    height, width = size
    source = values if inverse else np.log(np.maximum(values, 1e-6))
    image = Image.fromarray(np.ascontiguousarray(source, dtype=np.float32))
    found = np.asarray(image.resize((width, height), RESIZING))
    return found if inverse else np.exp(found)
