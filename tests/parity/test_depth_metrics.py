"""The depth protocol against a second implementation, written the way the published one is."""

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.stats import linregress

from egem.evaluation.depth import align, average, measure


def reference_errors(prediction, truth, limits, *, disparity):
    """Homogeneous least squares over listed pixels, as Marigold's evaluation does it."""
    errors = []
    valid = np.nonzero(truth)
    x = prediction[valid].astype(np.float64)
    y = truth[valid].astype(np.float64)
    design = np.stack([x, np.ones_like(x)], axis=1)
    scale, shift = np.linalg.lstsq(design, 1 / y if disparity else y, rcond=None)[0]
    fitted = x * scale + shift
    if disparity:
        with np.errstate(divide="ignore"):
            fitted = np.where(fitted > 0, 1 / np.maximum(fitted, 1e-30), np.inf)
    fitted = fitted.clip(*limits)
    errors.append((abs(fitted - y) / y).sum() / len(y))
    errors.append(((fitted - y) ** 2).mean() ** 0.5)
    ratio = np.stack([fitted / y, y / fitted]).max(axis=0)
    errors += [np.count_nonzero(ratio < 1.25**k) / len(y) for k in (1, 2, 3)]
    return errors


@pytest.mark.parametrize("disparity", [False, True])
def test_against_lstsq(disparity):
    family = "disparity-affine" if disparity else "depth-affine"
    all_metrics, all_reference = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truth = rng.uniform(0.3, 6.0, (30, 40)).astype(np.float32)
        truth[rng.random(truth.shape) < rng.uniform(0, 0.9)] = 0
        clean = 1 / np.maximum(truth, 0.3) if disparity else truth
        prediction = (rng.uniform(-2, 2) * clean + rng.normal(0, 0.4, truth.shape) + 5).astype(np.float32)
        limits = (0.4, 5.5)
        metrics = measure(align(prediction, truth, family, limits), truth)
        reference = reference_errors(prediction, truth, limits, disparity=disparity)
        found = [metrics.abs_rel, metrics.rmse, metrics.delta1, metrics.delta2, metrics.delta3]
        np.testing.assert_allclose(found, reference, rtol=1e-9, atol=1e-12)
        all_metrics.append(metrics)
        all_reference.append(reference)
    mean = average(all_metrics)
    expected = np.mean(all_reference, axis=0)
    np.testing.assert_allclose([mean.abs_rel, mean.rmse, mean.delta1], expected[:3], rtol=1e-9)


def test_the_fit_against_scipy():
    rng = np.random.default_rng(7)
    truth = rng.uniform(0.3, 6.0, (10, 12)).astype(np.float32)
    prediction = (0.5 * truth + rng.normal(0, 0.2, truth.shape)).astype(np.float32)
    aligned = align(prediction, truth, "depth-affine", (-1e9, 1e9))
    line = linregress(prediction.ravel().astype(float), truth.ravel().astype(float))
    np.testing.assert_allclose(aligned, line.slope * prediction.astype(float) + line.intercept, rtol=1e-9)
    best = least_squares(lambda p: (p[0] * prediction + p[1] - truth).ravel(), [1.0, 0.0], xtol=1e-14)
    np.testing.assert_allclose(aligned, best.x[0] * prediction + best.x[1], rtol=1e-5)
