import json
import logging
import multiprocessing
import os
import signal
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from tests.record_sets import group

import egem
from egem.batch import IGNORE_LABEL, Batch
from egem.core.errors import RecordError
from egem.data import loader
from egem.data.chat import ChatTokenizer
from egem.data.depth import DepthPolicy
from egem.data.images import ImagePolicy
from egem.data.loader import batches
from egem.data.order import ReadingOrder
from egem.data.prepare import Preparer
from egem.records import ImageFile
from egem.shards import RecordGroups, ShardWriter

FOLDER = Path(egem.__file__).parent / "assets" / "tiny_tokenizer"
BAD = 3


@pytest.fixture(scope="module")
def preparer() -> Preparer:
    return Preparer(
        ImagePolicy(patch_size=8, temporal_patch_size=1, merge_size=2, min_pixels=256, max_pixels=16384),
        DepthPolicy(encoding="log", long_side=64, multiple=16),
        ChatTokenizer.from_folder(FOLDER),
    )


def write(folder: Path, *, bad: bool) -> RecordGroups:
    with ShardWriter(folder) as writer:
        for seed in range(8):
            for record in group(seed, with_depth=seed != 5):
                broken = bad and seed == BAD
                writer.add(replace(record, images=(ImageFile(data=b"broken"),)) if broken else record)
    return RecordGroups([folder])


@pytest.fixture(scope="module")
def groups(tmp_path_factory) -> RecordGroups:
    return write(tmp_path_factory.mktemp("good") / "a", bad=False)


@pytest.fixture(scope="module")
def bad_groups(tmp_path_factory) -> RecordGroups:
    return write(tmp_path_factory.mktemp("bad") / "a", bad=True)


def same(first: Batch, second: Batch) -> bool:
    def equal(a, b):
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b)
        if isinstance(a, tuple):
            return len(a) == len(b) and all(map(equal, a, b))
        if hasattr(a, "__dataclass_fields__"):
            return all(equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
        return a == b

    return equal(first, second)


def load(groups, preparer, **options):
    values = {"batch_size": 3, "num_steps": 6, "workers": 0, "max_turns": 2}
    order = options.pop("order", ReadingOrder(len(groups), 0))
    return list(batches(groups, preparer, order, **{**values, **options}))


def test_batches_do_not_depend_on_the_workers(groups, preparer):
    inline = load(groups, preparer)
    for workers in (1, 2):
        assert all(map(same, inline, load(groups, preparer, workers=workers)))
    assert len(inline) == 6


def test_resuming_goes_on_where_it_stopped(groups, preparer):
    whole = load(groups, preparer)
    rest = load(groups, preparer, start_step=4, num_steps=2)
    assert all(map(same, whole[4:], rest))
    assert len(rest) == 2


def test_turns_are_drawn_anew_each_epoch(groups, preparer):
    order = ReadingOrder(len(groups), 0, shuffle=False)
    first, second = (
        load(groups, preparer, order=order, batch_size=8, start_step=step, num_steps=1)[0] for step in (0, 1)
    )
    assert first.record_ids != second.record_ids
    assert len(first.record_ids) == len(second.record_ids) == 16


def test_without_depth_there_is_a_placeholder(groups, preparer):
    (batch,) = load(groups, preparer, num_steps=1, with_depth=False)
    (placeholder,) = batch.depth
    assert placeholder.pixels.shape == (1, 1, 16, 16)
    assert placeholder.weight.tolist() == [0]


@pytest.mark.parametrize("workers", [0, 1])
def test_relative_depth_under_log_is_counted_and_never_all_there_is(preparer, tmp_path, monkeypatch, workers):
    with ShardWriter(tmp_path / "a") as writer:
        for seed in range(4):
            for record in group(seed):
                relative = tuple(
                    replace(depth, kind="relative") for depth in record.depths if depth is not None
                )
                writer.add(replace(record, depths=relative))
    groups = RecordGroups([tmp_path / "a"])
    read = load(groups, preparer, batch_size=2, num_steps=2, workers=workers)
    assert [batch.left_out for batch in read] == [2, 2]
    monkeypatch.setattr(loader, "_GRACE", 3)
    with pytest.raises(RecordError, match="the first 4 depth maps are all relative, but this checkpoint's"):
        load(groups, preparer, batch_size=2, num_steps=2, workers=workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_groups_are_left_out_and_written_down(bad_groups, preparer, tmp_path, caplog, workers):
    order = ReadingOrder(8, 0, shuffle=False)
    with caplog.at_level(logging.WARNING):
        found = load(
            bad_groups,
            preparer,
            order=order,
            batch_size=4,
            num_steps=4,
            workers=workers,
            max_bad_fraction=0.02,
            quarantine=tmp_path / "run" / "quarantine.jsonl",
        )
    assert [len(batch.input_ids) for batch in found] == [3, 4, 3, 4]
    assert not any(f"test/{BAD}/" in name for batch in found for name in batch.record_ids)
    lines = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert len(lines) == 1
    assert lines[0]["group"] == BAD
    assert "the image stored in the record (6 bytes) cannot be decoded" in lines[0]["reason"]
    assert sum("left out" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_bad_groups_stop_the_run(bad_groups, preparer, workers):
    with pytest.raises(
        RecordError, match=r"^1 of \d+ groups could not be read, over 0.00%. The last: record"
    ):
        load(bad_groups, preparer, max_bad_fraction=0.0, workers=workers)


def test_a_step_of_which_nothing_can_be_read_counts_for_nothing(bad_groups, preparer):
    order = ReadingOrder(8, 0, subset=[BAD])
    (batch,) = load(bad_groups, preparer, order=order, batch_size=1, num_steps=1)
    assert batch.record_ids == ()
    assert (batch.labels == IGNORE_LABEL).all()
    assert [targets.weight.tolist() for targets in batch.depth] == [[0]]
    assert len(batch.image_grid) == 1


def test_bugs_are_not_taken_for_bad_data(groups, preparer, monkeypatch):
    def broken(*_, **__):
        raise ValueError("a bug")

    monkeypatch.setattr(Preparer, "sample", broken)
    with pytest.raises(ValueError, match="a bug"):
        load(groups, preparer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_job_leaves_the_workers_at_work(groups, preparer, number):
    before = {child.pid for child in multiprocessing.active_children()}
    stream = batches(groups, preparer, ReadingOrder(8, 0), batch_size=2, num_steps=30, workers=1)
    next(stream)
    (worker,) = [child for child in multiprocessing.active_children() if child.pid not in before]
    os.kill(worker.pid, number)
    assert sum(1 for _ in stream) == 29


def test_leaving_early_ends_the_workers(groups, preparer):
    stream = batches(groups, preparer, ReadingOrder(8, 0), batch_size=2, num_steps=1000, workers=2)
    next(stream)
    stream.close()
