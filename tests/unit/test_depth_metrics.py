import numpy as np
import pytest

from egem.core.errors import RecordError
from egem.evaluation.depth import (
    DepthMetrics,
    align,
    average,
    depth_range,
    fit_scale_and_shift,
    mean_depth_map,
    measure,
    resized,
)


@pytest.fixture
def truth():
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.5, 4.0, (24, 32)).astype(np.float32)
    depth[rng.random((24, 32)) < 0.3] = 0.0
    return depth


def test_a_map_off_by_scale_and_shift_is_perfect_after_alignment(truth):
    prediction = (3.0 * truth - 7.0).astype(np.float32)
    aligned = align(prediction, truth, "depth-affine", depth_range([truth]))
    assert measure(aligned, truth).abs_rel < 1e-5
    assert measure(aligned, truth).delta1 == 1.0


def test_inverse_depth_off_by_scale_and_shift_is_perfect_in_its_own_family_only(truth):
    inverse = np.where(truth > 0, 1 / np.maximum(truth, 1e-3), 0.5)
    prediction = (0.2 * inverse + 0.1).astype(np.float32)
    limits = depth_range([truth])
    assert measure(align(prediction, truth, "disparity-affine", limits), truth).abs_rel < 1e-5
    assert measure(align(prediction, truth, "depth-affine", limits), truth).abs_rel > 0.05


def test_metric_maps_are_not_fitted(truth):
    found = measure(align(1.1 * truth + (truth == 0), truth, "metric", (0.1, 10.0)), truth)
    assert found.abs_rel == pytest.approx(0.1, abs=1e-5)
    assert found.delta1 == 1.0
    assert measure(align(1.3 * truth, truth, "metric", (0.1, 10.0)), truth).delta1 == 0.0
    assert measure(align(1.3 * truth, truth, "metric", (0.1, 10.0)), truth).delta2 == 1.0


def test_missing_readings_never_enter(truth):
    prediction = np.random.default_rng(1).random(truth.shape).astype(np.float32)
    poisoned = np.where(truth > 0, prediction, 1e6).astype(np.float32)
    for family in ("depth-affine", "disparity-affine", "metric"):
        clean = measure(align(prediction, truth, family, (0.5, 4.0)), truth)
        assert measure(align(poisoned, truth, family, (0.5, 4.0)), truth) == clean


def test_aligned_maps_are_clipped_to_the_range(truth):
    wild = np.random.default_rng(2).normal(size=truth.shape).astype(np.float32)
    # Far off where nothing was read: not in the fit, but in the picture.
    wild[truth == 0] = np.where(np.arange((truth == 0).sum()) % 2, 500.0, -500.0)
    for family in ("depth-affine", "disparity-affine", "metric"):
        aligned = align(wild, truth, family, (0.5, 4.0))
        assert aligned.min() >= 0.5 - 1e-9
        assert aligned.max() <= 4.0 + 1e-9


def test_the_three_thresholds():
    truth = np.ones((1, 8), np.float32)
    factors = np.array([[1.24, 1 / 1.24, 1.26, 1.55, 1 / 1.55, 1.57, 1.94, 1.96]], np.float32)
    found = measure(factors, truth)
    assert (found.delta1, found.delta2, found.delta3) == (2 / 8, 5 / 8, 7 / 8)
    assert found.rmse == pytest.approx(np.sqrt(np.mean((factors - 1) ** 2)), rel=1e-6)


def test_a_constant_map_becomes_the_mean(truth):
    aligned = align(np.full(truth.shape, 7.0, np.float32), truth, "depth-affine", (0.1, 10.0))
    np.testing.assert_allclose(aligned, truth[truth > 0].mean(), rtol=1e-6)
    assert fit_scale_and_shift(np.ones(5), np.arange(5.0)) == (0.0, 2.0)


def test_maps_are_brought_to_the_resolution_of_the_truth():
    rows, columns = np.mgrid[:48, :64]
    truth = (1 + rows / 48 + columns / 64).astype(np.float32)
    small = truth[1::4, 1::4]
    aligned = align(small, truth, "depth-affine", depth_range([truth]))
    assert aligned.shape == truth.shape
    assert measure(aligned, truth).abs_rel < 0.02


def test_resizing_is_bicubic_with_pixel_centres():
    small = np.array([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]], np.float32)

    def kernel(distance: float) -> float:  # Keys 1981, a = -0.5
        x = abs(distance)
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    centres = (np.arange(12) + 0.5) / 2 - 0.5
    expected = [
        sum(kernel(c - i) * small[0, i] for i in range(6)) / sum(kernel(c - i) for i in range(6))
        for c in centres
    ]
    np.testing.assert_allclose(resized(small, (1, 12), inverse=True)[0], expected, atol=1e-6)


def test_depth_is_resized_as_its_logarithm():
    small = np.array([[1.0, 1.0, 4.0, 4.0]], np.float32)
    found = resized(small, (1, 8), inverse=False)
    expected = np.exp(resized(np.log(small), (1, 8), inverse=True))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[0, 3] * found[0, 4] == pytest.approx(4.0, rel=1e-5)
    assert resized(small, (1, 4), inverse=False) is small


def test_images_count_the_same_whatever_their_number_of_readings():
    good = DepthMetrics(abs_rel=0.1, rmse=0.2, delta1=1.0, delta2=1.0, delta3=1.0)
    bad = DepthMetrics(abs_rel=0.5, rmse=0.4, delta1=0.0, delta2=0.5, delta3=1.0)
    found = average([good, good, bad])
    assert found.abs_rel == pytest.approx(0.7 / 3)
    assert found.delta1 == pytest.approx(2 / 3)
    assert found.num_images == 3


def test_the_mean_depth_map_is_taken_over_readings_only():
    first = np.array([[1.0, 0.0], [3.0, 0.0]], np.float32)
    second = np.array([[2.0, 4.0], [0.0, 0.0]], np.float32)
    mean = mean_depth_map([first, second])
    np.testing.assert_allclose(mean, [[1.5, 4.0], [3.0, 2.5]])  # nowhere read: the mean of all readings


def test_the_mean_depth_map_of_maps_of_several_sizes():
    mean = mean_depth_map([np.full((4, 4), 1.0, np.float32), np.full((8, 6), 3.0, np.float32)], (2, 2))
    np.testing.assert_allclose(mean, 2.0)


def test_bad_maps_are_refused(truth):
    empty = np.zeros_like(truth)
    with pytest.raises(RecordError, match="without a single reading"):
        align(truth, empty, "metric", (0.1, 10.0))
    with pytest.raises(RecordError, match="without a single reading"):
        measure(truth, empty)
    with pytest.raises(RecordError, match="not finite"):
        align(np.full_like(truth, np.nan), truth, "metric", (0.1, 10.0))
    with pytest.raises(RecordError, match="nothing to score"):
        depth_range([empty])
    with pytest.raises(RecordError, match="mean depth map needs some"):
        mean_depth_map([empty])
