"""A benchmark run: answers one by one on disk, then scores.

    out/
        answers.jsonl       one line a question: id, scene, category, skill, prediction, score
        answers.of.json     what was being measured; another checkpoint or benchmark is refused
        depth.jsonl         one line an image
        scores.json         `Scores`
        scores.md           the same as tables

A run that was killed goes on where it stopped and ends with the same files.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

from egem import __version__
from egem.blind import blind_scores, by_skill
from egem.core.config import save_json
from egem.core.errors import RecordError
from egem.core.files import write_atomically
from egem.evaluation.benchmarks import Benchmark
from egem.evaluation.depth_run import DepthOptions, score_depth, spread
from egem.evaluation.journal import Journal
from egem.evaluation.predictor import Answering, Drawing
from egem.evaluation.scores import ScoredAnswer, Scores, markdown, scene_of, tabulate
from egem.records import Record
from egem.scoring import score
from egem.shards import RecordGroups

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with what is being done ("answers", "depth"), how many are done, how many there are."""


@runtime_checkable
class Model(Answering, Drawing, Protocol):
    """What can be run: answers questions and draws depth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """How to run a benchmark."""

    batch_size: int = 16
    """Questions at a time; changes speed and memory, not answers."""
    max_new_tokens: int = 64
    """Longest answer in tokens."""
    depth: DepthOptions | None = field(default_factory=DepthOptions)
    """None: depth is not drawn."""
    training_data: tuple[Path, ...] = ()
    """Record folders that blind guesses are learned from and whose mean depth map is the baseline of depth.
    None: blind guesses are learned from the other half of the benchmark, and depth has no such baseline."""


def run(
    benchmark: Benchmark,
    model: Model,
    folder: Path,
    options: RunOptions,
    *,
    progress: Progress | None = None,
) -> Scores:
    """Answer, draw, score.

    Args:
        benchmark: the questions.
        model: a checkpoint, or anything else that answers and draws.
        folder: gets the files; may hold an unfinished run of the same.
        options: how.
        progress: called as work goes on.

    Raises:
        CheckpointError: the folder holds the results of another checkpoint, benchmark or setting.
        RecordError: the benchmark has no questions, or one of its files cannot be read.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    answers = answer(benchmark, model, folder, options, progress=progress)
    blind, source = blind_floor(benchmark, options.training_data)
    overall, categories, skills = tabulate(answers, blind)
    depth = None
    if options.depth is not None:
        report = None if progress is None else lambda done, total: progress("depth", done, total)
        depth = score_depth(
            benchmark, model, folder, options.depth, training_data=options.training_data, progress=report
        )
    scores = Scores(
        benchmark=benchmark.name,
        questions=benchmark.fingerprint,
        checkpoint=model.name,
        checkpoint_sha256=model.fingerprint,
        num_groups=benchmark.num_groups,
        num_scenes=len({entry.scene for entry in answers}),
        blind_training=source,
        overall=overall,
        categories=categories,
        skills=skills,
        depth=depth,
    )
    save_json(scores, folder / "scores.json")
    write_atomically(folder / "scores.md", markdown(scores).encode())
    return scores


def answer(
    benchmark: Benchmark,
    model: Answering,
    folder: Path,
    options: RunOptions,
    *,
    progress: Progress | None = None,
) -> list[ScoredAnswer]:
    """Answer and score every question, or those that an unfinished run left over.

    Raises:
        CheckpointError, RecordError: see `run`.
    """
    ids = [record.id for record in benchmark.records()]
    if len(set(ids)) < len(ids):
        raise RecordError(f"benchmark {benchmark.name}: two questions have one id; answers need one each.")
    identity = {
        "egem": __version__,
        "benchmark": benchmark.name,
        "questions": benchmark.fingerprint,
        "checkpoint": model.fingerprint,
        "max_new_tokens": options.max_new_tokens,
    }
    journal = Journal(folder / "answers.jsonl", identity)
    num_done = len(journal.entries)
    if num_done:
        logger.info("%s: %d of %d answers are there already", benchmark.name, num_done, len(ids))
    left = (record for record in benchmark.records() if record.id not in journal.entries)
    while chunk := list(islice(left, options.batch_size)):
        predictions = model.answer(
            chunk, batch_size=options.batch_size, max_new_tokens=options.max_new_tokens
        )
        journal.append(
            [
                asdict(_scored(record, prediction))
                for record, prediction in zip(chunk, predictions, strict=True)
            ]
        )
        if progress is not None:
            progress("answers", len(journal.entries), len(ids))
    return [ScoredAnswer(**journal.entries[id]) for id in ids]


def _scored(record: Record, prediction: str) -> ScoredAnswer:
    return ScoredAnswer(
        id=record.id,
        scene=scene_of(record),
        category=record.category,
        skill=record.skill,
        prediction=prediction,
        score=score(record.answer, prediction),
    )


def blind_floor(benchmark: Benchmark, training_data: Sequence[Path]) -> tuple[dict[str, float], str]:
    """What the best blind guess scores on each question, and what it was learned from.

    Without training data each half of the benchmark's scenes is guessed from the other half. Questions of
    a skill that could not be learned are left out.
    """
    asked: dict[str, list[Record]] = {}
    for record in benchmark.records():
        asked.setdefault(scene_of(record), []).append(_without_pictures(record))
    scenes = list(asked.values())
    if training_data:
        groups = RecordGroups(training_data)
        training = [_without_pictures(record) for index in spread(groups) for record in groups[index]]
        folds = [(training, _flat(scenes))]
        source = ", ".join(map(str, training_data))
    else:
        # Whole scenes, because another view of the same one would give answers away.
        even, odd = _flat(scenes[::2]), _flat(scenes[1::2])
        folds = [(even, odd), (odd, even)]
        source = "the other half of the benchmark"
    found: dict[str, float] = {}
    for training, test in folds:
        floors = blind_scores(training, test)
        for skill, records in by_skill(test).items():
            if skill in floors:
                found.update(zip((r.id for r in records), floors[skill].scores, strict=True))
    return found, source


def _without_pictures(record: Record) -> Record:
    # So that all questions fit into memory at once.
    return replace(record, images=(), depths=())


def _flat(groups: Sequence[Sequence[Record]]) -> list[Record]:
    return [record for group in groups for record in group]
