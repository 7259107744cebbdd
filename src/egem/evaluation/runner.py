"""A benchmark run: answers one by one on disk, then scores.

    out/
        answers.jsonl       one line a question: id, scene, category, skill, prediction, score
        answers.of.json     what was being measured; another checkpoint or benchmark is refused
        predictions.jsonl   answers that a judge has not marked yet (benchmarks with a judge)
        depth.jsonl         one line an image
        scores.json         `Scores`
        scores.md           the same as tables

A run that was killed goes on where it stopped and ends with the same files, on however many processes.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from egem import __version__
from egem.core.config import save_json
from egem.core.errors import ConfigError, RecordError
from egem.core.files import write_atomically
from egem.evaluation.answers import ScoredAnswer, scene_of
from egem.evaluation.baselines import baselines, blind_floor
from egem.evaluation.benchmarks import Benchmark
from egem.evaluation.benchmarks.public import PublicBenchmark
from egem.evaluation.depth_run import DepthOptions, score_depth
from egem.evaluation.judge import Judge
from egem.evaluation.predictor import Answering, Drawing
from egem.evaluation.scores import RuleTold, Scores, markdown, metric_means, tabulate
from egem.evaluation.sharding import World, share_out
from egem.evaluation.totals import estimate_totals
from egem.records import Record

logger = logging.getLogger(__name__)

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""Called with what is being done ("answers", "depth"), how many are done, how many there are."""

MAX_NEW_TOKENS = 64
"""Longest answer where neither the user nor the benchmark says."""


@runtime_checkable
class Model(Answering, Drawing, Protocol):
    """What can be run: answers questions and draws depth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """How to run a benchmark."""

    batch_size: int = 16
    """Questions at a time; changes speed and memory, not answers."""
    max_new_tokens: int | None = None
    """Longest answer in tokens; None: as the benchmark's rule says, else 64."""
    depth: DepthOptions | None = field(default_factory=DepthOptions)
    """None: depth is not drawn."""
    training_data: tuple[Path, ...] = ()
    """Record folders that blind guesses are learned from and whose mean depth map is the baseline of depth.
    None: blind guesses are learned from the other half of the benchmark, and depth has no such baseline."""
    judge: Judge | None = None
    """Marks the answers of benchmarks that need it."""


def run(
    benchmark: Benchmark,
    model: Answering,
    folder: Path,
    options: RunOptions,
    *,
    progress: Progress | None = None,
) -> Scores:
    """Answer, draw, score.

    Args:
        benchmark: the questions.
        model: a checkpoint, or anything else that answers; depth is drawn by what can draw.
        folder: gets the files; may hold an unfinished run of the same.
        options: how.
        progress: called as work goes on.

    Raises:
        CheckpointError: the folder holds the results of another checkpoint, benchmark or setting.
        ConfigError: the benchmark needs a judge and none was given.
        ProtocolError: a server or a judge gave no answer; what was answered is kept.
        RecordError: the benchmark has no questions, or one of its files is missing or cannot be read.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    answers = answer(benchmark, model, folder, options, progress=progress)
    floor = baselines(benchmark, options.training_data)
    lines = tabulate(answers, floor.blind, floor.majority) if answers else (None, (), ())
    depth = None
    if options.depth is not None and isinstance(model, Drawing):
        report = None if progress is None else lambda done, total: progress("depth", done, total)
        depth = score_depth(
            benchmark, model, folder, options.depth, training_data=options.training_data, progress=report
        )
    if not answers and depth is None:
        raise RecordError(
            f"benchmark {benchmark.name} has no questions, and depth is not drawn here; let it be drawn, or "
            "choose another benchmark."
        )
    overall, categories, skills = lines
    is_public = isinstance(benchmark, PublicBenchmark)
    scores = Scores(
        benchmark=benchmark.name,
        questions=benchmark.fingerprint,
        checkpoint=model.name,
        checkpoint_sha256=model.fingerprint,
        num_groups=benchmark.num_groups,
        num_scenes=len({entry.scene for entry in answers}),
        blind_training=floor.source,
        overall=overall,
        categories=categories,
        skills=skills,
        depth=depth,
        rule=_told(benchmark, options) if is_public else None,
        totals=estimate_totals(answers, benchmark.rule.totals) if is_public else (),
        metrics=metric_means(answers),
        notes=benchmark.notes if is_public else (),
    )
    save_json(scores, folder / "scores.json")
    write_atomically(folder / "scores.md", markdown(scores).encode())
    return scores


def share_work(
    benchmark: Benchmark, model: Answering, folder: Path, options: RunOptions, world: World
) -> None:
    """This process's share of the answers and depth maps; where all have called this, `run` has only to score.

    Raises:
        CheckpointError, ConfigError, ProtocolError, RecordError: see `run`.
    """
    answer(benchmark, model, folder, options, world=world)
    if options.depth is not None and isinstance(model, Drawing):
        score_depth(benchmark, model, folder, options.depth, training_data=options.training_data, world=world)


def answer(
    benchmark: Benchmark,
    model: Answering,
    folder: Path,
    options: RunOptions,
    *,
    progress: Progress | None = None,
    world: World | None = None,
) -> list[ScoredAnswer]:
    """Answer and score every question, or those that an unfinished run left over.

    Args:
        benchmark: the questions.
        model: what answers.
        folder: see `run`.
        options: how.
        progress: called as work goes on.
        world: the processes that share the work; all must call this, and the first returns all answers (so
            do the others, once all are done).

    Raises:
        CheckpointError, ConfigError, ProtocolError, RecordError: see `run`.
    """
    world = world or World()
    questions = list(benchmark.questions())
    ids = [record.id for record in questions]
    if len(set(ids)) < len(ids):
        raise RecordError(f"benchmark {benchmark.name}: two questions have one id; answers need one each.")
    rule = benchmark.rule if isinstance(benchmark, PublicBenchmark) else None
    if rule is not None and rule.judged and options.judge is None:
        raise ConfigError(
            f"the answers of {benchmark.name} are marked by a language model: give --judge-url and --judge-model."
        )
    sees = getattr(model, "needs_images", True)
    if sees:
        benchmark.check_media()
    load = benchmark.load if sees or (rule is not None and rule.reads_media) else lambda record: record
    identity = _identity(benchmark, model, options)
    tokens = int(identity["max_new_tokens"])
    folder.mkdir(parents=True, exist_ok=True)

    def predicted(chunk: Sequence[Record]) -> tuple[list[Record], list[str]]:
        loaded = [load(record) for record in chunk]
        return loaded, model.answer(loaded, batch_size=options.batch_size, max_new_tokens=tokens)

    def scored(chunk: Sequence[Record]) -> list[dict[str, Any]]:
        loaded, texts = predicted(chunk)
        pairs = zip(loaded, texts, strict=True)
        return [_line(record, text, benchmark.score(record, text)) for record, text in pairs]

    def unjudged(chunk: Sequence[Record]) -> list[dict[str, Any]]:
        loaded, texts = predicted(chunk)
        return [{"id": r.id, "prediction": text} for r, text in zip(loaded, texts, strict=True)]

    def tell(what: str) -> Callable[[int], None]:
        return lambda done: progress(what, done, len(ids)) if progress is not None else None

    by_id = {record.id: record for record in questions}
    # Neighbours that share their images go to one process, which then decodes a video once.
    groups = [[r.id for r in neighbours] for _, neighbours in groupby(questions, lambda r: r.group)]

    def batched(work: Callable[[Sequence[Record]], list[dict[str, Any]]]):
        return lambda ids: (work(chunk) for chunk in _chunks((by_id[id] for id in ids), options.batch_size))

    path = folder / "answers.jsonl"
    if rule is None or not rule.judged:
        journal = share_out(path, identity, groups, batched(scored), world, tell("answers"))
    else:
        told = {**identity, "judge": options.judge.name if options.judge else None}
        texts = share_out(
            folder / "predictions.jsonl", identity, groups, batched(unjudged), world, tell("answers")
        )

        def judged(chunk: Sequence[Record]) -> list[dict[str, Any]]:
            given = [str(texts.entries[record.id]["prediction"]) for record in chunk]
            marks = options.judge.scores(chunk, given) if options.judge else []
            triples = zip(chunk, given, marks, strict=True)
            return [_line(record, text, {"score": mark}) for record, text, mark in triples]

        journal = share_out(path, told, groups, batched(judged), world, tell("marks"))
    return [ScoredAnswer.from_line(journal.entries[id]) for id in ids]


def _identity(benchmark: Benchmark, model: Answering, options: RunOptions) -> dict[str, Any]:
    rule = benchmark.rule if isinstance(benchmark, PublicBenchmark) else None
    return {
        "egem": __version__,
        "benchmark": benchmark.name,
        "questions": benchmark.fingerprint,
        "checkpoint": model.fingerprint,
        "max_new_tokens": options.max_new_tokens or (rule.max_new_tokens if rule else MAX_NEW_TOKENS),
        "rule": rule.name if rule else None,
    }


def _told(benchmark: PublicBenchmark, options: RunOptions) -> RuleTold:
    rule = benchmark.rule
    return RuleTold(
        name=rule.name,
        reference=rule.reference,
        prompts=dict(rule.prompts),
        max_new_tokens=options.max_new_tokens or rule.max_new_tokens,
        frames=rule.frames,
        judge=options.judge.name if rule.judged and options.judge else None,
    )


def _line(record: Record, prediction: str, measured: dict[str, float]) -> dict[str, Any]:
    others = {name: value for name, value in measured.items() if name != "score"}
    scored = ScoredAnswer(
        id=record.id,
        scene=scene_of(record),
        category=record.category,
        skill=record.skill,
        prediction=prediction,
        score=measured["score"],
        labels=tuple(record.meta.get("labels", ())),
        metrics=others,
    )
    return asdict(scored)


def _chunks(items: Iterable[T], size: int) -> Iterable[list[T]]:
    left = iter(items)
    while chunk := list(islice(left, size)):
        yield chunk


__all__ = ["Model", "Progress", "RunOptions", "answer", "blind_floor", "run", "share_work"]
