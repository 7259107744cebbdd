"""RefSpatial-Bench (Zhou et al. 2025, BAAI/RefSpatial-Bench): objects and free places referred to in steps.

Splits location (100), placement (100) and unseen (77). Quoted are the splits, or the mean over location and
placement ("without unseen"). A mask in which anything above nothing is inside; the mean over all points.
"""

from functools import partial
from typing import Any

import numpy as np

from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Cells, Files, Media
from egem.evaluation.benchmarks.pointing import Points, binary, point_entry, rounded, share_inside
from egem.evaluation.benchmarks.public import EVERYTHING, PublicBenchmark, Rule, choose_rule
from egem.evaluation.benchmarks.source import Source
from egem.evaluation.parsing import listed_points, point_2d_list, tuple_points
from egem.evaluation.totals import Part

NAME, HUB_ID = "refspatial-bench", "BAAI/RefSpatial-Bench"
SPLITS = ("location", "placement", "unseen")
SEEN = "location and placement"
TOTALS: dict[str, Part] = {**{split: split for split in SPLITS}, "without unseen": SEEN, **EVERYTHING}
_POINT_2D = (
    "Output the point coordinates in JSON format.\nFor example:\n[\n"
    '  {{"point_2d": [x, y], "label": "point_1"}}\n]\n'
)


def _clipped(text: str, width: int, height: int) -> np.ndarray:
    """VLMEvalKit's pixels: brought into the image, then rounded."""
    points = point_2d_list(text, width, height) * (width, height)
    return np.clip(points, 0, (width - 1, height - 1)).round().astype(int)


def _rule(name: str, points: Points, prompt: str, reference: str, mask=binary) -> Rule:
    return Rule(
        name=name,
        score=share_inside(points, mask),
        totals=TOTALS,
        prompts={"": prompt},
        max_new_tokens=1024,
        reads_media=True,
        reference=reference,
    )


RULES = (
    _rule(
        "official",
        partial(tuple_points, boxes="fractions"),
        "{prompt} {suffix}",
        "Zhoues/RoboRefer, Evaluation/summarize_acc.py (an answer that it cannot read counts 0 here)",
    ),
    _rule(
        "lmms-eval",
        partial(tuple_points, integers="fractions"),
        "{prompt} {suffix} Return only list of tuples, don't add anything else.",
        "EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/refspatial/utils.py",
        rounded,
    ),
    _rule(
        "lmms-eval-json",
        listed_points,
        "Locate {object} in this image and output the point coordinates in JSON format.",
        "EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/refspatial/utils.py (*_json)",
        rounded,
    ),
    _rule(
        "vlmevalkit",
        _clipped,
        "{prompt}" + _POINT_2D,
        "open-compass/VLMEvalKit, vlmeval/dataset/refspatialbench.py",
    ),
)


def refspatial_bench(options: BenchmarkOptions) -> Benchmark:
    """All three splits."""
    rule = choose_rule(NAME, RULES, options)
    source = Source.open(NAME, HUB_ID, options)
    entries = []
    for split in SPLITS:
        for row, media in _rows(source, split):
            entries.append(
                point_entry(
                    benchmark=NAME,
                    id=f"{split}-{row['id']}",
                    skill=split,
                    prompt=rule.prompt(prompt=row["prompt"], suffix=row["suffix"], object=row["object"]),
                    media=media,
                    scene=f"{split}-{row['id']}",
                    labels=() if split == "unseen" else (SEEN,),
                )
            )
    return PublicBenchmark.of(NAME, entries, rule, options)


def _rows(source: Source, split: str) -> list[tuple[dict[str, Any], Media]]:
    columns = ("id", "object", "prompt", "suffix")
    if any(source.folder.glob(f"data/{split}-*.parquet")):
        images = ("image", "mask")
        table = source.table(f"data/{split}-*.parquet", columns=(*columns, *images), lazy=images)
        cells = [Cells(table=table, row=row, columns=("image",), mask="mask") for row in range(len(table))]
        return list(zip(table.rows, cells, strict=True))
    table = source.table(f"{split.capitalize()}/question.json", f"{split}/question.json", columns=columns)
    home = table.paths[0].parent
    return [
        (
            row,
            Files(
                paths=(home / row.get("rgb_path", f"image/{row['id']}.png"),),
                mask=home / row.get("mask_path", f"mask/{row['id']}.png"),
            ),
        )
        for row in table.rows
    ]
