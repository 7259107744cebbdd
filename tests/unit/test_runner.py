import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from egem.core.errors import CheckpointError, RecordError
from egem.evaluation.benchmarks import Benchmark
from egem.evaluation.depth import align, depth_range, mean_depth_map, measure
from egem.evaluation.depth_run import DepthOptions, aligned, true_depths
from egem.evaluation.intervals import wilson
from egem.evaluation.journal import Journal
from egem.evaluation.predictor import GeneratedDepth, Predictor
from egem.evaluation.runner import RunOptions, answer, blind_floor, run
from egem.recipes.pages import Evaluated, depth_pictures
from egem.shards import RecordGroups, ShardWriter
from record_sets import group, write_records
from tiny import write_checkpoint

torch.set_num_threads(1)
FILES = ("answers.jsonl", "depth.jsonl", "scores.json", "scores.md")


class Parrot:
    """Answers from a table and draws the truth with a known error: what it must score is known."""

    name = "parrot"

    def __init__(self, texts, *, fingerprint="parrot-1", stop_after=None):
        self.texts = texts
        self.fingerprint = fingerprint
        self.asked: list[str] = []
        self.stop_after = stop_after

    def answer(self, records, *, batch_size, max_new_tokens):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += [record.id for record in records]
        return [self.texts(record) for record in records]

    def draw_depth(self, images, *, num_steps, guidance, seed, batch_size):
        return [self._depth(np.full(image.shape[:2], 1.0, np.float32)) for image in images]

    def round_trip(self, depth, image_size):
        return self._depth(np.where(depth > 0, depth, 1).astype(np.float32))

    def _depth(self, values):
        return GeneratedDepth(values=values, kind="metric", scale=1.0, shift=0.0, encoded=values[None])


def right(record):
    return record.answer.text


def half(record):
    return record.answer.text if record.skill in ("counting", "box") else "I do not know"


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    folder = write_records(tmp_path_factory.mktemp("records") / "r", 6)
    return Benchmark.from_folder("six", folder)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records") / "train", 5, first=100)


def test_scores_of_known_answers(benchmark, training, tmp_path):
    options = RunOptions(batch_size=5, depth=DepthOptions(batch_size=4), training_data=(training,))
    scores = run(benchmark, Parrot(half), tmp_path, options)
    assert [(line.name, line.score.mean) for line in scores.skills] == [
        ("box", 1.0),
        ("counting", 1.0),
        ("free_space", 0.0),
        ("nearest", 0.0),
    ]
    assert {line.name: line.score.mean for line in scores.categories} == {"grounding": 0.5, "spatial": 0.5}
    assert scores.overall.score.mean == 0.5
    assert scores.overall.score.n == 24
    assert (scores.num_groups, scores.num_scenes) == (6, 6)
    # The box never moves, so it is known without looking.
    floors = {line.name: line.blind.mean for line in scores.skills if line.blind}
    assert floors["box"] == 1.0
    assert floors["free_space"] == 1.0
    assert floors["counting"] < 1.0
    assert not any(line.above_blind for line in scores.skills if line.name in ("box", "nearest"))
    assert scores.blind_training == str(training)


def test_depth_of_known_maps(benchmark, training, tmp_path):
    scores = run(benchmark, Parrot(right), tmp_path, RunOptions(training_data=(training,)))
    depth = scores.depth
    assert depth is not None
    assert depth.unit == "m"
    truths = list(true_depths(benchmark))
    errors = [np.mean(np.abs(1.0 - t.depth[t.depth > 0]) / t.depth[t.depth > 0]) for t in truths]
    drawn = depth.find("generated", "metric")
    assert drawn.abs_rel == pytest.approx(np.mean(errors), rel=1e-5)
    assert drawn.num_images == 6
    assert depth.find("round trip").abs_rel < 1e-4
    # A constant map says less than the mean map of the same kind of scene.
    assert depth.find("mean training depth").abs_rel < depth.find("generated").abs_rel
    assert [(s.name, s.family) for s in depth.scores][:3] == [
        ("generated", "depth-affine"),
        ("mean training depth", "depth-affine"),
        ("round trip", "depth-affine"),
    ]
    assert depth.depth_range[0] == pytest.approx(min(t.depth[t.depth > 0].min() for t in truths))


def test_the_mean_depth_map_is_aligned_in_the_family_of_what_was_drawn(benchmark, training, tmp_path):
    class Relative(Parrot):
        def _depth(self, values):
            return replace(super()._depth(values), kind="inverse_relative", scale=None, shift=None)

    scores = run(benchmark, Relative(right), tmp_path, RunOptions(training_data=(training,)))
    assert scores.depth is not None
    assert {s.family for s in scores.depth.scores} == {"disparity-affine"}
    known = [t.depth for t in true_depths(Benchmark.from_folder("t", training))]
    guess = 1.0 / mean_depth_map(known)
    truths = [t.depth for t in true_depths(benchmark)]
    limits = depth_range(truths)
    errors = [measure(align(guess, t, "disparity-affine", limits), t).abs_rel for t in truths]
    assert scores.depth.find("mean training depth").abs_rel == pytest.approx(np.mean(errors))


def test_interrupted_anywhere_the_files_are_the_same(benchmark, tmp_path):
    options = RunOptions(batch_size=5, depth=DepthOptions(batch_size=4))
    run(benchmark, Parrot(half), tmp_path / "whole", options)
    whole = {name: (tmp_path / "whole" / name).read_bytes() for name in FILES}
    for stop_after in (0, 5, 15):
        folder = tmp_path / f"stopped-{stop_after}"
        with pytest.raises(KeyboardInterrupt):
            run(benchmark, Parrot(half, stop_after=stop_after), folder, options)
        # A kill in the middle of writing leaves part of a line.
        with (folder / "answers.jsonl").open("ab") as file:
            file.write(b'{"id": "test/5/bo')
        again = Parrot(half)
        run(benchmark, again, folder, options)
        assert len(again.asked) == 24 - stop_after
        assert {name: (folder / name).read_bytes() for name in FILES} == whole


def test_a_finished_run_asks_nothing_again(benchmark, tmp_path):
    first = run(benchmark, Parrot(half), tmp_path, RunOptions())
    silent = Parrot(half)
    assert run(benchmark, silent, tmp_path, RunOptions()) == first
    assert silent.asked == []


def test_results_of_something_else_are_refused(benchmark, tmp_path):
    options = RunOptions(depth=None)
    run(benchmark, Parrot(half), tmp_path, options)
    other = Parrot(right, fingerprint="parrot-2")
    with pytest.raises(
        CheckpointError, match="results of another run: checkpoint was 'parrot-1', now it is 'parrot-2'"
    ):
        run(benchmark, other, tmp_path, options)
    fewer = Benchmark.from_folder("six", benchmark.groups.folders[0], num_groups=3)
    with pytest.raises(CheckpointError, match="questions was"):
        run(fewer, Parrot(half), tmp_path, options)
    with pytest.raises(CheckpointError, match="max_new_tokens was 64, now it is 8"):
        run(benchmark, Parrot(half), tmp_path, RunOptions(depth=None, max_new_tokens=8))


def test_a_damaged_line_is_named(tmp_path):
    journal = Journal(tmp_path / "a.jsonl", {"what": 1})
    journal.append([{"id": "one", "x": 1}, {"id": "two", "x": 2}])
    content = journal.path.read_text()
    journal.path.write_text(content.replace('{"id": "one"', '{"id: "one"'))
    with pytest.raises(CheckpointError, match=r"a\.jsonl line 1 is damaged"):
        Journal(tmp_path / "a.jsonl", {"what": 1})


def test_results_without_their_identity_are_refused(tmp_path):
    Journal(tmp_path / "a.jsonl", {"what": 1}).append([{"id": "one"}])
    (tmp_path / "a.of.json").unlink()
    with pytest.raises(CheckpointError, match="what was None, now it is 1"):
        Journal(tmp_path / "a.jsonl", {"what": 1})


def test_the_floor_never_comes_from_the_question_itself(benchmark, training):
    halves, source = blind_floor(benchmark, ())
    assert source == "the other half of the benchmark"
    assert halves.keys() == {record.id for record in benchmark.records()}
    learned, source = blind_floor(benchmark, (training,))
    assert source == str(training)
    assert learned.keys() == halves.keys()
    # "left" for even scenes, "right" for odd: learned from the other half, it is always wrong.
    assert all(value == 0.0 for id_, value in halves.items() if id_.endswith("nearest"))


def test_views_of_one_scene_are_one_draw(tmp_path):
    with ShardWriter(tmp_path / "r") as writer:
        for seed in range(12):
            for record in group(seed):
                writer.add(replace(record, meta={"scene": f"scene {seed // 3}"}))
    benchmark = Benchmark.from_folder("views", tmp_path / "r")
    scores = run(benchmark, Parrot(right), tmp_path / "out", RunOptions(depth=None))
    assert (scores.num_groups, scores.num_scenes) == (12, 4)
    assert scores.overall.score.low == pytest.approx(wilson(1.0, 4)[0])
    # Scenes 0 and 2 against 1 and 3: neighbours of one scene never learn from each other.
    floor, _ = blind_floor(benchmark, ())
    assert len(floor) == 48


def test_progress_is_told(benchmark, tmp_path):
    told = []
    run(
        benchmark,
        Parrot(right),
        tmp_path,
        RunOptions(batch_size=20, depth=DepthOptions(batch_size=4)),
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    assert told == [("answers", 20, 24), ("answers", 24, 24), ("depth", 4, 6), ("depth", 6, 6)]


def test_a_benchmark_without_depth_has_no_depth_scores(tmp_path):
    folder = write_records(tmp_path / "flat", 3, with_depth=False)
    scores = run(Benchmark.from_folder("flat", folder), Parrot(right), tmp_path / "out", RunOptions())
    assert scores.depth is None
    assert scores.overall.score.mean == 1.0
    assert not (tmp_path / "out" / "depth.jsonl").exists()


def test_only_so_many_depth_images(benchmark, tmp_path):
    options = RunOptions(depth=DepthOptions(num_images=2))
    scores = run(benchmark, Parrot(right), tmp_path, options)
    assert scores.depth is not None
    assert scores.depth.find("generated").num_images == 2
    assert scores.depth.find("mean training depth") is None


def test_the_pictures_of_a_report_are_the_maps_that_were_scored(benchmark, tmp_path):
    class Asked(Parrot):
        def draw_depth(self, images, *, num_steps, guidance, seed, batch_size):
            self.asked += [(image.tobytes(), num_steps, guidance, seed) for image in images]
            values = [np.full(image.shape[:2], float(seed), np.float32) for image in images]
            for value in values:
                value[0] = 100.0  # far beyond any true depth
            return [self._depth(value) for value in values]

    scored, shown = Asked(right), Asked(right)
    options = DepthOptions(num_images=3, num_steps=9, guidance=2.5, seed=5)
    scores = run(benchmark, scored, tmp_path, RunOptions(depth=options))
    evaluated = Evaluated(benchmark=benchmark, folder=tmp_path, scores=scores, depth=options)
    pictures = depth_pictures(evaluated, shown)
    assert shown.asked == [asked for asked in scored.asked if not isinstance(asked, str)]
    assert len(pictures) == 3
    low, high = scores.depth.depth_range
    assert all(low <= picture.generated.min() <= picture.generated.max() <= high for picture in pictures)
    assert depth_pictures(replace(evaluated, depth=None), shown) == ()


def test_a_real_checkpoint_whole_and_resumed(benchmark, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    options = RunOptions(batch_size=7, max_new_tokens=6, depth=DepthOptions(num_images=3, num_steps=1))
    run(benchmark, Predictor.from_checkpoint(checkpoint, device="cpu"), tmp_path / "a", options)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for name in ("answers.jsonl", "depth.jsonl"):
        path = tmp_path / "b" / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    smaller = RunOptions(batch_size=3, max_new_tokens=6, depth=options.depth)
    run(benchmark, Predictor.from_checkpoint(checkpoint, device="cpu"), tmp_path / "b", smaller)
    assert (tmp_path / "a" / "answers.jsonl").read_bytes() == (tmp_path / "b" / "answers.jsonl").read_bytes()
    one, two = (json.loads((tmp_path / x / "scores.json").read_text()) for x in "ab")
    first, second = one.pop("depth"), two.pop("depth")
    assert one == two
    for a, b in zip(first["scores"], second["scores"], strict=True):
        assert a["metrics"] == pytest.approx(b["metrics"], rel=1e-3)
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu")
    truth = next(iter(true_depths(benchmark)))
    drawn = predictor.draw_depth([truth.image], num_steps=1)[0]
    assert aligned(drawn, truth).shape == truth.depth.shape


def test_two_questions_with_one_id_are_refused(benchmark, tmp_path):
    twice = Benchmark(name="twice", groups=TwiceTheSame(benchmark.groups), num_groups=2)
    with pytest.raises(RecordError, match="two questions have one id"):
        answer(twice, Parrot(right), tmp_path, RunOptions())


def TwiceTheSame(groups):  # noqa: N802 - stands for a class
    class Twice(RecordGroups):
        def __getitem__(self, index):
            return super().__getitem__(0)

    return Twice(groups.folders)
