"""Every published benchmark: its layout is read, and its score is what a second computation of its rule says.

The second computations here share no code with the package: they are written from the rules' descriptions, and
where a rule reads letters or numbers, the texts are such that their meaning is plain, or stand in a table of
odd ones whose reading was worked out by hand.
"""

import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import public_sets as sets
from egem.core.errors import ConfigError, RecordError
from egem.evaluation.answers_file import AnswersFile
from egem.evaluation.benchmarks import BENCHMARKS, BenchmarkOptions, open_benchmark, rules_of
from egem.evaluation.runner import RunOptions, run
from sources.tfrecords import sequence_example, write_tfrecords

ODD = ("", "   ", "I do not know", "(", "None of these", "12345", "?!", "yes and no", "[]", "{}")


def opened(name, folder, **options):
    return open_benchmark(f"{name}={folder}", BenchmarkOptions(cache=Path("unused"), **options))


def scored(benchmark, texts, tmp_path):
    """Totals by name for answers by place."""
    ids = [record.id for record in benchmark.questions()]
    path = sets.jsonl(
        tmp_path / "given.jsonl", [{"id": i, "prediction": t} for i, t in zip(ids, texts, strict=True)]
    )
    scores = run(benchmark, AnswersFile(path), tmp_path / "out", RunOptions(depth=None))
    assert scores.rule is not None
    return {total.name: total.score.mean for total in scores.totals}, scores


def letters(num, right, seed=3):
    """Letters, dressed up so that every reading agrees on them, with odd answers between."""
    rng = np.random.default_rng(seed)
    texts = []
    for index in range(num):
        letter = right[index] if rng.random() < 0.5 else "ABCD"[rng.integers(4)]
        texts.append(letter if rng.random() < 0.8 else ODD[rng.integers(len(ODD))])
    return texts


def mra(given, true):
    if given is None:
        return 0.0
    hits = 0
    for step in range(10):
        if abs(given - true) / true <= 1 - np.linspace(0.5, 0.95, 10)[step]:
            hits += 1
    return hits / 10


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values)


@pytest.fixture(scope="module")
def vsi(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vsi")
    rows = sets.vsi_rows()
    sets.parquet(folder / "test-00000-of-00001.parquet", rows)
    (folder / "pruned_ids.txt").write_text("\n".join(str(index) for index in range(0, 44, 3)))
    return folder, rows


def vsi_texts(rows):
    rng = np.random.default_rng(5)
    texts = []
    for row in rows:
        if row["options"] is None:
            true = float(row["ground_truth"])
            texts.append(
                [f"{true * rng.uniform(0.6, 1.4):.2f}", "about 3 m", "twenty-one", "7 metres", "none"][
                    int(rng.choice(5, p=(0.6, 0.1, 0.1, 0.1, 0.1)))
                ]
            )
        else:
            texts.append([row["ground_truth"], "B.", "(A)", "The answer is A", "c"][int(rng.integers(5))])
    return texts


NUMBER_READINGS = {
    "official": {"about 3 m": None, "twenty-one": None, "7 metres": 7.0, "none": None},
    "lmms-eval": {"about 3 m": 3.0, "twenty-one": 21.0, "7 metres": 7.0, "none": None},
    "vlmevalkit": {"about 3 m": 3.0, "twenty-one": -1.0, "7 metres": 7.0, "none": None},
}
LETTER_READINGS = {
    "official": {"B.": "B", "(A)": "", "The answer is A": "", "c": "C"},
    "lmms-eval": {"B.": "B", "(A)": "", "The answer is A": "", "c": "C"},
    "vlmevalkit": {"B.": "B", "(A)": "A", "The answer is A": "A", "c": "C"},
}


@pytest.mark.parametrize("rule", ["official", "lmms-eval", "vlmevalkit"])
def test_vsi_bench(vsi, rule, tmp_path):
    folder, rows = vsi
    benchmark = opened("vsi-bench", folder, rule=rule)
    order = [int(record.id.split("/")[1]) for record in benchmark.questions()]
    texts = dict(enumerate(vsi_texts(rows)))
    totals, scores = scored(benchmark, [texts[index] for index in order], tmp_path)
    by_type = {}
    for index, row in enumerate(rows):
        text = texts[index]
        if row["options"] is None:
            known = NUMBER_READINGS[rule]
            given = known[text] if text in known else float(text)
            value = mra(given, float(row["ground_truth"]))
        else:
            value = float(LETTER_READINGS[rule].get(text, text) == row["ground_truth"])
        by_type.setdefault(row["question_type"], []).append(value)
    means = {kind: mean(values) for kind, values in by_type.items()}
    direction = mean(means.pop(f"object_rel_direction_{level}") for level in ("easy", "medium", "hard"))
    assert len(means) == 7
    assert totals["overall"] == pytest.approx(mean([*means.values(), direction]), abs=1e-9)
    assert totals["object_rel_direction"] == pytest.approx(direction, abs=1e-9)
    assert scores.rule.frames == 32
    assert scores.num_scenes == len({(row["dataset"], row["scene_name"]) for row in rows})


def test_vsi_bench_prompts_are_the_published_ones(vsi):
    folder, _ = vsi
    prompts = {
        rule: {r.id: r.messages[0].content for r in opened("vsi-bench", folder, rule=rule).questions()}
        for rule in ("official", "vlmevalkit")
    }
    number, choice = "vsi-bench/0", "vsi-bench/4"
    assert prompts["official"][number] == (
        "These are frames of a video.\nWhat about object 0?\n"
        "Please answer the question using a single word or phrase."
    )
    assert prompts["official"][choice] == (
        "These are frames of a video.\nWhat about object 4?\nOptions:\nA. thing A\nB. thing B\nC. thing C\n"
        "D. thing D\nAnswer with the option's letter from the given choices directly."
    )
    assert prompts["vlmevalkit"][number].endswith("Answer briefly and directly in one float number.")
    assert "Options:" not in prompts["vlmevalkit"][choice]


def test_subsets_of_vsi_bench_part_it(vsi, tmp_path):
    folder, rows = vsi

    def ids(name, where=folder):
        return {record.id for record in opened(name, where).questions()}

    assert ids("vsi-bench-debiased") | ids("vsi-bench-pruned") == ids("vsi-bench")
    assert not ids("vsi-bench-debiased") & ids("vsi-bench-pruned")
    assert len(ids("vsi-bench-pruned")) == 15
    # The other published form: a table each.
    sets.parquet(tmp_path / "test_pruned.parquet", rows[:6])
    assert len(ids("vsi-bench-pruned", tmp_path)) == 6


def test_an_incomplete_vsi_bench_names_its_videos(vsi):
    folder, _ = vsi
    with pytest.raises(RecordError, match=r"incomplete: 22 files are missing: .*scene0\d+\.mp4, .*\.\.\."):
        opened("vsi-bench", folder).check_media()


def test_a_subset_leaves_missing_parts_out_and_says_so(vsi, tmp_path):
    folder, _ = vsi
    benchmark = opened("vsi-bench", folder, num_groups=1)
    num = len(list(benchmark.questions()))
    _, scores = scored(benchmark, ["A"] * num, tmp_path)
    overall = scores.totals[0]
    assert overall.missing
    assert overall.score.n == num
    assert "without" in (tmp_path / "out" / "scores.md").read_text()


@pytest.mark.parametrize("rule", ["official", "lmms-eval", "vlmevalkit"])
def test_cv_bench(rule, tmp_path):
    rows = sets.cv_rows()
    sets.parquet(tmp_path / "test_2d.parquet", [row for row in rows if row["type"] == "2D"])
    sets.parquet(tmp_path / "test_3d.parquet", [row for row in rows if row["type"] == "3D"])
    ordered = sorted(rows, key=lambda row: row["type"])
    texts = letters(len(rows), [row["answer"].strip("()") for row in ordered])
    texts[3], texts[7], texts[11] = "(B) 4", "Answer: C", "because"
    reading = {
        "Answer: C": "A",
        "because": "B",
        "None of these": "N",
        "I do not know": "I",
        "yes and no": "Y",
    }
    if rule == "vlmevalkit":
        reading = {"Answer: C": "C", "because": ""}
    totals, _ = scored(opened("cv-bench", tmp_path, rule=rule), texts, tmp_path)
    hits = {}
    for row, text in zip(ordered, texts, strict=True):
        letter = reading.get(text, text if len(text) == 1 else "B" if text == "(B) 4" else "")
        hits.setdefault(row["source"], []).append(letter == row["answer"].strip("()"))
    flat = (mean(hits["ADE20K"]) + mean(hits["COCO"])) / 2
    assert totals["CV-Bench"] == pytest.approx((flat + mean(hits["Omni3D"])) / 2, abs=1e-9)
    assert totals["2D"] == pytest.approx(flat, abs=1e-9)
    everything = mean(value for values in hits.values() for value in values)
    assert totals["all questions alike"] == pytest.approx(everything, abs=1e-9)
    assert next(iter(totals)) == {"lmms-eval": "cv_bench_acc"}.get(rule, "CV-Bench")


def plain_letters(name, folder, rule, right, tmp_path, key="accuracy"):
    """Totals of a benchmark where only a plain letter counts, against counting."""
    texts = letters(len(right), right)
    totals, scores = scored(opened(name, folder, rule=rule), texts, tmp_path)
    hits = [text == letter for text, letter in zip(texts, right, strict=True)]
    assert 0.2 < mean(hits) < 0.9
    assert totals[key] == pytest.approx(mean(hits), abs=1e-9)
    return hits, totals, scores


@pytest.mark.parametrize("rule", ["lmms-eval", "vlmevalkit"])
@pytest.mark.parametrize("form", ["parquet", "json"])
def test_embspatial_bench(rule, form, tmp_path):
    rows = sets.embspatial_rows()
    if form == "parquet":
        sets.parquet(tmp_path / "data" / "test-00000-of-00001.parquet", rows)
    else:
        rows = [{**row, "image": sets.base64_of(row["image"]["bytes"])} for row in rows]
        (tmp_path / "embspatial_bench.json").write_text(json.dumps(rows))
    right = ["ABCD"[row["answer"]] for row in rows]
    hits, totals, _ = plain_letters("embspatial-bench", tmp_path, rule, right, tmp_path)
    for source in ("ai2thor", "mp3d", "scannet"):
        mine = [hit for hit, row in zip(hits, rows, strict=True) if row["data_source"] == source]
        assert totals[source] == pytest.approx(mean(mine), abs=1e-9)
    first = next(iter(opened("embspatial-bench", tmp_path, rule=rule).records()))
    assert {"lmms-eval": "A) the cup 0", "vlmevalkit": "A: the cup 0"}[rule] in first.messages[0].content
    assert first.messages[0].content.count("<image>") == len(first.images) == 1


@pytest.mark.parametrize("rule", ["official", "lmms-eval"])
def test_blink(rule, tmp_path):
    from egem.evaluation.benchmarks.blink import TASKS

    sizes = {task: 2 + index % 3 for index, task in enumerate(TASKS)}
    rows = {task: sets.blink_rows(task, num) for task, num in sizes.items()}
    for task, found in rows.items():
        sets.parquet(tmp_path / task / "val-00000-of-00001.parquet", found)
    flat = [row for found in rows.values() for row in found]
    texts = letters(len(flat), [row["answer"].strip("()") for row in flat])
    texts[4] = "(A) point A"
    totals, _ = scored(opened("blink", tmp_path, rule=rule), texts, tmp_path)
    read = {"(A) point A": "A"}
    hits = {}
    for row, text in zip(flat, texts, strict=True):
        hits.setdefault(row["sub_task"], []).append(read.get(text, text) == row["answer"].strip("()"))
    assert totals["mean over tasks"] == pytest.approx(
        mean(mean(values) for values in hits.values()), abs=1e-9
    )
    assert totals["accuracy"] == pytest.approx(mean(v for values in hits.values() for v in values), abs=1e-9)
    assert next(iter(totals)) == ("mean over tasks" if rule == "official" else "accuracy")
    images = [len(record.images) for record in opened("blink", tmp_path).records()]
    assert set(images) == {1, 2}
    for task in ("Jigsaw", "IQ_Test"):
        (tmp_path / task / "val-00000-of-00001.parquet").unlink()
    with pytest.raises(RecordError, match=r"no val-\*\.parquet in IQ_Test/, Jigsaw/"):
        opened("blink", tmp_path)


@pytest.mark.parametrize("rule", ["official", "lmms-eval", "vlmevalkit"])
def test_mmsi_bench(rule, tmp_path):
    rows = sets.mmsi_rows()
    sets.parquet(tmp_path / "MMSI_Bench.parquet", rows)
    right = [row["answer"] for row in rows]
    texts = letters(len(rows), right)
    texts[:4] = ["``B``", "I say `C`", "{D}", "A dog"]
    read = {"``B``": "B", "I say `C`": "C", "{D}": "D", "A dog": "A" if rule == "vlmevalkit" else ""}
    totals, scores = scored(opened("mmsi-bench", tmp_path, rule=rule), texts, tmp_path)
    hits = [read.get(text, text) == letter for text, letter in zip(texts, right, strict=True)]
    assert totals["accuracy"] == pytest.approx(mean(hits), abs=1e-9)
    assert {line.name for line in scores.skills} == {
        "Positional Relationship (Cam.-Obj.)",
        "Motion (Obj.)",
        "MSR",
    }
    assert [len(record.images) for record in opened("mmsi-bench", tmp_path).records()] == [2] * len(rows)


@pytest.mark.parametrize("rule", ["egem", "lmms-eval"])
def test_sat(rule, tmp_path):
    rows = sets.sat_rows()
    sets.parquet(tmp_path / "SAT_test.parquet", rows)
    benchmark = opened("sat", tmp_path, rule=rule)
    records = list(benchmark.records())
    for record, row in zip(records, rows, strict=True):
        place = "AB".index(record.answer.text)
        assert record.meta["options"][place] == row["correct_answer"]
        assert f"{record.answer.text}. {row['correct_answer']}\n" in record.messages[0].content
        assert len(record.images) == len(row["image_bytes"])
    right = [record.answer.text for record in records]
    if rule == "egem":
        assert 8 < right.count("A") < 24  # drawn, and the same each time
        assert right == [record.answer.text for record in opened("sat", tmp_path).questions()]
    texts = [letter if index % 3 else "neither of them" for index, letter in enumerate(right)]
    texts[1] = f"{right[1].lower()}."
    totals, _ = scored(benchmark, texts, tmp_path)
    assert totals["accuracy"] == pytest.approx(mean(index % 3 != 0 for index in range(32)), abs=1e-9)


@pytest.mark.parametrize("rule", ["lmms-eval", "vlmevalkit"])
def test_realworldqa(rule, tmp_path):
    rows = sets.realworld_rows()
    sets.parquet(tmp_path / "data" / "test-00000-of-00001.parquet", rows)
    right = [row["answer"] for row in rows]
    texts = [letter if index % 2 else "unclear" for index, letter in enumerate(right)]
    texts[3], texts[7] = f"{right[3]}.", f" {right[7]} "
    texts[0] = f"The answer is {right[0]}"
    totals, _ = scored(opened("realworldqa", tmp_path, rule=rule), texts, tmp_path)
    assert totals["accuracy"] == pytest.approx(mean(i == 0 or i % 2 == 1 for i in range(32)), abs=1e-9)


@pytest.mark.parametrize("rule", ["official", "lmms-eval", "vlmevalkit"])
def test_mindcube(rule, tmp_path):
    rows = sets.mindcube_rows()
    sets.jsonl(tmp_path / "data" / "raw" / "MindCube_tinybench.jsonl", rows)
    right = [row["gt_answer"] for row in rows]
    texts = letters(len(rows), right)
    texts[0], texts[1] = f"<answer>{right[0]}. Chair</answer>", "no idea"
    totals, scores = scored(opened("mindcube-tiny", tmp_path, rule=rule), texts, tmp_path)
    hits = [i == 0 or text == letter for i, (text, letter) in enumerate(zip(texts, right, strict=True))]
    assert totals["accuracy"] == pytest.approx(mean(hits), abs=1e-9)
    around = [hit for hit, row in zip(hits, rows, strict=True) if row["id"].startswith("around")]
    assert totals["around"] == pytest.approx(mean(around), abs=1e-9)
    assert scores.num_scenes == 32
    with pytest.raises(RecordError, match=r"64 files are missing: .*other_all_image/0_0\.png"):
        opened("mindcube-tiny", tmp_path).check_media()


@pytest.mark.parametrize("rule", ["official", "lmms-eval", "vlmevalkit"])
def test_erqa(rule, tmp_path):
    rows = sets.erqa_rows()
    sets.parquet(tmp_path / "data" / "test-00000-of-00001.parquet", rows)
    right = [row["answer"] for row in rows]
    texts = letters(len(rows), right)
    texts[0], texts[1] = f"The answer is {right[0]}", f"{right[1]}."
    totals, _ = scored(opened("erqa", tmp_path, rule=rule), texts, tmp_path)
    hits = [text.rstrip(".") == letter for text, letter in zip(texts, right, strict=True)]
    hits[0] = rule != "official"
    assert totals["accuracy"] == pytest.approx(mean(hits), abs=1e-9)
    first, second = list(opened("erqa", tmp_path, rule=rule).records())[:2]
    inside = "<image>First look. <image>Then say 0." in first.messages[0].content
    assert inside == (rule != "lmms-eval")
    assert second.messages[0].content.startswith("<image><image>First look.")


def motion(text):
    pairs = dict(part.split(":") for part in text.split(","))
    values = {name: float(value) for name, value in pairs.items()}
    sides = (("right", "left"), ("up", "down"), ("forward", "backward"))
    axes = [values.get(f"move_{a}", 0) - values.get(f"move_{b}", 0) for a, b in sides]
    return axes + [values.get(f"rotate_{a}", 0) - values.get(f"rotate_{b}", 0) for a, b in sides[:2]]


def axis_mra(given, true):
    error = abs(given - true) if true == 0 else abs((given - true) / true)
    return mean(error <= 1 - level for level in np.linspace(0.5, 0.95, 10))


@pytest.mark.parametrize("rule", ["official", "lmms-eval", "vlmevalkit"])
def test_spar_bench(rule, tmp_path):
    rows = sets.spar_rows()
    sets.parquet(tmp_path / "data" / "test-00000-of-00001.parquet", rows)
    rng = np.random.default_rng(2)
    by_task, texts = {}, []
    for row in rows:
        right, task = row["answer"], row["task"]
        if task == "view_change_infer":
            text = str(rng.choice([right, "move_right:0.4,rotate_left:12", "turn left"]))
            if text == "turn left":
                value = 0.0
                if rule == "vlmevalkit":  # nothing read is no motion
                    value = mean(axis_mra(0.0, true) for true in motion(right))
            else:
                pairs = zip(motion(text), motion(right), strict=True)
                value = mean(axis_mra(g, t) if rule == "vlmevalkit" else axis_mra(t, g) for g, t in pairs)
        elif re.fullmatch(r"[\d.]+", right):
            number = float(right) * rng.uniform(0.6, 1.4)
            text = str(rng.choice([f"{number:.2f} m", f"between 1 and {number:.2f}", "far"]))
            found = [float(part) for part in re.findall(r"\d+\.?\d*", text)]
            given = None if not found else found[-1] if "_mv" in task or rule == "vlmevalkit" else found[0]
            if not found and "_mv" in task and rule != "vlmevalkit":
                given = -1.0
            value = mra(given, float(right))
        else:
            text = str(rng.choice([right, right.lower() + " yes", "Z", f"({right})"]))
            plain = text[0].upper() == right
            value = float(plain) if rule != "vlmevalkit" else float(text in (right, f"({right})"))
        texts.append(text)
        by_task.setdefault(task, []).append(value)
    totals, _ = scored(opened("spar-bench", tmp_path, rule=rule), texts, tmp_path)
    means = {task: mean(values) for task, values in by_task.items()}
    assert len(means) == 20
    assert totals["overall"] == pytest.approx(mean(means.values()), abs=1e-9)
    low = mean(value for task, value in means.items() if "prediction" in task)
    assert totals["low"] == pytest.approx(low, abs=1e-9)
    middle = ["position_matching", "camera_motion_infer"]
    middle += [] if rule == "lmms-eval" else ["view_change_infer"]
    assert totals["middle"] == pytest.approx(mean(means[task] for task in middle), abs=1e-9)


def test_vsr(tmp_path):
    rows = [
        {
            "image": f"{i % 20}.jpg",
            "caption": f"The cat is {i}.",
            "label": i % 2,
            "relation": ("on", "under")[i % 2],
        }
        for i in range(40)
    ]
    sets.jsonl(tmp_path / "random_test.jsonl", rows)
    texts = [("False", "True")[row["label"]] if i % 4 else "perhaps" for i, row in enumerate(rows)]
    texts[1], texts[2], texts[3] = "yes.", "No", "true or false"
    totals, scores = scored(opened("vsr", tmp_path), texts, tmp_path)
    hits = [i % 4 != 0 for i in range(40)]
    hits[3] = False
    assert totals["accuracy"] == pytest.approx(mean(hits), abs=1e-9)
    assert scores.num_scenes == 20
    with pytest.raises(RecordError, match="20 files are missing"):
        opened("vsr", tmp_path).check_media()


def inside_share(field, points):
    """The mean of a mask over points, by going through them."""
    found = [
        float(field[y, x]) if 0 <= x < field.shape[1] and 0 <= y < field.shape[0] else 0.0 for x, y in points
    ]
    return mean(found) if found else 0.0


def point_texts(num):
    """Points as tuples of fractions, tuples of pixels, and JSON, each with its numbers."""
    rng = np.random.default_rng(4)
    texts = []
    for index in range(num):
        numbers = [
            (round(rng.uniform(0, 1.05), 2), round(rng.uniform(0, 1.05), 2)) for _ in range(1 + index % 3)
        ]
        kind = ("fractions", "pixels", "json", "odd")[index % 4]
        if kind == "pixels":
            numbers = [(int(x * 16), int(y * 12)) for x, y in numbers]
        if kind == "json":
            numbers = [(int(x * 1000), int(y * 1000)) for x, y in numbers]
            text = "```json\n" + json.dumps([{"point_2d": list(p), "label": "x"} for p in numbers]) + "\n```"
        elif kind == "odd":
            text, numbers = ODD[index % len(ODD)], []
        else:
            text = (
                "["
                + ", ".join(f"({x}, {y})" if kind == "pixels" else f"({x:.2f}, {y:.2f})" for x, y in numbers)
                + "]"
            )
        texts.append((text, kind, numbers))
    return texts


def pixels_by(rule, kind, numbers):
    """What a rule takes an answer's numbers for; the mask is 16 x 12."""
    if kind == "fractions":
        return [(int(x * 16), int(y * 12)) for x, y in numbers]
    if rule == "official":
        return numbers if kind == "pixels" else []
    if rule == "lmms-eval":
        return [(x * 16, y * 12) for x, y in numbers] if kind == "pixels" else []
    return [(int(x / 1000 * 16), int(y / 1000 * 12)) for x, y in numbers]


def picture(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("rule", ["official", "lmms-eval", "lmms-eval-json"])
def test_where2place(rule, tmp_path):
    rows = sets.point_rows()
    for row in rows:  # as published: JPEG, whose edges are grey
        row["mask"] = sets.cell(sets.encoded(picture(row["mask"]["bytes"]), "JPEG"))
    sets.parquet(tmp_path / "data" / "test-00000-of-00001.parquet", rows)
    given = point_texts(len(rows))
    totals, _ = scored(opened("where2place", tmp_path, rule=rule), [text for text, _, _ in given], tmp_path)
    values = []
    for row, (_, kind, numbers) in zip(rows, given, strict=True):
        field = picture(row["mask"]["bytes"]) / 255.0
        field = field if rule == "official" else np.round(field)
        values.append(inside_share(field, pixels_by(rule, kind, numbers)))
    assert mean(values) > 0.05
    assert totals["accuracy"] == pytest.approx(mean(values), abs=1e-9)


def test_where2place_from_the_authors_folder(tmp_path):
    rows = [
        {"question_id": index, "image": f"{index:02d}.jpg", "text": f"Point {index}. Your answer should be x"}
        for index in range(30)
    ]
    sets.jsonl(tmp_path / "point_questions.jsonl", rows)
    for index in range(30):
        sets.save(tmp_path / "images" / f"{index:02d}.jpg", sets.png(index))
        sets.save(tmp_path / "masks" / f"{index:02d}.jpg", sets.encoded(np.full((12, 16), 255, np.uint8)))
    benchmark = opened("where2place", tmp_path)
    assert "Point 3. Your answer should be formatted" in list(benchmark.questions())[3].messages[0].content
    totals, _ = scored(benchmark, ["(3, 4)"] * 29 + ["(99, 4)"], tmp_path)
    assert totals["accuracy"] == pytest.approx(29 / 30, abs=1e-9)
    (tmp_path / "masks" / "07.jpg").unlink()
    with pytest.raises(RecordError, match=r"masks/07\.jpg is missing"):
        scored(opened("where2place", tmp_path), ["(3, 4)"] * 30, tmp_path / "again")


def test_a_missing_mask_is_an_error_and_never_a_score(tmp_path):
    rows = sets.point_rows(4)
    rows[2]["mask"] = {"bytes": None, "path": None}
    sets.parquet(tmp_path / "data" / "test-00000-of-00001.parquet", rows)
    with pytest.raises(RecordError, match="row 3, column mask: there is no mask"):
        scored(opened("where2place", tmp_path), ["(1, 1)"] * 4, tmp_path)
    assert not (tmp_path / "out" / "scores.json").exists()


@pytest.mark.parametrize("rule", ["official", "lmms-eval", "lmms-eval-json", "vlmevalkit"])
def test_refspatial_bench(rule, tmp_path):
    splits = {"location": 20, "placement": 14, "unseen": 6}
    rows = {split: sets.point_rows(num) for split, num in splits.items()}
    for split, found in rows.items():
        sets.parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", found)
    given = point_texts(40)
    totals, _ = scored(opened("refspatial-bench", tmp_path, rule=rule), [t for t, _, _ in given], tmp_path)
    values, flat = {}, [(split, row) for split, found in rows.items() for row in found]
    for (split, row), (_, kind, numbers) in zip(flat, given, strict=True):
        if rule == "vlmevalkit":
            largest = max((abs(value) for point in numbers for value in point), default=0)
            scale = {"json": 1000.0, "pixels": None, "fractions": 1.0, "odd": None}[kind]
            points = []
            for x, y in numbers:
                if kind == "json" and max(abs(x), abs(y)) > 1000:
                    fx, fy = x / 16, y / 12
                elif scale is None:
                    small = max(abs(x), abs(y)) <= 1.5
                    fx, fy = (x, y) if small else (x / 16, y / 12)
                else:
                    fx, fy = x / scale, y / scale
                points.append(
                    (int(np.round(min(max(fx * 16, 0), 15))), int(np.round(min(max(fy * 12, 0), 11))))
                )
            assert largest < 2000
        else:
            points = pixels_by(rule, kind, numbers)
        field = (picture(row["mask"]["bytes"]) > 0).astype(float)
        values.setdefault(split, []).append(inside_share(field, points))
    for split, found in values.items():
        assert totals[split] == pytest.approx(mean(found), abs=1e-9)
    seen = values["location"] + values["placement"]
    assert totals["without unseen"] == pytest.approx(mean(seen), abs=1e-9)
    assert totals["accuracy"] == pytest.approx(mean(seen + values["unseen"]), abs=1e-9)


@pytest.mark.parametrize("rule", ["official", "lmms-eval", "vlmevalkit"])
def test_robospatial_home(rule, tmp_path):
    kinds = {"configuration": 12, "context": 16, "compatibility": 12}
    rows = {kind: sets.robospatial_rows(kind, num) for kind, num in kinds.items()}
    for kind, found in rows.items():
        sets.parquet(tmp_path / "data" / f"{kind}-00000-of-00001.parquet", found)
    rng = np.random.default_rng(6)
    texts, values = [], {}
    for kind, found in rows.items():
        for index, row in enumerate(found):
            if kind == "context":
                x, y = round(rng.uniform(0.01, 0.99), 3), round(rng.uniform(0.01, 0.99), 3)
                field = picture(row["mask"]["bytes"])
                if index % 4:
                    ys, xs = np.nonzero(field)
                    x, y = round((xs.mean() + 0.5) / 16, 3), round((ys.mean() + 0.5) / 12, 3)
                hit = bool(field[int(y * 12), int(x * 16)])
                form = index % 3
                if form == 0:
                    texts.append(f"[({x}, {y}), (2.0, 2.0)]")
                    value = hit and rule != "lmms-eval"
                elif form == 1:
                    points = [{"point_2d": [int(x * 1000), int(y * 1000)]}, {"point_2d": [0, 1999]}]
                    texts.append("```json\n" + json.dumps(points) + "\n```")
                    value = hit and rule != "official"
                else:
                    texts.append("somewhere")
                    value = False
            else:
                text, reads = [
                    ("Yes, it fits", (True, True)),
                    ("No", (False, False)),
                    ("Let me see.\nAnswer: yes", (None, True)),
                    ("yes\nno doubt", (True, False)),
                ][index % 4]
                texts.append(text)
                value = reads[int(rule == "lmms-eval")] is (row["answer"] == "yes")
            values.setdefault(kind, []).append(float(value))
    totals, _ = scored(opened("robospatial-home", tmp_path, rule=rule), texts, tmp_path)
    flat = [value for found in values.values() for value in found]
    assert totals["accuracy"] == pytest.approx(mean(flat), abs=1e-9)
    for kind, found in values.items():
        assert totals[kind] == pytest.approx(mean(found), abs=1e-9)
    assert sum(values["context"]) > 1


def test_roboafford_eval(tmp_path):
    rows = [
        {
            "category": ("object affordance", "object reference", "spatial affordance")[index % 3],
            "question": f"Point at {index}.",
            "img": f"{index % 8:02d}.jpg",
            "mask": f"m{index}.png",
            "answer": [[0.1, 0.2]],
        }
        for index in range(33)
    ]
    (tmp_path / "annotations_normxy.json").write_text(json.dumps(rows))
    fields = [sets.mask(index) for index in range(33)]
    for index, field in enumerate(fields):
        sets.save(tmp_path / "images" / f"{index % 8:02d}.jpg", sets.png(index))
        sets.save(tmp_path / "masks" / f"m{index}.png", sets.encoded(field))
    given = [one for one in point_texts(44) if one[1] != "json"][:33]
    totals, _ = scored(opened("roboafford-eval", tmp_path), [text for text, _, _ in given], tmp_path)
    values = {}
    for row, field, (text, _, numbers) in zip(rows, fields, given, strict=True):
        if text == "12345":  # "x y" and "x,y" need two numbers
            numbers = []
        small = all(0 <= value <= 1 for point in numbers for value in point)
        scale = (16, 12) if small else (1, 1)
        points = [(round(x * scale[0]), round(y * scale[1])) for x, y in numbers]
        values.setdefault(row["category"], []).append(inside_share(field / 255, points))
    flat = [value for found in values.values() for value in found]
    assert totals["accuracy"] == pytest.approx(mean(flat), abs=1e-9)
    assert mean(flat) > 0.1
    (tmp_path / "masks" / "m5.png").unlink()
    with pytest.raises(RecordError, match=r"1 files are missing: .*m5\.png"):
        opened("roboafford-eval", tmp_path).check_media()


def test_sharerobot(tmp_path):
    size = {"original_dataset": "bridge", "original_width": 640, "original_height": 480}
    boxes = [
        {
            "id": f"{i}.jpg",
            "meta_data": size,
            "instruction": f"take {i}",
            "affordance": {"x": 64 * (i % 5), "y": 48.0, "width": 128.0, "height": 96.0},
        }
        for i in range(16)
    ]
    curves = [
        {
            "id": i,
            "meta_data": size,
            "instruction": f"go {i}",
            "points": [[64.0 + i, 48.0], [320.0, 240.0], [576.0, 384.0 - i]],
        }
        for i in range(16)
    ]
    for part, rows in (("affordance", boxes), ("trajectory", curves)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "test.json").write_text(json.dumps(rows))
    texts, overlaps, distances, hits = [], [], [], []
    for i, row in enumerate(boxes):
        left = row["affordance"]["x"] / 640 * 1000
        shift = 40 * (i % 4)
        texts.append(
            f"[{round(left + shift)}, 100, {round(left + 200 + shift)}, 300]" if i != 5 else "left of it"
        )
        overlap = (200 - shift) / (200 + shift) if i != 5 else 0.0
        overlaps.append(overlap)
        hits.append(overlap >= 0.5)
    for i, row in enumerate(curves):
        true = [(round(x / 640 * 1000), round(y / 480 * 1000)) for x, y in row["points"]]
        moved = [(x, y + 30 * (i % 4)) for x, y in true]
        texts.append(str([list(point) for point in moved]) if i != 7 else "nowhere")
        distances.append(30 * (i % 4) / 1000 if i != 7 else math.sqrt(2))
        hits.append(i != 7 and 30 * (i % 4) <= 80)
    totals, scores = scored(opened("sharerobot", tmp_path), texts, tmp_path)
    assert scores.metrics["affordance IoU"] == pytest.approx(mean(overlaps), abs=1e-9)
    # A shifted curve is everywhere as far as the shift, by either distance.
    assert scores.metrics["DFD"] == pytest.approx(mean(distances), abs=1e-9)
    assert scores.metrics["RMSE"] == pytest.approx(mean(distances), abs=1e-9)
    assert totals["accuracy"] == pytest.approx(mean(hits), abs=1e-9)


def plain_bleu(given, true, weights, smooth):
    """Sentence BLEU from its definition, over lists of words."""
    logs, used, doubling = 0.0, 0.0, 1
    for order, weight in enumerate(weights, 1):
        grams = [tuple(given[i : i + order]) for i in range(len(given) - order + 1)]
        known = [tuple(true[i : i + order]) for i in range(len(true) - order + 1)]
        found = sum(min(grams.count(gram), known.count(gram)) for gram in set(grams))
        if order == 1 and found == 0:
            return 0.0
        if smooth and not grams:
            break
        doubling *= 2 if found == 0 else 1
        precision = found / max(len(grams), 1)
        if found == 0:
            precision = 1 / (doubling * len(grams)) if smooth else 2.2250738585072014e-308
        logs, used = logs + weight * math.log(precision), used + weight
    shorter = len(given) < len(true)
    return math.exp(logs / (used if smooth else 1)) * (math.exp(1 - len(true) / len(given)) if shorter else 1)


@pytest.mark.parametrize("rule", ["official", "robobrain"])
def test_robovqa(rule, tmp_path):
    right = ["put the red cup down", "yes", "no", "open it", "take the small bowl"] * 2
    clips = []
    for number in range(4):
        tasks = "".join(
            f"<task:planning> Q: what about {number}-{place}? A: <PRED>{answer}</PRED> "
            for place, answer in enumerate(right)
        )
        images = [sets.encoded(np.full((8, 8, 3), 40 * step, np.uint8), "JPEG") for step in range(5)]
        clips.append(sequence_example({"images": images, "texts": [tasks.encode()]}))
    (tmp_path / "val").mkdir()
    write_tfrecords(tmp_path / "val" / "val-00000-of-00001.tfrecord", clips)
    benchmark = opened("robovqa", tmp_path, rule=rule, frames=3)
    records = list(benchmark.records())
    assert [len(record.images) for record in records] == [3] * 40
    assert [record.answer.text for record in records] == right * 4
    pool = [
        "put the red cup down",
        "put cup down",
        "yes",
        "no",
        "open the door",
        "take bowl",
        "a small bowl it",
    ]
    texts = [pool[(3 * index) % 7] if index % 3 else answer for index, answer in enumerate(right * 4)]
    totals, scores = scored(benchmark, texts, tmp_path)
    values = []
    for text, answer in zip(texts, right * 4, strict=True):
        words, reference = text.split(), answer.split()
        if rule == "official":
            values.append(plain_bleu(words, reference, (0.25,) * 4, smooth=True))
            continue
        table = {1: (1.0,), 2: (0.5, 0.5), 3: (0.33, 0.33, 0.33), 4: (0.25,) * 4}
        orders = [min(order, len(reference), 4) for order in (1, 2, 3, 4)]
        values.append(mean(plain_bleu(words, reference, table[order], smooth=False) for order in orders))
    assert next(iter(totals.values())) == pytest.approx(mean(values), abs=1e-9)
    assert 0.2 < mean(values) < 0.9
    assert scores.num_scenes == 4
    assert set(scores.metrics) == (set() if rule == "official" else {"bleu1", "bleu2", "bleu3", "bleu4"})


def test_every_rule_says_where_it_comes_from():
    for name in BENCHMARKS:
        rules = rules_of(name)
        assert len({rule.name for rule in rules}) == len(rules)
        for rule in rules:
            assert rule.reference
            assert rule.totals
            assert rule.prompts
    assert len([name for name in BENCHMARKS if rules_of(name)]) == 22


def test_bad_names_and_folders(tmp_path):
    with pytest.raises(
        ConfigError, match=r"unknown rule for vsi-bench 'vlmeval'\. Did you mean 'vlmevalkit'"
    ):
        opened("vsi-bench", tmp_path, rule="vlmeval")
    with pytest.raises(RecordError, match=r"nowhere/at/all is not a folder; give the folder with a copy of"):
        open_benchmark("blink=nowhere/at/all", BenchmarkOptions(cache=tmp_path))
    with pytest.raises(RecordError, match=r"incomplete: no file matches .*there is nothing.*FlagEval/ERQA"):
        opened("erqa", tmp_path)
    sets.parquet(tmp_path / "data" / "test-0.parquet", sets.sat_rows(2))
    with pytest.raises(RecordError, match=r"lacks column question_id, .*Is it another data set\?"):
        opened("erqa", tmp_path)
    (tmp_path / "data" / "test-0.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(RecordError, match="truncated or damaged"):
        opened("erqa", tmp_path)


def test_groups_share_images_and_a_part_is_spread(tmp_path):
    sets.parquet(tmp_path / "data" / "test-0.parquet", sets.embspatial_rows())
    whole = opened("embspatial-bench", tmp_path)
    part = opened("embspatial-bench", tmp_path, num_groups=4)
    assert part.num_groups == 4
    assert [record.id.split("/")[1] for record in part.questions()] == ["q0", "q12", "q23", "q35"]
    assert part.fingerprint != whole.fingerprint
    assert opened("embspatial-bench", tmp_path).fingerprint == whole.fingerprint
    assert opened("embspatial-bench", tmp_path, rule="vlmevalkit").fingerprint != whole.fingerprint
