"""MMSI-Bench (Yang et al. 2025, RunsenXu/MMSI-Bench): spatial reasoning over several images, 1,000 questions."""

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
from egem.evaluation.parsing import enclosed_letter, tail_letter

NAME, HUB_ID = "mmsi-bench", "RunsenXu/MMSI-Bench"
_POST = (
    "Answer with the option's letter from the given choices directly. Enclose the option's letter within ``."
)
RULES = (
    Rule(
        name="official",
        score=is_letter(enclosed_letter),
        totals=EVERYTHING,
        prompts={"": f"{{question}}\n{_POST}"},
        max_new_tokens=2048,
        reference="InternRobotics/MMSI-Bench; the same in lmms-eval, lmms_eval/tasks/mmsi_bench/utils.py",
    ),
    Rule(
        name="lmms-eval",
        score=is_letter(enclosed_letter),
        totals=EVERYTHING,
        prompts={"": f"{{question}}\n{_POST}"},
        max_new_tokens=2048,
        reference="EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/mmsi_bench/utils.py",
    ),
    Rule(
        name="vlmevalkit",
        score=is_letter(tail_letter),
        totals=EVERYTHING,
        prompts={"": f"{{question}}\n{_POST}"},
        max_new_tokens=2048,
        reference="open-compass/VLMEvalKit, vlmeval/dataset/mmsibench.py (MMSIBench_wo_circular)",
    ),
)


def mmsi_bench(options: BenchmarkOptions) -> Benchmark:
    """All questions, each asked once (not circularly)."""
    rule = choose_rule(NAME, RULES, options)
    table = Source.open(NAME, HUB_ID, options).table(
        "MMSI_[Bb]ench.parquet",
        "data/test-*.parquet",
        "*.parquet",
        columns=("id", "images", "question_type", "question", "answer"),
        lazy=("images",),
    )
    entries = []
    for index, row in enumerate(table.rows):
        question = row["question"].strip()
        entries.append(
            choice_entry(
                benchmark=NAME,
                id=str(row["id"]),
                # Published with a dash or a hyphen between the two nouns.
                skill=row["question_type"].replace("\u2013", "-"),
                prompt=rule.prompt(question=question),
                target=row["answer"].strip().upper(),
                options=options_of(question, row["answer"].strip().upper()),
                media=Cells(table=table, row=index, columns=("images",)),
                scene=str(row["id"]),
                num_images=None,
            )
        )
    return PublicBenchmark.of(NAME, entries, rule, options)
