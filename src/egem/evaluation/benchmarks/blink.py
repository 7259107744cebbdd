"""BLINK (Fu et al. 2024, BLINK-Benchmark/BLINK): fourteen tasks that people solve within a blink.

The authors average over the tasks, lmms-eval over the questions (val, 1,901). The authors let GPT-3.5 match
answers to options; here the letter decides under every rule.
"""

from dataclasses import replace

from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Cells
from egem.evaluation.benchmarks.public import (
    EVERYTHING,
    Entry,
    PublicBenchmark,
    Rule,
    choice_entry,
    choose_rule,
    is_letter,
    letters_of,
)
from egem.evaluation.benchmarks.source import Source
from egem.evaluation.parsing import leading_letter
from egem.evaluation.totals import Part

NAME, HUB_ID = "blink", "BLINK-Benchmark/BLINK"
TASKS = (
    *("Art_Style", "Counting", "Forensic_Detection", "Functional_Correspondence", "IQ_Test", "Jigsaw"),
    *("Multi-view_Reasoning", "Object_Localization", "Relative_Depth", "Relative_Reflectance"),
    *("Semantic_Correspondence", "Spatial_Relation", "Visual_Correspondence", "Visual_Similarity"),
)
SPATIAL = ("Relative_Depth", "Spatial_Relation", "Multi-view_Reasoning", "Counting")
IMAGES = tuple(f"image_{number}" for number in range(1, 5))
TOTALS: dict[str, Part] = {"mean over tasks": TASKS, **EVERYTHING, "spatial tasks": SPATIAL}
OFFICIAL = Rule(
    name="official",
    score=is_letter(leading_letter),
    totals=TOTALS,
    prompts={
        "": "Note: You only need to respond with {letters} without providing any additional information.\n"
        "{prompt}"
    },
    max_new_tokens=1024,
    reference="zeyofu/BLINK_Benchmark, eval/evaluate.py (average); lmms-eval, tasks/blink (prompt, letter)",
)
RULES = (
    OFFICIAL,
    replace(
        OFFICIAL,
        name="lmms-eval",
        totals={**EVERYTHING, **TOTALS},
        reference="EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/blink/utils.py",
    ),
)


def blink(options: BenchmarkOptions) -> Benchmark:
    """The validation questions of all tasks (those of the test set have no public answers)."""
    rule = choose_rule(NAME, RULES, options)
    source = Source.open(NAME, HUB_ID, options)
    missing = [task for task in TASKS if not any(source.folder.glob(f"{task}/val-*.parquet"))]
    if missing:
        raise source.incomplete(f"no val-*.parquet in {', '.join(f'{task}/' for task in missing)}")
    entries = [found for task in TASKS for found in _task(task, source, rule)]
    return PublicBenchmark.of(NAME, entries, rule, options)


def _task(task: str, source: Source, rule: Rule) -> list[Entry]:
    columns = ("idx", "question", "prompt", "choices", "answer", *IMAGES)
    table = source.table(f"{task}/val-*.parquet", columns=columns, lazy=IMAGES)
    return [
        choice_entry(
            benchmark=NAME,
            id=row["idx"],
            skill=task,
            prompt=rule.prompt(letters=letters_of(row["choices"]), prompt=row["prompt"]),
            target=row["answer"].strip("()"),
            options=row["choices"],
            media=Cells(table=table, row=index, columns=IMAGES),
            scene=row["idx"],
            num_images=None,
        )
        for index, row in enumerate(table.rows)
    ]
