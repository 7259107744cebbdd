"""RoboAfford-Eval (Hao et al. 2025, tyb197/RoboAfford): where to touch and where to put, 338 questions.

The repository holds `annotations_normxy.json` (fractions; asked here) and `annotations_absxy.json` (pixels),
`images/` and `masks/`. The score of an answer is the share of its points inside the mask.
"""

import numpy as np

from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Files
from egem.evaluation.benchmarks.pointing import point_entry, read_mask
from egem.evaluation.benchmarks.public import EVERYTHING, PublicBenchmark, Rule, choose_rule
from egem.evaluation.benchmarks.source import Source
from egem.evaluation.measures import mask_share
from egem.evaluation.parsing import loose_points
from egem.records import Record

NAME, HUB_ID = "roboafford-eval", "tyb197/RoboAfford"


def _share(record: Record, text: str) -> float:
    """Points that all lie in 0..1 are fractions, otherwise all are pixels; rounded to the nearest pixel."""
    points = loose_points(text)
    inside = read_mask(record) > 0.5
    height, width = inside.shape
    fractions = all(0 <= value <= 1 for point in points for value in point)
    scale = (width, height) if fractions else (1, 1)
    try:
        pixels = [(round(x * scale[0]), round(y * scale[1])) for x, y in points]
    except OverflowError:
        return 0.0
    far = max((abs(value) for pixel in pixels for value in pixel), default=0)
    if far > np.iinfo(np.int64).max:
        return 0.0
    return mask_share(inside.astype(np.float64), np.array(pixels, dtype=np.int64).reshape(-1, 2))


RULES = (
    Rule(
        name="official",
        score=_share,
        totals={
            **EVERYTHING,
            **{kind: kind for kind in ("object affordance", "object reference", "spatial affordance")},
        },
        prompts={"": "{question}"},
        max_new_tokens=1024,
        reads_media=True,
        reference="tyb197/RoboAfford, evaluation.py (a missing mask is an error here, a 0 there)",
    ),
)


def roboafford_eval(options: BenchmarkOptions) -> Benchmark:
    """All questions, asked for fractions."""
    rule = choose_rule(NAME, RULES, options)
    source = Source.open(NAME, HUB_ID, options)
    table = source.table("annotations_normxy.json", columns=("category", "question", "img", "mask"))
    entries = [
        point_entry(
            benchmark=NAME,
            id=str(index),
            skill=row["category"],
            prompt=rule.prompt(question=row["question"]),
            media=Files(
                paths=(source.folder / "images" / row["img"],), mask=source.folder / "masks" / row["mask"]
            ),
            scene=row["img"],
        )
        for index, row in enumerate(table.rows)
    ]
    return PublicBenchmark.of(NAME, entries, rule, options)
