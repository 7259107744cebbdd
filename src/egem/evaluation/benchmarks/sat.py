"""SAT (Ray et al. 2025, array/SAT): spatial aptitude in motion, the test split of 150 real-image questions.

The authors' table says which answer is right but gives no order of options and asks that it be drawn at
random: here it is drawn once and for all from the question's text. lmms-eval's copy (nv-njb/SAT) has an order.
"""

import re

import numpy as np

from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Cells
from egem.evaluation.benchmarks.public import EVERYTHING, PublicBenchmark, Rule, choice_entry, choose_rule
from egem.evaluation.benchmarks.source import Source
from egem.evaluation.parsing import named_option
from egem.records import Record

NAME, HUB_ID, LMMS_HUB_ID = "sat", "array/SAT", "nv-njb/SAT"
_PROMPT = (
    "{question}\nWhen multiple images are provided, You want to realize that when camera moves left, the "
    "objects in the image move right, and vice versa. And when you are asked about the movement of the same "
    "object captured in different images, you can compare the position of the object relative to other "
    "objects in the image to answer the question.\n\n{options}\n"
    "Only output the letter of the correct option and nothing else."
)


def _named(record: Record, text: str) -> float:
    return float(named_option(text, record.meta["options"]) == record.answer.text)


def _first_word(record: Record, text: str) -> float:
    """What is left of the first word without punctuation; case does not matter."""
    words = re.sub(r"[^\w\s]", "", text).strip().split(" ")
    return float(re.sub(r"[^\w\s]|_", "", words[0]).lower() == record.answer.text.lower())


RULES = (
    Rule(
        name="egem",
        score=_named,
        totals=EVERYTHING,
        prompts={"": _PROMPT},
        max_new_tokens=16,
        reference="array/SAT (options in an order drawn from the question); prompt of lmms-eval",
    ),
    Rule(
        name="lmms-eval",
        score=_first_word,
        totals=EVERYTHING,
        prompts={"": _PROMPT},
        max_new_tokens=16,
        reference="EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/sat/utils.py (data nv-njb/SAT)",
    ),
)


def sat(options: BenchmarkOptions) -> Benchmark:
    """The test split."""
    rule = choose_rule(NAME, RULES, options)
    in_order = rule.name == "lmms-eval"
    right = "correct_answer_idx" if in_order else "correct_answer"
    source = Source.open(NAME, LMMS_HUB_ID if in_order else HUB_ID, options)
    table = source.table(
        "SAT_test.parquet",
        "data/test-*.parquet",
        columns=("image_bytes", "question", "answers", right),
        lazy=("image_bytes",),
    )
    entries = []
    for index, row in enumerate(table.rows):
        answers = list(row["answers"])
        if in_order:
            target = int(row[right])
        else:
            if row[right] not in answers:
                raise source.incomplete(f"row {index + 1} has the answer {row[right]!r}, which is no option")
            seed = np.frombuffer(row["question"].encode()[:64].ljust(64), np.uint32)
            order = np.random.default_rng(seed).permutation(len(answers))
            answers = [answers[place] for place in order]
            target = answers.index(row[right])
        listed = "".join(f"{'ABCDEFGH'[place]}. {answer}\n" for place, answer in enumerate(answers))
        entries.append(
            choice_entry(
                benchmark=NAME,
                id=str(index),
                skill=row.get("question_type") or "dynamic",
                prompt=rule.prompt(question=row["question"].strip(), options=listed),
                target="ABCDEFGH"[target],
                options=answers,
                media=Cells(table=table, row=index, columns=("image_bytes",)),
                scene=str(index),
                num_images=None,
            )
        )
    return PublicBenchmark.of(NAME, entries, rule, options)
