import numpy as np
import pytest

import public_sets as sets
from egem.core.errors import RecordError
from egem.evaluation.benchmarks import BenchmarkOptions, open_benchmark
from egem.evaluation.depth_run import DepthOptions, true_depths
from egem.evaluation.predictor import GeneratedDepth
from egem.evaluation.runner import RunOptions, run
from egem.media import encode_depth
from egem.report.tables import read_scores


def depth(seed, size=(480, 640)):
    field = np.linspace(1, 4 + seed, size[0])[:, None].repeat(size[1], 1).astype(np.float32)
    field[:60] = 0.0
    field[100:110] = 12.0  # beyond what is scored
    return field


def opened(name, folder, **options):
    return open_benchmark(f"{name}={folder}", BenchmarkOptions(cache=folder, **options))


class Truth:
    """Draws a known constant."""

    name = fingerprint = "truth"

    def answer(self, records, *, batch_size, max_new_tokens):
        return ["" for _ in records]

    def draw_depth(self, images, *, num_steps, guidance, seed, batch_size):
        return [self._map(np.full(image.shape[:2], 2.0, np.float32)) for image in images]

    def round_trip(self, depth, image_size):
        return self._map(np.where(depth > 0, depth, 1).astype(np.float32))

    def _map(self, values):
        return GeneratedDepth(values=values, kind="metric", scale=1.0, shift=0.0, encoded=values[None])


def test_nyu_is_scored_inside_its_crop(tmp_path):
    for scene in ("bathroom", "office"):
        sets.save(tmp_path / "test" / scene / "rgb_00045.png", sets.png(1, (480, 640)))
        data = encode_depth(depth(len(scene)), 1e-3)
        sets.save(tmp_path / "test" / scene / "sync_depth_00045.png", data)
    benchmark = opened("nyu-depth", tmp_path)
    assert benchmark.num_groups == 2
    assert benchmark.depth_range == (1e-3, 10.0)
    for truth, scene in zip(true_depths(benchmark), ("bathroom", "office"), strict=True):
        want = depth(len(scene))
        want[:45] = want[471:] = 0
        want[:, :41] = want[:, 601:] = 0
        want[want >= 10] = 0
        np.testing.assert_allclose(truth.depth, want, atol=6e-4)
        assert truth.is_metric
    options = RunOptions(depth=DepthOptions(num_images=None))
    scores = run(benchmark, Truth(), tmp_path / "out", options)
    assert scores.overall is None
    assert scores.depth.depth_range == (1e-3, 10.0)
    drawn = scores.depth.find("generated", "metric")
    truths = [truth.depth[truth.depth > 0] for truth in true_depths(benchmark)]
    assert drawn.abs_rel == pytest.approx(np.mean([np.mean(np.abs(2 - t) / t) for t in truths]), rel=1e-6)
    assert drawn.num_images == 2
    skills, table = read_scores(tmp_path / "out")
    assert skills is None
    assert table is not None
    with pytest.raises(RecordError, match="has no questions, and depth is not drawn"):
        run(benchmark, Truth(), tmp_path / "none", RunOptions(depth=None))


@pytest.mark.parametrize(("color", "suffix"), [("color", "jpg"), ("rgb", "png")])
def test_scannet_and_others(tmp_path, color, suffix):
    for number in (0, 20):
        sets.save(tmp_path / "scene0000_00" / color / f"{number}.{suffix}", sets.png(number, (24, 32)))
        data = encode_depth(np.full((24, 32), 2.0, np.float32), 1e-3)
        sets.save(tmp_path / "scene0000_00" / "depth" / f"{number}.png", data)
    assert [truth.id for truth in true_depths(opened("depth-folder", tmp_path))] == [
        f"depth-folder/scene0000_00/{color}/{number}.{suffix}#0" for number in (0, 20)
    ]
    assert opened("depth-folder", tmp_path, num_groups=1).num_groups == 1


def test_incomplete_folders(tmp_path):
    with pytest.raises(RecordError, match="needs a folder of images and 16-bit depth maps"):
        open_benchmark("nyu-depth", BenchmarkOptions(cache=tmp_path))
    sets.save(tmp_path / "rgb" / "1.png", sets.png(1))
    with pytest.raises(RecordError, match="no depth map"):
        opened("depth-folder", tmp_path)
    for number in (1, 2):
        sets.save(tmp_path / "depth" / f"{number}.png", encode_depth(depth(1, (12, 16)), 1e-3))
    with pytest.raises(RecordError, match=r"1 depth maps have no image: 2\.png"):
        opened("depth-folder", tmp_path)
