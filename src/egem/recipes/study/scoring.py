"""What is measured of a trained model: answers on three splits, loss on held-out answers, depth, linear probes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from egem.data.collate import collate
from egem.data.loader import depth_placeholder
from egem.evaluation.baselines import blind_floor
from egem.evaluation.benchmarks import Benchmark
from egem.evaluation.depth_run import GENERATED, MEAN_MAP, DepthOptions, score_depth
from egem.evaluation.predictor import Predictor
from egem.evaluation.probing import ProbeScores, probe
from egem.evaluation.runner import RunOptions, answer
from egem.recipes.study.recipe import StudyRecipe
from egem.records import Record

MAX_NEW_TOKENS = 12
"""The longest right answer has eight."""

BySkill = dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnDepth:
    """Held-out depth after alignment, averaged over images."""

    abs_rel: float
    delta1: float
    mean_map_abs_rel: float
    mean_map_delta1: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """All that is known of a trained model."""

    accuracy: dict[str, BySkill]
    """Split -> skill -> mean score of its questions."""
    counts: dict[str, dict[str, int]]
    """Split -> skill -> number of questions."""
    answer_loss: BySkill
    """Skill -> nats per token of the right answers, held-out views: tells arms apart before accuracy does."""
    probes: ProbeScores
    depth: DrawnDepth | None
    """None where nothing was trained to draw depth."""


@dataclass(frozen=True, kw_only=True)
class Exam:
    """The questions, the same for every model."""

    recipe: StudyRecipe
    benchmarks: dict[str, Benchmark]
    """Split -> its questions."""
    training_data: tuple[Path, ...]

    @classmethod
    def from_folders(
        cls, recipe: StudyRecipe, splits: dict[str, Path], training_data: tuple[Path, ...]
    ) -> "Exam":
        """From the rendered records of each split."""
        found = {split: Benchmark.from_folder(split, folder) for split, folder in splits.items()}
        return cls(recipe=recipe, benchmarks=found, training_data=training_data)

    @cached_property
    def blind(self) -> dict[str, BySkill]:
        """Split -> skill -> what the best guess without the picture scores."""
        return {
            split: _means(benchmark, blind_floor(benchmark, self.training_data)[0])
            for split, benchmark in self.benchmarks.items()
        }

    def measure(self, predictor: Predictor, folder: Path, *, draws_depth: bool) -> Measured:
        """Ask and measure everything.

        Args:
            predictor: the trained model.
            folder: gets the answers; an exam that was killed goes on where it stopped.
            draws_depth: whether it was trained to draw depth.
        """
        accuracy, counts = {}, {}
        options = RunOptions(batch_size=64, max_new_tokens=MAX_NEW_TOKENS, depth=None)
        for split, benchmark in self.benchmarks.items():
            answers = answer(benchmark, predictor, folder / split, options)
            marks = {scored.id: scored.score for scored in answers}
            accuracy[split] = _means(benchmark, marks)
            skills = [scored.skill for scored in answers]
            counts[split] = {name: skills.count(name) for name in sorted(set(skills))}
        held_out = self.benchmarks["held_out"]
        return Measured(
            accuracy=accuracy,
            counts=counts,
            answer_loss=answer_losses(predictor, list(held_out.records())),
            probes=probe(predictor, held_out, num_images=self.recipe.probe_views),
            depth=self._drawn(predictor, folder) if draws_depth else None,
        )

    def _drawn(self, predictor: Predictor, folder: Path) -> DrawnDepth:
        scores = score_depth(
            self.benchmarks["held_out"],
            predictor,
            folder / "held_out",
            DepthOptions(num_images=self.recipe.drawn_views, batch_size=30),
            training_data=self.training_data,
        )
        assert scores is not None, "every rendered view has depth"
        drawn, mean_map = scores.find(GENERATED), scores.find(MEAN_MAP)
        assert drawn is not None
        assert mean_map is not None
        return DrawnDepth(
            abs_rel=drawn.abs_rel,
            delta1=drawn.delta1,
            mean_map_abs_rel=mean_map.abs_rel,
            mean_map_delta1=mean_map.delta1,
        )


@torch.no_grad()
def answer_losses(predictor: Predictor, records: Sequence[Record], *, batch_size: int = 64) -> BySkill:
    """Mean cross entropy of each skill's right answers, in nats per token, every question asked by itself."""
    model, preparer = predictor.model, predictor.preparer
    found: BySkill = {}
    for skill in sorted({record.skill for record in records}):
        asked = [record for record in records if record.skill == skill]
        total, count = 0.0, 0
        for start in range(0, len(asked), batch_size):
            samples = [
                preparer.sample([record], with_depth=False) for record in asked[start : start + batch_size]
            ]
            batch = collate(
                samples, pad_id=preparer.tokenizer.pad_id, depth_placeholder=depth_placeholder(preparer)
            ).to(model.device)
            loss, tokens = model.backbone.language_loss(model.backbone(batch), batch)
            total, count = total + float(loss), count + int(tokens)
        found[skill] = total / count
    return found


def _means(benchmark: Benchmark, marks: dict[str, float]) -> BySkill:
    """Skill -> mean over its questions that have a mark."""
    by_skill: dict[str, list[float]] = {}
    for record in benchmark.questions():
        if record.id in marks:
            by_skill.setdefault(record.skill, []).append(marks[record.id])
    return {skill: sum(values) / len(values) for skill, values in sorted(by_skill.items())}
