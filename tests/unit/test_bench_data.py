"""The reading benchmark runs, and its numbers are of what it says."""

import numpy as np
import torch

from egem.benchmarking.data import PARTS, BenchDataConfig, bench_data, table
from egem.benchmarking.engine import BenchEngineConfig, bench_engine
from egem.benchmarking.engine import table as engine_table
from egem.benchmarking.pictures import (
    map_like_disparity,
    preparer_at_448,
    recipe_at_448,
    write_many_rows,
    write_pictures,
)
from egem.data.latents import open_latents
from egem.media import encode_counts
from egem.shards import RecordGroups, verify_shards


def test_a_small_run():
    config = BenchDataConfig(num_pictures=4, num_samples=4, batch_size=2, rows=3001)
    threads = torch.get_num_threads()
    result = bench_data(config)
    assert torch.get_num_threads() == threads
    assert tuple(result["parts_ms"]) == PARTS
    assert all(result["parts_ms"][part] > 0 for part in PARTS if part != "tokenise")
    assert result["stored_latents"]
    assert result["images_per_sample"] == 1
    assert result["samples_per_core_second"] > 1
    assert result["resume"]["rows"] == 3001
    assert result["resume"]["groups"] == 751
    shown = table(result)
    assert "samples/s of a core" in shown
    assert "3,001 rows: open in" in shown


def test_the_pictures_are_what_is_claimed(tmp_path):
    write_pictures(tmp_path / "pictures", num_pictures=3)
    verify_shards(tmp_path / "pictures")
    groups, preparer = RecordGroups([tmp_path / "pictures"]), preparer_at_448()
    latents = open_latents(groups, recipe_at_448(), "required")
    sample = preparer.sample(groups[1], depth_maps=latents[1])
    assert sample.image_grid.tolist() == [[1, 20, 28]]  # 320 x 448
    assert sample.depth_maps[0].latents.shape == (32, 10, 14)
    assert len(sample.record_ids) == 4
    data = groups[1][0].images[0].data
    assert data[:2] == b"\xff\xd8"
    assert 30_000 < len(data) < 150_000


def test_many_rows(tmp_path):
    write_many_rows(tmp_path / "rows", 1000)
    verify_shards(tmp_path / "rows")
    groups = RecordGroups([tmp_path / "rows"])
    assert [record.id for record in groups[200]] == [f"0000200/{turn}" for turn in range(4)]


def test_disparity_costs_what_real_frames_cost():
    rng = np.random.default_rng(0)
    for _ in range(3):
        disparity = map_like_disparity(rng)
        assert disparity.shape == (480, 640)
        assert disparity.dtype == np.uint8
        # As RefSpatial's reader stores it. Inverse depth of three TUM frames comes to 81 to 95 KB.
        assert 80_000 < len(encode_counts(disparity.astype(np.uint16) * 257)) < 140_000


def test_making_records_is_timed_by_source():
    result = bench_engine(BenchEngineConfig(rows=20, scenes=0, workers=1))
    made = {name: step["records"] for name, step in result["steps"].items()}
    assert made == {
        "import llava": 20,
        "import refspatial": 16,
        "import spar-7m": 5,
        "import spar-7m, marked": 5,
        "import robovqa": 8,
    }
    assert all(step["per_core_second"] > 0 for step in result["steps"].values())
    assert "clips of 16 frames" in engine_table(result)
