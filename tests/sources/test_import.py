"""Every source from its published layout to records: what is asked, where things are, what is kept."""

import base64
import io
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from egem.core.errors import ConfigError
from egem.data_engine import SOURCES, ImportOptions, import_source
from egem.data_engine.curation.mixture import mix
from egem.data_engine.curation.mixture_recipes import MixtureRecipe, Portion
from egem.media import decode_depth, decode_image, decode_region
from egem.records import Record, validate
from egem.report.contact_sheet import write_contact_sheet
from egem.scoring import score
from egem.shards import iterate_records
from sources.layouts import BOTTOM, BOX, HEIGHT, LAYOUTS, LEFT, RIGHT, TOP, WIDTH, mask, pixels

# Source: number of records, and the kinds of answers among them.
EXPECTED: dict[str, tuple[int, set[str]]] = {
    "paco-lvis": (3, {"box", "point"}),
    "robopoint": (4, {"box", "point", "text"}),
    "roboafford": (3, {"point"}),
    "sharerobot": (3, {"box", "trajectory", "text"}),
    "roborefit": (4, {"box", "point"}),
    "mindcube": (1, {"choice"}),
    "vica-322k": (3, {"number", "text"}),
    "spar-7m": (3, {"number", "choice"}),
    "vsi-590k": (2, {"choice", "number"}),
    "robovqa": (4, {"text", "choice"}),
    "robo2vlm": (1, {"choice"}),
    "refspatial": (3, {"choice", "point", "text"}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each layout, imported with the default options."""
    found = {}
    for name, build in LAYOUTS.items():
        folder = tmp_path_factory.mktemp(name)
        # Of RoboAfford, only the evaluation set's layout is published.
        split = "test" if name == "roboafford" else "train"
        options = ImportOptions(seed=1, num_frames=4, split=split)
        import_source(name, build(folder / "in"), folder / "records", options)
        found[name] = folder / "records"
    return found


def records(folders: dict[str, Path], name: str, skill: str | None = None) -> list[Record]:
    return [r for r in iterate_records(folders[name]) if skill in (None, r.skill)]


def load(tmp_path: Path, name: str, **options: Any) -> list[Record]:
    options = {"split": "all"} | options
    import_source(name, LAYOUTS[name](tmp_path / "in"), tmp_path / "out", ImportOptions(**options))
    return list(iterate_records(tmp_path / "out"))


def test_every_question_set_of_the_table_has_a_layout_here() -> None:
    assert set(LAYOUTS) == set(EXPECTED) == set(SOURCES) - {"rgbd", "llava", "gem-250k"} - LATER


ROOMS = {"scannet", "scannetpp", "arkitscenes"}
ROBOTS = {"lerobot", "open-x", "droid", "robomind", "agibot-world", "molmoact"}
LATER = ROOMS | ROBOTS
"""Sources that test_rooms.py and test_episodes.py test."""


@pytest.mark.parametrize("name", LAYOUTS)
def test_datasets_alone_reads_what_was_written(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = [str(path) for path in folders[name].glob("*.parquet")]
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    number, kinds = EXPECTED[name]
    assert len(rows) == number
    assert {row["answer"]["kind"] for row in rows} == kinds
    for row in rows:
        assert row["source"] == name
        assert row["category"] in SOURCES[name].categories
        meta = json.loads(row["meta"])
        assert meta["licence"] == SOURCES[name].licence
        assert meta["row"] >= 1
        assert meta["file"]
        for image in row["images"]:
            assert Image.open(io.BytesIO(image["bytes"])).size == (WIDTH, HEIGHT)
        marks = sum(message["content"].count("<image>") for message in row["messages"])
        assert marks == len(row["images"])


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_right_answer_scores_full_marks(name: str, folders: dict[str, Path]) -> None:
    for record in records(folders, name):
        validate(record)
        said = record.messages[-1].content
        assert score(record.answer, said) == 1.0, said


def reds(image: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what is red, 0 to 1000."""
    values = image.astype(int)
    rows, columns = np.nonzero((values[..., 0] > 170) & (values[..., 1] < 90) & (values[..., 2] < 90))
    height, width = image.shape[:2]
    left, right = columns.min() / width, (columns.max() + 1) / width
    return left * 1000, rows.min() / height * 1000, right * 1000, (rows.max() + 1) / height * 1000


@pytest.mark.parametrize("name", ["robopoint", "sharerobot", "roborefit"])
def test_boxes_frame_the_thing(name: str, folders: dict[str, Path]) -> None:
    boxes = [r for r in records(folders, name) if r.answer.kind == "box"]
    assert boxes
    for record in boxes:
        assert record.answer.box == BOX
        assert np.allclose(record.answer.box, reds(decode_image(record.images[0])), atol=1000 / HEIGHT)


@pytest.mark.parametrize(
    "name", ["robopoint", "roboafford", "roborefit", "refspatial", "paco-lvis", "sharerobot"]
)
def test_points_lie_on_the_thing(name: str, folders: dict[str, Path]) -> None:
    pointed = [
        r for r in records(folders, name) if r.answer.points and "light blue" not in r.messages[0].content
    ]
    assert pointed
    for record in pointed:
        image = decode_image(record.images[0])
        for x, y in record.answer.points:
            red, green, _ = image[int(y * HEIGHT / 1000), int(x * WIDTH / 1000)].tolist()
            assert red > 170 > 90 > green


@pytest.mark.parametrize("name", ["roboafford", "roborefit", "paco-lvis"])
def test_regions_are_the_masks(name: str, folders: dict[str, Path]) -> None:
    regions = [
        decode_region(r.answer.region)
        for r in records(folders, name)
        if r.answer.region is not None and "light blue" not in r.messages[0].content
    ]
    assert regions
    for region in regions:
        assert region.shape == (HEIGHT, WIDTH)
        # A polygon's own edge pixels are drawn too.
        assert (region != mask()).sum() <= 2 * (RIGHT - LEFT + BOTTOM - TOP)
        assert region[TOP:BOTTOM, LEFT:RIGHT].all()


@pytest.mark.parametrize(
    "name", ["paco-lvis", "robopoint", "roboafford", "sharerobot", "roborefit", "refspatial"]
)
def test_the_page_draws_answers_where_they_belong(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """What the page draws, measured against the picture that it draws it on."""
    page = write_contact_sheet(folders[name], tmp_path / "page.html").read_text()
    pictures = {
        key: np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
        for key, data in re.findall(r'<img id="(\w+)" alt="" src="data:image/jpeg;base64,([^"]+)"', page)
    }
    drawn = re.findall(r'data-of="(\w+)"><svg viewBox="0 0 1000 1000"[^>]*>(.*?)</svg>', page)
    checks = 0
    for key, marks in drawn:
        picture = pictures[key]
        for x, y, w, h in re.findall(r'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)"', marks):
            box = (int(x), int(y), int(x) + int(w), int(y) + int(h))
            if name != "paco-lvis":
                assert np.allclose(box, reds(picture), atol=12)
            checks += 1
        right = [(int(x), int(y)) for x, y in re.findall(r'cx="(\d+)" cy="(\d+)" r="22"', marks)]
        path = re.findall(r'<polyline points="([^"]+)"', marks)
        right += [tuple(map(int, pair.split(","))) for line in path for pair in line.split()]
        for x, y in right:
            if (x, y) != (788, 806):  # the blue mug's place, which is not painted
                red, green, _ = picture[int(y * HEIGHT / 1000), int(x * WIDTH / 1000)].tolist()
                assert red > 150 > 100 > green
            checks += 1
        for data in re.findall(r'<image href="data:image/png;base64,([^"]+)"', marks):
            tint = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))[..., 3] > 0
            checks += 1
            assert tint[TOP:BOTTOM, LEFT:RIGHT].all() or "788" in marks
    assert checks


@pytest.mark.parametrize(
    "name", [name for name in LAYOUTS if name not in ("spar-7m", "vica-322k", "robovqa")]
)
def test_images_are_the_files_bytes(name: str, folders: dict[str, Path]) -> None:
    held = {path.read_bytes() for path in (folders[name].parent / "in").rglob("*.[jp][pn]g")}
    for record in records(folders, name):
        if record.timestamps is None and name != "robo2vlm":
            assert all(image.data in held for image in record.images)


@pytest.mark.parametrize("name", ["paco-lvis", "roborefit", "mindcube", "sharerobot"])
def test_images_by_path(name: str, tmp_path: Path) -> None:
    for record in load(tmp_path, name, images="path"):
        for image in record.images:
            assert image.data is None
            assert decode_image(image).shape == (HEIGHT, WIDTH, 3)


def test_paco_names_what_its_name_picks_out(folders: dict[str, Path]) -> None:
    asked = {r.meta["annotation"]: r.messages[0].content for r in records(folders, "paco-lvis")}
    # Two mugs are told apart by colour; the book's category is not exhaustive in the image and is not asked for.
    assert sorted(asked) == [1, 2, 3]
    assert "the red mug" in asked[1]
    assert "the handle of the red mug" in asked[2]
    assert "the light blue mug" in asked[3]


def test_paco_draws_box_or_point_from_the_seed(tmp_path: Path) -> None:
    root = LAYOUTS["paco-lvis"](tmp_path / "in")
    seen = []
    for run, seed in enumerate((1, 1, 2, 3, 4)):
        import_source("paco-lvis", root, tmp_path / str(run), ImportOptions(seed=seed))
        seen.append([r.skill for r in iterate_records(tmp_path / str(run))])
    assert seen[0] == seen[1]
    assert len({tuple(skills) for skills in seen}) > 1
    import_source("paco-lvis", root, tmp_path / "one", ImportOptions(num_questions=1))
    assert len(list(iterate_records(tmp_path / "one"))) == 1


def test_questions_say_what_the_answers_do(folders: dict[str, Path]) -> None:
    for name in ("robopoint", "roboafford", "refspatial"):
        for record in records(folders, name):
            if record.answer.kind in ("point", "box"):
                question = record.messages[0].content
                assert "0 and 1000" in question
                assert "tuple" not in question
                assert "(x" not in question
                assert not re.search(r"\(0?\.\d", question + record.messages[1].content)
    choice = records(folders, "refspatial", "choice_qa")[0]
    assert choice.messages[0].content.endswith("(A) [407, 452] (B) [195, 681]")
    assert choice.answer.choices == ("[407, 452]", "[195, 681]")
    assert choice.answer.text == "[407, 452]"


def test_pixels_of_roboafford_give_the_same_records(tmp_path: Path) -> None:
    root = LAYOUTS["roboafford"](tmp_path / "in")
    import_source("roboafford", root, tmp_path / "norm", ImportOptions(split="test"))
    (root / "annotations_normxy.json").unlink()
    import_source("roboafford", root, tmp_path / "abs", ImportOptions(split="test"))
    norm, absolute = (list(iterate_records(tmp_path / kind)) for kind in ("norm", "abs"))
    assert [r.answer for r in norm] == [r.answer for r in absolute]


def test_sharerobot_planning_takes_frames_of_a_range(folders: dict[str, Path]) -> None:
    (record,) = records(folders, "sharerobot", "future_prediction")
    assert record.meta["frames"] == ["image_0.png", "image_2.png", "image_3.png", "image_5.png"]
    assert record.messages[0].content == "<image>" * 4 + "\nAfter <move the thing>, what is next?"
    assert record.category == "planning"
    (path,) = records(folders, "sharerobot", "trajectory")
    assert path.answer.points == ((273, 281), (417, 390), (583, 562))


def test_roborefit_keeps_depth_of_16_bits_and_says_what_it_leaves_out(folders: dict[str, Path]) -> None:
    with_depth, _, without, _ = records(folders, "roborefit")
    assert decode_depth(with_depth.depths[0])[TOP, LEFT] == pytest.approx(0.45)
    assert without.depths == ()
    assert without.meta["depth_left_out"] == "8-bit picture"


def test_spar_draws_its_marks_on_the_right_images(folders: dict[str, Path]) -> None:
    (one,) = records(folders, "spar-7m", "depth_prediction_oc")
    image = decode_image(one.images[0])
    assert_color(image, (100, 800), (255, 0, 0))
    assert_color(image, (800, 200), (0, 0, 255))
    (several,) = records(folders, "spar-7m", "distance_infer_center_oo_mv")
    # point_img_idx [2, 0, 1] goes red, green, blue in this task.
    first, second, third = (decode_image(image) for image in several.images)
    assert_color(third, (800, 800), (255, 0, 0))
    assert_color(first, (100, 800), (0, 255, 0))
    assert_color(second, (800, 200), (0, 0, 255))
    assert not close(first, (800, 800), (255, 0, 0))
    assert not close(third, (100, 800), (0, 255, 0))
    (framed,) = records(folders, "spar-7m", "spatial_volume_infer")
    image = decode_image(framed.images[0])
    assert_color(image, (BOX[0] - 15, 430), (0, 0, 255))
    assert_color(image, (430, BOX[3] + 25), (0, 0, 255))
    assert (
        np.abs(
            image[TOP + 4 : BOTTOM - 4, LEFT + 4 : RIGHT - 4].astype(int) - pixels()[TOP + 4, LEFT + 4]
        ).max()
        < 40
    )


def test_spar_keeps_no_metadata_of_a_picture_it_draws_on(tmp_path: Path) -> None:
    LAYOUTS["spar-7m"](tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        upright = np.asarray(Image.open(path))
        turned = Image.Exif()
        turned[0x0112] = 6  # to be seen a quarter turn clockwise
        Image.fromarray(np.rot90(upright)).save(path, quality=95, exif=turned, comment=b"a secret")
    import_source("spar-7m", tmp_path / "spar", tmp_path / "out")
    marked = [r for r in iterate_records(tmp_path / "out") if r.skill == "depth_prediction_oc"]
    data = marked[0].images[0].data
    assert data is not None
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (WIDTH, HEIGHT)
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert_color(decode_image(marked[0].images[0]), (100, 800), (255, 0, 0))


def close(image: np.ndarray, place: tuple[int, int], color: tuple[int, int, int]) -> bool:
    pixel = image[int(place[1] * HEIGHT / 1000), int(place[0] * WIDTH / 1000)].astype(int)
    return bool(np.abs(pixel - color).max() < 60)


def assert_color(image: np.ndarray, place: tuple[int, int], color: tuple[int, int, int]) -> None:
    assert close(image, place, color), (place, color)


def test_spar_depth_is_metric_and_of_the_images_size(folders: dict[str, Path]) -> None:
    (record,) = records(folders, "spar-7m", "distance_infer_center_oo_mv")
    for depth in record.depths:
        metres = decode_depth(depth)
        assert metres.shape == (HEIGHT, WIDTH)
        # The third one was stored at half the size, where the thing's odd right edge cannot be exact.
        wrong = ~np.isclose(metres, np.where(mask(), 0.75, 1.5))
        assert wrong.sum() == (BOTTOM - TOP if depth is record.depths[2] else 0)
        assert (depth.kind, depth.origin) == ("metric", "sensor")


def test_spar_without_depth_folders_has_no_depth(tmp_path: Path) -> None:
    root = LAYOUTS["spar-7m"](tmp_path / "in")
    for path in sorted(root.rglob("image_depth/*")):
        path.unlink()
    next(root.rglob("image_depth")).rmdir()
    import_source("spar-7m", root, tmp_path / "out")
    assert all(record.depths == () for record in iterate_records(tmp_path / "out"))


def test_refspatial_depth_is_relative_and_larger_is_farther(folders: dict[str, Path]) -> None:
    record = records(folders, "refspatial", "choice_qa")[0]
    depth = decode_depth(record.depths[0])
    assert record.depths[0].kind == "relative"
    assert depth[0, 0] > depth[TOP, LEFT] > 0
    # Inverse depth is the published picture, up to scale and shift.
    inverse = 1 / depth
    found = (inverse - inverse.min()) / (inverse.max() - inverse.min())
    np.testing.assert_allclose(found, mask(), atol=0.01)


def test_videos_become_frames_with_times(folders: dict[str, Path]) -> None:
    for name in ("vica-322k", "vsi-590k"):
        record = records(folders, name)[0]
        assert len(record.images) == len(record.timestamps) == 4
        assert record.timestamps == pytest.approx((0.0, 0.4, 0.7, 1.1), abs=0.051)
        assert record.messages[0].content.startswith("<image>" * 4 + "\n")


def test_numbers_have_the_unit_that_the_question_names(folders: dict[str, Path]) -> None:
    count, length, _ = records(folders, "vica-322k")
    assert (count.answer.number, count.answer.unit) == (4.0, "count")
    assert (length.answer.number, length.answer.unit) == (120.0, "cm")
    (distance,) = records(folders, "vsi-590k", "absolute_distance_object")
    assert (distance.answer.number, distance.answer.unit) == (1.4, "m")
    (depth,) = records(folders, "spar-7m", "depth_prediction_oc")
    assert (depth.answer.number, depth.answer.unit) == (1.5, "m")


def test_choices_are_the_options_texts_and_the_message_keeps_the_letter(folders: dict[str, Path]) -> None:
    (mind,) = records(folders, "mindcube")
    assert mind.skill == "among"
    assert mind.answer.choices == ("Above", "Under", "Front", "Behind")
    assert (mind.answer.text, mind.messages[-1].content) == ("Front", "C")
    (vsi,) = records(folders, "vsi-590k", "relative_distance_object")
    assert vsi.answer.choices == ("chair", "table", "sofa")
    (robot,) = records(folders, "robo2vlm")
    assert (robot.answer.text, robot.messages[-1].content) == ("No", "B")
    assert "\nB. No\n" in robot.messages[0].content


def test_robovqa_parts_tasks_at_the_first_a_that_stands_alone(folders: dict[str, Path]) -> None:
    planning, success = records(folders, "robovqa")[:2]
    assert planning.group == success.group
    assert planning.skill == "planning_remaining5"
    assert (
        planning.messages[0].content == "<image>" * 4 + "\ncurrent goal is: tidy up Q: immediate next step?"
    )
    assert planning.messages[1].content == "put the cup down"
    assert success.messages[0].content.endswith("Q: satisfied camera: view?")
    assert success.answer.choices == ("yes", "no")
    assert len({r.group for r in records(folders, "robovqa")}) == 2


SPLITS: dict[str, tuple[str, str, int]] = {
    "robovqa": ("train/train-00000-of-00001.tfrecord", "val/00000.tfrecord", 2),
    "roborefit": ("roborefit_train.json", "roborefit_testA.json", 2),
    "robo2vlm": ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", 1),
    "sharerobot": ("affordance/affordance.json", "affordance/test.json", 1),
    "mindcube": ("data/raw/MindCube_train.jsonl", "data/raw/MindCube.jsonl", 1),
    "paco-lvis": ("annotations/paco_lvis_v1_train.json", "annotations/paco_lvis_v1_test_dev.json", 1),
}
"""Source: a file for training, what one that is held out is called, and how many records or more the latter gives."""


@pytest.mark.parametrize("name", SPLITS)
def test_what_a_set_holds_out_is_read_only_when_asked_for(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "egem.data_engine.sources.splits")
    train, held_out, least = SPLITS[name]
    root = LAYOUTS[name](tmp_path / "in")
    (root / held_out).parent.mkdir(exist_ok=True)
    shutil.copy(root / train, root / held_out)
    found = {}
    for split in ("train", "test", "all"):
        import_source(name, root, tmp_path / split, ImportOptions(split=split))
        found[split] = list(iterate_records(tmp_path / split))
        said = [r.getMessage() for r in caplog.records if "stay unread" in r.getMessage()]
        assert any(Path(held_out).name in line for line in said) == (split == "train")
        caplog.clear()
    assert len(found["train"]) == EXPECTED[name][0]
    assert {record.meta["file"] for record in found["test"]} == {Path(held_out).name}
    assert {record.meta["split"] for record in found["test"]} == {"test"}
    assert not any(record.meta.get("split") == "test" for record in found["train"])
    assert len(found["test"]) >= least
    assert {r.id for r in found["all"]} == {r.id for s in ("train", "test") for r in found[s]}
    # A file or folder that is held out is no training data either when it is all that is named.
    for path in (root / held_out, *([root / "val"] if name == "robovqa" else [])):
        with pytest.raises(ConfigError, match=r"held out for evaluation .*--split test"):
            import_source(name, path, tmp_path / "refused")
    recipe = MixtureRecipe(name="m", portions=(Portion(name="p", weight=1.0),))
    with pytest.raises(ConfigError, match=rf"record '{name}/.* holds out .*--split train"):
        mix(recipe, [tmp_path / "all"], tmp_path / "mixed")
    mix(recipe, [tmp_path / "train"], tmp_path / "mixed")


def test_a_set_without_the_wanted_split_says_so(tmp_path: Path) -> None:
    root = LAYOUTS["roborefit"](tmp_path / "in")
    with pytest.raises(ConfigError, match=r"not held out \(roborefit_train.json\).*--split train"):
        import_source("roborefit", root, tmp_path / "out", ImportOptions(split="test"))
    root = LAYOUTS["roboafford"](tmp_path / "afford")
    with pytest.raises(ConfigError, match=r"held out for evaluation \(annotations_absxy.json and 1 more\)"):
        import_source("roboafford", root, tmp_path / "out")
