"""The `spectral` encoding against matplotlib, Pillow and the released formula written out pixel by pixel."""

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from egem.data.depth import DepthPolicy, encode, target_size


def colours_of(depth: np.ndarray) -> np.ndarray:
    """Inverse depth between its 2nd and 98th percentile, near = 0, through matplotlib's Spectral, cut to 8 bits."""
    inverse = depth.copy()
    seen = depth > 0
    inverse[seen] = 1 / depth[seen]
    few = seen.sum() <= 10
    low = 0 if few else np.percentile(inverse[seen], 2)
    high = 0 if few else np.percentile(inverse[seen], 98)
    if low == high:
        low, high = low - 1e-6, high + 1e-6
    level = 1 - ((inverse - low) / (high - low)).clip(0, 1)
    return (matplotlib.colormaps["Spectral"](level)[..., :3] * 255.0).astype(np.uint8)


def released(depth: np.ndarray, image_size: tuple[int, int], long_side: int, multiple: int) -> np.ndarray:
    nearest = np.asarray(
        Image.fromarray(depth).resize(image_size[::-1], Image.Resampling.NEAREST), np.float32
    )
    colours = Image.fromarray(colours_of(nearest))
    scale = long_side / max(image_size)
    height, width = (max(multiple, int(side * scale) // multiple * multiple) for side in image_size)
    resized = np.asarray(colours.resize((width, height), Image.Resampling.BILINEAR))
    tensor = torch.from_numpy(resized.copy()).permute(2, 0, 1).float().div(255)
    return tensor.sub(0.5).div(0.5).numpy()


@pytest.mark.parametrize("shape", [(48, 64), (37, 61), (64, 64), (100, 40)])
@pytest.mark.parametrize("image_size", [(64, 96), (32, 32), (96, 64)])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_spectral_is_the_released_formula(shape, image_size, missing):
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.3, 6, shape).astype(np.float32)
    depth[rng.random(shape) < missing] = 0
    policy = DepthPolicy(encoding="spectral", long_side=64, multiple=32)
    size = target_size(*image_size, policy)
    ours = encode(depth, size, policy, image_size=image_size)
    np.testing.assert_array_equal(ours.pixels, released(depth, image_size, 64, 32))


@pytest.mark.parametrize("readings", [0, 1, 10, 11])
def test_few_readings(readings):
    depth = np.zeros((32, 32), np.float32)
    depth.reshape(-1)[:readings] = np.linspace(0.5, 2, readings)
    policy = DepthPolicy(encoding="spectral", long_side=32, multiple=32)
    ours = encode(depth, (32, 32), policy)
    np.testing.assert_array_equal(ours.pixels, released(depth, (32, 32), 32, 32))


def test_constant_depth():
    depth = np.full((32, 32), 1.7, np.float32)
    policy = DepthPolicy(encoding="spectral", long_side=32, multiple=32)
    np.testing.assert_array_equal(encode(depth, (32, 32), policy).pixels, released(depth, (32, 32), 32, 32))


def test_near_is_dark_red_and_far_is_violet():
    depth = np.linspace(0.5, 5, 32 * 32, dtype=np.float32).reshape(32, 32)
    pixels = encode(depth, (32, 32), DepthPolicy(encoding="spectral", long_side=32, multiple=32)).pixels
    colours = (pixels.transpose(1, 2, 0) + 1) / 2 * 255
    np.testing.assert_allclose(colours[0, 0], (158, 1, 66), atol=1)
    np.testing.assert_allclose(colours[-1, -1], (94, 79, 162), atol=1)


def test_inverse_has_the_same_normalisation():
    depth = np.random.default_rng(1).uniform(0.3, 6, (32, 32)).astype(np.float32)
    spectral, inverse = (
        encode(depth, (32, 32), DepthPolicy(encoding=encoding, long_side=32, multiple=32))
        for encoding in ("spectral", "inverse")
    )
    assert inverse.scale == pytest.approx(spectral.scale, rel=1e-5)
    assert inverse.shift == pytest.approx(spectral.shift, rel=1e-5)
    low, high = np.percentile(1 / depth, (2, 98))
    expected = 2 * np.clip((1 / depth - low) / (high - low), 0, 1) - 1
    np.testing.assert_allclose(inverse.pixels[0], expected, atol=1e-5)
