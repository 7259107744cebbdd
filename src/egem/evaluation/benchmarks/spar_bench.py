"""SPAR-Bench (Zhang et al. 2025, jasonzhango/SPAR-Bench): twenty tasks from perceiving depth to imagining views.

7,207 questions; the score is the mean over the tasks. Levels: low (depths and distances, by relative
accuracy), middle (camera motion and matching), high (relations and imagination). Camera motions are scored
axis by axis.
"""

from collections.abc import Callable

from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Cells
from egem.evaluation.benchmarks.public import Entry, PublicBenchmark, Rule, choice_entry, choose_rule, entry
from egem.evaluation.benchmarks.source import Source
from egem.evaluation.benchmarks.tables import Table
from egem.evaluation.measures import mean_relative_accuracy
from egem.evaluation.parsing import digits_in, last_number, plain_float, tail_letter
from egem.evaluation.totals import Part
from egem.records import Answer, Record

NAME, HUB_ID = "spar-bench", "jasonzhango/SPAR-Bench"
LOW = tuple(
    f"{what}_prediction_{of}{views}"
    for what in ("depth", "distance")
    for of in ("oc", "oo")
    for views in ("", "_mv")
)
MOTION = "view_change_infer"
MATCHING = ("position_matching", "camera_motion_infer")
HIGH = (
    *("distance_infer_center_oo", "distance_infer_center_oo_mv"),
    *(f"obj_spatial_relation_{of}" for of in ("oo", "oc_mv", "oo_mv")),
    *(f"spatial_imagination_{of}" for of in ("oc", "oo", "oc_mv", "oo_mv")),
)
TOTALS: dict[str, Part] = {
    "overall": (*LOW, MOTION, *MATCHING, *HIGH),
    "low": LOW,
    "middle": (MOTION, *MATCHING),
    "high": HIGH,
}
AXES = (
    ("move_right", "move_left"),
    ("move_up", "move_down"),
    ("move_forward", "move_backward"),
    ("rotate_right", "rotate_left"),
    ("rotate_up", "rotate_down"),
)
_LETTER = "Answer with the option's letter from the given choices directly."
_SCALE = (
    "The values represent the bounding box coordinates normalized to a 0-1000 scale, with the top-left corner "
    "as the origin of the image."
)
PROMPTS = {
    "number": "\n{question}\nPlease answer the question using a single word or phrase.",
    "choice": f"\n{{question}}\n\n{_LETTER}",
    "matching": f"\n{{question}}\n{_SCALE}\n{_LETTER}",
    "motion": "\n{question}\n\n",
}


def _is_part(text: str, answer: Answer) -> bool:
    """Equal, or contained in the right answer, or beginning with it; an empty text is contained in any."""
    given, right = text.lower(), answer.text.lower()
    return given in right or given[:1] == right


def _ends_on(text: str, answer: Answer) -> bool:
    return tail_letter(text) == tail_letter(answer.text)


def _authors_number(record: Record, text: str) -> float | None:
    numbers = digits_in(text)
    if record.skill.endswith("_mv"):
        return numbers[-1] if numbers else -1.0
    return numbers[0] if numbers else None


def _motion(text: str) -> dict[str, float]:
    """A text like "move_right:0.3,rotate_up:15" as it stands: a space in front of a name makes another name.

    Raises:
        ValueError: anything else.
    """
    pairs = [item.split(":") for item in text.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(text)
    return {name: float(value) for name, value in pairs}


def _lenient_motion(text: str) -> dict[str, float]:
    found = {}
    for item in text.split(","):
        name, _, value = item.strip().partition(":")
        number = plain_float(value.strip())
        if number is not None:
            found[name.strip()] = number
    return found


def motion_score(given: dict[str, float], true: dict[str, float]) -> float:
    """The mean relative accuracy over five axes; motion to one side cancels motion to the other."""
    ours, theirs = ([motion.get(a, 0.0) - motion.get(b, 0.0) for a, b in AXES] for motion in (given, true))
    return sum(map(mean_relative_accuracy, ours, theirs)) / len(AXES)


def _authors_motion(text: str, right: str) -> float:
    # Their code passes truth and answer the other way round: the error is relative to the answer.
    return motion_score(_motion(right), _motion(text))


def _scorer(
    number: Callable[[Record, str], float | None],
    is_right: Callable[[str, Answer], bool],
    motion: Callable[[str, str], float],
) -> Callable[[Record, str], float]:
    def score(record: Record, text: str) -> float:
        if record.skill == MOTION:
            try:
                return motion(text, record.answer.text)
            except ValueError:
                return 0.0
        if record.answer.kind == "number":
            given = number(record, text)
            return 0.0 if given is None else mean_relative_accuracy(given, record.answer.number or 0.0)
        return float(is_right(text, record.answer))

    return score


RULES = (
    Rule(
        name="official",
        score=_scorer(_authors_number, _is_part, _authors_motion),
        totals=TOTALS,
        prompts=PROMPTS,
        max_new_tokens=100,
        reference="LogosRoboticsGroup/SPAR, lmms-eval/lmms_eval/tasks/sparbench; the same in lmms-eval",
    ),
    Rule(
        name="lmms-eval",
        score=_scorer(_authors_number, _is_part, _authors_motion),
        # Its middle level leaves camera motion out, because of how it takes names of tasks apart.
        totals={**TOTALS, "middle": MATCHING},
        prompts=PROMPTS,
        max_new_tokens=100,
        reference="EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/sparbench/utils.py",
    ),
    Rule(
        name="vlmevalkit",
        score=_scorer(
            lambda record, text: last_number(text),
            _ends_on,
            lambda a, b: motion_score(_lenient_motion(a), _lenient_motion(b)),
        ),
        totals=TOTALS,
        prompts=PROMPTS,
        max_new_tokens=100,
        reference="open-compass/VLMEvalKit, vlmeval/dataset/sparbench.py",
    ),
)


def spar_bench(options: BenchmarkOptions) -> Benchmark:
    """All questions."""
    rule = choose_rule(NAME, RULES, options)
    source = Source.open(NAME, HUB_ID, options)
    table = source.table(
        "data/test-*.parquet",
        "*.parquet",
        columns=("task", "question", "answer", "image"),
        lazy=("image",),
    )
    entries = [_entry(table, index, rule, source) for index in range(len(table))]
    return PublicBenchmark.of(NAME, entries, rule, options)


def _entry(table: Table, index: int, rule: Rule, source: Source) -> Entry:
    row = table.rows[index]
    task, right = row["task"], str(row["answer"]).strip()
    kind = (
        "number"
        if task in LOW
        else "motion"
        if task == MOTION
        else "matching"
        if task in MATCHING
        else "choice"
    )
    if task not in (*LOW, MOTION, *MATCHING, *HIGH):
        raise source.incomplete(f"task {task} of row {index + 1} is none of SPAR-Bench's twenty")
    id = f"{row.get('id') or 'row'}-{index}"
    prompt = rule.prompt(kind, question=row["question"])
    media = Cells(table=table, row=index, columns=("image",))
    scene = str(row.get("scene_id") or str(row.get("id") or index).rsplit("_", 2)[0])
    if kind in ("number", "motion"):
        number = plain_float(right) if kind == "number" else None
        if kind == "number" and number is None:
            raise source.incomplete(f"row {index + 1}, {task}, has the answer {right!r} instead of a number")
        answer = Answer(kind="text" if number is None else "number", text=right, number=number)
        return entry(
            benchmark=NAME,
            id=id,
            skill=task,
            prompt=prompt,
            answer=answer,
            media=media,
            scene=scene,
            num_images=None,
        )
    return choice_entry(
        benchmark=NAME,
        id=id,
        skill=task,
        prompt=prompt,
        target=right[:1].upper(),
        options=[],
        media=media,
        scene=scene,
        num_images=None,
    )
