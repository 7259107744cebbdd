"""Normalisation of states and actions, against plain numpy; the dimensions that must be treated otherwise."""

import json

import numpy as np
import pytest

from egem.core.errors import CheckpointError, ConfigError, RecordError
from egem.data.normalization import DimensionStatistics, Normalization

RNG = np.random.default_rng(0)
VALUES = RNG.normal([0.3, -2.0, 10.0], [0.1, 3.0, 1e-3], (500, 3))


def normalization(values: np.ndarray, method="quantiles", whole_range=()) -> Normalization:
    found = DimensionStatistics.of(values, whole_range=whole_range)
    return Normalization(method=method, state=found, action=found)


def test_quantiles_go_to_one_and_nothing_is_cut_off():
    low, high = np.percentile(VALUES, [1, 99], axis=0)
    wanted = 2 * (VALUES - low) / (high - low) - 1
    found = normalization(VALUES).normalize_actions(VALUES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert np.abs(found).max() > 1


def test_mean_and_std_against_numpy():
    found = normalization(VALUES, "mean_std").normalize_state(VALUES)
    np.testing.assert_allclose(found, (VALUES - VALUES.mean(0)) / VALUES.std(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["quantiles", "mean_std"])
def test_the_way_back_is_exact(method):
    given = normalization(VALUES, method)
    chunk = VALUES[:6].reshape(2, 3, 3)
    np.testing.assert_allclose(
        given.denormalize_actions(given.normalize_actions(chunk)), chunk.astype(np.float32), rtol=1e-5
    )


@pytest.mark.parametrize("method", ["quantiles", "mean_std"])
def test_a_constant_dimension_is_silent_in_and_constant_out(method):
    values = np.stack([RNG.normal(size=50), np.full(50, 0.7)], axis=1)
    given = normalization(values, method)
    assert given.normalize_state(np.array([0.0, 123.0]))[1] == 0
    assert given.denormalize_actions(np.array([0.0, 5.0]))[1] == np.float32(0.7)


def test_grippers_keep_their_two_ends():
    closing = np.zeros(1000)
    closing[:5] = 1.0
    values = np.stack([closing, RNG.normal(size=1000)], axis=1)
    for method in ("quantiles", "mean_std"):
        found = normalization(values, method, whole_range=(0,)).normalize_actions(values)
        assert set(found[:, 0].tolist()) == {-1.0, 1.0}


def test_narrow_percentiles_fall_back_to_the_range():
    seldom = np.zeros(1000)
    seldom[:3] = (-2.0, 2.0, 2.0)
    found = normalization(seldom[:, None]).normalize_state(seldom[:, None])
    assert found.min() == -1
    assert found.max() == 1


def test_it_travels_as_json(tmp_path):
    given = normalization(VALUES, whole_range=(1,))
    given.save(tmp_path)
    assert Normalization.load(tmp_path) == given


def test_what_is_refused(tmp_path):
    with pytest.raises(CheckpointError) as missing:
        Normalization.load(tmp_path)
    assert f"{tmp_path} has no normalization.json" in str(missing.value)
    assert "Copy it from" in str(missing.value)
    given = normalization(VALUES)
    given.save(tmp_path)
    path = tmp_path / "normalization.json"
    values = json.loads(path.read_text())
    values["state"]["std"][0] = float("nan")
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="not finite"):
        Normalization.load(tmp_path)
    with pytest.raises(ConfigError, match="3 action dimensions, the robot 7"):
        given.require_dims(state=3, action=7, where="the robot")
    with pytest.raises(ConfigError, match="state of 4 dimensions"):
        given.normalize_state(np.zeros(4))
    with pytest.raises(RecordError, match="finite"):
        DimensionStatistics.of(np.array([[np.nan]]))
