"""MindCube (Yin et al. 2025, MLL-Lab/MindCube): a scene from two to four views, and what cannot be seen.

Read from the authors' `data/raw/*.jsonl` beside the image folders, whose plain-question prompt is made here,
or from lmms-eval's copy, which holds it.
"""

from pathlib import Path

from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Cells, Files, Media
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
from egem.evaluation.parsing import prioritised_letter, tail_letter
from egem.evaluation.totals import Part
from egem.records import IMAGE_MARK

NAME, HUB_ID = "mindcube", "MLL-Lab/MindCube"
SETTINGS = ("rotation", "among", "around")
TOTALS: dict[str, Part] = {**EVERYTHING, **{setting: setting for setting in SETTINGS}}
_PLAIN = (
    "[Task]\nYour task is to analyze the spatial arrangement of objects in the scene by examining the provided "
    "images, which show the scene from different viewpoints.\n[Answer Instruction]\nYou only need to provide "
    "*ONE* correct answer selecting from the options listed below. For example, if you think the correct "
    "answer is 'A. Above' from 'A. Above B. Under C. Front D. Behind', your response should **only** be "
    "'<answer>A. Above</answer>'.\n"
)
RULES = (
    Rule(
        name="official",
        score=is_letter(lambda text: prioritised_letter(text.strip())),
        totals=TOTALS,
        prompts={"": f"{_PLAIN}\n[Question]\n{{question}}"},
        max_new_tokens=4096,
        reference="mll-lab-nu/MindCube, src/evaluation/core/extractors.py; the same in lmms-eval",
    ),
    Rule(
        name="lmms-eval",
        score=is_letter(lambda text: prioritised_letter(text.strip())),
        totals=TOTALS,
        prompts={"": f"{_PLAIN}\n[Question]\n{{question}}"},
        max_new_tokens=4096,
        reference="EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/mindcube/utils.py",
    ),
    Rule(
        name="vlmevalkit",
        score=is_letter(tail_letter),
        totals=TOTALS,
        prompts={"": f"{_PLAIN}\n[Question]\n{{question}}"},
        max_new_tokens=4096,
        reference="open-compass/VLMEvalKit, vlmeval/dataset/mindcubebench.py",
    ),
)


def tiny(options: BenchmarkOptions) -> Benchmark:
    """The 1,050 questions of MindCube-Tiny."""
    return _open("mindcube-tiny", "tiny", options)


def full(options: BenchmarkOptions) -> Benchmark:
    """All questions."""
    return _open("mindcube", "full", options)


def setting_of(id: str) -> str:
    """`rotation`, `among` or `around`, from how an id begins."""
    first = id.split("_", 1)[0]
    return "around" if first == "aroundnew" else first if first in SETTINGS else "other"


def _open(name: str, size: str, options: BenchmarkOptions) -> Benchmark:
    rule = choose_rule(name, RULES, options)
    source = Source.open(name, HUB_ID, options)
    raw = "MindCube_tinybench.jsonl" if size == "tiny" else "MindCube.jsonl"
    table = source.table(
        f"data/raw/{raw}",
        f"raw/{raw}",
        raw,
        f"{size}/combined-*.parquet",
        columns=("id", "question", "images", "gt_answer"),
        lazy=("images",),
    )
    entries = []
    for index, row in enumerate(table.rows):
        media, num_images = _media(table, index, source.folder)
        prompt = row.get("input_prompt") or rule.prompt(question=row["question"])
        target = row["gt_answer"].strip()
        entries.append(
            choice_entry(
                benchmark="mindcube",
                id=str(row["id"]),
                skill=setting_of(str(row["id"])),
                # Its marks stand where the images belong; without any they come first.
                prompt=prompt if prompt.count(IMAGE_MARK) == num_images else prompt.replace(IMAGE_MARK, ""),
                target=target,
                options=options_of(row["question"], target),
                media=media,
                scene=_scene(str(row["id"])),
                num_images=num_images,
            )
        )
    return PublicBenchmark.of(name, entries, rule, options)


def _media(table, index: int, folder: Path) -> tuple[Media, int | None]:
    images = table.rows[index].get("images")
    if images is None or not all(isinstance(image, str) for image in images):
        cells = table.cell(index, "images") if images is None else images
        return Cells(table=table, row=index, columns=("images",)), len(cells or ())
    roots = [folder / "data", folder]
    root = next((root for root in roots if (root / images[0]).is_file()), roots[-1])
    return Files(paths=tuple(root / image for image in images)), len(images)


def _scene(id: str) -> str:
    # "among_group693_q0_3_2": questions of one group share their scene.
    return "_".join(id.split("_")[:2])
