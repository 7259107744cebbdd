"""VSR (Liu, Emerson and Collier 2023, cambridgeltl/visual-spatial-reasoning): is a caption true of a photograph.

65 relations between two objects in COCO images; the random and the zero-shot split. The authors train
classifiers and give no prompt or reading for models that write; the rule here is our own.
"""

from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Files
from egem.evaluation.benchmarks.public import EVERYTHING, PublicBenchmark, Rule, choose_rule, entry
from egem.evaluation.benchmarks.source import Source
from egem.evaluation.parsing import true_false
from egem.records import Answer, Record


def _verdict(record: Record, text: str) -> float:
    return float(true_false(text) == (record.answer.text == "True"))


RULES = (
    Rule(
        name="egem",
        score=_verdict,
        totals=EVERYTHING,
        prompts={
            "": 'Is this statement about the image true or false? "{caption}"\nAnswer with True or False only.'
        },
        max_new_tokens=8,
        reference="data of cambridgeltl/visual-spatial-reasoning; accuracy over all captions",
    ),
)
FOLDERS = ("images", "trainval2017", "train2017", "val2017", "")


def random_split(options: BenchmarkOptions) -> Benchmark:
    """The 2,195 test captions of the random split."""
    return _open("vsr", "random", options)


def zeroshot_split(options: BenchmarkOptions) -> Benchmark:
    """The 1,222 test captions of the zero-shot split, whose concepts training has not seen."""
    return _open("vsr-zeroshot", "zeroshot", options)


def _open(name: str, split: str, options: BenchmarkOptions) -> Benchmark:
    rule = choose_rule(name, RULES, options)
    source = Source.open(name, f"cambridgeltl/vsr_{split}", options)
    table = source.table(
        f"data/splits/{split}/test.jsonl",
        f"{split}_test.jsonl",
        "test.jsonl",
        columns=("image", "caption", "label", "relation"),
    )
    folders = [source.folder / folder for folder in FOLDERS]
    home = next((folder for folder in folders if (folder / table.rows[0]["image"]).is_file()), folders[0])
    entries = [
        entry(
            benchmark=name,
            id=str(index),
            skill=row["relation"],
            prompt=rule.prompt(caption=row["caption"]),
            answer=Answer(kind="choice", text="True" if row["label"] else "False", choices=("True", "False")),
            media=Files(paths=(home / row["image"],)),
            scene=row["image"],
            meta={"options": ["True", "False"]},
        )
        for index, row in enumerate(table.rows)
    ]
    return PublicBenchmark.of(name, entries, rule, options)
