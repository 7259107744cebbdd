"""Colour with depth from folders and manifests: decoding, units, masks, and each kind of damage."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from egem.core.errors import ConfigError, RecordError
from egem.data_engine import ImportOptions, import_source
from egem.media import decode_depth
from egem.records import Record
from egem.shards import iterate_records, read_manifest
from real_data import ROOT, needs_real_data

HEIGHT, WIDTH = 60, 80
K = {"fx": 80.0, "fy": 80.0, "cx": 40.0, "cy": 30.0}


def steps(seed: int = 0) -> np.ndarray:
    """Counts of millimetres in large flat squares."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(600, 3000, (6, 8)), np.ones((10, 10))).astype(np.uint16)


def save(folder: Path, name: str = "a", counts: np.ndarray | None = None, **frame: Any) -> dict[str, Any]:
    counts = steps() if counts is None else counts
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(folder / f"{name}.color.png")
    Image.fromarray(counts).save(folder / f"{name}.depth.png")
    files = {"rgb": f"{name}.color.png", "depth": f"{name}.depth.png"}
    return {"id": name, **files, "depth_unit_m": 0.001, "K": K, **frame}


def manifest(folder: Path, *frames: Any) -> Path:
    path = folder / "manifest.json"
    path.write_text(json.dumps({"frames": list(frames)}))
    return path


def load(path: Path, out: Path, **options: Any) -> list[Record]:
    import_source("rgbd", path, out, ImportOptions(**options))
    return list(iterate_records(out))


def depth_of(record: Record) -> np.ndarray:
    assert record.depths[0] is not None
    return decode_depth(record.depths[0])


def test_a_manifest_becomes_records(tmp_path: Path) -> None:
    path = manifest(tmp_path, save(tmp_path, licence="MIT"), save(tmp_path, "b", steps(1)))
    records = load(path, tmp_path / "out")
    assert {r.group for r in records} == {"rgbd/a", "rgbd/b"}
    assert {r.source for r in records} == {"rgbd"}
    assert records[0].meta["licence"] == "MIT"
    assert records[0].images[0].data == (tmp_path / "a.color.png").read_bytes()
    assert records[0].intrinsics[0].fx == 80.0
    np.testing.assert_allclose(depth_of(records[0]), steps() * 0.001, atol=1e-6)
    assert {"nearer_point", "point_depth", "points_apart"} <= {r.skill for r in records}


def test_a_folder_of_colour_and_depth(tmp_path: Path) -> None:
    source = tmp_path / "room"
    for kind in ("color", "depth"):
        (source / kind).mkdir(parents=True)
    save(tmp_path, counts=steps() * 5)
    (tmp_path / "a.color.png").rename(source / "color" / "7.png")
    (tmp_path / "a.depth.png").rename(source / "depth" / "7.png")
    (source / "intrinsics.json").write_text(json.dumps({**K, "depth_unit_m": 0.0002}))
    records = load(source, tmp_path / "out")
    assert {r.group for r in records} == {"rgbd/room/7"}
    assert records[0].intrinsics[0].fx == 80.0
    np.testing.assert_allclose(depth_of(records[0]), steps() * 0.001, atol=1e-6)


def test_rotated_counts_are_turned_back(tmp_path: Path) -> None:
    counts = steps()
    rotated = ((counts << 3) | (counts >> 13)).astype(np.uint16)
    path = manifest(tmp_path, save(tmp_path, counts=rotated, depth_decode="sun3d_rot3"))
    np.testing.assert_allclose(depth_of(load(path, tmp_path / "out")[0]), counts * 0.001, atol=1e-6)


def test_invalid_counts_and_far_readings_are_missing(tmp_path: Path) -> None:
    counts = steps()
    counts[:10, :10] = 65535
    counts[10:20, :10] = 2900
    frame = save(tmp_path, counts=counts, depth_invalid=65535, depth_max_m=2.5)
    depth = depth_of(load(manifest(tmp_path, frame), tmp_path / "out")[0])
    assert (depth[:20, :10] == 0).all()
    assert depth.max() <= 2.5


def test_float_depth_in_an_npz_with_masks(tmp_path: Path) -> None:
    depth = steps().astype(np.float32) / 1000
    depth[:10, :10], depth[10:20, :10] = np.nan, 79.0
    masks = np.zeros((2, HEIGHT, WIDTH), np.int32)
    masks[0, 20:40, 20:40], masks[0, 20:40, 40:45], masks[1, 30:50, 50:70] = 1, 2, 1
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    labels = np.array([1, 2], np.int32)
    np.savez(tmp_path / "data.npz", rgb=image, depth=depth, masks=masks, labels=labels)
    (tmp_path / "class_names.txt").write_text("__background__\nhanes_socks\nglue\n")
    frame = {"id": "n", "npz": "data.npz", "K": K, "depth_invalid": "nan; also outliers, clip at 2 m"}
    records = load(manifest(tmp_path, frame), tmp_path / "out", num_questions=40)
    stored = depth_of(records[0])
    assert (stored[:20, :10] == 0).all()
    assert stored.max() <= 2.0
    boxes = {r.messages[0].content: r.answer.box for r in records if r.skill == "box_of_object"}
    assert any("hanes socks" in text and box == (250, 333, 500, 667) for text, box in boxes.items())
    assert not any(r.skill.startswith(("count", "inside", "camera_distance")) for r in records)


def test_instance_labels_become_things_to_point_at(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:30, 10:30], mask[30:50, 50:70] = 48, 114
    Image.fromarray(mask).save(tmp_path / "segm.png")
    frame = save(tmp_path, segm="segm.png", segm_labels={"48": "tissue_box", "114": "joke_book"})
    records = load(manifest(tmp_path, frame), tmp_path / "out", num_questions=40)
    named = {r.skill for r in records if "joke book" in r.messages[0].content}
    assert {"point_at_object", "box_of_object", "object_at_point"} <= named


def test_jsonl_and_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "frames.jsonl"
    path.write_text("\n".join(json.dumps(save(tmp_path, n, steps(i))) for i, n in enumerate("abc")))
    assert len({r.group for r in load(path, tmp_path / "out", limit=2)}) == 2


def broken(tmp_path: Path, kind: str) -> dict[str, Any]:
    frame = save(tmp_path)
    if kind == "unreadable image":
        (tmp_path / "a.color.png").write_bytes(b"\x89PNG nothing")
    elif kind == "truncated depth":
        data = (tmp_path / "a.depth.png").read_bytes()
        (tmp_path / "a.depth.png").write_bytes(data[: len(data) // 2])
    elif kind == "no image":
        (tmp_path / "a.color.png").unlink()
    elif kind == "another size":
        Image.fromarray(steps()[:30]).save(tmp_path / "a.depth.png")
    elif kind == "wrong unit":
        frame["depth_unit_m"] = 1.0
    elif kind == "no key":
        del frame["depth"]
    elif kind == "unknown encoding":
        frame["depth_decode"] = "zip"
    elif kind == "bad K":
        frame["K"] = {"fx": 1.0}
    elif kind == "no depth at all":
        Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(tmp_path / "a.depth.png")
    return frame


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("unreadable image", "frame 'a': image .*a.color.png cannot be decoded"),
        ("truncated depth", "frame 'a': depth map .*a.depth.png cannot be decoded"),
        ("no image", "a.color.png cannot be read: No such file"),
        ("another size", "frame 'a': the depth map is 80 x 30 pixels, its image 80 x 60; register"),
        ("wrong unit", r"median depth .* m is implausible: is the unit .* give unit_m=0\.001"),
        ("no key", "frame 'a': 'depth' is missing"),
        ("unknown encoding", "depth_decode 'zip' is not known"),
        ("bad K", "K needs numbers fx, fy, cx and cy"),
        ("no depth at all", r"nothing can be asked; 0\.0% of its pixels have depth"),
    ],
)
def test_the_first_bad_frame_stops_the_import(tmp_path: Path, kind: str, message: str) -> None:
    good = save(tmp_path, "b", steps(1))
    path = manifest(tmp_path, good, broken(tmp_path, kind))
    with pytest.raises(RecordError, match=message):
        load(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]


def test_bad_frames_within_the_allowed_share_are_put_aside(tmp_path: Path) -> None:
    frames = [save(tmp_path, n, steps(i)) for i, n in enumerate("bcd")]
    path = manifest(tmp_path, *frames, broken(tmp_path, "another size"))
    records = load(path, tmp_path / "out", max_error_fraction=0.3)
    assert {r.group for r in records} == {"rgbd/b", "rgbd/c", "rgbd/d"}
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert len(lines) == 1
    assert lines[0]["row"].endswith("frame 'a'")
    assert "80 x 30" in lines[0]["reason"]
    with pytest.raises(RecordError, match=r"1 of 4 rows are bad, more than the 20\.0% allowed.*\n.*80 x 30"):
        load(path, tmp_path / "other", max_error_fraction=0.2)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("{", RecordError, "is not valid JSON"),
        ("{}", RecordError, "holds no frames"),
        ('{"frames": [3]}', RecordError, "an object with 'rgb' and 'depth' expected, got '3'"),
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, content: str, error: type, message: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(content)
    with pytest.raises(error, match=re.escape(message)):
        load(path, tmp_path / "out")


def test_senseless_options(tmp_path: Path) -> None:
    path = manifest(tmp_path, save(tmp_path))
    for options, message in (
        ({"num_questions": 0}, "num_questions is 0"),
        ({"max_error_fraction": 1.0}, "max_error_fraction is 1.0"),
        ({"skills": ("nearest_point",)}, "unknown skill 'nearest_point'. Did you mean"),
        ({"media": tmp_path / "none"}, "is not a folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            load(path, tmp_path / "out", **options)
    with pytest.raises(ConfigError, match=r"unknown source 'rgb-d'\. Did you mean 'rgbd'"):
        import_source("rgb-d", path, tmp_path / "out")
    with pytest.raises(ConfigError, match="does not exist"):
        import_source("rgbd", tmp_path / "none.json", tmp_path / "out")
    with pytest.raises(ConfigError, match="needs the folders"):
        import_source("rgbd", tmp_path, tmp_path / "out")


@needs_real_data
def test_real_frames(tmp_path: Path) -> None:
    frames = json.loads((ROOT / "manifest.json").read_text())["frames"]
    records = load(ROOT / "manifest.json", tmp_path / "out")
    assert read_manifest(tmp_path / "out").groups == len(frames)
    first = {r.group: r for r in reversed(records)}
    for frame in frames:
        depth = depth_of(first[f"rgbd/{frame['id']}"])
        median = float(np.median(depth[depth > 0]))
        assert median == pytest.approx(frame["depth_m_p1_p50_p99"][1], rel=0.02)
        assert float((depth > 0).mean()) == pytest.approx(frame["valid_fraction"], abs=0.01)
