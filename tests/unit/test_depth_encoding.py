import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egem.core.config import from_dict, to_dict
from egem.core.errors import ConfigError, RecordError
from egem.data.depth import DepthPolicy, decode, encode, target_size

ENCODINGS = ("spectral", "inverse", "log")


def policy(encoding: str, long_side: int = 64, multiple: int = 16, **options: float) -> DepthPolicy:
    return DepthPolicy(encoding=encoding, long_side=long_side, multiple=multiple, **options)


def slope(height: int = 48, width: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (0.4 + 2 * rows / height + columns / width).astype(np.float32)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_shape_range_and_channels(encoding):
    depth = slope()
    depth[:10, :10] = 0
    encoded = encode(depth, (48, 64), policy(encoding))
    assert encoded.pixels.shape == (policy(encoding).num_channels, 48, 64)
    assert encoded.pixels.dtype == np.float32
    assert encoded.pixels.min() >= -1
    assert encoded.pixels.max() <= 1
    np.testing.assert_array_equal(encoded.valid, depth > 0)


def test_target_size_is_the_released_rule():
    released = policy("spectral", 448, 32)
    for image, expected in {
        (480, 640): (320, 448),
        (640, 480): (448, 320),
        (720, 1280): (224, 448),
        (360, 640): (224, 448),
        (500, 500): (448, 448),
        (10, 2000): (32, 448),
        (96, 96): (448, 448),
    }.items():
        assert target_size(*image, released) == expected


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_target_size_always_keeps_the_long_side(height, width):
    size = target_size(height, width, policy("log", 448, 32))
    assert max(size) == 448
    assert min(size) >= 32
    assert size[0] % 32 == size[1] % 32 == 0


def test_log_is_exact_between_near_and_far():
    wanted = policy("log", near_m=0.1, far_m=10.0)
    depth = np.geomspace(0.1, 10, 64, dtype=np.float32)[None].repeat(48, 0)
    encoded = encode(depth, (48, 64), wanted)
    assert encoded.pixels[0, 0, 0] == pytest.approx(-1)
    assert encoded.pixels[0, 0, -1] == pytest.approx(1)
    decoded = decode(encoded.pixels, wanted)
    assert decoded.kind == "metric"
    np.testing.assert_allclose(decoded.values, depth, rtol=1e-5)
    beyond = np.array([[0.01, 50.0]], np.float32)
    held = decode(encode(beyond, (1, 2), wanted).pixels, wanted)
    np.testing.assert_allclose(held.values, [[0.1, 10.0]], rtol=1e-5)


def test_inverse_is_exact_between_its_percentiles():
    wanted, depth = policy("inverse"), slope()
    encoded = encode(depth, (48, 64), wanted)
    decoded = decode(encoded.pixels, wanted, scale=encoded.scale, shift=encoded.shift)
    low, high = np.percentile(1 / depth, (2, 98))
    inside = (1 / depth >= low) & (1 / depth <= high)
    assert inside.mean() > 0.95
    np.testing.assert_allclose(decoded.values[inside], depth[inside], rtol=1e-5)
    np.testing.assert_allclose(decoded.values[1 / depth < low], 1 / low, rtol=1e-5)
    assert encoded.pixels[0, 0, 0] == 1  # nearest
    assert encoded.pixels[0, -1, -1] == -1  # farthest


def test_inverse_without_scale_says_so():
    wanted, depth = policy("inverse"), slope()
    encoded = encode(depth, (48, 64), wanted)
    decoded = decode(encoded.pixels, wanted)
    assert decoded.kind == "inverse_relative"
    assert decoded.scale is None
    np.testing.assert_allclose(decoded.values, (encoded.pixels[0] + 1) / 2, atol=1e-6)


def test_spectral_round_trip_error_is_small():
    wanted, depth = policy("spectral"), slope()
    encoded = encode(depth, (48, 64), wanted)
    level = decode(encoded.pixels, wanted)
    assert level.kind == "inverse_relative"
    expected = np.clip((1 / depth - encoded.shift) / encoded.scale, 0, 1)
    between = (expected > 0) & (expected < 1)
    assert abs((level.values - expected)[between].mean()) < 5e-4  # no bias of half a level
    error = np.abs(level.values - expected)
    assert error.max() < 0.008  # two of the 256 levels
    assert error.mean() < 0.002
    metric = decode(encoded.pixels, wanted, scale=encoded.scale, shift=encoded.shift)
    inside = (expected > 0) & (expected < 1)
    assert np.abs(metric.values / depth - 1)[inside].max() < 0.03


def test_spectral_decodes_colours_off_the_map_to_the_nearest():
    wanted = policy("spectral")
    noisy = np.clip(
        encode(slope(), (48, 64), wanted).pixels + np.random.default_rng(0).normal(0, 0.02, (3, 48, 64)),
        -1,
        1,
    ).astype(np.float32)
    clean = decode(encode(slope(), (48, 64), wanted).pixels, wanted).values
    assert np.abs(decode(noisy, wanted).values - clean).mean() < 0.02


@pytest.mark.parametrize("encoding", ["inverse", "log"])
def test_masked_resize_averages_readings_only(encoding):
    depth = np.full((8, 8), 2.0, np.float32)
    depth[::2, ::2] = 0
    depth[:4, :4] = 0
    depth[4:, 4:] = 1.0
    encoded = encode(depth, (2, 2), policy(encoding, 2, 1))
    np.testing.assert_array_equal(encoded.valid, [[False, True], [True, True]])
    full = encode(np.where(depth > 0, depth, 2.0).astype(np.float32), (8, 8), policy(encoding, 8, 1))
    far, near = full.pixels[0, 0, 0], full.pixels[0, -1, -1]
    np.testing.assert_allclose(encoded.pixels[0, 0, 1], far, atol=1e-6)
    np.testing.assert_allclose(encoded.pixels[0, 1, 1], near, atol=1e-6)
    assert encoded.pixels[0, 0, 0] == pytest.approx(far, abs=1e-6)  # filled from a neighbour


def test_masked_resize_is_the_mean_of_encoded_values():
    depth = np.array([[1.0, 2.0], [4.0, 0.0]], np.float32)
    wanted = policy("log", 1, 1, near_m=1.0, far_m=4.0)
    encoded = encode(depth, (1, 1), wanted)
    assert encoded.pixels[0, 0, 0] == pytest.approx(0.0, abs=1e-6)  # of -1, 0 and 1


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_missing_depth_never_changes_what_is_valid(encoding):
    """Whatever stands beside it, a pixel under which all readings exist keeps its value."""
    depth = slope()
    holes = depth.copy()
    holes[20:24, 20:40] = 0
    wanted = policy(encoding, near_m=0.3, far_m=5.0)
    size = (48, 64)
    whole, holed = encode(depth, size, wanted), encode(holes, size, wanted)
    rate = 1e-6 if encoding == "log" else 0.05  # percentiles move a little
    assert np.abs(whole.pixels - holed.pixels)[:, holed.valid].mean() < rate
    assert not holed.valid[20:24, 20:40].any()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_degenerate_maps(encoding):
    wanted = policy(encoding, 16, 16)
    for depth in (
        np.zeros((16, 16), np.float32),
        np.full((16, 16), 1.5, np.float32),
        np.where(np.arange(256).reshape(16, 16) < 5, np.float32(1.5), np.float32(0)),
        np.where(np.arange(256).reshape(16, 16) < 1, np.float32(1.5), np.float32(0)),
    ):
        encoded = encode(depth, (16, 16), wanted)
        assert np.isfinite(encoded.pixels).all()
        assert np.abs(encoded.pixels).max() <= 1
        assert encoded.valid.sum() == (depth > 0).sum()
        decoded = decode(encoded.pixels, wanted, scale=encoded.scale, shift=encoded.shift)
        assert np.isfinite(decoded.values).all()
        if encoding != "spectral" and encoded.valid.any():
            np.testing.assert_allclose(decoded.values[encoded.valid], 1.5, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 40), st.integers(3, 40), st.floats(0, 1))
def test_any_size_and_sparsity(seed, height, width, missing):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.05, 20, (height, width)).astype(np.float32)
    depth[rng.random((height, width)) < missing] = 0
    for encoding in ENCODINGS:
        encoded = encode(depth, (16, 32), policy(encoding), image_size=(32, 32))
        assert np.isfinite(encoded.pixels).all()
        assert np.abs(encoded.pixels).max() <= 1
        assert encoded.valid.any() == (depth > 0).any() or encoding == "spectral"


def test_bad_input():
    with pytest.raises(RecordError, match="negative or non-finite"):
        encode(np.full((4, 4), np.nan, np.float32), (4, 4), policy("log"))
    with pytest.raises(ConfigError, match="3 channels; 'log' has 1"):
        decode(np.zeros((3, 4, 4), np.float32), policy("log"))
    with pytest.raises(ConfigError, match="version 9 is not known"):
        policy("log", version=9)
    with pytest.raises(ConfigError, match="0 < near_m < far_m is needed"):
        policy("log", near_m=5.0, far_m=1.0)
    with pytest.raises(ConfigError, match="long_side 8 is less than its multiple 16"):
        policy("log", 8)


def test_policy_round_trips_through_json():
    wanted = policy("log", near_m=0.2, far_m=4.0)
    assert from_dict(DepthPolicy, to_dict(wanted)) == wanted
    with pytest.raises(ConfigError, match=r"unknown encoding 'logg'. Did you mean 'log'"):
        from_dict(DepthPolicy, {**to_dict(wanted), "encoding": "logg"})
