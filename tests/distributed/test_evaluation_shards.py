"""Answers do not depend on how the work was parted: batch 1, batch 8, two processes, killed and resumed."""

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from egem.core.errors import ConfigError
from egem.evaluation.benchmarks import Benchmark
from egem.evaluation.depth_run import DepthOptions
from egem.evaluation.journal import Journal
from egem.evaluation.predictor import GeneratedDepth, Predictor
from egem.evaluation.runner import RunOptions, answer, run, share_work
from egem.evaluation.sharding import World, merge_shares, share_path
from record_sets import write_records
from tiny import build_micro

torch.set_num_threads(1)
NUM_GROUPS = 50
"""Of four questions each."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    # Untrained weights say one token for ever; larger ones make the text depend on the question.
    model = build_micro()
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter *= 4
    folder = tmp_path_factory.mktemp("gem") / "checkpoint"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records") / "r", NUM_GROUPS, with_depth=False)


class Recorder:
    """Answers with the length of the question, draws flat maps, and remembers what it was given."""

    name = fingerprint = "recorder"

    def __init__(self):
        self.asked, self.seen = [], []

    def answer(self, records, *, batch_size, max_new_tokens):
        self.asked += [record.group for record in records]
        return [str(len(record.messages[0].content) % 7) for record in records]

    def draw_depth(self, images, *, num_steps, guidance, seed, batch_size):
        self.seen += [image.tobytes() for image in images]
        return [self.round_trip(np.ones(image.shape[:2], np.float32), None) for image in images]

    def round_trip(self, depth, image_size):
        values = np.where(depth > 0, depth, 1).astype(np.float32)
        return GeneratedDepth(values=values, kind="metric", scale=1.0, shift=0.0, encoded=values[None])


@dataclass(frozen=True, kw_only=True)
class Meeting(World):
    """A world of threads."""

    barrier: threading.Barrier

    def wait(self):
        self.barrier.wait(60)


def test_processes_share_depth_maps_and_keep_the_questions_of_a_picture_together(tmp_path):
    folder = write_records(tmp_path / "r", 7)
    benchmark = Benchmark.from_folder("seven", folder)
    options = RunOptions(batch_size=3, depth=DepthOptions(batch_size=2))
    alone = Recorder()
    run(benchmark, alone, tmp_path / "alone", options)
    # What a killed run of one left: an answer and a map of the first group.
    out = tmp_path / "shared"
    out.mkdir()
    for name in ("answers", "depth"):
        shutil.copy(tmp_path / "alone" / f"{name}.of.json", out)
        lines = (tmp_path / "alone" / f"{name}.jsonl").read_bytes().splitlines(keepends=True)
        (out / f"{name}.jsonl").write_bytes(lines[0])
    models = [Recorder() for _ in range(3)]
    barrier = threading.Barrier(3)
    with ThreadPoolExecutor(3) as pool:
        work = [
            pool.submit(
                share_work, benchmark, model, out, options, Meeting(rank=rank, size=3, barrier=barrier)
            )
            for rank, model in enumerate(models)
        ]
        for one in work:
            one.result()
    groups = [set(model.asked) for model in models]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 7
    assert sum(len(model.asked) for model in models) == 27
    assert [len(model.seen) for model in models] == [2, 2, 2]
    assert set().union(*(model.seen for model in models)) == set(alone.seen[1:])
    idle = Recorder()
    run(benchmark, idle, out, options)
    assert idle.asked == idle.seen == []
    names = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert sorted(path.name for path in out.iterdir()) == names
    assert all((out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes() for name in names)


def test_fewer_maps_than_before_keep_the_others(tmp_path):
    benchmark = Benchmark.from_folder("three", write_records(tmp_path / "r", 3))
    for num in (3, 2, 3):
        run(benchmark, model := Recorder(), tmp_path / "out", RunOptions(depth=DepthOptions(num_images=num)))
        assert len((tmp_path / "out" / "depth.jsonl").read_text().splitlines()) == 3
    assert model.seen == []


@pytest.mark.slow
def test_200_questions_in_any_parting(checkpoint, records, tmp_path):
    benchmark = Benchmark.from_folder(f"records:{records}", records)
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu")
    for batch in (1, 8):
        options = RunOptions(batch_size=batch, max_new_tokens=4, depth=None)
        answers = answer(benchmark, predictor, tmp_path / f"batch-{batch}", options)
        assert len(answers) == 200
        assert len({one.prediction for one in answers}) > 3
    one, eight = ((tmp_path / f"batch-{batch}" / "answers.jsonl").read_bytes() for batch in (1, 8))
    assert one == eight
    # Two processes over what a killed run of one left: half of the lines, the last one torn.
    out = tmp_path / "two"
    folder = out / f"records:{records}".replace(":", "-").replace("/", "-")
    folder.mkdir(parents=True)
    (folder / "answers.of.json").write_bytes((tmp_path / "batch-1" / "answers.of.json").read_bytes())
    (folder / "answers.jsonl").write_bytes(one[: len(one) // 2])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29617"]
    command += [
        "-m",
        "egem",
        "eval",
        str(checkpoint),
        "--benchmarks",
        f"records:{records}",
        "--out",
        str(out),
    ]
    command += ["--batch-size", "8", "--max-new-tokens", "4", "--no-depth", "--device", "cpu"]
    source = Path(__file__).resolve().parents[2] / "src"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(source)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "answers.jsonl").read_bytes() == one
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        "answers.jsonl",
        "answers.of.json",
        "scores.json",
        "scores.md",
    ]
    assert json.loads((folder / "scores.json").read_text())["overall"]["score"]["n"] == 200
    assert (out / "report.html").is_file()


def test_shares_of_a_killed_run_are_merged_whatever_its_size(tmp_path):
    path, identity = tmp_path / "answers.jsonl", {"what": 1}
    Journal(path, identity).append([{"id": "b", "x": 1}])
    for rank, ids in enumerate(("a", "cb")):
        share = Journal(share_path(path, World(rank=rank, size=3)), identity)
        share.append([{"id": id, "x": 2} for id in ids])
    torn = share_path(path, World(rank=1, size=3))
    torn.write_bytes(torn.read_bytes() + b'{"id": "d", "x')
    merged = merge_shares(path, identity)
    assert merged.entries["b"] == {"id": "b", "x": 1}
    merged.sort(["a", "b", "c"])
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "b", "c"]
    assert sorted(found.name for found in tmp_path.iterdir()) == ["answers.jsonl", "answers.of.json"]


def test_the_world_comes_from_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert World.from_environment() == World(rank=0, size=1)
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ConfigError, match="RANK=2 and WORLD_SIZE=1 do not fit"):
        World.from_environment()
