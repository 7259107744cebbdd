"""RoboSpatial-Home (Song et al. 2025, chanhee-luke/RoboSpatial-Home): yes or no, and free space, in homes.

350 questions: configuration and compatibility (yes or no), context (point at free space). The authors take
the first point and test it against a polygon; lmms-eval takes any point inside a mask.
"""

import ast
import re
from pathlib import Path
from typing import Any

from egem.core.errors import RecordError
from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Cells, Files, Media
from egem.evaluation.benchmarks.pointing import binary, point_entry, read_mask
from egem.evaluation.benchmarks.public import EVERYTHING, Entry, PublicBenchmark, Rule, choose_rule, entry
from egem.evaluation.benchmarks.source import Source
from egem.evaluation.measures import in_polygon
from egem.evaluation.parsing import first_point, json_points, leading_yes_no, only_yes_no, point_2d_list
from egem.evaluation.totals import Part
from egem.media import decode_image
from egem.records import Answer, Record

NAME, HUB_ID = "robospatial-home", "chanhee-luke/RoboSpatial-Home"
CATEGORIES = ("configuration", "context", "compatibility")
TOTALS: dict[str, Part] = {**EVERYTHING, **{category: category for category in CATEGORIES}}
_YES_NO, _POINT = "yes or no", "point"
_TOLD = (
    "Your answer should be formatted as a list of tuples, i.e. [(x1, y1), ...], where each tuple contains the x "
    "and y coordinates of a point satisfying the conditions above. The coordinates should be between 0 and 1, "
    "indicating the normalized pixel locations of the points.",
    "Answer yes or no.",
)


def _polygon(record: Record) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in record.meta["polygon"]]


def _official(record: Record, text: str) -> float:
    if record.answer.kind == "choice":
        return float(leading_yes_no(text) == (record.answer.text == "yes"))
    point = first_point(text)
    return float(point is not None and in_polygon(*point, _polygon(record)))


def _vlmevalkit(record: Record, text: str) -> float:
    if record.answer.kind == "choice":
        return _official(record, text)
    height, width = decode_image(record.images[0], where=record.id).shape[:2]
    points = point_2d_list(text, width, height)
    return float(len(points) > 0 and in_polygon(points[0, 0], points[0, 1], _polygon(record), edges=True))


def _lmms_eval(record: Record, text: str) -> float:
    for tag in ("</think>", "</thought>"):
        text = text.split(tag, 1)[-1]
    tagged = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL | re.IGNORECASE)
    text = (tagged.group(1) if tagged else text).strip()
    if record.answer.kind == "choice":
        return float(only_yes_no(text) == (record.answer.text == "yes"))
    mask = binary(read_mask(record))
    height, width = mask.shape
    points = json_points(text, width, height)
    return float(any(0 <= x < width and 0 <= y < height and mask[y, x] > 0 for x, y in points))


RULES = (
    Rule(
        name="official",
        score=_official,
        totals=TOTALS,
        prompts={_YES_NO: "{question}", _POINT: "{question}"},
        max_new_tokens=512,
        reference="chanhee-luke/RoboSpatial-Eval, evaluation.py",
    ),
    Rule(
        name="lmms-eval",
        score=_lmms_eval,
        totals=TOTALS,
        prompts={
            _YES_NO: "{bare}\nYour task is to answer the question above. Respond with a brief explanation if "
            "needed, followed by a yes or no answer in the last line of your response.\n\n    Format your final "
            "answer strictly as follows on the last line of your response:\n    Answer: yes or no\n\n    Do not "
            "include additional text after this line.\n    ",
            _POINT: "{bare}\nYour task is to identify specific points in the image based on the question. Respond "
            "with a brief explanation if needed, followed by a list of 2D point coordinates.\n\n    The points "
            "should be in JSON format and normalized to the range [0, 1000].\n\n    Do not include additional "
            "text after this line.\n    ",
        },
        max_new_tokens=512,
        reads_media=True,
        centre='```json\n[{"point_2d": [500, 500]}]\n```',
        reference="EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/robo_spatial/utils.py",
    ),
    Rule(
        name="vlmevalkit",
        score=_vlmevalkit,
        totals=TOTALS,
        prompts={
            _YES_NO: "{question}",
            _POINT: "{shorter}\n\nOutput the point coordinates in JSON format.\nFor example:\n[\n"
            '  {{"point_2d": [x, y], "label": "point_1"}}\n]\n',
        },
        max_new_tokens=512,
        reads_media=True,
        reference="open-compass/VLMEvalKit, vlmeval/dataset/robospatialbench.py",
    ),
)


def robospatial_home(options: BenchmarkOptions) -> Benchmark:
    """All three categories."""
    rule = choose_rule(NAME, RULES, options)
    source = Source.open(NAME, HUB_ID, options)
    entries = []
    columns = ("category", "question", "answer", "img")
    if any(source.folder.glob("data/*.parquet")):
        for category in CATEGORIES:
            table = source.table(
                f"data/{category}-*.parquet", columns=columns, lazy=("img", "depth_image", "mask")
            )
            for index, row in enumerate(table.rows):
                mask = "mask" if rule.name == "lmms-eval" and category == "context" else None
                media = Cells(table=table, row=index, columns=("img",), mask=mask)
                entries.append(_entry(row, f"{category}-{index}", rule, media, source))
    else:
        table = source.table("annotations.json", "*.json", columns=columns)
        for index, row in enumerate(table.rows):
            folder: Path = source.folder
            mask = folder / row["mask"] if rule.name == "lmms-eval" and row.get("mask") else None
            media = Files(paths=(folder / row["img"],), mask=mask)
            entries.append(_entry(row, f"{row['category']}-{index}", rule, media, source))
    return PublicBenchmark.of(NAME, entries, rule, options)


def _entry(row: dict[str, Any], id: str, rule: Rule, media: Media, source: Source) -> Entry:
    question, right = row["question"], str(row["answer"]).strip()
    bare = question
    for told in _TOLD:
        bare = bare.replace(told, "").strip()
    shorter = question.split("Your answer should")[0].strip()
    kind = _YES_NO if right.lower() in ("yes", "no") else _POINT
    prompt = rule.prompt(kind, question=question, bare=bare, shorter=shorter)
    common = {
        "benchmark": NAME,
        "id": id,
        "skill": row["category"],
        "prompt": prompt,
        "media": media,
        "scene": id,
    }
    if kind == _YES_NO:
        answer = Answer(kind="choice", text=right.lower(), choices=("yes", "no"))
        return entry(**common, answer=answer, meta={"options": ["yes", "no"]})
    try:
        polygon = [[float(x), float(y)] for x, y in ast.literal_eval(right)]
    except (ValueError, SyntaxError, TypeError):
        polygon = []
    if len(polygon) < 3:
        raise RecordError(
            f"benchmark {NAME}, question {id}: the answer {right[:40]!r} is neither yes or no nor a polygon; "
            f"the copy in {source.folder} is damaged."
        )
    return point_entry(**common, meta={"polygon": polygon})
