"""Every wrong input ends in one clear line, exit code 2, and nothing half-written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.processes import locked_elsewhere

from egem.cli import main
from egem.records import Answer, DepthFile, ImageFile, Message, Record
from egem.shards import ShardWriter

RNG = np.random.default_rng(0)


def refused(capsys, *words: object) -> str:
    """Run a command that must end with exit code 2; returns what it printed on standard error."""
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert "Traceback" not in printed.err
    return printed.err


def picture(folder: Path, name: str, size=(64, 48)) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (size[1], size[0], 3), np.uint8)).save(path)
    return path


def depth_map(folder: Path, name: str, size=(64, 48), counts=1000) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.repeat(np.linspace(counts, 2 * counts, size[1])[:, None], size[0], axis=1)
    Image.fromarray(values.astype(np.uint16)).save(path)
    return path


@pytest.fixture
def rgbd(tmp_path) -> Path:
    """A folder source with two good frames."""
    for name in ("a", "b"):
        picture(tmp_path / "in", f"color/{name}.png")
        depth_map(tmp_path / "in", f"depth/{name}.png")
    camera = {"fx": 60.0, "fy": 60.0, "cx": 32.0, "cy": 24.0}
    (tmp_path / "in" / "intrinsics.json").write_text(json.dumps(camera))
    return tmp_path / "in"


def llava(folder: Path, **changes: object) -> Path:
    """A LLaVA-style file with one good row, changed."""
    picture(folder, "one.png")
    row = {
        "id": "r0",
        "image": "one.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": "noise"},
        ],
    }
    path = folder / "rows.json"
    path.write_text(json.dumps([row | changes]))
    return path


def import_refused(capsys, tmp_path, source: str, path: Path, *options: str) -> str:
    out = tmp_path / "out"
    message = refused(capsys, "data", "import", source, "--input", path, "--out", out, *options)
    assert not out.exists()
    assert not [entry for entry in tmp_path.iterdir() if entry.name.endswith(".tmp")]
    return message


def test_the_good_inputs_are_accepted(tmp_path, rgbd, capsys):
    main(["data", "import", "rgbd", "--input", str(rgbd), "--out", str(tmp_path / "records")])
    main(["data", "import", "llava", "--input", str(llava(tmp_path / "l")), "--out", str(tmp_path / "talk")])
    assert "2 groups" in capsys.readouterr().out


def test_unreadable_image(tmp_path, rgbd, capsys):
    (rgbd / "color" / "a.png").write_bytes((rgbd / "color" / "a.png").read_bytes()[:200])
    message = import_refused(capsys, tmp_path, "rgbd", rgbd)
    assert "a.png cannot be decoded" in message


def test_depth_of_another_size(tmp_path, rgbd, capsys):
    depth_map(rgbd, "depth/a.png", size=(32, 48))
    message = import_refused(capsys, tmp_path, "rgbd", rgbd)
    assert "32 x 48" in message
    assert "64 x 48" in message


def test_depth_in_the_wrong_unit(tmp_path, rgbd, capsys):
    for name in ("a", "b"):
        depth_map(rgbd, f"depth/{name}.png", counts=30_000)
    message = import_refused(capsys, tmp_path, "rgbd", rgbd, "--depth-unit-m", "1.0")
    assert "median depth" in message
    assert "give unit_m=" in message


def test_more_marks_than_images(tmp_path, capsys):
    conversation = [
        {"from": "human", "value": "<image><image>\nWhich?"},
        {"from": "gpt", "value": "the first"},
    ]
    message = import_refused(capsys, tmp_path, "llava", llava(tmp_path / "l", conversations=conversation))
    assert "2 <image> marks for 1 image" in message


def test_empty_answer(tmp_path, capsys):
    conversation = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": " "}]
    message = import_refused(capsys, tmp_path, "llava", llava(tmp_path / "l", conversations=conversation))
    assert "empty" in message


def test_missing_input(tmp_path, capsys):
    message = import_refused(capsys, tmp_path, "rgbd", tmp_path / "nowhere")
    assert "nowhere does not exist" in message


def record(index: int, **changes: object) -> Record:
    image = ImageFile(data=_png(RNG.integers(0, 255, (32, 32, 3), np.uint8)))
    depth = DepthFile(data=_png((1000 + RNG.integers(0, 300, (32, 32))).astype(np.uint16)))
    values = {
        "id": f"g{index}/0",
        "source": "test",
        "category": "spatial",
        "skill": "naming",
        "group": f"g{index}",
        "images": (image,),
        "depths": (depth,),
        "messages": (
            Message(role="user", content="<image>\nWhat is it?"),
            Message(role="assistant", content="noise"),
        ),
        "answer": Answer(kind="text", text="noise"),
    }
    return Record(**(values | changes))  # type: ignore[arg-type]


def _png(array: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def records(tmp_path) -> Path:
    with ShardWriter(tmp_path / "records") as writer:
        for index in range(4):
            writer.add(record(index))
    return tmp_path / "records"


def test_point_outside_the_range(tmp_path):
    from egem.core.errors import RecordError

    answer = Answer(kind="point", text="[1001, 5]", points=((1001, 5),))

    def write():
        with ShardWriter(tmp_path / "records") as writer:
            writer.add(record(0, answer=answer))

    with pytest.raises(RecordError, match=r"record 'g0/0': point \(1001, 5\) is outside 0\.\.1000"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_truncated_shard(tmp_path, records, capsys):
    shard = records / "shard-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    run = tmp_path / "run"
    for words in (
        ("data", "stats", records),
        ("data", "view", records),
        ("train", "tiny", "--data", records, "--run", run),
    ):
        message = refused(capsys, *words)
        assert "shard-00000.parquet" in message
        assert "truncated" in message
    assert not (tmp_path / "records.html").exists()


def test_not_a_record_folder(tmp_path, capsys):
    message = refused(capsys, "data", "stats", tmp_path)
    assert "has no manifest.json" in message


def test_unknown_names_are_answered_with_the_nearest(tmp_path, capsys):
    assert "Did you mean 'tiny'?" in refused(capsys, "train", "tinny")
    assert "Did you mean 'train'?" in refused(capsys, "trian")
    assert "Did you mean 'rgbd'?" in refused(capsys, "data", "import", "rgb", "--input", "x", "--out", "y")
    assert "Did you mean 'render'?" in refused(capsys, "data", "rendr")
    split = refused(capsys, "data", "render", "--out", tmp_path / "o", "--split", "held-out")
    assert "Did you mean 'held_out'?" in split


def test_unknown_option_is_answered_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "tiny", "--sed", "3"])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert "--seed" in printed.err + printed.out


def test_existing_output_is_never_overwritten(tmp_path, rgbd, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("x")
    message = refused(capsys, "data", "import", "rgbd", "--input", rgbd, "--out", out)
    assert "exists already" in message
    assert (out / "mine").read_text() == "x"


def test_not_a_checkpoint(tmp_path, capsys):
    picture(tmp_path, "i.png")
    message = refused(capsys, "ask", tmp_path / "none", "what?", "--image", tmp_path / "i.png")
    assert "none is not a folder" in message


def test_incomplete_and_foreign_checkpoints(tmp_path, records, capsys):
    main(["init", "--out", str(tmp_path / "model")])
    picture(tmp_path, "i.png")
    ask = ("ask", tmp_path / "model", "what?", "--image", tmp_path / "i.png")
    config = tmp_path / "model" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"preset": "gem-2b"}))
    start = (
        "train",
        "tiny",
        "--checkpoint",
        tmp_path / "model",
        "--run",
        tmp_path / "run",
        "--data",
        records,
    )
    message = refused(capsys, *start)
    assert "gem-2b" in message
    assert "tiny" in message
    assert not (tmp_path / "run").exists()
    config.write_text(json.dumps(values | {"depth": {**values["depth"], "encoding": "inverse"}}))
    drawn = ("--out", tmp_path / "d.png", "--ply", tmp_path / "d.ply")
    message = refused(capsys, "depth", tmp_path / "model", "--image", tmp_path / "i.png", *drawn)
    assert "draws relative depth, which has no points in metres" in message
    assert list(tmp_path.glob("d.*")) == []
    config.write_text(json.dumps(values))
    shutil.move(tmp_path / "model" / "backbone" / "preprocessor_config.json", tmp_path / "gone")
    assert "has no tokenizer and image processor" in refused(capsys, *start)
    assert not (tmp_path / "run").exists()
    shutil.move(tmp_path / "gone", tmp_path / "model" / "backbone" / "preprocessor_config.json")
    shutil.move(tmp_path / "model" / "connector.safetensors", tmp_path / "gone")
    assert "connector.safetensors" in refused(capsys, *ask)
    shutil.move(tmp_path / "gone", tmp_path / "model" / "connector.safetensors")
    (tmp_path / "model" / "backbone" / "model.safetensors").write_bytes(b"torn")
    assert "backbone cannot be loaded" in refused(capsys, *ask)


def test_two_evaluations_into_one_folder(tmp_path, records, capsys):
    assert main(["init", "--out", str(tmp_path / "model")]) is None
    capsys.readouterr()
    out = tmp_path / "scores"
    with locked_elsewhere(out / f"records-{str(records).replace('/', '-')}" / ".lock"):
        message = refused(
            capsys, "eval", tmp_path / "model", "--benchmarks", f"records:{records}", "--out", out
        )
    assert "another evaluation writes into" in message
    assert "choose another --out" in message
    assert not list(out.rglob("answers.jsonl"))


def test_full_disk_while_saving(tmp_path, capsys, monkeypatch):
    import errno
    import os

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    message = refused(capsys, "init", "--out", tmp_path / "model")
    assert "no space left" in message
    assert list(tmp_path.iterdir()) == []
