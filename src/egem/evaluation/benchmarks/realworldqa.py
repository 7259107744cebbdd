"""RealWorldQA (xAI 2024, lmms-lab/RealWorldQA): 765 questions about photographs, many from vehicles.

The questions hold their options and say how to answer. xAI published no scorer.
"""

from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Cells
from egem.evaluation.benchmarks.public import (
    EVERYTHING,
    PublicBenchmark,
    Rule,
    choice_entry,
    choose_rule,
    entry,
    options_of,
)
from egem.evaluation.benchmarks.source import Source
from egem.evaluation.parsing import ranked_letter, token_letter
from egem.records import Answer, Record

NAME, HUB_ID = "realworldqa", "lmms-lab/RealWorldQA"
LETTERS = ("A", "B", "C", "D")


def _ranked(record: Record, text: str) -> float:
    if record.answer.kind == "choice":
        return float(ranked_letter(text, LETTERS) == record.answer.text)
    return float(text.lower().strip().rstrip(".") == record.answer.text.lower())


def _token(record: Record, text: str) -> float:
    if record.answer.kind == "choice":
        return float(token_letter(text, LETTERS) == record.answer.text)
    return _ranked(record, text)


RULES = (
    Rule(
        name="lmms-eval",
        score=_ranked,
        totals=EVERYTHING,
        prompts={"": "{question}"},
        max_new_tokens=16,
        reference="EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/realworldqa/utils.py",
    ),
    Rule(
        name="vlmevalkit",
        score=_token,
        totals=EVERYTHING,
        prompts={"": "{question}"},
        max_new_tokens=16,
        reference="open-compass/VLMEvalKit, utils/matching_util.py (letters only; other answers as lmms-eval)",
    ),
)


def realworldqa(options: BenchmarkOptions) -> Benchmark:
    """All questions."""
    rule = choose_rule(NAME, RULES, options)
    table = Source.open(NAME, HUB_ID, options).table(
        "data/test-*.parquet", "*.parquet", columns=("question", "answer", "image"), lazy=("image",)
    )
    entries = []
    for index, row in enumerate(table.rows):
        question, right = row["question"].strip(), row["answer"].strip()
        is_choice = right.upper() in LETTERS
        common = {
            "benchmark": NAME,
            "id": str(index),
            "prompt": rule.prompt(question=question),
            "media": Cells(table=table, row=index, columns=("image",)),
            "scene": str(row.get("image_path") or index),
        }
        if is_choice:
            listed = options_of(question, right.upper())
            entries.append(choice_entry(**common, skill="choice", target=right.upper(), options=listed))
        else:
            entries.append(entry(**common, skill="short answer", answer=Answer(kind="text", text=right)))
    return PublicBenchmark.of(NAME, entries, rule, options)
