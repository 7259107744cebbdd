"""VSI-Bench (Yang et al. 2025, nyu-visionx/VSI-Bench): spaces seen, remembered and recalled from video.

5,130 questions about 288 indoor videos in ten types, which make eight scores: three types of relative
direction are one. `debiased` and `pruned` are the two parts into which iterative bias pruning splits it
(Brown et al. 2025): published as two tables, or as the list of pruned ids beside the whole.
"""

from collections.abc import Callable

from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Frames
from egem.evaluation.benchmarks.public import Entry, PublicBenchmark, Rule, choice_entry, choose_rule, entry
from egem.evaluation.benchmarks.source import Source
from egem.evaluation.benchmarks.tables import Table
from egem.evaluation.measures import mean_relative_accuracy
from egem.evaluation.parsing import (
    first_number,
    first_word,
    first_word_as_number,
    last_number,
    plain_float,
    tail_letter,
)
from egem.evaluation.totals import Part
from egem.records import Answer, Record

HUB_ID = "nyu-visionx/VSI-Bench"
DIRECTIONS = tuple(f"object_rel_direction_{level}" for level in ("easy", "medium", "hard"))
CHOICES = (*DIRECTIONS, "object_rel_distance", "route_planning", "obj_appearance_order")
NUMBERS = ("object_abs_distance", "object_counting", "object_size_estimation", "room_size_estimation")
UNITS = {"object_counting": "count", "object_abs_distance": "m"}
TOTALS: dict[str, Part] = {
    "overall": (*NUMBERS, "object_rel_distance", DIRECTIONS, "route_planning", "obj_appearance_order"),
    "object_rel_direction": DIRECTIONS,
    "all questions alike": "all",
}
_LETTER = "Answer with the option's letter from the given choices directly."
_CHOICE = f"These are frames of a video.\n{{question}}\nOptions:\n{{options}}\n{_LETTER}"
_WORD = "These are frames of a video.\n{question}\nPlease answer the question using a single word or phrase."


def _exact(text: str, answer: Answer) -> bool:
    return first_word(text).lower() == answer.text.lower()


def _ends_on(text: str, answer: Answer) -> bool:
    return tail_letter(text) == answer.text


def _scorer(
    number: Callable[[str], float | None], is_right: Callable[[str, Answer], bool]
) -> Callable[[Record, str], float]:
    def score(record: Record, text: str) -> float:
        if record.answer.kind == "choice":
            return float(is_right(text, record.answer))
        given = number(text)
        return 0.0 if given is None else mean_relative_accuracy(given, record.answer.number or 0.0)

    return score


RULES = (
    Rule(
        name="official",
        score=_scorer(first_word_as_number, _exact),
        totals=TOTALS,
        prompts={"choice": _CHOICE, "number": _WORD},
        max_new_tokens=16,
        frames=32,
        reference="vision-x-nyu/thinking-in-space, lmms_eval/tasks/vsibench/utils.py",
    ),
    Rule(
        name="lmms-eval",
        score=_scorer(first_number, _exact),
        totals=TOTALS,
        prompts={"choice": _CHOICE, "number": _WORD},
        max_new_tokens=16,
        frames=32,
        reference="EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/vsibench/utils.py (2026)",
    ),
    Rule(
        name="vlmevalkit",
        score=_scorer(last_number, _ends_on),
        totals=TOTALS,
        prompts={
            "choice": f"These are frames of a video.\n{{question}}\n{{options}}\n{_LETTER}",
            "number": "These are frames of a video.\n{question}\n"
            "Answer briefly and directly in one float number.",
        },
        max_new_tokens=16,
        frames=32,
        reference="open-compass/VLMEvalKit, vlmeval/dataset/vsibench.py",
    ),
)


def full(options: BenchmarkOptions) -> Benchmark:
    """All questions."""
    return _open("vsi-bench", "full", options)


def debiased(options: BenchmarkOptions) -> Benchmark:
    """Those that pruning kept."""
    return _open("vsi-bench-debiased", "debiased", options)


def pruned(options: BenchmarkOptions) -> Benchmark:
    """Those that pruning took out."""
    return _open("vsi-bench-pruned", "pruned", options)


def _open(name: str, subset: str, options: BenchmarkOptions) -> Benchmark:
    rule = choose_rule(name, RULES, options)
    source = Source.open(name, HUB_ID, options)
    table, kept = _subset(source, subset)
    rows = [row for row in table.rows if kept is None or str(row["id"]) in kept]
    # Questions about one video stand together, so that its frames are read once.
    rows.sort(key=lambda row: (row["dataset"], row["scene_name"]))
    return PublicBenchmark.of(name, [_entry(row, rule, source) for row in rows], rule, options)


def _subset(source: Source, subset: str) -> tuple[Table, set[str] | None]:
    columns = ("id", "dataset", "scene_name", "question_type", "question", "options", "ground_truth")
    if subset != "full" and any(source.folder.glob(f"test_{subset}*.parquet")):
        return source.table(f"test_{subset}*.parquet", columns=columns), None
    table = source.table("test-*.parquet", "test.jsonl", "test*.parquet", columns=columns)
    if subset == "full":
        return table, None
    ids = set(source.files("pruned_ids.txt")[0].read_text().split())
    return table, ids if subset == "pruned" else {str(row["id"]) for row in table.rows} - ids


def _entry(row: dict, rule: Rule, source: Source) -> Entry:
    kind, scene = str(row["question_type"]), f"{row['dataset']}/{row['scene_name']}"
    media = Frames(video=source.folder / f"{scene}.mp4", num=rule.frames or 32)
    if kind in CHOICES:
        options = [str(option) for option in row["options"]]
        return choice_entry(
            benchmark="vsi-bench",
            id=str(row["id"]),
            skill=kind,
            prompt=rule.prompt("choice", question=row["question"], options="\n".join(options)),
            target=str(row["ground_truth"]),
            options=options,
            media=media,
            scene=scene,
            group=scene,
            num_images=None,
        )
    number = plain_float(str(row["ground_truth"]))
    if kind not in NUMBERS or number is None:
        raise source.incomplete(
            f"question {row['id']} has type {kind} and answer {row['ground_truth']}, which it must not"
        )
    return entry(
        benchmark="vsi-bench",
        id=str(row["id"]),
        skill=kind,
        prompt=rule.prompt("number", question=row["question"]),
        answer=Answer(kind="number", text=str(row["ground_truth"]), number=number, unit=UNITS.get(kind)),
        media=media,
        scene=scene,
        group=scene,
        num_images=None,
    )
