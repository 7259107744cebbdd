"""Scans of rooms: cameras, depth, masks and boxes agree with a room known to the millimetre."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egem.core.errors import ConfigError, RecordError
from egem.data_engine import ImportOptions, import_source
from egem.data_engine.formats.ply import read_vertices
from egem.data_engine.sources import arkitscenes, scannet, scannetpp
from egem.data_engine.sources.rooms import ROOM_SKILLS, RoomFrame, scene_of
from egem.media import decode_depth
from egem.records import Record
from egem.scoring import score
from egem.shards import iterate_records
from sources.rooms import HEIGHT, ROOMS, THINGS, WIDTH, pose, view, write_ply

OPTIONS = ImportOptions(num_questions=30)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: build(tmp_path_factory.mktemp(name) / "in") for name, build in ROOMS.items()}


def frames_of(name: str, root: Path) -> list[RoomFrame]:
    if name == "scannet":
        return scannet.read_scene(root / "scans" / "scene0000_00", "scene0000_00")
    if name == "scannetpp":
        return scannetpp.read_scene(root / "data" / "036bce3393")
    return arkitscenes.read_video_frames(next(root.rglob("*_3dod_annotation.json")))


@pytest.mark.parametrize("name", ROOMS)
def test_frames_have_their_pose_and_those_without_one_are_left_out(name: str, roots: dict[str, Path]) -> None:
    frames = frames_of(name, roots[name])
    assert len(frames) == 2
    for frame, number in zip(frames, (0, 2), strict=True):
        np.testing.assert_allclose(frame.world_from_camera, pose(number), atol=1e-5)


@pytest.mark.parametrize("name", ROOMS)
def test_scenes_agree_with_the_room(name: str, roots: dict[str, Path]) -> None:
    for frame, number in zip(frames_of(name, roots[name]), (0, 2), strict=True):
        scene = scene_of(frame, source=name, licence="x", where="w", options=OPTIONS)
        metres, seen = view(pose(number))
        close = np.abs(scene.depth - metres) < 0.03
        # Depth of half the size is wrong at edges.
        assert close[seen > 0].mean() > (0.99 if name == "arkitscenes" else 0.85)
        assert [thing.name for thing in scene.objects] == list(THINGS)
        for index, thing in enumerate(scene.objects, 1):
            center, edges, turn = THINGS[thing.name]
            np.testing.assert_allclose(thing.center, center, atol=1e-5)
            if name == "scannet":  # boxes along the room's axes
                c, s = abs(np.cos(turn)), abs(np.sin(turn))
                wanted = [c * edges[0] + s * edges[1], s * edges[0] + c * edges[1], edges[2]]
                np.testing.assert_allclose(thing.extent, wanted, atol=1e-5)
            else:
                np.testing.assert_allclose(thing.extent, edges, atol=1e-5)
            ours, true = scene.mask == thing.index, seen == index
            assert (ours & true).sum() / (ours | true).sum() > 0.8, thing.name
            # The box as the camera sees it holds all of the thing's true pixels.
            local = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
            corners = scene.camera.project(thing.center + (local * thing.extent) @ thing.pose[:3, :3].T)
            columns = np.flatnonzero(true.any(axis=0))
            assert corners[:, 0].min() - 1 <= columns.min()
            assert columns.max() + 1 <= corners[:, 0].max() + 1
            assert np.linalg.det(thing.pose[:3, :3]) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ROOMS)
def test_questions_are_answered_as_the_room_is(name: str, roots: dict[str, Path], tmp_path: Path) -> None:
    import_source(name, roots[name], tmp_path / "out", OPTIONS)
    records = list(iterate_records(tmp_path / "out"))
    assert len({r.group for r in records}) == 2
    assert {r.skill for r in records} <= set(ROOM_SKILLS)
    assert {"object_distance", "box_of_object", "camera_distance"} <= {r.skill for r in records}
    for record in records:
        assert record.meta["licence"]
        assert score(record.answer, record.messages[-1].content) == 1.0
        (file,) = [
            path
            for path in roots[name].rglob(f"{record.meta['frame']}.[jp][pn]g")
            if "depth" not in path.parent.name
        ]
        assert record.images[0].data == file.read_bytes()
    for record in (r for r in records if r.skill == "object_distance"):
        named = [label for label in THINGS if re.search(rf"\b{label}\b", record.messages[0].content)]
        true = float(np.linalg.norm(THINGS[named[0]][0] - THINGS[named[1]][0]))
        assert record.answer.number == pytest.approx(true, abs=0.006)
    for record in (r for r in records if r.skill == "box_of_object"):
        check_box(record)


def check_box(record: Record) -> None:
    """The box against the pixels of the ray-cast view."""
    number = {"0": 0, "20": 2}.get(
        record.meta["frame"].lstrip("frame_0") or "0", 2 if "307" in record.meta["frame"] else 0
    )
    label = next(label for label in THINGS if label in record.messages[0].content)
    _, seen = view(pose(number))
    rows, columns = np.nonzero(seen == list(THINGS).index(label) + 1)
    true = np.array(
        [columns.min() / WIDTH, rows.min() / HEIGHT, (columns.max() + 1) / WIDTH, (rows.max() + 1) / HEIGHT]
    )
    np.testing.assert_allclose(np.array(record.answer.box), true * 1000, atol=45)


def test_instance_images_are_used_where_the_scan_has_them(tmp_path: Path) -> None:
    root = ROOMS["scannet"](tmp_path / "in")
    folder = root / "scans" / "scene0000_00" / "instance-filt"
    folder.mkdir()
    for number in (0, 2):
        _, seen = view(pose(number))
        values = np.where(seen == 0, 4, seen).astype(np.uint8)  # 4 is the wall's
        Image.fromarray(values).save(folder / f"{number * 10}.png")
    for frame, number in zip(frames_of("scannet", root), (0, 2), strict=True):
        scene = scene_of(frame, source="scannet", licence="x", where="w", options=OPTIONS)
        np.testing.assert_array_equal(scene.mask, view(pose(number))[1])
    (folder / "0.png").write_bytes(b"\x89PNG")
    with pytest.raises(RecordError, match=r"frame 0: mask .*0\.png cannot be read"):
        import_source("scannet", root, tmp_path / "out", OPTIONS)


def test_the_same_seed_asks_the_same_and_depth_limits_count(roots: dict[str, Path], tmp_path: Path) -> None:
    seen = []
    for run, seed in enumerate((0, 0, 1)):
        import_source(
            "arkitscenes", roots["arkitscenes"], tmp_path / str(run), ImportOptions(seed=seed, num_frames=1)
        )
        seen.append([r.messages for r in iterate_records(tmp_path / str(run))])
    assert seen[0] == seen[1] != seen[2]
    import_source("arkitscenes", roots["arkitscenes"], tmp_path / "near", ImportOptions(depth_max_m=2.0))
    assert max(decode_depth(r.depths[0]).max() for r in iterate_records(tmp_path / "near")) <= 2.0


def test_skills_that_rooms_cannot_answer(roots: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="skill 'own_view' needs more than scans of rooms tell"):
        import_source(
            "arkitscenes", roots["arkitscenes"], tmp_path / "out", ImportOptions(skills=("own_view",))
        )


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("scannet", "*.aggregation.json", b"{", "valid JSON"),
        (
            "scannet",
            "*segs.json",
            b'{"segIndices": [1, 2]}',
            "2 segments for 29 vertices; the files do not belong",
        ),
        ("scannet", "*_clean_2.ply", b"no", "is no PLY file"),
        ("scannet", "pose/0.txt", b"1 2 3", "cannot be read as a matrix of 4 x 4"),
        ("scannet", "depth/0.png", b"x", "0.png cannot be decoded"),
        ("scannet", "color/*.jpg", None, "no frames color/"),
        ("scannet", "scene0000_00.txt", None, "is missing; it holds the scan's alignment"),
        ("arkitscenes", "*annotation.json", b'{"data": [{"label": "x"}]}', "thing 1: no 'obbAligned' box"),
        ("arkitscenes", "*annotation.json", b'{"data": []}', "no list 'data' of things"),
        ("arkitscenes", "lowres_wide.traj", b"1 2 3\n", "lines of 7 numbers expected, got 3"),
        ("arkitscenes", "*.pincam", b"1 2", "cannot be read as 'width height fx fy cx cy'"),
        ("arkitscenes", "lowres_depth/*.png", None, "No such file"),
        ("scannetpp", "segments_anno.json", b'{"segGroups": [{"label": "x"}]}', "thing 1: no 'obb'"),
        ("scannetpp", "pose_intrinsic_imu.json", b'{"frame_000000": {"aligned_pose": 3}}', "no 4 x 4 pose"),
        ("scannetpp", "rgb/*.jpg", None, "Extract rgb.mkv and depth.bin"),
    ],
)
def test_damaged_scans(name: str, file: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    root = ROOMS[name](tmp_path / "in")
    files = list(root.rglob(file))
    assert files
    for path in files:
        path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(RecordError, match=message):
        import_source(name, root, tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ROOMS)
def test_the_wrong_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ConfigError, match=rf"is no folder of '{name}': looked for .*json.* it is empty"):
        import_source(name, tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_vertices_of_every_kind_of_ply(form: str, tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    path = tmp_path / "a.ply"
    write_ply(path, points, form)
    np.testing.assert_allclose(read_vertices(path), points, rtol=1e-6)
    path.write_bytes(path.read_bytes()[:-250] if form == "ascii" else path.read_bytes()[:400])
    with pytest.raises(RecordError, match="truncated PLY"):
        read_vertices(path)
