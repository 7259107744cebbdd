"""What every source says to the wrong folder, damaged files, missing images and places outside the image."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from egem.core.errors import ConfigError, RecordError
from egem.data_engine import ImportOptions, import_source
from egem.shards import iterate_records
from sources.layouts import HEIGHT, LAYOUTS, WIDTH, save_json, save_mask

PATTERNS = {
    "paco-lvis": r"paco_lvis_\*\.json",
    "robopoint": r"robopoint_\*\.json",
    "roboafford": r"\*\.json",
    "sharerobot": r"affordance/\*\.json",
    "roborefit": r"roborefit_\*\.json",
    "mindcube": r"MindCube\*\.jsonl",
    "vica-322k": r"base/\*\.json",
    "spar-7m": r"qa_jsonl/\*\*/\*\.jsonl",
    "vsi-590k": r"vsi_590k\*\.jsonl",
    "robovqa": r"\*\.tfrecord\*",
    "robo2vlm": r"data/\*\.parquet",
    "refspatial": r"2D/\*\.json",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "in"


def refused(name: str, root: Path, message: str, **options: Any) -> None:
    out = root.parent / "out"
    options = {"split": "all"} | options
    with pytest.raises((ConfigError, RecordError), match=message):
        import_source(name, root, out, ImportOptions(**options))
    assert not out.exists()
    assert not [path for path in root.parent.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_wrong_folder_is_told_what_was_looked_for(name: str, root: Path) -> None:
    (root / "holiday").mkdir(parents=True)
    (root / "notes.txt").write_text("x")
    (root / "all.zip").write_text("x")
    refused(
        name, root, rf"is no folder of '{name}': looked for .*{PATTERNS[name]}.* it holds all.zip, holiday/"
    )
    refused(name, root, r"Unpack all\.zip first\?")
    refused(name, root / "notes.txt", rf"notes.txt is no file of '{name}'")


def annotation_files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.suffix in (".json", ".jsonl", ".parquet", ".tfrecord"))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("share", [0.3, 0.97])
def test_a_truncated_file_is_named(name: str, share: float, root: Path) -> None:
    LAYOUTS[name](root)
    if name == "roboafford":
        (root / "annotations_absxy.json").unlink()
    file = annotation_files(root)[0]
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    refused(name, root, rf"{file.name}.*(valid JSON|truncated|cannot be read)")


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_empty_file_is_named(name: str, root: Path) -> None:
    LAYOUTS[name](root)
    for file in annotation_files(root):
        file.write_bytes(b"")
    refused(name, root, r"it is empty|valid JSON|cannot be read|no record was added")


@pytest.mark.parametrize("name", [n for n in LAYOUTS if n not in ("robovqa", "robo2vlm")])
def test_a_missing_image_is_named(name: str, root: Path) -> None:
    LAYOUTS[name](root)
    for path in [p for p in root.rglob("*") if p.suffix in (".jpg", ".mp4")] or list(root.rglob("*.png")):
        if "mask" not in path.parent.name and "depth" not in path.parent.name:
            path.unlink()
    refused(name, root, r"(row|image) \d+: (image|video) .* cannot be read: (No such file|neither a file)")


@pytest.mark.parametrize("name", [n for n in LAYOUTS if n not in ("vica-322k", "robovqa", "robo2vlm")])
def test_a_truncated_image_is_named(name: str, root: Path) -> None:
    LAYOUTS[name](root)
    images = [
        p for p in root.rglob("*") if p.suffix in (".jpg", ".png") and "mask" not in str(p.relative_to(root))
    ]
    for path in images:
        if "depth" not in path.parent.name:
            path.write_bytes(path.read_bytes()[:700])
    refused(name, root, r"cannot be decoded: it is truncated")


def edit(path: Path, **changes: Any) -> None:
    """The first row of a file, changed."""
    lines = path.suffix == ".jsonl"
    rows = (
        [json.loads(line) for line in path.read_text().splitlines()]
        if lines
        else json.loads(path.read_text())
    )
    rows[0] |= changes
    save_json(path, rows)


def talk(answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": "<image>\nWhere?"}, {"from": "gpt", "value": answer}]


@pytest.mark.parametrize(
    ("name", "file", "changes", "message"),
    [
        (
            "robopoint",
            "robopoint_1432k.json",
            {"conversations": talk("[(1.2, 0.5)]")},
            r"point \(1.2, 0.5\) lies outside",
        ),
        (
            "robopoint",
            "robopoint_1432k.json",
            {"conversations": talk("[(0.5, 0.5, 0.9, 0.1)]")},
            r"box .* lies outside",
        ),
        (
            "robopoint",
            "robopoint_1432k.json",
            {"conversations": talk("[(0.5, 0.5, 0.0, 0.1)]")},
            r"box .* is empty",
        ),
        (
            "roboafford",
            "annotations_normxy.json",
            {"answer": [[130.0, 20.0]]},
            r"point \(130, 20\) lies outside .* 120 x 80",
        ),
        (
            "roboafford",
            "annotations_normxy.json",
            {"answer": []},
            "'answer' must be a list of points or polygons",
        ),
        (
            "roboafford",
            "annotations_normxy.json",
            {"mask": "none.png"},
            r"mask none\.png cannot be read: No such file",
        ),
        (
            "roborefit",
            "roborefit_train.json",
            {"bbox": [0, 0, WIDTH + 9, 5]},
            r"box \(0, 0, 129, 5\) lies outside",
        ),
        ("roborefit", "roborefit_train.json", {"bbox": [50, 9, 40, 20]}, r"box .* is empty"),
        (
            "roborefit",
            "roborefit_train.json",
            {"bbox": [5, 5, 9]},
            r"'bbox' must be 4 numbers, got \[5, 5, 9\]",
        ),
        (
            "sharerobot",
            "affordance/affordance.json",
            {"affordance": {"x": 0, "y": 0, "width": 500, "height": 9}},
            "outside",
        ),
        ("sharerobot", "affordance/affordance.json", {"affordance": {"x": 0}}, r"'y' \(a number\) expected"),
        (
            "sharerobot",
            "affordance/affordance.json",
            {"meta_data": {"original_width": 500, "original_height": 500}},
            r"120 x 80 pixels, of another shape than the 500 x 500",
        ),
        (
            "sharerobot",
            "trajectory/trajectory.json",
            {"points": [[1, 2], [999, 5]]},
            r"point \(999, 5\) lies outside",
        ),
        ("sharerobot", "trajectory/trajectory.json", {"points": []}, r"'points' must be a list of \[x, y\]"),
        (
            "sharerobot",
            "planning/jsons/future_prediction_task.json",
            {"image": ["rtx_frames_success_42/62#episode_1570/image_0-9"]},
            "6 is missing",
        ),
        (
            "mindcube",
            "data/raw/MindCube_train.jsonl",
            {"gt_answer": "E"},
            "answer 'E' is none of the options",
        ),
        (
            "mindcube",
            "data/raw/MindCube_train.jsonl",
            {"images": []},
            r"'images' \(a list of paths\) expected; the row has",
        ),
        ("vsi-590k", "vsi_590k.jsonl", {"question_type": None}, "'question_type' must be a text"),
        ("vsi-590k", "vsi_590k.jsonl", {"image": "a.jpg"}, "one of 'video' and 'image' is needed"),
        ("vica-322k", "scannet/base/object_count.json", {"conversations": []}, "'conversations' is empty"),
        ("refspatial", "2D/choice_qa.json", {"depth": ["a.png", "b.png"]}, "2 depth maps for 1 images"),
        (
            "refspatial",
            "2D/choice_qa.json",
            {"depth": ["b.png"]},
            r"depth map b\.png cannot be read: No such file",
        ),
    ],
)
def test_bad_rows(name: str, file: str, changes: dict[str, Any], message: str, root: Path) -> None:
    LAYOUTS[name](root)
    edit(root / file, **changes)
    refused(name, root, rf"{Path(file).name}, row 1: .*{message}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"red_point": [[1200, 5]]}, r"'red_point' \[1200, 5\] lies outside 0 to 1000"),
        ({"red_point": [[5]]}, "'red_point' must be 2 numbers"),
        ({"red_bbox": [[90, 5, 40, 60]]}, r"'red_bbox' \[90, 5, 40, 60\] ends before it begins"),
        ({"point_img_idx": [[0, 7]]}, "does not place 2 marks on 1 images"),
        (
            {"depth": ["scene0261_00/image_depth/9.png"]},
            r"depth map scene0261_00/image_depth/9\.png cannot be read",
        ),
        ({"type": ""}, "'type' must be a text"),
    ],
)
def test_bad_rows_of_spar(changes: dict[str, Any], message: str, root: Path) -> None:
    LAYOUTS["spar-7m"](root)
    edit(next(root.rglob("sentence_1.jsonl")), **changes)
    refused("spar-7m", root, message)


def test_marks_without_indices_are_not_guessed(root: Path) -> None:
    LAYOUTS["spar-7m"](root)
    edit(next(root.rglob("select_1.jsonl")), point_img_idx=None)
    refused("spar-7m", root, "3 marks on 3 images, but no 'point_img_idx'")


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (
            "annotations",
            {"bbox": [100, 20, 45, 30]},
            r"annotation 1: box \(100, 20, 145, 50\) lies outside its image",
        ),
        (
            "annotations",
            {"segmentation": {"size": [4, 4], "counts": "16"}},
            r"annotation 1: the mask has size \[4, 4\]",
        ),
        (
            "annotations",
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [5, 9]}},
            "runs cover 14 pixels",
        ),
        ("images", {"width": 99}, r"120 x 80 pixels, the annotation 99 x 80"),
    ],
)
def test_bad_tables_of_paco(part: str, changes: dict[str, Any], message: str, root: Path) -> None:
    file = LAYOUTS["paco-lvis"](root) / "annotations" / "paco_lvis_v1_train.json"
    tables = json.loads(file.read_text())
    tables[part][0] |= changes
    save_json(file, tables)
    # Some seed asks for the first object by box, some by point.
    messages = []
    for seed in range(6):
        try:
            import_source("paco-lvis", root, root.parent / f"out{seed}", ImportOptions(seed=seed))
        except RecordError as error:
            messages.append(str(error))
    assert messages
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(messages[0])


def test_a_table_that_is_not_pacos(root: Path) -> None:
    save_json(root / "paco_lvis_v1_train.json", {"images": [], "annotations": []})
    refused("paco-lvis", root, "lists categories expected; the row has the keys annotations, images")


@pytest.mark.parametrize(
    ("name", "row"), [("roboafford", {"q": "x"}), ("sharerobot", {"id": 1}), ("mindcube", {"id": 1})]
)
def test_an_unknown_schema_names_its_keys(name: str, row: dict[str, Any], root: Path) -> None:
    file = "MindCube_x.jsonl" if name == "mindcube" else "rows.json"
    save_json(root / file, [row])
    refused(name, root, rf"row 1: .* expected; the row has the keys {next(iter(row))}")


def test_masks_of_another_size(root: Path) -> None:
    from PIL import Image

    LAYOUTS["roborefit"](root)
    save_mask(root / "final_dataset/train/mask/3.png")
    path = root / "final_dataset/train/mask/3.png"
    Image.open(path).resize((60, 40)).save(path)
    refused("roborefit", root, r"the mask has another size than its image: \(60, 40\) pixels")


def test_depth_of_another_shape(root: Path) -> None:
    from PIL import Image

    LAYOUTS["spar-7m"](root)
    path = next(root.rglob("image_depth/1.png"))
    Image.open(path).crop((0, 0, 60, 80)).save(path)
    refused("spar-7m", root, r"the depth map is 60 x 80 pixels, its image 120 x 80: of another shape")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("correct_answer", 7, "'correct_answer' 7 names none of the 5 options"),
        ("choices", "[1", "'choices' is neither a list nor the text of one"),
        ("image", {"bytes": None, "path": "a.jpg"}, "'image' must hold bytes"),
        ("image", {"bytes": b"\xff\xd8\xff", "path": None}, "cannot be decoded"),
    ],
)
def test_bad_rows_of_robo2vlm(column: str, value: Any, message: str, root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    LAYOUTS["robo2vlm"](root)
    file = annotation_files(root)[0]
    rows = pq.read_table(file).to_pylist()
    rows[0][column] = value
    pq.write_table(pa.Table.from_pylist(rows), file)
    refused("robo2vlm", root, rf"row 1: .*{message}")
    pq.write_table(pa.Table.from_pylist(rows).drop_columns(["question"]), file)
    refused("robo2vlm", root, "has no column question; it has id, choices")


@pytest.mark.parametrize("answer", [1, "B", "b", "No", "1"])
def test_answers_of_robo2vlm_come_in_several_forms(answer: Any, root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    LAYOUTS["robo2vlm"](root)
    file = annotation_files(root)[0]
    rows = pq.read_table(file).to_pylist()
    rows[0] |= {"correct_answer": answer, "choices": ["Yes", "No", "Maybe"], "tag": "gripper_state"}
    pq.write_table(pa.Table.from_pylist(rows), file)
    import_source("robo2vlm", root, root.parent / "out")
    (record,) = iterate_records(root.parent / "out")
    assert (record.answer.text, record.messages[-1].content, record.skill) == ("No", "B", "gripper_state")


def test_one_bad_file_among_many_is_put_aside(root: Path) -> None:
    LAYOUTS["robovqa"](root)
    good = root / "train" / "train-00000-of-00001.tfrecord"
    for number in range(3):
        shutil.copy(good, root / "train" / f"copy-{number}.tfrecord")
    content = good.read_bytes()
    good.write_bytes(content[:-20])
    refused("robovqa", root, r"record 2 \(byte \d+\): the file is truncated, 20 bytes are missing")
    import_source("robovqa", root, root.parent / "out", ImportOptions(max_error_fraction=0.2))
    assert len(list(iterate_records(root.parent / "out"))) == 2 * 7
    (line,) = (root.parent / "out" / "quarantine.jsonl").read_text().splitlines()
    assert "after row 1" in json.loads(line)["row"]
    assert "is truncated" in json.loads(line)["reason"]


def test_a_flipped_bit_in_a_clip_is_found(root: Path) -> None:
    LAYOUTS["robovqa"](root)
    file = annotation_files(root)[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 4] ^= 0x10
    file.write_bytes(bytes(content))
    refused("robovqa", root, r"record 1 \(byte 0\): the checksum of its data differs")
    import_source("robovqa", root, root.parent / "out", ImportOptions(max_error_fraction=0.6))
    (line,) = (root.parent / "out" / "quarantine.jsonl").read_text().splitlines()
    assert "checksum" in json.loads(line)["reason"]
    # The damaged clip's two questions are lost, those of the clip after it are not.
    assert len(list(iterate_records(root.parent / "out"))) == 2
