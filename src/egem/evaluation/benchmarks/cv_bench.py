"""CV-Bench (Tong et al. 2024, nyu-visionx/CV-Bench): counting, relation, depth and distance in one image.

The authors' score is the mean of a 2D score (itself the mean over ADE20K and COCO) and a 3D score (Omni3D);
lmms-eval averages over all questions.
"""

from dataclasses import replace

from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Cells
from egem.evaluation.benchmarks.public import (
    PublicBenchmark,
    Rule,
    choice_entry,
    choose_rule,
    is_letter,
    letters_of,
)
from egem.evaluation.benchmarks.source import Source
from egem.evaluation.parsing import leading_letter, token_letter
from egem.evaluation.totals import Part
from egem.records import Record

NAME, HUB_ID = "cv-bench", "nyu-visionx/CV-Bench"
TOTALS: dict[str, Part] = {
    "CV-Bench": (("ADE20K", "COCO"), "Omni3D"),
    "2D": ("ADE20K", "COCO"),
    "3D": "Omni3D",
    "all questions alike": "all",
}


def _token(record: Record, text: str) -> float:
    return float(token_letter(text, record.answer.choices) == record.answer.text)


OFFICIAL = Rule(
    name="official",
    score=is_letter(leading_letter),
    totals=TOTALS,
    prompts={
        "": "Note: You only need to respond with {letters} without providing any additional information.\n"
        "\n{prompt}"
    },
    max_new_tokens=1024,
    reference="Cambrian-1, appendix C (averages); lmms-eval, tasks/cv_bench/utils.py (prompt and letter)",
)
RULES = (
    OFFICIAL,
    replace(
        OFFICIAL,
        name="lmms-eval",
        totals={"cv_bench_acc": "all", **TOTALS},
        reference="EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/cv_bench (micro average)",
    ),
    replace(
        OFFICIAL,
        name="vlmevalkit",
        score=_token,
        prompts={"": "{prompt}"},
        reference="open-compass/VLMEvalKit, image_mcq.py:CVBench with exact matching",
    ),
)


def cv_bench(options: BenchmarkOptions) -> Benchmark:
    """All 2,638 questions."""
    rule = choose_rule(NAME, RULES, options)
    columns = ("idx", "prompt", "choices", "answer", "type", "task", "source", "image")
    source = Source.open(NAME, HUB_ID, options)
    table = source.table(
        "test_[23]d*.parquet", "data/test-*.parquet", "**/test*.parquet", columns=columns, lazy=("image",)
    )
    types = {row["type"] for row in table.rows}
    if types != {"2D", "3D"}:
        raise source.incomplete(
            f"questions of both types 2D and 3D expected, found {', '.join(sorted(types))}"
        )
    entries = [
        choice_entry(
            benchmark=NAME,
            id=f"{row['type']}-{row['idx']}",
            skill=row["task"],
            prompt=rule.prompt(letters=letters_of(row["choices"]), prompt=row["prompt"]),
            target=row["answer"].strip("()"),
            options=row["choices"],
            media=Cells(table=table, row=index, columns=("image",)),
            scene=str(row.get("filename") or row["idx"]),
            labels=(row["source"], row["type"]),
        )
        for index, row in enumerate(table.rows)
    ]
    return PublicBenchmark.of(NAME, entries, rule, options)
