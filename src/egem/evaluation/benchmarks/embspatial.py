"""EmbSpatial-Bench (Du et al. 2024, Phineas476/EmbSpatial-Bench): six relations seen by an embodied agent.

3,640 questions from AI2-THOR, Matterport3D and ScanNet. The authors published no scorer: the first rule is
lmms-eval's, the other VLMEvalKit's with the prompt it borrows from SITE-Bench.
"""

from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Cells
from egem.evaluation.benchmarks.public import (
    EVERYTHING,
    PublicBenchmark,
    Rule,
    choice_entry,
    choose_rule,
    is_letter,
)
from egem.evaluation.benchmarks.source import Source
from egem.evaluation.parsing import leading_letter, tail_letter

NAME, HUB_ID = "embspatial-bench", "FlagEval/EmbSpatial-Bench"
SOURCES = {source: source for source in ("ai2thor", "mp3d", "scannet")}
RULES = (
    Rule(
        name="lmms-eval",
        score=is_letter(leading_letter),
        totals={**EVERYTHING, **SOURCES},
        prompts={
            "": "Note: You only need to respond with A, B, C, D without providing any additional "
            "information.\n{question}\n{options}",
            "option": "{letter}) {text}",
        },
        max_new_tokens=1024,
        reference="EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/embspatial/utils.py",
    ),
    Rule(
        name="vlmevalkit",
        score=is_letter(tail_letter),
        totals={**EVERYTHING, **SOURCES},
        prompts={
            "": "Question: {question}\nOptions:\n{options}\n"
            "Give me the answer letter directly. The best answer is:",
            "option": "{letter}: {text}",
        },
        max_new_tokens=1024,
        reference="open-compass/VLMEvalKit, vlmeval/dataset/embspatialbench.py",
    ),
)


def embspatial(options: BenchmarkOptions) -> Benchmark:
    """All questions."""
    rule = choose_rule(NAME, RULES, options)
    columns = ("question_id", "question", "answer_options", "answer", "relation", "data_source", "image")
    table = Source.open(NAME, HUB_ID, options).table(
        "data/test-*.parquet", "embspatial_bench.json*", "*.parquet", columns=columns, lazy=("image",)
    )
    entries = []
    for index, row in enumerate(table.rows):
        listed = [
            rule.prompt("option", letter="ABCDEFGH"[place], text=text)
            for place, text in enumerate(row["answer_options"])
        ]
        entries.append(
            choice_entry(
                benchmark=NAME,
                id=str(row["question_id"]),
                skill=row["relation"],
                prompt=rule.prompt(question=row["question"], options="\n".join(listed)),
                target="ABCDEFGH"[row["answer"]],
                options=row["answer_options"],
                media=Cells(table=table, row=index, columns=("image",)),
                # A scene is named in the authors' file only; elsewhere each image is one.
                scene=f"{row['data_source']}/{row.get('scene_id') or row['question_id']}",
                labels=(row["data_source"],),
            )
        )
    return PublicBenchmark.of(NAME, entries, rule, options)
