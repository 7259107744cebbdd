"""LeRobot datasets: what is written reads back, whoever wrote it; damage is named."""

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from egem.core.errors import ConfigError, RecordError
from egem.data_engine.episodes.lerobot import LeRobotDataset
from egem.data_engine.episodes.lerobot_writer import LeRobotOptions, write_lerobot
from egem.episodes import Episode, Subtask, check
from robot_episodes import FPS, PARTS, SPACE, STEPS, episode
from sources.lerobot_folders import write_v21

LENGTHS = (24, 17, 30)


def corner(image: np.ndarray) -> float:
    return float(image[-7:-1, 1:7].mean())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Episode]]:
    episodes = [episode(seed, steps=steps) for seed, steps in enumerate(LENGTHS)]
    root = tmp_path_factory.mktemp("lerobot") / "set"
    assert write_lerobot(iter(episodes), root) == 3
    return root, episodes


@pytest.fixture
def copy(written: tuple[Path, list[Episode]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(written[0], tmp_path / "set"))


def same(found: Episode, wanted: Episode) -> None:
    steps = wanted.num_steps
    assert found.num_steps == steps
    assert (found.instruction, found.fps, found.success) == (
        wanted.instruction,
        wanted.fps,
        wanted.success,
    )
    np.testing.assert_array_equal(found.states, wanted.states)
    np.testing.assert_array_equal(found.actions, wanted.actions)
    np.testing.assert_allclose(found.timestamps, wanted.timestamps, atol=1e-6)
    assert found.subtasks == wanted.subtasks
    assert list(found.cameras) == list(wanted.cameras)
    for name, stream in wanted.cameras.items():
        images, truth = (s.frames.read(range(steps)) for s in (found.cameras[name], stream))
        for image, true in zip(images, truth, strict=True):
            assert image.shape == true.shape
            # A neighbour's corner differs by 8.
            assert abs(corner(image) - corner(true)) < 3


def test_round_trip(written: tuple[Path, list[Episode]]) -> None:
    root, episodes = written
    dataset = LeRobotDataset(root)
    assert len(dataset) == 3
    for found, wanted in zip(dataset, episodes, strict=True):
        same(found, wanted)
        assert found.action_space == wanted.action_space
        assert found.meta["licence"] == "apache-2.0"
        front = found.cameras["front"]
        np.testing.assert_allclose(front.track, wanted.cameras["front"].track, atol=1e-6)
        assert found.cameras["wrist"].depth is None
        assert front.depth is not None
        (depth,) = front.depth.read([5])
        assert (depth[:4] == 0).all()
        np.testing.assert_allclose(depth[4:], 1.5)


def calibrated(seed: int, **changes: Any) -> Episode:
    """Two arms, a camera that stands still and one that moves."""
    made = episode(seed)
    rng = np.random.default_rng(seed)
    poses = rng.normal(size=(2, STEPS, 4, 4))
    poses[0] = poses[0, :1]
    cameras = {
        name: replace(made.cameras[name], intrinsics=rng.uniform(20, 80, (3, 3)), camera_from_base=pose)
        for name, pose in zip(("front", "wrist"), poses, strict=True)
    }
    given = {"cameras": cameras, "effector": rng.normal(size=(STEPS, 2, 3)), "arms": ("left", "right")}
    return replace(made, **(given | changes))


def test_calibration_is_kept(tmp_path: Path) -> None:
    episodes = [calibrated(seed) for seed in range(2)]
    write_lerobot(episodes, tmp_path / "set")
    for found, wanted in zip(LeRobotDataset(tmp_path / "set"), episodes, strict=True):
        assert found.arms == ("left", "right")
        np.testing.assert_allclose(found.effector, wanted.effector, rtol=1e-6)
        for name, stream in wanted.cameras.items():
            np.testing.assert_array_equal(found.cameras[name].intrinsics, stream.intrinsics)
            np.testing.assert_allclose(
                found.cameras[name].camera_from_base, stream.camera_from_base, rtol=1e-6
            )
    rewrite(tmp_path / "set" / EPISODES, lambda rows: rows[1]["egem/intrinsics/wrist"].pop())
    with pytest.raises(RecordError, match=r"episode 1: egem/intrinsics/wrist has 8 numbers"):
        LeRobotDataset(tmp_path / "set").episode(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cameras": episode(1).cameras}, "camera 'front' lacks intrinsics, unlike the first"),
        ({"arms": ("one", "two")}, "arms is .*'one', 'two'.*'left', 'right'"),
        ({"effector": None}, "0 dimensions of effector, 6 in the first"),
    ],
)
def test_calibration_in_some_episodes_alone_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RecordError, match=rf"episode made/1.*{message}"):
        write_lerobot([calibrated(0), calibrated(1, **changes)], tmp_path / "set")


@pytest.mark.parametrize(("unit", "metres"), [("mm", 1.5), ("m", 1500.0), (None, 1.5)])
def test_units_of_depth_as_lerobot_notes_them(
    written: tuple[Path, list[Episode]], unit: str | None, metres: float
) -> None:
    dataset = LeRobotDataset(written[0])
    info = dataset.features["observation.depth.front"]["info"]
    assert (info["is_depth_map"], info["depth_unit"]) == (True, "mm")
    del info["depth_unit_m"]
    info["depth_unit"] = unit
    depth = dataset.episode(0).cameras["front"].depth
    assert depth is not None
    np.testing.assert_allclose(depth.read([5])[0][4:], metres)


def test_an_unknown_unit_of_depth_is_refused(written: tuple[Path, list[Episode]]) -> None:
    dataset = LeRobotDataset(written[0])
    dataset.features["observation.depth.front"]["info"]["depth_unit"] = "inch"
    with pytest.raises(
        RecordError, match=r"depth of observation\.depth\.front is in 'inch'; mm, m can be read"
    ):
        dataset.episode(0)


def logarithmic_codes(metres: np.ndarray, near: float, far: float, shift: float) -> np.ndarray:
    """As lerobot 0.6 does it: even steps of log(depth + shift), 0 at `near` and 4095 at `far`."""
    share = np.log((metres + shift) / (near + shift)) / np.log((far + shift) / (near + shift))
    return np.clip(np.rint(4095 * share), 0, 4095).astype(np.uint16)


def straight_codes(metres: np.ndarray, near: float, far: float, shift: float) -> np.ndarray:
    return np.clip(np.rint(4095 * (metres - near) / (far - near)), 0, 4095).astype(np.uint16)


def write_video(path: Path, codes: np.ndarray, fps: float) -> None:
    """Lossless HEVC of one 12-bit channel, as lerobot 0.6 writes depth."""
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "hevc", rate=round(fps), options={"x265-params": "lossless=1:log-level=0"}
        )
        stream.height, stream.width = codes.shape[1:]
        stream.pix_fmt = "gray12le"
        for picture in codes:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray12le")))
        container.mux(stream.encode())


@pytest.mark.parametrize("logarithmic", [True, False])
def test_depth_videos_of_lerobot(tmp_path: Path, logarithmic: bool) -> None:
    """A camera `front` with `front_depth` beside it, two episodes in one file."""
    without = [
        replace(e, cameras={"front": replace(e.cameras["front"], depth=None)})
        for e in (episode(0), episode(1))
    ]
    write_lerobot(without, tmp_path / "set")
    key = "observation.images.front_depth"
    rng = np.random.default_rng(0)
    metres = rng.uniform(0.02, 9.9, (2 * STEPS, 48, 64))
    metres[:, :4], metres[:, 4:8] = 0.0, 12.0
    span = (0.01, 10.0, 3.5)
    codes = (logarithmic_codes if logarithmic else straight_codes)(metres, *span)
    write_video(tmp_path / f"set/videos/{key}/chunk-000/file-000.mp4", codes, FPS)
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    entries = dict(zip(("video.depth_min", "video.depth_max", "video.shift"), span, strict=True))
    noted = {"is_depth_map": True, "video.pix_fmt": "gray12le", "video.use_log": logarithmic, **entries}
    info["features"][key] = {"dtype": "video", "shape": [48, 64, 1], "names": None, "info": noted}
    (tmp_path / "set/meta/info.json").write_text(json.dumps(info))

    def also(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp"):
                row[f"videos/{key}/{name}"] = row[f"videos/observation.images.front/{name}"]

    rewrite(tmp_path / "set" / EPISODES, also)
    dataset = LeRobotDataset(tmp_path / "set")
    assert dataset.camera_keys == ("observation.images.front",)
    for number in range(2):
        depth = dataset.episode(number).cameras["front"].depth
        assert depth is not None
        assert len(depth) == STEPS
        for step in (0, 7):
            (found,), true = depth.read([step]), metres[number * STEPS + step]
            assert found.dtype == np.float32
            assert (found[:8] == 0).all()  # nearer than can be told, and farther
            # Half a step: log(13.5 / 3.51) / 4095 of the depth and the shift.
            reach = 1.66e-4 * (true + 3.5) if logarithmic else 9.99 / 4095 * 0.51
            assert (np.abs(found - true) < reach)[8:].all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"dtype": "video", "info": {"is_depth_map": True}},
            r"no video\.depth_min, .*write it anew with lerobot 0\.6",
        ),
        ({"key": "observation.images.top_depth"}, r"no camera is named like it \(there are front, wrist\)"),
    ],
)
def test_depth_that_cannot_be_read_is_named(
    copy: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], message: str
) -> None:
    path = copy / "meta" / "info.json"
    info = json.loads(path.read_text())
    feature = info["features"].pop("observation.depth.front") | changes
    info["features"][feature.pop("key", "observation.depth.front")] = feature
    path.write_text(json.dumps(info))
    dataset = LeRobotDataset(copy)
    assert re.search(message, caplog.text)
    assert dataset.episode(0).cameras["front"].depth is None


@pytest.mark.parametrize(
    ("values", "unit"),
    [(np.float32([[0.5, np.nan], [-1, 2]]), "m"), (np.uint16([[500, 0], [0, 2000]]), "mm")],
)
def test_depth_as_tiff(copy: Path, values: np.ndarray, unit: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF")

    def swap(rows: list[dict[str, Any]]) -> None:
        rows[3]["observation.depth.front"]["bytes"] = buffer.getvalue()
        rows[4]["observation.depth.front"]["bytes"] = buffer.getvalue()[:-6]

    rewrite(copy / DATA, swap)
    dataset = LeRobotDataset(copy)
    info = dataset.features["observation.depth.front"]["info"]
    del info["depth_unit_m"]
    info["depth_unit"] = unit
    depth = dataset.episode(0).cameras["front"].depth
    assert depth is not None
    np.testing.assert_allclose(depth.read([3])[0], [[0.5, 0], [0, 2]])
    with pytest.raises(RecordError, match="depth 4 cannot be decoded"):
        depth.read([4])


def test_frames_in_any_order(written: tuple[Path, list[Episode]]) -> None:
    root, episodes = written
    found, wanted = LeRobotDataset(root).episode(2), episodes[2]
    order = [29, 0, 7, 7, 28, 3]
    images = found.cameras["front"].frames.read(order)
    assert [round(corner(image) / 8) for image in images] == order
    with pytest.raises(RecordError, match=r"no frame 30 in an episode of 30"):
        found.cameras["front"].frames.read([30])
    assert wanted.num_steps == 30


def test_key_frames_may_be_far_apart(tmp_path: Path) -> None:
    """As in videos that encoders wrote with their own defaults: one key frame in 250."""
    write_lerobot([episode(seed) for seed in range(2)], tmp_path / "set", LeRobotOptions(keyframe_every=250))
    for number in (1, 0):
        frames = LeRobotDataset(tmp_path / "set").episode(number).cameras["front"].frames
        images = frames.read([23, 0, 1])
        assert [round(corner(image) / 8) for image in images] == [23, 0, 1]


def test_files_roll_over_between_episodes(tmp_path: Path) -> None:
    episodes = [episode(seed) for seed in range(3)]
    write_lerobot(episodes, tmp_path / "set", LeRobotOptions(data_file_mb=0, video_file_mb=0))
    for pattern in ("data/chunk-000/*.parquet", "videos/observation.images.front/chunk-000/*.mp4"):
        assert len(list((tmp_path / "set").glob(pattern))) == 3
    for found, wanted in zip(LeRobotDataset(tmp_path / "set"), episodes, strict=True):
        same(found, wanted)


def test_statistics_are_those_of_the_values(written: tuple[Path, list[Episode]]) -> None:
    root, episodes = written
    found = LeRobotDataset(root).statistics()
    values = np.concatenate([e.actions for e in episodes if e.actions is not None]).astype(np.float64)
    wanted = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    wanted |= {f"q{q:02d}": np.percentile(values, q, axis=0) for q in (1, 10, 50, 90, 99)}
    for name, value in wanted.items():
        np.testing.assert_allclose(found["action"][name], value, rtol=1e-9)
    assert found["action"]["count"].tolist() == [sum(LENGTHS)]
    pixels = []
    for one in episodes:
        sampled = np.unique(np.linspace(0, one.num_steps - 1, 10).astype(int)).tolist()
        pixels.append(np.stack(one.cameras["front"].frames.read(sampled)))
    flat = np.concatenate([p.reshape(-1, 3) for p in pixels]) / 255
    image = found["observation.images.front"]
    assert image["mean"].shape == (3, 1, 1)
    np.testing.assert_allclose(image["mean"].ravel(), flat.mean(0), rtol=1e-9)
    np.testing.assert_allclose(image["std"].ravel(), flat.std(0), rtol=1e-9)
    # Each episode's own stand in its row.
    row = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()[1]
    first = episodes[1].actions
    assert first is not None
    np.testing.assert_allclose(row["stats/action/mean"], first.astype(np.float64).mean(0))


def test_what_other_tools_look_for(written: tuple[Path, list[Episode]]) -> None:
    """The names and index columns that lerobot 0.4 opens."""
    pandas = pytest.importorskip("pandas")
    root, episodes = written
    tasks = pandas.read_parquet(root / "meta" / "tasks.parquet")
    assert tasks.loc[episodes[1].instruction].task_index == 1
    assert set(pandas.read_parquet(root / "meta" / "subtasks.parquet").index) == set(PARTS)
    info = json.loads((root / "meta" / "info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["fps"]) == (3, sum(LENGTHS), 10)
    rows = pandas.read_parquet(root / "meta/episodes/chunk-000/file-000.parquet")
    assert rows.dataset_from_index.tolist() == [0, 24, 41]
    assert rows.dataset_to_index.tolist() == [24, 41, 71]
    np.testing.assert_allclose(rows["videos/observation.images.front/from_timestamp"], [0, 2.4, 4.1])
    data = pandas.read_parquet(root / "data/chunk-000/file-000.parquet")
    assert data["index"].tolist() == list(range(71))
    assert data.frame_index.tolist() == [i for n in LENGTHS for i in range(n)]
    for key, feature in info["features"].items():
        assert (key in data.columns) == (feature["dtype"] != "video")


def test_version_2_1(tmp_path: Path) -> None:
    episodes = [episode(seed, steps=12 + seed) for seed in range(2)]
    root = write_v21(tmp_path / "old", episodes)
    dataset = LeRobotDataset(root)
    assert dataset.version == "v2.1"
    for found, wanted in zip(dataset, episodes, strict=True):
        same(replace(found, subtasks=wanted.subtasks, success=wanted.success), wanted)
        assert found.success is None
        assert found.action_space is None
        # AgiBot World's annotation, whose last frames are exclusive.
        assert [(s.text, s.start, s.end) for s in found.subtasks] == [
            (s.text, s.start, s.end) for s in wanted.subtasks
        ]


def rewrite(path: Path, change: Any) -> None:
    rows = pq.read_table(path).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows), path)


EPISODES, DATA = "meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet"


def test_subtasks_from_every_place_that_tools_put_them(copy: Path) -> None:
    def from_columns(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["sparse_subtask_names"] = ["task"]
            row["sparse_subtask_start_frames"], row["sparse_subtask_end_frames"] = [0], [row["length"] - 1]
            row["dense_subtask_names"] = ["a", "b"]
            row["dense_subtask_start_frames"], row["dense_subtask_end_frames"] = [0, 5], [4, 9]

    def without(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            for key in [k for k in row if "subtask" in k]:
                del row[key]

    rewrite(copy / EPISODES, from_columns)
    found = LeRobotDataset(copy).episode(0).subtasks
    assert found == (Subtask(text="a", start=0, end=5), Subtask(text="b", start=5, end=10))
    rewrite(copy / EPISODES, without)
    assert [s.text for s in LeRobotDataset(copy).episode(0).subtasks] == list(PARTS)
    rewrite(copy / DATA, lambda rows: [row.update(subtask_index=-1) for row in rows[:8]])
    assert [s.text for s in LeRobotDataset(copy).episode(0).subtasks] == list(PARTS[1:])
    (copy / "meta" / "subtasks.parquet").unlink()
    assert LeRobotDataset(copy).episode(0).subtasks == ()
    # A task that changes on the way is a sub-task.
    rewrite(copy / DATA, lambda rows: [row.update(task_index=1) for row in rows[10:24]])
    rewrite(copy / EPISODES, lambda rows: rows[0].update(tasks=["x", "y"]))
    first = LeRobotDataset(copy).episode(0)
    assert [(s.start, s.end) for s in first.subtasks] == [(0, 10), (10, 24)]
    assert first.instruction == ""


def test_bad_datasets(copy: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no LeRobot dataset: looked for meta/info.json; it holds"):
        LeRobotDataset(copy / "data")
    info = json.loads((copy / "meta" / "info.json").read_text())
    (copy / "meta" / "info.json").write_text(json.dumps(info | {"codebase_version": "v1.6"}))
    with pytest.raises(ConfigError, match=r"version v1\.6; v3\.0, v2\.1, v2\.0 can be read"):
        LeRobotDataset(copy)
    (copy / "meta" / "info.json").write_text(json.dumps(info)[:200])
    with pytest.raises(RecordError, match=r"info\.json is not valid JSON"):
        LeRobotDataset(copy)


def test_damage_is_named(copy: Path) -> None:
    rewrite(copy / DATA, lambda rows: rows.pop(3))
    with pytest.raises(RecordError, match=r"episode 0: 23 rows of data, 24 announced"):
        LeRobotDataset(copy).episode(0)
    rewrite(copy / DATA, lambda rows: rows[24]["observation.state"].__setitem__(2, float("nan")))
    with pytest.raises(RecordError, match=r"states of step 1 are not finite"):
        LeRobotDataset(copy).episode(1)
    content = (copy / DATA).read_bytes()
    (copy / DATA).write_bytes(content[: len(content) // 2])
    with pytest.raises(RecordError, match=r"file-000\.parquet cannot be read .* truncated or damaged"):
        LeRobotDataset(copy).episode(0)
    (copy / DATA).unlink()
    with pytest.raises(RecordError, match=r"file-000\.parquet does not exist; the dataset is incomplete"):
        LeRobotDataset(copy).episode(0)


def test_damaged_videos_are_named(copy: Path) -> None:
    video = copy / "videos/observation.images.front/chunk-000/file-000.mp4"

    def read(number: int) -> None:
        LeRobotDataset(copy).episode(number).cameras["front"].frames.read([0, 20])

    rewrite(copy / EPISODES, lambda rows: rows[2].update(length=30))
    rewrite(
        copy / EPISODES,
        lambda rows: rows[2].update({"videos/observation.images.front/from_timestamp": 6.0}),
    )
    with pytest.raises(RecordError, match=r"has no frame at 8\.000 s \(step 20 of 30\); it is truncated"):
        read(2)
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 3])
    with pytest.raises(RecordError, match=r"front/chunk-000/file-000\.mp4 cannot be read"):
        read(0)
    video.unlink()
    with pytest.raises(RecordError, match=r"file-000\.mp4 does not exist"):
        read(0)
    with pytest.raises(RecordError, match=r"has no camera 'top'; it has front, wrist"):
        LeRobotDataset(copy).episode(0).camera("top")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fps": None}, "has no rate"),
        ({"instruction": " "}, "has no instruction"),
        ({"fps": 20.0}, r"fps is 20\.0, 10\.0 in the first episode"),
        ({"states": np.zeros((STEPS, 9), np.float32)}, "9 dimensions of states, 8 in the first"),
        ({"actions": np.zeros((STEPS, 6), np.float32)}, "actions have 6 dimensions, .* declares 7"),
        ({"actions": np.full((STEPS, 7), np.nan, np.float32)}, "actions of step 0 are not finite"),
        ({"cameras": {}}, "cameras none; the first episode has front, wrist"),
    ],
)
def test_episodes_that_do_not_fit(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=rf"episode made/1.*{message}"):
        write_lerobot([episode(0), episode(1, **changes)], tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_nothing_and_existing_folders(tmp_path: Path, written: tuple[Path, list[Episode]]) -> None:
    with pytest.raises(RecordError, match="no episode to write"):
        write_lerobot([], tmp_path / "set")
    with pytest.raises(ConfigError, match="exists already"):
        write_lerobot([episode(0)], written[0])
    assert FPS == 10


def test_action_spaces_are_compared() -> None:
    assert SPACE.differences(replace(SPACE, names=("x",) * 7)) == ()
    assert SPACE.differences(replace(SPACE, gripper_open=None)) == ()
    assert SPACE.differences(replace(SPACE, gripper_open=1.0, gripper_closed=-1.0)) == (
        "gripper_open is -1 here, 1 there",
        "gripper_closed is 1 here, -1 there",
    )
    (found,) = SPACE.differences(replace(SPACE, rotation="euler_xyz"))
    assert found == "rotation is axis_angle here, euler_xyz there"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timestamps": np.zeros(STEPS)}, "time does not advance from step 0 to 1"),
        ({"subtasks": (Subtask(text="a", start=20, end=25),)}, "'a' spans steps 20 to 25, outside the .* 24"),
        ({"subtasks": (Subtask(text="a", start=5, end=5),)}, "'a' spans steps 5 to 5"),
        ({"effector": np.zeros((STEPS, 2, 3), np.float32), "arms": ("left",)}, "1 names for 2 arms"),
        ({"cameras": {"front": episode(0, steps=9).cameras["wrist"]}}, "'front' has 9 frames for 24 steps"),
        (dict.fromkeys(("states", "actions", "timestamps")) | {"cameras": {}}, "has no step"),
    ],
)
def test_episodes_whose_parts_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=rf"episode made/0.*{message}"):
        check(episode(0, **changes))
