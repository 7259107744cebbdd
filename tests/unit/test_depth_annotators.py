import sys
import types

import numpy as np
import pytest
import torch

from egem.annotators.depth import FARTHEST_M, from_disparity, to_estimate, to_file
from egem.annotators.depth_anything3 import DepthAnything3Depth
from egem.annotators.transformers_depth import TransformersDepth, known_output
from egem.core.errors import CheckpointError, ConfigError, RecordError
from egem.media import decode_depth
from tiny_annotators import depth_anything_v2


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, size, np.uint8) for size in ((30, 40, 3), (30, 40, 3), (48, 32, 3))]


def test_disparity_is_stored_so_that_its_inverse_is_affine():
    disparity = np.random.default_rng(0).random((20, 30)) * 7 + 3
    disparity[0, 0] = np.nan
    file = to_file(to_estimate(disparity, "disparity"), "x/y", "here")
    assert (file.kind, file.origin) == ("relative", "x/y")
    depth = decode_depth(file)
    assert depth[0, 0] == 0
    inverse, kept = 1 / depth[depth > 0], disparity[depth > 0]
    scale, shift = np.polyfit(kept, inverse, 1)
    assert scale > 0  # near stays near
    assert np.abs(scale * kept + shift - inverse).max() < 0.01 * np.ptp(inverse)
    assert from_disparity(np.full((2, 2), np.nan)).max() == 0


def test_metric_depth_stays_metric():
    metres = np.array([[0.5, 2.25], [-1.0, 80.0]])
    file = to_file(to_estimate(metres, "metric"), "x/y", "here")
    assert file.kind == "metric"
    assert decode_depth(file).round(3).tolist() == [[0.5, 2.25], [0.0, 0.0]]
    assert FARTHEST_M < 80
    with pytest.raises(RecordError, match="implausible"):
        to_file(to_estimate(np.full((4, 4), 0.001), "metric"), "x/y", "here")
    relative = to_estimate(np.array([[1e-3, 2e-3, 4e-3]]), "relative")
    assert relative.kind == "relative"
    assert (relative.depth[0] / relative.depth[0, 0]).round(3).tolist() == [1, 2, 4]


@pytest.mark.parametrize(("kind", "stored"), [("relative", "relative"), ("metric", "metric")])
def test_a_model_of_transformers_end_to_end(tmp_path, images, kind, stored):
    estimator = TransformersDepth.from_pretrained(str(depth_anything_v2(tmp_path, kind)), device="cpu")
    assert estimator.origin == f"depth-anything/{tmp_path.name}"
    assert estimator.licence == "apache-2.0"
    together = estimator.estimate(images, [None] * 3)
    for image, one in zip(images, together, strict=True):
        (alone,) = estimator.estimate([image], [None])
        assert one.kind == stored
        assert one.depth.shape == image.shape[:2]
        assert np.isfinite(one.depth).all()
        assert np.abs(one.depth - alone.depth).max() < 1e-4


def test_models_of_unknown_meaning_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--output"):
        known_output(types.SimpleNamespace(model_type="newdepth"), "x")
    with pytest.raises(ConfigError, match="prompt"):
        known_output(types.SimpleNamespace(model_type="prompt_depth_anything"), "x")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        TransformersDepth.from_pretrained(str(tmp_path), device="cpu")


class Network(torch.nn.Module):
    """Stands for the package's network: views of one scene change each other, scenes do not; the top row is sky."""

    model_name = "da3metric-large"

    def __init__(self):
        super().__init__()
        self.model = self._model
        self.scale = torch.nn.Parameter(torch.ones(1))

    def input_processor(self, images, extrinsics, intrinsics, resolution, method):
        assert (extrinsics, intrinsics, resolution, method) == (None, None, 504, "upper_bound_resize")
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        # The longer side at twice the pixels stands for 504.
        return torch.nn.functional.interpolate(pixels, scale_factor=2.0), None, None

    def _model(self, pixels):
        depth = pixels.mean(dim=2) + 1 + pixels.mean(dim=(1, 2, 3, 4), keepdim=True)[:, :, 0]
        sky = torch.zeros_like(depth)
        sky[:, :, :2] = 1
        return {"depth": depth * self.scale, "sky": sky}


@pytest.fixture
def package(monkeypatch):
    """The package's interface around the stand-in."""
    api = types.ModuleType("depth_anything_3.api")
    api.DepthAnything3 = types.SimpleNamespace(from_pretrained=lambda name: Network())
    monkeypatch.setitem(sys.modules, "depth_anything_3", types.ModuleType("depth_anything_3"))
    monkeypatch.setitem(sys.modules, "depth_anything_3.api", api)


def test_depth_anything_3_sees_images_apart_and_gives_metres(package, images):
    estimator = DepthAnything3Depth.from_pretrained("depth-anything-none/DA3METRIC-LARGE", device="cpu")
    assert estimator.origin == "depth-anything-3/DA3METRIC-LARGE"
    assert estimator.licence == "apache-2.0"
    together = estimator.estimate(images, [300.0, 600.0, 300.0])
    for image, focal, one in zip(images, (300.0, 600.0, 300.0), together, strict=True):
        (alone,) = estimator.estimate([image], [focal])
        assert one.kind == "metric"
        assert np.abs(one.depth - alone.depth).max() < 1e-6
        # Twice the image's pixels are seen, so the focal length counts twice: metres = 2 * focal * output / 300.
        output = image.astype(np.float32).mean(axis=2) / 255 + 1 + image.mean() / 255
        assert np.abs(one.depth[2:] - 2 * focal / 300 * output[2:]).max() < 0.02
        assert (one.depth[0] == 0).all()  # sky
    with pytest.raises(RecordError, match="--focal"):
        estimator.estimate(images, [300.0, None, 300.0])


def test_depth_anything_3_without_its_package():
    with pytest.raises(ConfigError, match="depth-anything-3"):
        DepthAnything3Depth.from_pretrained("depth-anything/DA3-SMALL", device="cpu")
