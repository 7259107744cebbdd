import json

import numpy as np
import pytest
import torch
from PIL import Image

from egem.core.errors import CheckpointError, ConfigError, RecordError
from egem.data.images import ImagePolicy, patchify, smart_resize


def policy(**options: object) -> ImagePolicy:
    values = {
        "patch_size": 4,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "min_pixels": 64,
        "max_pixels": 4096,
    }
    return ImagePolicy(**{**values, **options})


def test_patches_of_one_visual_token_stand_together():
    """Each pixel's red tells its row, its green its column."""
    rows, columns = np.mgrid[:16, :24]
    image = np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)
    patches, grid = patchify(image, policy())
    assert grid.tolist() == [1, 4, 6]
    assert patches.shape == (24, 3 * 4 * 4)
    corners = (patches.reshape(24, 3, 4, 4)[:, :2, 0, 0] // 4).tolist()
    assert corners[:8] == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]]
    values = policy(mean=(0.0,) * 3, std=(1 / 255,) * 3).patch_scale().values(torch.from_numpy(patches))
    first, second = values.reshape(24, 3, 2, 16).round().unbind(2)
    assert torch.equal(first, second)  # a still image fills both frames
    np.testing.assert_array_equal(first, patches.reshape(24, 3, 16))


def test_normalisation():
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 1] = 255
    normalising = policy(mean=(0.5, 0.4, 0.3), std=(0.5, 0.2, 0.1))
    values = normalising.patch_scale().values(torch.from_numpy(patchify(image, normalising)[0]))
    channels = values.reshape(4, 3, -1).numpy()
    np.testing.assert_allclose(channels[:, 0], -1.0)
    np.testing.assert_allclose(channels[:, 1], 3.0, rtol=1e-6)
    np.testing.assert_allclose(channels[:, 2], -3.0, rtol=1e-6)


def test_without_pictures_there_are_no_values():
    none = torch.zeros(0, policy().patch_bytes, dtype=torch.uint8)
    assert policy().patch_scale().values(none).shape == (0, 3 * 2 * 4 * 4)


def test_sizes_stay_within_limits():
    for height, width in [(1, 1), (8, 8), (1000, 100), (37, 211), (64, 64), (2000, 2000)]:
        new_height, new_width = smart_resize(height, width, policy())
        assert new_height % 8 == new_width % 8 == 0
        assert 64 <= new_height * new_width <= 4096


def test_the_right_size_is_left_alone():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    patches, _ = patchify(image, policy())
    np.testing.assert_array_equal(np.sort(patches.ravel()), np.sort(image.ravel()))


def test_too_long_and_thin():
    with pytest.raises(RecordError, match="an image of 402 x 2 pixels: one side is over 200 times the other"):
        smart_resize(2, 402, policy())
    assert smart_resize(2, 400, policy())


def write(folder, name="preprocessor_config.json", **changes):
    values = {
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": 65536, "longest_edge": 16777216},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        **changes,
    }
    values = {key: value for key, value in values.items() if value is not None}
    if name == "processor_config.json":
        values = {"image_processor": values}
    (folder / name).write_text(json.dumps(values))


def test_policy_from_a_checkpoint(tmp_path):
    write(tmp_path)
    found = ImagePolicy.from_folder(tmp_path)
    assert found == ImagePolicy(
        patch_size=16, temporal_patch_size=2, merge_size=2, min_pixels=65536, max_pixels=16777216
    )
    assert (found.factor, found.patch_bytes) == (32, 768)
    write(tmp_path, min_pixels=100, max_pixels=200)
    assert ImagePolicy.from_folder(tmp_path).max_pixels == 200


def test_policy_from_a_newer_checkpoint(tmp_path):
    write(tmp_path, "processor_config.json")
    assert ImagePolicy.from_folder(tmp_path).patch_size == 16


def test_foreign_checkpoints(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"has no preprocessor_config.json; it is not a Qwen3-VL checkpoint"
    ):
        ImagePolicy.from_folder(tmp_path)
    write(tmp_path, merge_size=None)
    with pytest.raises(CheckpointError, match="has no 'merge_size'"):
        ImagePolicy.from_folder(tmp_path)
    write(tmp_path, resample=2)
    with pytest.raises(CheckpointError, match="resample = 2 is not supported, only 3"):
        ImagePolicy.from_folder(tmp_path)
    write(tmp_path, rescale_factor=1.0)
    with pytest.raises(CheckpointError, match=r"rescale_factor 1.0 is not 1/255"):
        ImagePolicy.from_folder(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        ImagePolicy.from_folder(tmp_path)
    with pytest.raises(ConfigError, match="is no range"):
        policy(min_pixels=10, max_pixels=5)


def test_the_fast_resize_differs_by_a_rounding():
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8))
    image = np.array(coarse.resize((640, 480), Image.Resampling.BICUBIC))
    policy = ImagePolicy(
        patch_size=16, temporal_patch_size=2, merge_size=2, min_pixels=256, max_pixels=448 * 336
    )
    (exact, grid), (fast, fast_grid) = (patchify(image, policy, fast_resize=fast) for fast in (False, True))
    assert grid.tolist() == fast_grid.tolist() == [1, 20, 28]
    levels = np.abs(exact.astype(int) - fast)
    assert levels.max() <= 2
    assert 0 < (levels > 0).mean() < 0.01
    small = image[:320, :448]
    assert np.array_equal(patchify(small, policy)[0], patchify(small, policy, fast_resize=True)[0])
