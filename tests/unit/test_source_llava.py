"""LLaVA-style rows: images, several images, videos, depth folders, and each kind of bad row."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from egem.core.errors import ConfigError, RecordError
from egem.data_engine import ImportOptions, import_source
from egem.data_engine.sources.coordinates import read_answer
from egem.media import decode_depth, decode_image
from egem.records import Record
from egem.shards import iterate_records

SIZE = (48, 32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "depth").mkdir()
    for i, name in enumerate(("a.png", "b.jpg")):
        Image.new("RGB", SIZE, (40 * i, 90, 120)).save(tmp_path / "images" / name)
        counts = np.full(SIZE[::-1], 900 + 100 * i, np.uint16)
        Image.fromarray(counts).save(tmp_path / "depth" / f"{name[0]}.png")
    return tmp_path


def row(question: str, answer: str, **more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns, **more}


def load(folder: Path, rows: list[Any], source: str = "llava", **options: Any) -> list[Record]:
    path = folder / "rows.json"
    path.write_text(json.dumps(rows))
    import_source(source, path, folder / "out", ImportOptions(**options))
    return list(iterate_records(folder / "out"))


def test_one_image(folder: Path) -> None:
    (record,) = load(folder, [row("<image>\nWhat?", "A mug.", image="a.png", id=7)])
    assert record.skill == "conversation"
    assert record.category == "spatial"
    assert record.meta == {"file": "rows.json", "row": 1, "id": 7}
    assert [m.content for m in record.messages] == ["<image>\nWhat?", "A mug."]
    assert record.answer.kind == "text"
    assert record.images[0].data == (folder / "images" / "a.png").read_bytes()
    assert record.depths == ()


def test_several_images_several_turns_and_a_system_message(folder: Path) -> None:
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "<image> and <image>: same?"},
        {"from": "gpt", "value": "No."},
        {"from": "human", "value": "Why?"},
        {"from": "gpt", "value": "Colour."},
    ]
    rows = [{"image": ["a.png", "b.jpg"], "conversations": turns, "category": "planning"}]
    (record,) = load(folder, rows)
    assert [m.role for m in record.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert len(record.images) == 2
    assert record.category == "planning"
    assert record.answer.text == "Colour."


def test_rows_without_marks_get_their_images_first_and_text_rows_pass(folder: Path) -> None:
    records = load(folder, [row("What?", "A mug.", image="a.png"), row("Hello", "Hi")])
    assert records[0].messages[0].content == "<image>\nWhat?"
    assert records[1].images == ()


def test_depth_comes_by_name(folder: Path) -> None:
    rows = [row("<image><image>", "x", image=["a.png", "images/b.jpg"]), row("<image>?", "x", image="c.png")]
    Image.new("RGB", SIZE).save(folder / "c.png")
    records = load(folder, rows, depth=folder / "depth", depth_unit_m=0.001)
    assert [float(decode_depth(d).mean()) for d in records[0].depths] == pytest.approx([0.9, 1.0])
    assert records[0].depths[0].kind == "metric"
    assert records[1].depths == ()


def test_the_released_layout_has_relative_depth_beside_it(folder: Path) -> None:
    (record,) = load(folder, [row("<image>?", "x", image="a.png")], "gem-250k")
    assert record.source == "gem-250k"
    assert record.depths[0].kind == "relative"
    assert record.depths[0].origin == "depth-anything-3"


def video(path: Path, num: int = 20, rate: int = 10) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for i in range(num):
            frame = av.VideoFrame.from_ndarray(np.full((*SIZE[::-1], 3), 12 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("mark", ["<video>\n", "<image>\n", ""])
def test_a_video_becomes_frames_with_times(folder: Path, mark: str) -> None:
    video(folder / "v.mp4")
    (record,) = load(folder, [row(f"{mark}What happens?", "It brightens.", video="v.mp4")], num_frames=4)
    assert record.messages[0].content == "<image>" * 4 + "\nWhat happens?"
    assert record.timestamps == pytest.approx((0.0, 0.6, 1.3, 1.9), abs=0.051)
    levels = [float(decode_image(image).mean()) for image in record.images]
    assert levels == sorted(levels)
    assert levels[0] < 10
    assert levels[-1] > 200


def test_jsonl_folders_and_limits(folder: Path) -> None:
    lines = [json.dumps(row("<image>?", str(i), image="a.png")) for i in range(5)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    import_source("llava", folder, folder / "out", ImportOptions(limit=3, category="grounding"))
    records = list(iterate_records(folder / "out"))
    assert [r.answer.text for r in records] == ["0", "1", "2"]
    assert {r.category for r in records} == {"grounding"}
    assert len({r.group for r in records}) == 3


def test_answers_that_are_coordinates() -> None:
    assert read_answer("[12, 34]").points == ((12, 34),)
    assert read_answer("[[12, 34], (5, 6)]").points == ((12, 34), (5, 6))
    assert read_answer("[1, 2, 3, 4]").box == (1, 2, 3, 4)
    for text in ("at [12, 34]", "(0.46, 0.52)", "yes", "[1, 2, 3]"):
        assert read_answer(text).kind == "text"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row("<image><image>?", "x", image="a.png"), "2 <image> marks for 1 images; there must be one mark"),
        (row("<image>?", "x", image=["a.png", "b.jpg"]), "1 <image> marks for 2 images"),
        (row("<video><video>?", "x", video="v.mp4"), "2 <video> marks for 1 videos"),
        (row("<image>?", "", image="a.png"), "empty assistant message"),
        (row("<image>?", " \n", image="a.png"), "empty assistant message"),
        (row("<image>?", "[1200, 500]", image="a.png"), r"point \(1200, 500\) is outside 0\.\.1000"),
        (row("<image>?", "[500, -3]", image="a.png"), r"point \(500, -3\) is outside"),
        (row("<image>?", "[9, 9, 5, 5]", image="a.png"), r"box \(9, 9, 5, 5\) is not left < right"),
        (row("<image>?", "x", image="none.png"), "none.png cannot be read: No such file"),
        (row("<image>?", "x", image="broken.png"), "broken.png cannot be decoded"),
        (row("<video>?", "x", video="broken.png"), "video .*broken.png cannot be read"),
        (row("<image>?", "x", image="a.png", video="v.mp4"), "images and videos in one row"),
        (row("<image>?", "x", image=3), "'image' must be a path or a list of paths"),
        ({"conversations": [], "image": "a.png"}, "'conversations' is empty"),
        ({"image": "a.png"}, "an object with a list 'conversations' expected"),
        ({"conversations": [{"from": "me", "value": "x"}]}, "a turn needs 'from'"),
        ({"conversations": [{"from": "human", "value": "x"}]}, "turns must alternate user, assistant"),
    ],
)
def test_the_first_bad_row_stops_the_import(folder: Path, bad: dict[str, Any], message: str) -> None:
    video(folder / "v.mp4", num=4)
    (folder / "broken.png").write_bytes(b"nothing")
    with pytest.raises(RecordError, match=rf"^\S*rows\.json, row 2: .*{message}"):
        load(folder, [row("<image>?", "x", image="a.png"), bad])
    assert not (folder / "out").exists()
    assert not [p for p in folder.iterdir() if p.name.endswith(".tmp")]


def test_depth_of_another_size_or_unit(folder: Path) -> None:
    Image.fromarray(np.full((16, 24), 900, np.uint16)).save(folder / "depth" / "a.png")
    with pytest.raises(RecordError, match=r"row 1: the depth map is 24 x 16 pixels, its image 48 x 32"):
        load(folder, [row("<image>?", "x", image="a.png")], depth=folder / "depth")
    with pytest.raises(RecordError, match=r"row 1: median depth 1e\+03 m is implausible"):
        load(folder, [row("<image>?", "x", image="b.jpg")], depth=folder / "depth", depth_unit_m=1.0)


def test_bad_lines_of_jsonl_can_be_put_aside(folder: Path) -> None:
    good = json.dumps(row("<image>?", "x", image="a.png"))
    (folder / "rows.jsonl").write_text("\n".join([good, "{broken", good, good]))
    import_source("llava", folder / "rows.jsonl", folder / "out", ImportOptions(max_error_fraction=0.25))
    assert len(list(iterate_records(folder / "out"))) == 3
    assert "line 2: not valid JSON" in (folder / "out" / "quarantine.jsonl").read_text()


def test_input_without_rows(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is neither a \.json or \.jsonl file nor a folder with one"):
        import_source("llava", tmp_path, tmp_path / "out")
