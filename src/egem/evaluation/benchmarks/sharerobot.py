"""ShareRobot-Bench (Ji et al. 2025, BAAI/ShareRobot-Bench): where a gripper touches, and how it moves.

`affordance/test.json` (a box) and `trajectory/test.json` (a curve) beside their `images/`. RoboBrain's paper
reports discrete Fréchet distance, Hausdorff distance and RMSE of curves without publishing the code; here
they are in fractions of the image, and the score that has an interval is 1 where the project's own criterion
holds: intersection over union of at least 0.5, or a mean distance of at most 80 thousandths.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from egem.core.errors import RecordError
from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Files
from egem.evaluation.benchmarks.public import EVERYTHING, Entry, PublicBenchmark, Rule, choose_rule, entry
from egem.evaluation.benchmarks.source import Source
from egem.evaluation.parsing import any_points, box_values
from egem.records import COORDINATE_RANGE, Answer, Record
from egem.scoring import BOX_IOU, TRAJECTORY_RADIUS, box_iou, resample_curve, trajectory_distance

NAME, HUB_ID = "sharerobot", "BAAI/ShareRobot-Bench"
FARTHEST = float(np.sqrt(2))
"""What an answer without a curve counts: the image's diagonal, in fractions of its sides."""


def _score(record: Record, text: str) -> dict[str, float]:
    if record.answer.kind == "box":
        box = box_values(text)
        overlap = 0.0 if box is None else box_iou(box, record.answer.box or (0, 0, 0, 0))
        return {"score": float(overlap >= BOX_IOU), "affordance IoU": overlap}
    points = any_points(text)
    if not points:
        return {"score": 0.0, **dict.fromkeys(("DFD", "HD", "RMSE"), FARTHEST)}
    near = trajectory_distance(points, record.answer.points) <= TRAJECTORY_RADIUS
    ours, theirs = (
        np.array(curve, np.float64) / COORDINATE_RANGE for curve in (points, record.answer.points)
    )
    return {"score": float(near), **curve_distances(ours, theirs)}


def curve_distances(first: Float[np.ndarray, "n 2"], second: Float[np.ndarray, "m 2"]) -> dict[str, float]:
    """Discrete Fréchet (Eiter and Mannila 1994), Hausdorff, and RMSE after resampling the first.

    RMSE compares the curves at as many points as the second has, equally spaced along each.
    """
    gaps = np.linalg.norm(first[:, None] - second[None], axis=2)
    frechet = gaps.copy()
    for i in range(len(first)):
        for j in range(len(second)):
            before = [frechet[a, b] for a, b in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if a >= 0 and b >= 0]
            frechet[i, j] = max(gaps[i, j], min(before, default=0.0))
    num = max(len(second), 2)
    ours, theirs = ([(float(x), float(y)) for x, y in curve] for curve in (first, second))
    difference = resample_curve(ours, num) - resample_curve(theirs, num)
    return {
        "DFD": float(frechet[-1, -1]),
        "HD": float(max(gaps.min(axis=1).max(), gaps.min(axis=0).max())),
        "RMSE": float(np.sqrt(np.mean(np.sum(difference**2, axis=1)))),
    }


RULES = (
    Rule(
        name="egem",
        score=_score,
        totals={**EVERYTHING, "affordance": "affordance", "trajectory": "trajectory"},
        prompts={
            "affordance": "You are a robot using the joint control. The task is: {instruction}. Where should the "
            "gripper touch? Answer with one box [x1, y1, x2, y2] of integers between 0 and 1000.",
            "trajectory": "You are a robot using the joint control. The task is: {instruction}. Predict up to 10 "
            "key points of the end effector's way as a list [[x1, y1], [x2, y2], ...] of integers between 0 and "
            "1000.",
        },
        max_new_tokens=256,
        reference="data of BAAI/ShareRobot-Bench; no scorer was published",
    ),
)


def sharerobot(options: BenchmarkOptions) -> Benchmark:
    """Both parts."""
    rule = choose_rule(NAME, RULES, options)
    source = Source.open(NAME, HUB_ID, options)
    entries = []
    for part, needed in (("affordance", "affordance"), ("trajectory", "points")):
        table = source.table(
            f"{part}/test.json", f"{part}/{part}.json", columns=("id", "meta_data", "instruction", needed)
        )
        home = table.paths[0].parent
        entries += [_entry(part, index, row, home, rule) for index, row in enumerate(table.rows)]
    return PublicBenchmark.of(NAME, entries, rule, options)


def _entry(part: str, index: int, row: dict[str, Any], home: Path, rule: Rule) -> Entry:
    meta = row["meta_data"]
    width, height = meta["original_width"], meta["original_height"]
    name = row.get("image") or str(row["id"])
    candidates = [
        home / folder / f"{name}{suffix}" for folder in ("images", "") for suffix in ("", ".png", ".jpg")
    ]
    path = next((candidate for candidate in candidates if candidate.is_file()), candidates[0])

    def scaled(x: float, y: float) -> tuple[int, int]:
        found = round(x / width * COORDINATE_RANGE), round(y / height * COORDINATE_RANGE)
        return min(max(found[0], 0), COORDINATE_RANGE), min(max(found[1], 0), COORDINATE_RANGE)

    if part == "affordance":
        box = row["affordance"]
        left, top = float(box["x"]), float(box["y"])
        right, bottom = left + box["width"], top + box["height"]
        corners = (*scaled(left, top), *scaled(right, bottom))
        answer = Answer(kind="box", text=str(list(corners)), box=corners)
    else:
        points = tuple(scaled(float(x), float(y)) for x, y in row["points"])
        if not points:
            raise RecordError(f"benchmark {NAME}: trajectory {index} of {home} has no points.")
        answer = Answer(kind="trajectory", text=str([list(point) for point in points]), points=points)
    return entry(
        benchmark=NAME,
        id=f"{part}-{index}",
        skill=part,
        category="grounding",
        prompt=rule.prompt(part, instruction=row["instruction"]),
        answer=answer,
        media=Files(paths=(path,)),
        scene=str(name),
    )
