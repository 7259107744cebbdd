import gc
import json
import weakref
from dataclasses import dataclass, replace

import numpy as np
import pytest

import egem.data_engine.engine.job as job
from egem.annotators.masks import KnownMasks
from egem.annotators.objects import SentenceRules
from egem.annotators.steps import Clock, MasksStep, ObjectsStep, TracksStep, names_of
from egem.annotators.tracks import OpticalFlow
from egem.cli import main
from egem.core.errors import ConfigError, RecordError
from egem.data_engine.engine import EngineConfig
from egem.media import decode_depth, decode_image, encode_png
from egem.recipes import annotate as recipe
from egem.recipes.annotate import AnnotateConfig, annotate
from egem.recipes.annotators import DepthConfig, MasksConfig
from egem.records import IMAGE_MARK, ImageFile, validate
from egem.shards import RecordGroups, ShardWriter, iterate_records, verify_shards
from record_sets import group, picture, write_records
from tiny_annotators import depth_anything_v2, sam3


@pytest.fixture(scope="module")
def estimator(tmp_path_factory):
    return str(depth_anything_v2(tmp_path_factory.mktemp("da2")))


def one_corrupt(folder, num=6):
    """Groups of which the third's image is cut off."""
    with ShardWriter(folder) as writer:
        for seed in range(num):
            for record in group(seed, with_depth=False):
                images = (ImageFile(data=record.images[0].data[:200]),) if seed == 2 else record.images
                writer.add(replace(record, images=images))
    return folder


def test_depth_is_added_and_bad_groups_are_listed(tmp_path, estimator, monkeypatch, capsys):
    data = one_corrupt(tmp_path / "data")
    arguments = ["data", "annotate", "depth", "--data", str(data), "--out", str(tmp_path / "out")]
    arguments += [
        "--checkpoint",
        estimator,
        "--device",
        "cpu",
        "--batch-size",
        "4",
        "--max-error-fraction",
        "0.5",
    ]
    monkeypatch.setattr("sys.argv", ["egem", *arguments])
    main()
    said = capsys.readouterr().out
    assert "images/s" in said
    assert "model " in said
    assert "licence: apache-2.0" in said
    records = list(iterate_records(tmp_path / "out"))
    assert len(records) == 5 * 4
    for record in records:
        assert record.depths[0].kind == "relative"
        assert record.meta["annotated"]["depth"]["licence"] == "apache-2.0"
        assert decode_depth(record.depths[0]).shape == (48, 64)
    verify_shards(tmp_path / "out")
    (line,) = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row["row"] == "test/2"
    assert "test/2" in row["reason"]


def test_a_stopped_run_goes_on_and_gives_the_same(tmp_path, estimator, monkeypatch):
    monkeypatch.setattr(recipe, "GROUPS_PER_PART", 2)
    data = write_records(tmp_path / "data", 6, with_depth=False)

    def config(name, **changes):
        work = AnnotateConfig(data=data, out=tmp_path / name, device="cpu")
        return DepthConfig(checkpoint=estimator, work=work, **changes)

    whole = annotate(config("whole"))
    assert whole.images == 6
    assert len(whole.manifest.shards) == 3
    seen = []

    class Stops(recipe.AnnotateGroups):
        def __call__(self, items):
            seen.append(items[0].number)
            if len(seen) == 2:
                raise KeyboardInterrupt
            return super().__call__(items)

    monkeypatch.setattr(recipe, "AnnotateGroups", Stops)
    with pytest.raises(KeyboardInterrupt):
        annotate(config("stopped"))
    assert not (tmp_path / "stopped").exists()
    with pytest.raises(ConfigError, match="stopped"):
        annotate(config("stopped", renew=True))
    again = annotate(config("stopped"))
    assert seen == [0, 2, 2, 4]
    assert again.manifest == whole.manifest
    assert again.images == 6


def test_too_many_failures_stop_the_run(tmp_path, estimator):
    work = AnnotateConfig(data=one_corrupt(tmp_path / "data"), out=tmp_path / "out", device="cpu")
    with pytest.raises(RecordError, match="1 of 6 groups"):
        annotate(DepthConfig(checkpoint=estimator, work=work))
    assert not (tmp_path / "out").exists()
    assert job.SETTLED_ITEMS > 6


def test_depth_that_is_there_stays(tmp_path, estimator):
    data = write_records(tmp_path / "data", 2)
    work = AnnotateConfig(data=data, out=tmp_path / "out", device="cpu")
    assert annotate(DepthConfig(checkpoint=estimator, work=work)).images == 0
    assert [r.depths for r in iterate_records(tmp_path / "out")] == [r.depths for r in iterate_records(data)]


def test_sam3_of_a_tiny_checkpoint_through_the_command(tmp_path):
    data = write_records(tmp_path / "data", 2)
    work = AnnotateConfig(data=data, out=tmp_path / "out", device="cpu")
    checkpoint = str(sam3(tmp_path / "sam3"))
    result = annotate(MasksConfig(checkpoint=checkpoint, phrases=("red mug",), min_score=0.0, work=work))
    assert result.images == 2
    assert result.made_with["licence"] == "sam-license"
    records = list(iterate_records(tmp_path / "out"))
    assert {"object_point"} <= {record.skill for record in records}
    for first in RecordGroups([tmp_path / "out"]):
        assert first[0].meta["annotated"]["masks"]["detections"]


def clip(num=6):
    """A group of frames in which a bright square moves by (4, 2) pixels a frame, with its masks."""
    known = KnownMasks(origin="known/hand", licence="mine")
    rng = np.random.default_rng(0)
    backdrop = picture(0)[0]
    square = rng.integers(100, 255, (14, 14, 3), np.uint8)
    images = []
    for i in range(num):
        frame, mask = backdrop.copy(), np.zeros((48, 64), bool)
        place = (slice(6 + 2 * i, 20 + 2 * i), slice(8 + 4 * i, 22 + 4 * i))
        frame[place], mask[place] = square, True
        known.add(frame, {"red mug": mask})
        images.append(ImageFile(data=encode_png(frame)))
    base = group(0, with_depth=False)[0]
    question = f"{IMAGE_MARK * num}\nWhat did the robot do?"
    record = replace(
        base,
        images=tuple(images),
        timestamps=tuple(0.1 * i for i in range(num)),
        messages=(replace(base.messages[0], content=question), base.messages[1]),
        meta={"subtask": {"text": "Push the red mug to the right"}},
    )
    return record, known


def test_names_masks_and_tracks_build_on_each_other():
    record, known = clip()
    clock = Clock()
    (named,) = ObjectsStep(namer=SentenceRules()).annotate([[record]], clock)
    assert names_of(named) == ("red mug",)
    (masked,) = MasksStep(detector=known).annotate([named], clock)
    box, point = masked[1:]
    assert (box.skill, point.skill) == ("object_box", "object_point")
    assert box.answer.box == (125, 125, 344, 417)  # 8..22 of 64, 6..20 of 48, outward
    (tracked,) = TracksStep(tracker=OpticalFlow()).annotate([masked], clock)
    path = tracked[-1]
    assert path.skill == "object_path"
    true = [((15 + 4 * i) * 1000 / 64, (13 + 2 * i) * 1000 / 48) for i in range(6)]
    assert np.abs(np.array(path.answer.points) - true).max() < 20
    for each in tracked:
        validate(each)
        assert each.group == record.group
    assert tracked[0].meta["annotated"]["tracks"]["tracks"][0]["points"] == [
        list(p) for p in path.answer.points
    ]
    assert clock.images == 12
    assert clock.model > 0


def test_one_bad_group_does_not_take_its_batch_along():
    record, known = clip()
    (good,) = ObjectsStep(namer=SentenceRules()).annotate([[record]], Clock())
    other = replace(good[0], id="other", group="other", images=group(5)[0].images * 6)
    outcomes = MasksStep(detector=known).annotate([good, [other]], Clock())
    assert not isinstance(outcomes[0], str)
    assert "other" in outcomes[1]


def test_a_group_of_text_alone_stays_as_it_is_beside_others():
    record, known = clip()
    text = (replace(record.messages[0], content="Say hello."), record.messages[1])
    alone = replace(record, id="text", group="text", images=(), timestamps=None, messages=text)
    outcomes = MasksStep(detector=known, phrases=("red mug",)).annotate([[alone], [record]], Clock())
    assert outcomes[0] == [alone]
    assert [each.skill for each in outcomes[1][1:]] == ["object_box", "object_point"]


def test_a_second_pass_replaces_what_the_first_asked_about_the_same_names():
    record, known = clip()
    first = MasksStep(detector=known, phrases=("red mug", "the red mug"))
    (masked,) = first.annotate([[record]], Clock())
    assert [each.skill for each in masked[1:]] == ["object_box", "object_point"]
    (tracked,) = TracksStep(tracker=OpticalFlow()).annotate([masked], Clock())
    # Another model sees the thing elsewhere; what is asked about other names stays.
    other = replace(tracked[2], id=f"{record.group}/object_point/plate", meta={"phrase": "plate"})
    moved = KnownMasks(origin="known/other", licence="mine")
    for image in record.images:
        moved.add(decode_image(image), {"red mug": np.eye(48, 64, dtype=bool)})
    (again,) = MasksStep(detector=moved, phrases=("the red mug",)).annotate([[*tracked, other]], Clock())
    (again,) = TracksStep(tracker=OpticalFlow(), questions=False).annotate([again], Clock())
    assert [each.id.removeprefix(record.group) for each in again[1:]] == [
        "/object_point/plate",
        "/object_box/red mug",
        "/object_point/red mug",
    ]
    assert again[2].answer.box == (0, 0, 750, 1000)
    assert set(again[0].meta["annotated"]) == {"masks", "tracks"}
    assert again[0].meta["annotated"]["masks"]["origin"] == "known/other"
    # The group's first record may be such a question: what is known of the group moves on.
    (rest,) = MasksStep(detector=known, phrases=("red mug",)).annotate([again[2:]], Clock())
    assert len({each.id for each in rest}) == len(rest) == 2
    assert rest[0].meta["annotated"]["masks"]["detections"]


@dataclass(frozen=True)
class Counted:
    """A maker whose step does nothing; notes where it was loaded."""

    work: AnnotateConfig
    loaded: list

    def make_step(self, device):
        step = ObjectsStep(namer=SentenceRules())
        self.loaded.append((device, weakref.ref(step)))
        return step


@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_that_workers_load_is_not_kept_beside_them(tmp_path, monkeypatch, workers):
    data = write_records(tmp_path / "data", 1)
    engine = EngineConfig(workers=workers)
    work = AnnotateConfig(data=data, out=tmp_path / "out", device="cuda:0", engine=engine)
    kept = []

    def run_job(items, job, config):
        gc.collect()
        kept.append(maker.loaded[0][1]())
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "run_job", run_job)
    maker = Counted(work, [])
    with pytest.raises(KeyboardInterrupt):
        annotate(maker)
    assert maker.loaded[0][0] == ("cuda:0" if workers == 1 else "cpu")
    assert (kept[0] is not None) == (workers == 1)
