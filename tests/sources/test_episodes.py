"""Robot episodes of every format: what is read, and what is asked about them."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egem.cli import main
from egem.core.errors import ConfigError, RecordError
from egem.data_engine import SOURCES, ImportOptions, import_source
from egem.data_engine.episodes.agibot import read_agibot
from egem.data_engine.episodes.hdf5 import need_h5py
from egem.data_engine.episodes.lerobot import LeRobotDataset
from egem.data_engine.episodes.rlds import LAYOUTS, parse_episode, read_rlds
from egem.data_engine.episodes.robomind import read_robomind
from egem.data_engine.formats.tfrecord import parse_example, read_tfrecords
from egem.data_engine.sources.episode_questions import (
    MIN_LENGTH,
    image_tracks,
    longest_path,
    path_points,
    questions,
)
from egem.data_engine.sources.robot_episodes import episode_records
from egem.episodes import Subtask, project
from egem.media import decode_depth, decode_image
from egem.recipes.convert import ConvertConfig, convert
from egem.records import Record, validate
from egem.scoring import score
from egem.shards import iterate_records
from real_data import BRIDGE, needs_real_data
from robot_episodes import HEIGHT, PARTS, WIDTH, episode, frames
from sources.robot_layouts import (
    ROBOT_LAYOUTS,
    SENTENCE,
    STEPS,
    agibot,
    bridge,
    bridge_features,
    droid,
    droid_features,
    example,
    head_camera,
    robomind,
)
from sources.tfrecords import write_tfrecords

PLAN = {"next_subtask", "remaining_steps", "current_subtask", "future_prediction", "past_description"}
HDF5 = {"robomind", "agibot-world"}


def built(name: str, root: Path) -> Path:
    if name in HDF5:
        pytest.importorskip("h5py")
    return ROBOT_LAYOUTS[name](root)


def load(name: str, tmp_path: Path, **options: Any) -> list[Record]:
    root = built(name, tmp_path / "in")
    import_source(name, root, tmp_path / "out", ImportOptions(**{"num_questions": 99} | options))
    return list(iterate_records(tmp_path / "out"))


def corner(image: np.ndarray) -> int:
    """The step that a drawn frame is of."""
    return round(float(image[-7:-1, 1:7].mean()) / 8)


@pytest.mark.parametrize("name", ROBOT_LAYOUTS)
def test_every_source_gives_records(name: str, tmp_path: Path) -> None:
    records = load(name, tmp_path, num_frames=3)
    assert records
    for record in records:
        validate(record)
        assert record.source == name
        assert record.category == "planning"
        assert {"licence", "file", "row"} <= record.meta.keys()
        assert score(record.answer, record.messages[-1].content) == 1.0
        assert 1 <= len(record.images) <= 3
    # Groups stand together and share their pictures.
    seen: dict[str, tuple] = {}
    order = [record.group for record in records]
    assert order == sorted(order, key=order.index)
    for record in records:
        assert seen.setdefault(record.group, record.images) == record.images
    skills = {record.skill for record in records}
    if name in ("lerobot", "agibot-world"):
        assert skills >= PLAN | {"success"}
    assert ("gripper_path" in skills) == (name in ("lerobot", "agibot-world", "molmoact"))


def test_sources_are_in_the_table() -> None:
    assert set(ROBOT_LAYOUTS) <= set(SOURCES)


def test_frames_are_those_of_the_sub_task(tmp_path: Path) -> None:
    for record in load("lerobot", tmp_path, num_frames=4):
        steps = [corner(decode_image(image)) for image in record.images]
        part = record.meta["subtask"]
        assert steps == record.meta["steps"]
        assert record.timestamps == tuple(round(step / 10, 3) for step in steps)
        assert min(steps) == part["start"]
        clip = record.skill in ("current_subtask", "past_description", "future_prediction")
        if clip or (record.answer.text == "yes" and record.skill == "success"):
            assert max(steps) == part["end"] - 1
        elif record.skill == "success":
            assert max(steps) < (part["start"] + part["end"]) / 2
        else:
            assert steps == [part["start"]]
        (depth,) = {d.origin for d in record.depths if d is not None}
        assert depth == "sensor"
        assert record.depths[0] is not None
        assert decode_depth(record.depths[0]).shape == (HEIGHT, WIDTH)


def test_answers_follow_from_the_annotation() -> None:
    made = episode(0, instruction="set the table")
    for seed in range(20):
        asked = questions(made, "front", (WIDTH, HEIGHT), np.random.default_rng(seed))
        by_skill = {(q.skill, q.part): q for q in asked}
        for i, text in enumerate(PARTS):
            assert by_skill["next_subtask", i].reply == text
            assert by_skill["past_description", i].reply == text
            lines = by_skill["remaining_steps", i].reply.splitlines()
            assert [line.split(". ", 1)[1] for line in lines] == list(PARTS[i:])
            current = by_skill["current_subtask", i]
            assert sorted(current.answer.choices) == sorted(PARTS)
            assert f"{current.reply}. {text}" in current.text
            for done in PARTS[:i]:
                assert done in by_skill["next_subtask", i].text
            assert text not in by_skill["next_subtask", i].text
        assert [by_skill["future_prediction", i].reply for i in range(2)] == list(PARTS[1:])
        assert ("future_prediction", 2) not in by_skill
        # "reach" can be done again; "grasp" cannot, once the cup is held.
        assert ("affordance", 1) not in by_skill
        possible = by_skill["affordance", 2]
        asked_about = PARTS[2] if possible.reply == "yes" else PARTS[1]
        assert asked_about in possible.text


def test_yes_and_no_are_even() -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for seed in range(300):
        for question in questions(episode(0), "front", (WIDTH, HEIGHT), np.random.default_rng(seed)):
            if question.skill in ("success", "affordance"):
                counts[question.skill, question.reply] += 1
    for skill in ("success", "affordance"):
        assert abs(counts[skill, "yes"] / (counts[skill, "yes"] + counts[skill, "no"]) - 0.5) < 0.06


def test_episodes_without_annotation_are_asked_less() -> None:
    def skills(**changes: Any) -> set[str]:
        made = episode(0, with_parts=False, **changes)
        return {q.skill for q in questions(made, "front", (WIDTH, HEIGHT), np.random.default_rng(0))}

    assert skills() == {"past_description", "success", "gripper_path"}
    assert skills(success=None) == {"past_description", "gripper_path"}
    assert skills(instruction=" ") == set()
    assert episode_records(episode(0, with_parts=False, instruction=""), "x", "w", 0, ImportOptions()) == []
    failed = episode(0, with_parts=False, success=False)
    for seed in range(8):
        asked = questions(failed, "front", (WIDTH, HEIGHT), np.random.default_rng(seed))
        assert [(q.reply, q.view) for q in asked if q.skill == "success"] == [("no", "clip")]


def test_a_failed_sub_task_is_not_done() -> None:
    parts = tuple(replace(p, success=p.text != PARTS[1]) for p in episode(0).subtasks)
    for seed in range(8):
        asked = questions(episode(0, subtasks=parts), "front", (WIDTH, HEIGHT), np.random.default_rng(seed))
        assert [q.reply for q in asked if q.skill == "success" and q.part == 1] == ["no"]


def test_the_path_is_the_squares(tmp_path: Path) -> None:
    records = [r for r in load("lerobot", tmp_path) if r.skill == "gripper_path"]
    assert len(records) == 6
    for record in records:
        red = np.argwhere((decode_image(record.images[0]).astype(int) @ [1, -1, -1]) > 100)
        y, x = red.mean(axis=0) + 0.5
        first = np.array(record.answer.points[0])
        assert np.abs(first - (x * 1000 / WIDTH, y * 1000 / HEIGHT)).max() < 12
        steps = np.diff(np.array(record.answer.points), axis=0)
        assert len(record.answer.points) == 8
        assert np.abs(steps - steps.mean(axis=0)).max() <= 1


def test_paths_that_are_not_asked_for() -> None:
    track = np.stack([np.linspace(0.1, 0.9, 20)] * 2, axis=1)
    found = path_points(track)
    assert found is not None
    assert (found[0], found[-1]) == ((100, 100), (900, 900))
    hidden = track.copy()
    hidden[7] = np.nan
    assert path_points(hidden) is None
    assert path_points(track + 0.2) is None
    assert path_points(track[:1]) is None
    assert path_points(0.1 + track * MIN_LENGTH / 2000) is None


def test_calibrated_positions_are_projected() -> None:
    made = episode(0)
    _, poses = head_camera(made.num_steps)
    stream = replace(
        made.cameras["front"],
        track=None,
        intrinsics=np.array([[60.0, 0, 32], [0, 60.0, 24], [0, 0, 1]]),
        camera_from_base=poses,
    )
    hand = np.stack([np.full(24, 2.0), np.linspace(0.4, -0.4, 24), np.full(24, 1.3)], axis=1)
    one = replace(made, effector=hand[:, None].astype(np.float32))
    pixels = project(stream, hand, 0)
    assert pixels is not None
    # By hand: 2 m ahead, y to the left, 0.3 m above the camera.
    np.testing.assert_allclose(pixels[:, 0], 32 - 60 * hand[:, 1] / 2)
    np.testing.assert_allclose(pixels[:, 1], 24 - 60 * 0.3 / 2)
    np.testing.assert_allclose(pixels[:, 2], 2.0)
    whole, size = Subtask(text="all", start=0, end=24), (WIDTH, HEIGHT)
    track = image_tracks(stream, one, whole, size)[""]
    np.testing.assert_allclose(track, pixels[:, :2] / size, atol=1e-6)
    behind = replace(one, effector=-hand[:, None].astype(np.float32))
    assert np.isnan(image_tracks(stream, behind, whole, size)[""]).all()
    assert image_tracks(stream, one, whole, (4 * WIDTH, 4 * HEIGHT)) == {}
    # Two arms need names; the one that moves is asked about.
    both = np.stack([np.repeat(hand[:1], 24, axis=0), hand], axis=1).astype(np.float32)
    two = replace(one, effector=both)
    assert image_tracks(stream, two, whole, size) == {}
    named = longest_path(image_tracks(stream, replace(two, arms=("left", "right")), whole, size))
    assert named is not None
    assert named[0] == "right"


def test_a_moving_camera_is_taken_as_it_stands_at_the_start() -> None:
    made = episode(0)
    _, poses = head_camera(made.num_steps)
    turned = poses.copy()
    turned[:, 0, 3] += np.linspace(0, 0.5, 24)
    hand = np.stack([np.full(24, 2.0), np.linspace(0.4, -0.4, 24), np.full(24, 1.3)], axis=1)
    matrix = np.array([[60.0, 0, 32], [0, 60.0, 24], [0, 0, 1]])
    stream = replace(made.cameras["front"], track=None, intrinsics=matrix, camera_from_base=turned)
    part = Subtask(text="all", start=4, end=24)
    one = replace(made, effector=hand[:, None].astype(np.float32))
    shift = 0.5 * 4 / 23
    # A track of where the hand was in each later picture is no way in the first one.
    for seen in (stream, replace(stream, track=np.full((24, 2), 0.5))):
        track = image_tracks(seen, one, part, (WIDTH, HEIGHT))[""]
        np.testing.assert_allclose(track[:, 0] * WIDTH, 32 + 60 * (shift - hand[4:, 1]) / 2, atol=1e-4)
    still = replace(stream, track=np.full((24, 2), 0.5), camera_from_base=turned[:1].repeat(24, axis=0))
    assert (image_tracks(still, one, part, (WIDTH, HEIGHT))[""] == 0.5).all()
    without = replace(one, effector=None)
    assert image_tracks(replace(stream, track=still.track), without, part, (WIDTH, HEIGHT)) == {}


def test_the_path_of_the_arm_that_moves(tmp_path: Path) -> None:
    paths = [r for r in load("agibot-world", tmp_path) if r.skill == "gripper_path"]
    assert len(paths) == 3
    for record, start in zip(paths, (0, 4, 8), strict=True):
        assert "left gripper" in record.messages[0].content
        column = 32 - 60 * np.linspace(0.4, -0.4, STEPS)[start] / 2
        assert abs(record.answer.points[0][0] - column / WIDTH * 1000) <= 1
        assert record.answer.points[0][1] == 500
        assert record.intrinsics[0] is not None


def test_questions_depend_on_seed_and_episode_alone() -> None:
    def asked(seed: int, number: int, num: int = 5) -> list[Record]:
        return episode_records(episode(0), "s", "f", number, ImportOptions(seed=seed, num_questions=num))

    assert [r.messages for r in asked(0, 0)] == [r.messages for r in asked(0, 7)]
    assert [r.messages for r in asked(0, 0)] != [r.messages for r in asked(1, 0)]
    assert len(asked(0, 0)) == 5


def test_bridge(tmp_path: Path) -> None:
    (first, second) = [pending.load() for pending in read_rlds(bridge(tmp_path / "in"), source="open-x")]
    truth = bridge_features(0)
    assert first.instruction == SENTENCE
    assert list(first.cameras) == ["image_0", "image_1"]
    assert first.meta["blank_cameras"] == ["image_2"]
    assert first.fps == 5.0
    assert first.actions is not None
    assert first.effector is not None
    np.testing.assert_allclose(first.actions, truth["steps/action"], rtol=1e-6)
    np.testing.assert_allclose(first.effector[:, 0], truth["steps/observation/state"][:, :3], rtol=1e-6)
    assert first.action_space == LAYOUTS["bridge_dataset"].space
    assert first.success is None
    images = second.cameras["image_1"].frames.read([5, 0])
    assert [corner(image) for image in images] == [5, 0]
    # Bytes are kept as they are.
    assert second.cameras["image_1"].frames.encoded(3) == bridge_features(1)["steps/observation/image_1"][3]


def test_droid(tmp_path: Path) -> None:
    good, bad = [p.load() for p in read_rlds(droid(tmp_path / "in"), source="droid", set_name="droid")]
    truth = droid_features(0, "")
    assert (good.success, bad.success) == (True, False)
    assert good.paraphrases == ("move the cup to the plate",)
    assert next(iter(good.cameras)) == "exterior_image_1_left"
    assert good.states is not None
    assert good.actions is not None
    joints, gripper = (truth[f"steps/observation/{k}_position"] for k in ("joint", "gripper"))
    np.testing.assert_allclose(good.states, np.concatenate([joints, gripper], axis=1), rtol=1e-6)
    joints, gripper = (truth[f"steps/action_dict/{k}_position"] for k in ("joint", "gripper"))
    np.testing.assert_allclose(good.actions, np.concatenate([joints, gripper], axis=1), rtol=1e-6)


def test_sets_that_are_not_in_the_table(tmp_path: Path) -> None:
    features = bridge_features(0)
    del features["steps/observation/state"]
    write_tfrecords(tmp_path / "my_set-train.tfrecord-00000-of-00001", [example(features)])
    (found,) = [p.load() for p in read_rlds(tmp_path, source="open-x")]
    assert found.source == "my_set"
    assert (found.states, found.action_space, found.fps, found.timestamps) == (None, None, None, None)
    assert found.actions is not None
    assert found.actions.shape == (STEPS, 7)
    # Without a rate records have no times.
    records = episode_records(found, "open-x", "f", 0, ImportOptions())
    assert records[0].timestamps is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps/is_first": None}, "no 'steps/is_first': not an RLDS episode; it has episode_metadata/"),
        (
            {"steps/action": None},
            "no numbers 'steps/action'; there are episode_metadata/episode_id, steps/is",
        ),
        ({"steps/action": np.zeros(80)}, "80 values of 'steps/action' for 12 steps"),
        ({"steps/observation/state": np.full((STEPS, 7), np.nan)}, "states of step 0 are not finite"),
        ({"steps/observation/image_0": [b"\xff\xd8\xff"] * 5}, "camera 'image_0' has 5 frames for 12 steps"),
        (
            {f"steps/observation/image_{i}": None for i in range(3)},
            "no camera: no feature below steps/observation/",
        ),
    ],
)
def test_bad_rlds_episodes(changes: dict[str, Any], message: str) -> None:
    features = {key: value for key, value in (bridge_features(0) | changes).items() if value is not None}
    with pytest.raises(RecordError, match=message):
        parse_episode(example(features), "bridge_dataset", "a", "file, episode 1")


def test_robomind(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    failed, done = [p.load() for p in read_robomind(robomind(tmp_path / "in"))]
    assert (failed.success, done.success) == (False, True)
    assert done.instruction == SENTENCE
    assert list(done.cameras) == ["camera_top", "camera_left"]
    assert done.action_space is not None
    assert done.action_space.gripper_dims == (7,)
    top = done.cameras["camera_top"]
    assert [corner(image) for image in top.frames.read([7, 2])] == [7, 2]
    assert top.depth is not None
    np.testing.assert_allclose(top.depth.read([3])[0], 0.9, rtol=1e-6)
    assert done.cameras["camera_left"].depth is None
    (tmp_path / "in" / "RoboMIND_v1_2_instr.csv").unlink()
    plain = next(read_robomind(tmp_path / "in")).load()
    assert plain.instruction == "put cup on plate"
    assert plain.meta["instruction_from"] == "the task's name"


@pytest.mark.parametrize("inverted", [True, False])
def test_agibot(inverted: bool, tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    (found,) = [p.load() for p in read_agibot(agibot(tmp_path / "in", inverted=inverted))]
    assert found.instruction == "Put the cup on the plate"
    assert found.subtasks[1] == Subtask(text="Grasp the cup", start=4, end=8, skill="Pick")
    assert list(found.cameras) == ["head_color", "hand_left_color"]
    assert found.states is not None
    assert found.states.shape == (STEPS, 16)
    assert found.meta["extrinsics"] == ("base from camera" if inverted else "camera from base")
    head = found.cameras["head_color"]
    assert [corner(image) for image in head.frames.read([11, 4])] == [11, 4]
    assert found.effector is not None
    pixels = project(head, found.effector[:, 0].astype(np.float64), 0)
    assert pixels is not None
    np.testing.assert_allclose(pixels[:, 0], 32 - 60 * np.linspace(0.4, -0.4, STEPS) / 2, atol=1e-4)


def test_molmoact(tmp_path: Path) -> None:
    whole, short = load("molmoact", tmp_path)
    assert len(whole.answer.points) == 5
    assert len(short.answer.points) == 2
    image = decode_image(whole.images[0])
    x, y = whole.answer.points[0]
    assert image[int(y * HEIGHT / 1000), int(x * WIDTH / 1000)].tolist() == [230, 30, 30]
    assert whole.meta["instruction"] == SENTENCE
    assert "<DEPTH" not in whole.messages[-1].content
    with pytest.raises(RecordError, match=r"no camera 'top' with bytes; the row has primary, wrist"):
        import_source("molmoact", tmp_path / "in", tmp_path / "b", ImportOptions(camera="top"))


@pytest.mark.parametrize("name", [n for n in ROBOT_LAYOUTS if n != "molmoact"])
def test_another_camera(name: str, tmp_path: Path) -> None:
    wanted = {
        "lerobot": "wrist",
        "open-x": "image_1",
        "droid": "wrist_image_left",
        "robomind": "camera_left",
        "agibot-world": "hand_left_color",
    }[name]
    records = load(name, tmp_path, camera=wanted)
    assert {record.meta["camera"] for record in records} == {wanted}
    with pytest.raises(RecordError, match=rf"has no camera 'moon'; it has .*{wanted}"):
        import_source(name, tmp_path / "in", tmp_path / "b", ImportOptions(camera="moon"))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", ROBOT_LAYOUTS)
def test_the_wrong_folder_is_told_what_was_looked_for(name: str, tmp_path: Path) -> None:
    (tmp_path / "in" / "holiday").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"looked for .*; it holds holiday/"):
        import_source(name, tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("name", ROBOT_LAYOUTS)
def test_a_truncated_file_is_named(name: str, tmp_path: Path) -> None:
    root = built(name, tmp_path / "in")
    kinds = (".hdf5", ".h5", ".parquet", ".tfrecord-00000-of-00001")
    files = sorted(p for p in root.rglob("*") if p.name.endswith(kinds) and "meta" not in p.parts)
    content = files[0].read_bytes()
    files[0].write_bytes(content[: len(content) * 2 // 5])
    with pytest.raises(RecordError, match=rf"{files[0].name}.*truncated"):
        import_source(name, root, tmp_path / "out")


def test_one_bad_episode_is_put_aside(tmp_path: Path) -> None:
    root = built("open-x", tmp_path / "in")
    path = next(root.rglob("*.tfrecord*"))
    bad = example({k: v for k, v in bridge_features(0).items() if k != "steps/action"})
    write_tfrecords(path, [bad, *(example(bridge_features(seed)) for seed in (1, 2, 3))])
    import_source("open-x", root, tmp_path / "out", ImportOptions(max_error_fraction=0.3))
    assert len({r.meta["episode"] for r in iterate_records(tmp_path / "out")}) == 3
    (line,) = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert "no numbers 'steps/action'" in json.loads(line)["reason"]


def test_missing_files_of_agibot(tmp_path: Path) -> None:
    root = built("agibot-world", tmp_path / "in")
    for path in root.rglob("*_color.mp4"):
        path.unlink()
    with pytest.raises(RecordError, match=r"no \*_color\.mp4 in .*unpack the observations of task 327"):
        import_source("agibot-world", root, tmp_path / "out")
    next(root.rglob("*.h5")).unlink()
    with pytest.raises(RecordError, match=r"proprio_stats\.h5 does not exist; unpack proprio_stats of task"):
        import_source("agibot-world", root, tmp_path / "out")


def test_without_h5py_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"h5py is not installed: pip install 'egem\[hdf5\]'"):
        need_h5py("robomind")


@needs_real_data
def test_real_bridge_episodes(tmp_path: Path) -> None:
    """25 WidowX episodes as TensorFlow wrote them."""
    import_source("open-x", BRIDGE, tmp_path / "out", ImportOptions(num_frames=4))
    records = list(iterate_records(tmp_path / "out"))
    assert len(records) == 25
    assert {r.messages[-1].content for r in records} == {
        "put cup from counter or drying rack into sink",
        "flip pot upright which is in sink",
        "turn lever vertical to front",
        "put carrot on plate",
    }
    (file,) = sorted(BRIDGE.glob("*.tfrecord*"))
    (first, *_) = read_tfrecords(file)
    stored = parse_example(first)["steps/observation/image_0"]
    assert [image.data for image in records[0].images] == [stored[i] for i in (0, 3, 6, 9)]
    went, told = [], []
    for pending in read_rlds(BRIDGE, source="open-x"):
        found = pending.load()
        assert found.actions is not None
        assert found.effector is not None
        assert "image_0" in found.cameras
        # Metres and radians, and a gripper between closed and open.
        moved = np.linalg.norm(found.actions[:, :3], axis=1)
        assert moved.max() < 0.1
        assert ((found.actions[:, 6] >= -0.01) & (found.actions[:, 6] <= 1.01)).all()
        went.append(np.diff(found.effector[:, 0], axis=0))
        told.append(found.actions[:-1, :3])
    # An action is where the arm went from its step, to within the controller's lag.
    assert np.corrcoef(np.concatenate(went).ravel(), np.concatenate(told).ravel())[0, 1] > 0.8


def test_a_set_becomes_a_lerobot_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bridge_dataset"
    folder.mkdir()
    made = [bridge_features(seed) for seed in range(6)]
    made[1]["steps/observation/image_0"] = made[1]["steps/observation/image_2"]  # a placeholder
    made[2]["steps/language_instruction"] = [b""] * 12
    made[3]["steps/observation/image_0"][7] = made[3]["steps/observation/image_0"][7][:60]
    made[4]["steps/observation/state"] = made[4]["steps/observation/state"][:, :6]
    name = "bridge_dataset-train.tfrecord-00000-of-00001"
    write_tfrecords(folder / name, [example(features) for features in made])
    write_tfrecords(folder / name.replace("train", "val"), [example(bridge_features(9))])
    out = tmp_path / "out"
    arguments = ["--episodes", str(folder), "--out", str(out), "--cameras", "image_0"]
    with pytest.raises(SystemExit):
        main(["data", "convert", *arguments])
    assert not out.exists()
    assert "2 of 6 episodes are bad" in capsys.readouterr().err
    main(["data", "convert", *arguments, "--max-error-fraction", "0.4"])
    said = capsys.readouterr().out
    assert "2 episodes written" in said
    assert "1 left out: no camera 'image_0'" in said
    assert "1 left out: no instruction" in said
    assert "2 left out: bad" in said
    rows = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert [row["row"].rpartition(" ")[2] for row in rows] == ["2", "3", "4", "5"]
    assert "6 dimensions of states" in rows[3]["reason"]
    dataset = LeRobotDataset(out)
    assert len(dataset) == 2
    for number, seed in enumerate((0, 5)):
        episode = dataset.episode(number)
        assert list(episode.cameras) == ["image_0"]
        assert episode.fps == 5.0
        assert episode.action_space == LAYOUTS["bridge_dataset"].space
        assert np.allclose(episode.actions, made[seed]["steps/action"])
        shown = episode.cameras["image_0"].frames.read([8])[0].astype(int)
        assert np.abs(shown - frames(seed, 12)[8]).mean() < 6
    # Nothing is chosen: all cameras of the first episode, and one with others says how to choose.
    with pytest.raises(RecordError, match=r"cameras image_1; .*--cameras"):
        convert(ConvertConfig(episodes=folder, out=tmp_path / "all", limit=2))
    with pytest.raises(ConfigError, match=r"states 5 steps a second, fps says 10"):
        convert(ConvertConfig(episodes=folder, out=tmp_path / "all", fps=10.0))
    with pytest.raises(ConfigError, match="format of episodes 'bridge'"):
        ConvertConfig(episodes=folder, out=tmp_path / "all", format="bridge")
    convert(ConvertConfig(episodes=folder, out=tmp_path / "held_out", split="test"))
    assert len(LeRobotDataset(tmp_path / "held_out")) == 1
    (held_out,) = list(read_rlds(folder, source="open-x", split="test"))
    assert held_out.load().meta["split"] == "test"
