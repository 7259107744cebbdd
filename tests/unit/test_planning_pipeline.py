from dataclasses import replace

import numpy as np
import pytest

from egem.annotators.masks import centre, iou, spread_points
from egem.annotators.objects import SentenceRules
from egem.annotators.planning import PlanTools, draw_path, find, plan_records
from egem.annotators.tracks import OpticalFlow, path_of
from egem.data_engine.sources.source import ImportOptions
from egem.media import decode_image, decode_region
from egem.recipes.plan import Planned
from egem.records import validate
from egem.shards import Manifest, ShardWriter, iterate_records
from scripted_episodes import CAMERA, GRIPPER, scripted

SIZE = 160


@pytest.fixture(scope="module")
def made():
    return scripted("place_in", 7, size=(SIZE, SIZE))


@pytest.fixture(scope="module")
def tools(made):
    return PlanTools(namer=SentenceRules(), detector=made.known, tracker=OpticalFlow())


@pytest.fixture(scope="module")
def planned(made, tools):
    return plan_records(made.episode, "tabletop", "memory", 0, tools, ImportOptions(num_questions=100))


def test_thing_is_found_and_the_grippers_way_followed(made, tools):
    parts = made.episode.subtasks
    assert len(parts) == 5
    followed = 0
    for part in parts:
        found = find(made.episode, made.episode.cameras[CAMERA], part, tools)
        assert found.name == "blue cylinder"
        assert found.thing is not None
        assert iou(found.thing.mask, made.masks[part.start]["blue cylinder"]) > 0.7
        if found.gripper_path is None:  # the arm comes into the picture during the first sub-task
            assert not made.masks[part.start][GRIPPER].any()
            continue
        followed += 1
        error = np.linalg.norm(found.gripper_path * SIZE - made.fingers[part.start : part.end], axis=1)
        assert error.max() < 5
    assert followed == 4


def test_a_long_way_stays_within_five_pixels(made):
    """From the grasp to the end in one go, from the middle of the fingers' true mask."""
    start = made.episode.subtasks[1].start
    frames = made.episode.cameras[CAMERA].frames.read(range(start, len(made.fingers)))
    mask = made.masks[start][GRIPPER]
    way = path_of(OpticalFlow().track(frames, spread_points(mask, 24)), centre(mask))
    true = made.fingers[start:]
    assert np.linalg.norm(true[-1] - true[0]) > 20  # it goes somewhere
    assert np.linalg.norm(way - true, axis=1).max() < 5


def test_records_are_valid_and_hold_what_was_found(made, planned, tmp_path):
    records, counts = planned
    assert counts["named"] == counts["found"] == 5
    assert counts["not_found"] == counts["lost"] == 0
    with ShardWriter(tmp_path / "records") as writer:
        for record in records:
            validate(record)
            writer.add(record)
    assert len(list(iterate_records(tmp_path / "records"))) == len(records) == counts["records"]
    skills = {record.skill for record in records}
    assert {
        "next_subtask",
        "gripper_path",
        "object_box",
        "object_point",
        "object_path",
        "drawn_path",
    } <= skills
    for record in records:
        start = record.meta["subtask"]["start"]
        if record.skill == "object_point":
            truth = made.masks[start]["blue cylinder"]
            x, y = record.answer.points[0]
            assert truth[int(y * SIZE / 1000), int(x * SIZE / 1000)]
            assert iou(decode_region(record.answer.region), truth) == 1
        if record.skill == "gripper_path":
            assert record.meta["annotated"]["tracks"]["origin"] == "optical-flow/lucas-kanade"
            last = np.array(record.answer.points[-1]) * SIZE / 1000
            assert np.linalg.norm(last - made.fingers[record.meta["subtask"]["end"] - 1]) < 5


def test_the_drawn_way_is_where_the_points_are(made, planned):
    record = next(r for r in planned[0] if r.skill == "drawn_path")
    plain = made.episode.cameras[CAMERA].frames.images[record.meta["subtask"]["start"]]
    shown = decode_image(record.images[0]).astype(int)
    changed = np.abs(shown - plain).sum(axis=2) > 120
    for x, y in record.meta["path"]:
        row, column = int(y * SIZE / 1000), int(x * SIZE / 1000)
        assert changed[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3].any()
    assert changed.mean() < 0.05
    letter = record.messages[1].content
    assert f"{letter}. {record.answer.text}" in record.messages[0].content
    untouched = draw_path(plain, [(0, 0), (10, 10)])[SIZE // 2 :]
    assert (untouched == plain[SIZE // 2 :]).all()


def test_a_way_that_is_known_is_not_tracked(made, tools):
    stream = made.episode.cameras[CAMERA]
    known = replace(stream, track=made.fingers / SIZE)
    found = find(made.episode, known, made.episode.subtasks[2], tools)
    assert found.gripper_path is None


def test_what_is_not_named_or_not_found_is_counted(made, tools):
    part = made.episode.subtasks[1]
    vague = replace(part, text="wait a moment")
    absent = replace(part, text="pick up the green duck", start=part.end, end=part.end + 5)
    episode = replace(made.episode, subtasks=(vague, absent))
    records, counts = plan_records(episode, "tabletop", "memory", 0, tools, ImportOptions())
    assert counts["not_named"] == counts["not_found"] == 1
    assert counts["found"] == 0
    assert not any(record.skill.startswith("object_") for record in records)


def test_without_a_detector_only_what_the_episode_says_is_asked(made, tools, tmp_path):
    tools = replace(tools, detector=None)
    records, counts = plan_records(made.episode, "tabletop", "memory", 0, tools, ImportOptions())
    skills = {record.skill for record in records}
    assert "next_subtask" in skills
    assert not skills & {"object_box", "object_point", "object_path", "gripper_path", "drawn_path"}
    assert counts["subtasks"] == counts["named"] == 5
    assert counts["found"] == counts["not_found"] == counts["gripper_tracked"] == 0
    # A way that the set itself has is asked for all the same, and nobody is said to have found it.
    stream = replace(made.episode.cameras[CAMERA], track=made.fingers / SIZE)
    episode = replace(made.episode, cameras={CAMERA: stream})
    records, _ = plan_records(episode, "tabletop", "memory", 0, tools, ImportOptions(num_questions=100))
    assert {"gripper_path", "drawn_path"} <= {record.skill for record in records}
    # What annotators add to `meta.annotated` finds no other value there.
    assert all(isinstance(record.meta.get("annotated", {}), dict) for record in records)
    (drawn, *_) = (record for record in records if record.skill == "drawn_path")
    assert set(drawn.meta["annotated"]) == {"objects"}


def test_the_command_says_what_a_detector_would_add():
    manifest = Manifest(
        schema_version=1,
        rows=2,
        groups=1,
        images=1,
        depths=0,
        by_source={},
        by_category={},
        by_skill={},
        shards=(),
    )
    planned = Planned(manifest=manifest, episodes=1, failed=0, counts={"records": 2}, looked=False)
    assert "--checkpoint facebook/sam3 adds" in planned.table()
    assert "--checkpoint" not in replace(planned, looked=True).table()
