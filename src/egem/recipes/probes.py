"""Probes that need scoring or pictures, beside the losses that `egem.training.probes` measures."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from egem.core.files import write_atomically
from egem.data.prepare import Preparer
from egem.evaluation.benchmarks import Benchmark
from egem.evaluation.depth import average, measure
from egem.evaluation.depth_run import aligned, true_depths
from egem.evaluation.predictor import Predictor
from egem.models.gem import GEM
from egem.report.panels import DepthPicture, depth_grid, png
from egem.scoring import score
from egem.shards import read_manifest
from egem.training.config import TrainConfig
from egem.training.probes import Probe, held_out_losses


def configured_probes(config: TrainConfig) -> tuple[Probe, ...]:
    """What `probe_data` and `probe_every` of a run ask for: each probe in the stages that train what it measures.

    Raises:
        RecordError: not a folder of records, or a damaged one.
    """
    if config.probe_data is None:
        return ()
    folder, every = config.probe_data, config.probe_every
    talking = tuple(stage.name for stage in config.stages if stage.language_weight > 0)
    drawing = tuple(stage.name for stage in config.stages if stage.depth_weight > 0)
    probes = [held_out_losses((folder,), every=every, num_groups=32)]
    if talking:
        probes.append(skill_accuracy(folder, every=every, stages=talking))
    if drawing and read_manifest(folder).depths:
        probes.append(drawn_depth(folder, every=every, stages=drawing))
    return tuple(probes)


def standard_probes(
    folders: Sequence[Path], *, every: int, stages: tuple[str, ...] | None = None
) -> tuple[Probe, ...]:
    """Held-out losses, skill accuracy and a panel of drawn depth.

    Args:
        folders: held-out records.
        every: steps between two measurements.
        stages: of the last two, which cost more; None for all.
    """
    return (
        held_out_losses(folders, every=every, num_groups=32),
        skill_accuracy(folders[0], every=every, stages=stages),
        drawn_depth(folders[0], every=every, stages=stages),
    )


def skill_accuracy(
    folder: Path, *, every: int, num_groups: int = 12, stages: tuple[str, ...] | None = None
) -> Probe:
    """Mean score over the questions of some held-out groups, and of each skill among them."""
    benchmark = Benchmark.from_folder("probe", folder, num_groups=num_groups)
    records = list(benchmark.records())

    def run(model: GEM, preparer: Preparer, step: int, place: Path) -> dict[str, float]:
        texts = Predictor(model, preparer).answer(records, batch_size=32, max_new_tokens=24)
        by_skill = defaultdict(list)
        for record, text in zip(records, texts, strict=True):
            by_skill[record.skill].append(score(record.answer, text))
        every_score = [value for values in by_skill.values() for value in values]
        means = {f"skill/{name}": sum(values) / len(values) for name, values in by_skill.items()}
        return {"mean": sum(every_score) / len(every_score), **means}

    return Probe(name="accuracy", every=every, run=run, stages=stages)


def drawn_depth(
    folder: Path, *, every: int, num_images: int = 6, stages: tuple[str, ...] | None = None
) -> Probe:
    """AbsRel and delta1 of a few drawn maps after alignment, and a panel of them in the probe's folder."""
    benchmark = Benchmark.from_folder("probe", folder)
    truths = []
    for truth in true_depths(benchmark):
        truths.append(truth)
        if len(truths) == num_images:
            break

    def run(model: GEM, preparer: Preparer, step: int, place: Path) -> dict[str, float]:
        maps = Predictor(model, preparer).draw_depth(
            [truth.image for truth in truths], num_steps=None, guidance=None, seed=0, batch_size=num_images
        )
        fitted = [aligned(drawn, truth) for drawn, truth in zip(maps, truths, strict=True)]
        pictures = [
            DepthPicture(image=truth.image, truth=truth.depth, generated=values.astype("float32"))
            for truth, values in zip(truths, fitted, strict=True)
        ]
        write_atomically(place / f"step-{step:06d}.png", png(depth_grid(pictures)))
        mean = average([measure(values, truth.depth) for truth, values in zip(truths, fitted, strict=True)])
        return {"abs_rel": mean.abs_rel, "delta1": mean.delta1}

    return Probe(name="drawn_depth", every=every, run=run, stages=stages)
