"""Small copies of public benchmarks in the layouts they are published in, with made-up questions."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

LETTERS = "ABCD"
SIZE = (12, 16)
"""Height and width of images and masks."""


def png(seed: int, size: tuple[int, int] = SIZE) -> bytes:
    """A small picture."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return encoded(pixels)


def mask(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A rectangle of 255 in a field of 0."""
    rng = np.random.default_rng(seed)
    field = np.zeros(size, np.uint8)
    top, left = rng.integers(0, size[0] // 2), rng.integers(0, size[1] // 2)
    field[top : top + size[0] // 2, left : left + size[1] // 2] = 255
    return field


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    """Pixels as an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, quality=95)
    return buffer.getvalue()


def cell(data: bytes) -> dict[str, Any]:
    """An image as the hub's `datasets` stores it."""
    return {"bytes": data, "path": None}


def parquet(path: Path, rows: Sequence[dict[str, Any]], *, row_group_size: int = 10) -> Path:
    """Rows as a Parquet file with several row groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=row_group_size)
    return path


def jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def save(path: Path, data: bytes) -> Path:
    """A file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def vsi_rows(num: int = 44) -> list[dict[str, Any]]:
    """Questions of all ten types about eleven videos."""
    from egem.evaluation.benchmarks.vsi_bench import CHOICES, NUMBERS

    rng = np.random.default_rng(0)
    kinds = (*NUMBERS, *CHOICES)
    rows = []
    for index in range(num):
        kind = kinds[index % len(kinds)]
        is_number = kind in NUMBERS
        rows.append(
            {
                "id": index,
                "dataset": ("scannet", "arkitscenes")[index % 2],
                "scene_name": f"scene{index % 11:04d}",
                "question_type": kind,
                "question": f"What about object {index}?",
                "options": None if is_number else [f"{letter}. thing {letter}" for letter in LETTERS],
                "ground_truth": f"{rng.uniform(1, 9):.1f}" if is_number else LETTERS[index % 4],
            }
        )
    return rows


def cv_rows(num: int = 40) -> list[dict[str, Any]]:
    """Questions of the three sources."""
    rows = []
    for index in range(num):
        source = ("ADE20K", "COCO", "Omni3D", "Omni3D")[index % 4]
        choices = [f"{index + place}" for place in range(4)]
        listed = "\n".join(f"({letter}) {text}" for letter, text in zip(LETTERS, choices, strict=True))
        rows.append(
            {
                "idx": index,
                "type": "3D" if source == "Omni3D" else "2D",
                "task": ("Count", "Relation", "Depth", "Distance")[index % 4],
                "image": cell(png(index)),
                "question": f"How many {index}?",
                "choices": choices,
                "answer": f"({LETTERS[(index * 7) % 4]})",
                "prompt": f"How many {index}? Select from the following choices.\n{listed}",
                "filename": f"{index // 2}.png",
                "source": source,
            }
        )
    return rows


def embspatial_rows(num: int = 36) -> list[dict[str, Any]]:
    """Questions of three data sets and six relations."""
    return [
        {
            "question_id": f"q{index}",
            "question": f"Which is {index}?",
            "answer_options": [f"the {name} {index}" for name in ("cup", "pot", "pan", "jar")],
            "answer": index % 4,
            "relation": ("close", "far", "left", "right", "above", "under")[index % 6],
            "data_source": ("ai2thor", "mp3d", "scannet")[index % 3],
            "image": cell(png(index)),
        }
        for index in range(num)
    ]


def blink_rows(task: str, num: int) -> list[dict[str, Any]]:
    """Questions of one task, with one or two images."""
    return [
        {
            "idx": f"val_{task}_{index + 1}",
            "sub_task": task,
            "question": f"Which {index}?",
            "image_1": cell(png(index)),
            "image_2": cell(png(index + 50)) if index % 2 else None,
            "image_3": None,
            "image_4": None,
            "choices": ["point A", "point B"],
            "answer": f"({'AB'[index % 2]})",
            "prompt": f"Which {index}?\nSelect from the following choices.\n(A) point A\n(B) point B",
        }
        for index in range(num)
    ]


def mmsi_rows(num: int = 33) -> list[dict[str, Any]]:
    """Questions with two images each; the dash of one category is a long one, as published."""
    kinds = ("Positional Relationship (Cam.\u2013Obj.)", "Motion (Obj.)", "MSR")
    return [
        {
            "id": index,
            "images": [png(index), png(index + 1)],
            "question_type": kinds[index % 3],
            "question": f"Where is {index}?\nOptions: A: left, B: right, C: above, D: below",
            "answer": LETTERS[(index * 3) % 4],
        }
        for index in range(num)
    ]


def sat_rows(num: int = 32) -> list[dict[str, Any]]:
    """Two options each, in lmms-eval's copy as well."""
    return [
        {
            "image_bytes": [cell(png(index))] * (1 + index % 2),
            "question": f"Did the camera turn {index}?",
            "answers": ["rotated left", "rotated right"],
            "correct_answer": ("rotated left", "rotated right")[index % 2],
            "correct_answer_idx": index % 2,
            "question_type": ("ego", "object")[index % 2],
        }
        for index in range(num)
    ]


def realworld_rows(num: int = 32) -> list[dict[str, Any]]:
    """Choices and short answers."""
    rows = []
    for index in range(num):
        is_choice = index % 4 != 3
        question = f"Which way {index}?\n\nA. left\nB. right\nC. ahead" if is_choice else f"How many {index}?"
        answer = "ABC"[index % 3] if is_choice else str(index % 5)
        rows.append({"image": cell(png(index)), "question": question, "answer": answer})
    return rows


def mindcube_rows(num: int = 32) -> list[dict[str, Any]]:
    """The authors' raw rows."""
    kinds = ("rotation", "among", "around", "aroundnew")
    return [
        {
            "id": f"{kinds[index % 4]}_group{index // 4}_q{index}",
            "category": ["x"],
            "type": "y",
            "question": f"What is behind view {index}? A. Chair B. Table C. Plant D. Window",
            "images": [f"other_all_image/{index}_0.png", f"other_all_image/{index}_1.png"],
            "gt_answer": LETTERS[(index * 5) % 4],
        }
        for index in range(num)
    ]


def erqa_rows(num: int = 30) -> list[dict[str, Any]]:
    """Some with images inside the question."""
    return [
        {
            "question_id": f"ERQA_{index}",
            "question": f"First look. Then say {index}. Choices: A. yes. B. no. C. both. D. none. Please answer.",
            "question_type": ("Pointing", "Task Reasoning")[index % 2],
            "images": [cell(png(index)), cell(png(index + 9))],
            "visual_indices": [0, 0] if index % 2 else [0, 12],
            "answer": LETTERS[index % 4],
        }
        for index in range(num)
    ]


def spar_rows(num: int = 60) -> list[dict[str, Any]]:
    """Every task three times."""
    from egem.evaluation.benchmarks.spar_bench import HIGH, LOW, MATCHING, MOTION

    rng = np.random.default_rng(1)
    tasks = (*LOW, MOTION, *MATCHING, *HIGH)
    rows = []
    for index in range(num):
        task = tasks[index % len(tasks)]
        if task in LOW:
            answer = f"{rng.uniform(0.5, 4):.1f}"
        elif task == MOTION:
            answer = (
                f"move_right:{rng.uniform(0.1, 1):.1f},move_up:0.0,rotate_left:{int(rng.integers(1, 40))}"
            )
        else:
            answer = LETTERS[index % 4]
        rows.append(
            {
                "id": f"scene{index % 9:04d}_00_{index}",
                "task": task,
                "question": f"Question {index}?",
                "answer": answer,
                "image": [cell(png(index))] * (1 + index % 2),
            }
        )
    return rows


def point_rows(num: int = 34) -> list[dict[str, Any]]:
    """Questions with a mask, as FlagEval and BAAI publish them."""
    return [
        {
            "question_id": index,
            "id": index,
            "question": f"Point at free space {index}.",
            "object": f"thing {index}",
            "prompt": f"Point at thing {index}.",
            "suffix": "Answer as [(x, y)].",
            "image": cell(png(index)),
            "mask": cell(encoded(mask(index))),
        }
        for index in range(num)
    ]


def robospatial_rows(category: str, num: int) -> list[dict[str, Any]]:
    """Yes or no, or a polygon with a mask."""
    rows = []
    for index in range(num):
        is_point = category == "context"
        field = mask(index)
        ys, xs = np.nonzero(field)
        (left, right), (top, bottom) = (
            (xs.min() / 16, (xs.max() + 1) / 16),
            (ys.min() / 12, (ys.max() + 1) / 12),
        )
        # Not quite upright: VLMEvalKit takes a vertical edge for crossed wherever the point is.
        polygon = [(left + 1e-6, top), (right, top), (right - 1e-6, bottom), (left, bottom)]
        told = "Your answer should be formatted as a list of tuples, i.e. [(x1, y1)]." if is_point else ""
        rows.append(
            {
                "category": category,
                "question": f"{category} {index}? {told or 'Answer yes or no.'}",
                "answer": str([(float(x), float(y)) for x, y in polygon])
                if is_point
                else ("yes", "no")[index % 2],
                "img": cell(png(index)),
                "depth_image": None,
                "mask": cell(encoded(field)) if is_point else None,
            }
        )
    return rows


def base64_of(data: bytes) -> str:
    """Bytes as text, as JSON files hold images."""
    return base64.b64encode(data).decode()
