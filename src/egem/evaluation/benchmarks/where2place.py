"""Where2Place (Yuan et al. 2024, wentao-yuan/where2place): free space pointed at, 100 images.

The score of an answer is the mean of the mask over its points. Read from the authors' folder
(`point_questions.jsonl`, `images/`, `masks/`) or from FlagEval/Where2Place.
"""

from functools import partial

from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Cells, Files
from egem.evaluation.benchmarks.pointing import point_entry, rounded, share_inside
from egem.evaluation.benchmarks.public import EVERYTHING, PublicBenchmark, Rule, choose_rule
from egem.evaluation.benchmarks.source import Source
from egem.evaluation.parsing import listed_points, tuple_points

NAME, HUB_ID = "where2place", "FlagEval/Where2Place"
_TUPLES = (
    "Your answer should be formatted as a list of tuples, i.e. [(x1, y1), (x2, y2), ...], where each tuple "
    "contains the x and y coordinates of a point satisfying the conditions above. The coordinates should be "
    "between 0 and 1, indicating the normalized pixel locations of the points in the image."
)
RULES = (
    Rule(
        name="official",
        score=share_inside(partial(tuple_points, boxes="like points")),
        totals=EVERYTHING,
        prompts={"": f"{{question}} {_TUPLES}"},
        max_new_tokens=1024,
        reads_media=True,
        reference="wentaoyuan/RoboPoint, robopoint/eval/summarize_vqa.py (sizes of the mask, not 640 x 480)",
    ),
    Rule(
        name="lmms-eval",
        score=share_inside(partial(tuple_points, integers="fractions"), rounded),
        totals=EVERYTHING,
        prompts={"": f"{{question}} {_TUPLES} Return only list of tuples, don't add anything else."},
        max_new_tokens=1024,
        reads_media=True,
        reference="EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/where2place/utils.py (where2place)",
    ),
    Rule(
        name="lmms-eval-json",
        score=share_inside(listed_points, rounded),
        totals=EVERYTHING,
        prompts={
            "": "{question} Your answer should be JSON format. The coordinates should be between 0 and 1000, "
            "indicating the normalized pixel locations of the points in the image."
        },
        max_new_tokens=1024,
        reads_media=True,
        reference="EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/where2place/utils.py (where2place_json)",
    ),
)


def where2place(options: BenchmarkOptions) -> Benchmark:
    """All 100 questions."""
    rule = choose_rule(NAME, RULES, options)
    source = Source.open(NAME, HUB_ID, options)
    entries = []
    if (source.folder / "point_questions.jsonl").is_file():
        table = source.table("point_questions.jsonl", columns=("question_id", "image", "text"))
        for index, row in enumerate(table.rows):
            # The authors' text ends with their own words about the format.
            question = row["text"].removesuffix(_TUPLES).split(" Your answer should be")[0].strip()
            media = Files(
                paths=(source.folder / "images" / row["image"],),
                mask=source.folder / "masks" / f"{index:02d}.jpg",
            )
            entries.append(_entry(str(row["question_id"]), question, rule, media))
    else:
        table = source.table(
            "data/test-*.parquet",
            "*.parquet",
            columns=("question_id", "question", "image", "mask"),
            lazy=("image", "mask"),
        )
        for index, row in enumerate(table.rows):
            media = Cells(table=table, row=index, columns=("image",), mask="mask")
            entries.append(_entry(str(row["question_id"]), row["question"], rule, media))
    return PublicBenchmark.of(NAME, entries, rule, options)


def _entry(id: str, question: str, rule: Rule, media):
    prompt = rule.prompt(question=question)
    return point_entry(benchmark=NAME, id=id, skill="placement", prompt=prompt, media=media, scene=id)
