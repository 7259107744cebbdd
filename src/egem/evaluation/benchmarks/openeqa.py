"""OpenEQA (Majumdar et al. 2024, facebookresearch/open-eqa): open questions about an episode of a walk.

1,636 questions about 187 episodes of HM3D and ScanNet. A language model marks each answer from 1 to 5
(`egem.evaluation.judge`); the score is (mark - 1) / 4. Frames are read from `data/frames/<episode>/`.
"""

from pathlib import Path

from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.evaluation.benchmarks.media import Picked
from egem.evaluation.benchmarks.public import PublicBenchmark, Rule, choose_rule, entry
from egem.evaluation.benchmarks.source import Source
from egem.records import IMAGE_MARK, Answer, Record

NAME, HUB_ID = "openeqa", "facebookresearch/open-eqa"
NOTE = "Frames: as many as the rule says, spread evenly, of the episode's published frames."


def _unjudged(record: Record, text: str) -> float:
    raise ValueError(f"answer '{text}' to {record.id} is scored by a judge.")


RULES = (
    Rule(
        name="official",
        score=_unjudged,
        totals={"LLM-Match": "all", **{source: source for source in ("hm3d-v0", "scannet-v0")}},
        prompts={
            "before": "You are an intelligent question answering agent. I will ask you questions about an indoor "
            "space and you must provide an answer.\nYou will be shown a set of images that have been collected "
            "from a single location.\nGiven a user query, you must output `text` to answer to the question asked "
            "by the user.\n",
            "": "User Query: {question}",
        },
        max_new_tokens=128,
        frames=50,
        judged=True,
        reference="facebookresearch/open-eqa, evaluate-predictions.py and prompts/gpt4v.txt",
    ),
)


def openeqa(options: BenchmarkOptions) -> Benchmark:
    """All questions."""
    rule = choose_rule(NAME, RULES, options)
    source = Source.open(NAME, HUB_ID, options)
    table = source.table(
        "data/open-eqa-v0.json",
        "open-eqa-v0.json",
        columns=("question", "answer", "category", "question_id", "episode_history"),
    )
    frames = next(
        (source.folder / name for name in ("data/frames", "frames") if (source.folder / name).is_dir()),
        source.folder / "data" / "frames",
    )
    rows = sorted(table.rows, key=lambda row: row["episode_history"])
    entries = [
        entry(
            benchmark=NAME,
            id=row["question_id"],
            skill=row["category"],
            prompt=rule.prompt("before")
            + IMAGE_MARK * (rule.frames or 50)
            + rule.prompt(question=row["question"]),
            answer=Answer(kind="text", text=row["answer"]),
            media=Picked(folder=frames / Path(row["episode_history"]), num=rule.frames or 50),
            scene=row["episode_history"],
            group=row["episode_history"],
            labels=(row["episode_history"].split("/")[0],),
            meta={"question": row["question"], "extra_answers": row.get("extra_answers")},
        )
        for row in rows
    ]
    return PublicBenchmark.of(NAME, entries, rule, options, notes=(NOTE,))
