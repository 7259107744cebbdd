"""The study, run by run; each finished one leaves a small JSON file and the next begins."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from egem import __version__
from egem.core.machine import commit
from egem.evaluation.predictor import Predictor
from egem.recipes.study.arms import ARMS
from egem.recipes.study.parts import Made, Study, make_missing
from egem.recipes.study.plan import StudyRun, plan
from egem.recipes.study.results import Cost, RunResult, load_results, path_of, save_result
from egem.recipes.study.scoring import Exam
from egem.shards import RecordGroups
from egem.training.metrics import read_metrics
from egem.training.run import MODEL_LINK


def make(
    study: Study,
    results: Path,
    *,
    arms: Sequence[str] = (),
    regimes: Sequence[str] = (),
    max_runs: int | None = None,
    keep_models: bool = False,
) -> Made:
    """Make the runs of the plan that have no file of results yet, in order.

    Several processes may do this side by side on one folder: each takes the next run that nobody is at. One that
    is killed goes on, called again, where its run stood.

    Args:
        study: sizes and folder.
        results: folder of the small files.
        arms: only these; all if empty.
        regimes: only these; all if empty.
        max_runs: stop after so many.
        keep_models: keep each run's folder; otherwise it is removed once its results are safe.

    Raises:
        ConfigError: results of a study with other sizes or questions are there.
    """
    load_results(results, study.recipe.name)
    wanted = [
        run
        for run in plan(study.recipe)
        if (not arms or run.arm in arms) and (not regimes or run.regime in regimes)
    ]
    exam: Exam | None = None

    def make_one(number: int) -> None:
        nonlocal exam
        exam = exam or Exam.from_folders(study.recipe, study.test_data(), study.training_data())
        save_result(results, make_run(study, wanted[number], exam))

    paths = [path_of(results, study.recipe.name, run) for run in wanted]
    return make_missing(paths, make_one, out=study.out, max_runs=max_runs, keep_models=keep_models)


def make_run(study: Study, run: StudyRun, exam: Exam) -> RunResult:
    """Train and measure one run."""
    arm = ARMS[run.arm]
    head = study.head(run, arm)
    config = study.joint(run, arm)
    folder = study.finished(run)
    predictor = Predictor.from_checkpoint(folder / MODEL_LINK, device=study.device)
    measured = exam.measure(
        predictor, folder / "exam", draws_depth=arm.has_head and config.depth_target != "image"
    )
    joint = read_metrics(folder)
    few = max(1, len(joint) // 20)
    losses = [row["loss/language"] for row in joint]
    return RunResult(
        recipe=study.recipe.name,
        recipe_fingerprint=study.recipe.fingerprint,
        regime=run.regime,
        arm=run.arm,
        seed=run.seed,
        data=RecordGroups(config.data).fingerprint[:12],
        questions={split: b.groups.fingerprint[:12] for split, b in exam.benchmarks.items()},
        blind=exam.blind,
        measured=measured,
        joint_loss=(sum(losses[:few]) / few, sum(losses[-few:]) / few),
        cost=Cost(
            head_minutes=0.0 if head is None else minutes_of(read_metrics(head)),
            joint_minutes=minutes_of(joint),
            joint_samples=round(sum(row["data/samples"] for row in joint)),
            joint_tokens=round(sum(row["data/tokens"] for row in joint)),
            machine=machine_of(predictor.model.device),
        ),
        commit=commit(),
        egem=__version__,
        torch=torch.__version__,
    )


def minutes_of(rows: Sequence[dict[str, Any]]) -> float:
    """What a training's steps took."""
    return sum(row["time/step"] for row in rows) / 60


def machine_of(device: torch.device) -> str:
    """What a run was computed on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
