"""Our scores against lmms-eval's own functions on the same answers.

Skipped where lmms-eval is not installed: `tools/lmms_eval_env.sh` makes an environment that has it.
"""

import copy
import functools
import importlib
import io

import numpy as np
import pytest
from PIL import Image

import public_sets as sets
from egem.evaluation.benchmarks import BenchmarkOptions, open_benchmark

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed; see tools/lmms_eval_env.sh")

PIECES = (
    *(
        "A",
        "B",
        "C",
        "D",
        "(B)",
        "b.",
        "A. the cup",
        "C) left",
        "The answer is",
        "the correct option is",
        "Answer:",
    ),
    *(
        "``B``",
        "`C`",
        "{D}",
        "<answer>A. Above</answer>",
        "<think>A?</think>",
        "\n",
        " ",
        "because",
        "I think",
    ),
    *("3", "4.5", "-2", "twenty-one", "two hundred and six", "about", "metres", "yes", "No", "know"),
    *("(0.25, 0.5)", "(3, 4)", "[500, 250]", "[(0.1, 0.2), (0.9, 0.8)]", "(0.1, 0.2, 0.6, 0.9)", "1.5"),
    *('```json\n[{"point_2d": [400, 300]}]\n```', '[{"point_2d": [700, 600]}]', "move_right:0.4,move_up:0.1"),
)


def texts(num, seed):
    rng = np.random.default_rng(seed)
    return [
        str(rng.choice(["", " ", "\n"])).join(rng.choice(PIECES, size=int(rng.integers(0, 4))).tolist())
        for _ in range(num)
    ]


def utils(task):
    return importlib.import_module(f"lmms_eval.tasks.{task}.utils")


def image(cell):
    return Image.open(io.BytesIO(cell["bytes"]))


def in_order(name, folder, answers, rule="lmms-eval"):
    """Scores where questions keep the order of the rows."""
    benchmark = open_benchmark(f"{name}={folder}", BenchmarkOptions(cache=folder, rule=rule))
    load = benchmark.load if benchmark.rule.reads_media else lambda record: record
    pairs = zip(benchmark.questions(), answers, strict=True)
    return [benchmark.score(load(record), text)["score"] for record, text in pairs]


@pytest.mark.parametrize("seed", range(5))
def test_vsi_bench(seed, tmp_path):
    task, rows = utils("vsibench"), sets.vsi_rows()
    sets.parquet(tmp_path / "test-0.parquet", rows)
    answers = texts(len(rows), seed)
    theirs = []
    for row, text in zip(rows, answers, strict=True):
        found = task.vsibench_process_results(copy.deepcopy(row), [text])["vsibench_overall"]
        theirs.append(found.get("accuracy", found.get("MRA:.5:.95:.05")))
    # Ours stand video by video.
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["dataset"], rows[i]["scene_name"]))
    found = in_order("vsi-bench", tmp_path, [answers[index] for index in order])
    assert found == pytest.approx([theirs[index] for index in order], abs=1e-9)


CHOICES = {
    "cv-bench": ("cv_bench", "cv_bench_process_results", "cv_bench_acc", "test_2d.parquet", sets.cv_rows),
    "embspatial-bench": (
        "embspatial",
        "embspatial_process_results",
        "embspatial_acc",
        "data/test-0.parquet",
        sets.embspatial_rows,
    ),
    "erqa": ("erqa", "erqa_process_results", "erqa_acc", "data/test-0.parquet", sets.erqa_rows),
    "realworldqa": (
        "realworldqa",
        "realworldqa_process_results",
        None,
        "data/test-0.parquet",
        sets.realworld_rows,
    ),
    "mmsi-bench": ("mmsi_bench", "msr_process_results", "average", "MMSI_Bench.parquet", sets.mmsi_rows),
}


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name, tmp_path):
    folder, function, key, file, make = CHOICES[name]
    task, rows = utils(folder), make()
    parted = name == "cv-bench"
    if parted:  # both tables are needed; theirs stand in this order then
        rows = sorted(rows, key=lambda row: row["type"])
        sets.parquet(tmp_path / "test_3d.parquet", [row for row in rows if row["type"] == "3D"])
    sets.parquet(tmp_path / file, [row for row in rows if not parted or row["type"] == "2D"])
    for seed in range(8):
        answers = texts(len(rows), seed)
        theirs = []
        for row, text in zip(rows, answers, strict=True):
            found = getattr(task, function)(copy.deepcopy(row), [text])
            found = found["exact_match"] if key is None else found[key]
            theirs.append(
                float(found.get("is_correct", found.get("score")) if isinstance(found, dict) else found)
            )
        assert in_order(name, tmp_path, answers) == theirs


def test_blink(tmp_path):
    from egem.evaluation.benchmarks.blink import TASKS

    task, rows = utils("blink"), [row for name in TASKS for row in sets.blink_rows(name, 3)]
    for name in TASKS:
        sets.parquet(tmp_path / name / "val-0.parquet", [row for row in rows if row["sub_task"] == name])
    answers = texts(len(rows), 0)
    pairs = zip(rows, answers, strict=True)
    theirs = [
        float(task.blink_process_results(row, [text])["blink_acc"]["is_correct"]) for row, text in pairs
    ]
    assert in_order("blink", tmp_path, answers) == theirs


def test_mindcube(tmp_path):
    task, rows = utils("mindcube"), sets.mindcube_rows()
    sets.jsonl(tmp_path / "MindCube_tinybench.jsonl", rows)
    for seed in range(8):
        answers = texts(len(rows), seed)
        pairs = zip(rows, answers, strict=True)
        theirs = [
            task.mindcube_process_results(row, [text])["overall_accuracy"]["score"] for row, text in pairs
        ]
        assert in_order("mindcube-tiny", tmp_path, answers) == theirs


def test_spar_bench(tmp_path, monkeypatch):
    task, rows = utils("sparbench"), sets.spar_rows()
    # Release 0.7.3 lost this import, catches the error, and scores every number 0.
    monkeypatch.setattr(task, "partial", functools.partial, raising=False)
    sets.parquet(tmp_path / "data" / "test-0.parquet", rows)
    for seed in range(5):
        answers = [text or "none" for text in texts(len(rows), seed)]
        theirs = []
        for row, text in zip(rows, answers, strict=True):
            found = task.sparbench_process_results(copy.deepcopy(row), [text])["sparbench_score"]
            keys = ("accuracy", "MRA:.5:.95:.05", "vci_metric")
            theirs.append(next(float(found[key]) for key in keys if key in found))
        assert in_order("spar-bench", tmp_path, answers) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("form", ["", "_json"])
def test_pointing(form, tmp_path):
    rows = sets.point_rows()
    sets.parquet(tmp_path / "w" / "data" / "test-0.parquet", rows)
    for split in ("location", "placement", "unseen"):
        sets.parquet(tmp_path / "r" / "data" / f"{split}-0.parquet", rows)
    documents = [{**row, "mask": image(row["mask"])} for row in rows]
    rule = "lmms-eval-json" if form else "lmms-eval"
    for seed in range(4):
        answers = texts(len(rows), seed)
        pairs = list(zip(documents, answers, strict=True))
        score = getattr(utils("where2place"), f"where2place_process_results{form}")
        theirs = [float(score(row, [text])["where2place_acc"]["accuracy"]) for row, text in pairs]
        assert in_order("where2place", tmp_path / "w", answers, rule) == pytest.approx(theirs, abs=1e-9)
        score = getattr(utils("refspatial"), f"refspatial_process_results{form}")
        theirs = [float(score(row, [text])["refspatial_acc"]["accuracy"]) for row, text in pairs]
        found = in_order("refspatial-bench", tmp_path / "r", answers * 3, rule)
        assert found == pytest.approx(theirs * 3, abs=1e-9)


def test_robospatial_home(tmp_path):
    task = utils("robo_spatial")
    rows = [
        row
        for kind in ("configuration", "context", "compatibility")
        for row in sets.robospatial_rows(kind, 12)
    ]
    for kind in ("configuration", "context", "compatibility"):
        sets.parquet(
            tmp_path / "data" / f"{kind}-0.parquet", [row for row in rows if row["category"] == kind]
        )
    documents = [{**row, **task._save_mask(row)} for row in rows]
    for seed in range(6):
        answers = texts(len(rows), seed)
        pairs = zip(documents, answers, strict=True)
        theirs = [
            float(task.robo_spatial_process_results_generation(row, [text])["score"]) for row, text in pairs
        ]
        assert in_order("robospatial-home", tmp_path, answers) == theirs
