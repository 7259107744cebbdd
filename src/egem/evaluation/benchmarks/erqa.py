"""ERQA (Gemini Robotics team 2025, embodiedreasoning/ERQA): 400 questions of embodied reasoning.

Read from FlagEval/ERQA. Images stand inside the question where `visual_indices` says so.
"""

from collections.abc import Sequence

from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Cells
from egem.evaluation.benchmarks.public import (
    EVERYTHING,
    PublicBenchmark,
    Rule,
    choice_entry,
    choose_rule,
    is_letter,
    options_of,
)
from egem.evaluation.benchmarks.source import Source
from egem.evaluation.parsing import ranked_letter, tail_letter
from egem.records import IMAGE_MARK, Record

NAME, HUB_ID = "erqa", "FlagEval/ERQA"


def _exact(record: Record, text: str) -> float:
    return float(text.replace(".", "").strip().lower() == record.answer.text.lower())


RULES = (
    Rule(
        name="official",
        score=_exact,
        totals=EVERYTHING,
        prompts={"": "{question}"},
        max_new_tokens=1024,
        reference="embodiedreasoning/ERQA, eval_harness.py (the answer without dots is the letter)",
    ),
    Rule(
        name="lmms-eval",
        score=is_letter(lambda text: ranked_letter(text, ("A", "B", "C", "D"))),
        totals=EVERYTHING,
        prompts={"": "{question}"},
        max_new_tokens=1024,
        reference="EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/erqa/utils.py (images before the text)",
    ),
    Rule(
        name="vlmevalkit",
        score=is_letter(tail_letter),
        totals=EVERYTHING,
        prompts={"": "{question}"},
        max_new_tokens=1024,
        reference="open-compass/VLMEvalKit, vlmeval/dataset/erqabench.py",
    ),
)


def erqa(options: BenchmarkOptions) -> Benchmark:
    """All questions."""
    rule = choose_rule(NAME, RULES, options)
    table = Source.open(NAME, HUB_ID, options).table(
        "data/test-*.parquet",
        "*.parquet",
        columns=("question_id", "question", "question_type", "images", "answer"),
        lazy=("images",),
    )
    entries = []
    for index, row in enumerate(table.rows):
        question, target = row["question"], row["answer"].strip().upper()
        marks = list(row.get("visual_indices") or ())
        inside = rule.name != "lmms-eval" and any(marks)
        entries.append(
            choice_entry(
                benchmark=NAME,
                id=str(row["question_id"]),
                skill=row["question_type"],
                category="planning",
                prompt=rule.prompt(question=interleaved(question, marks) if inside else question),
                target=target,
                options=options_of(question, target),
                media=Cells(table=table, row=index, columns=("images",)),
                scene=str(row["question_id"]),
                num_images=None,
            )
        )
    return PublicBenchmark.of(NAME, entries, rule, options)


def interleaved(question: str, places: Sequence[int]) -> str:
    """The question with an image mark at each of these characters, in order; beyond its end at its end."""
    parts, done = [], 0
    for place in sorted(places):
        parts += [question[done : max(place, done)], IMAGE_MARK]
        done = max(place, done)
    return "".join([*parts, question[done:]])
