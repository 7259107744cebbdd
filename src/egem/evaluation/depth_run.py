"""Depth errors of a checkpoint over a benchmark's images, beside two things to judge them by.

Beside `generated` stand `mean training depth` (what can be guessed without looking) and `round trip` (true
depth through encoding and codec and back: what a perfect generator would get). All are aligned the same way.
"""

import logging
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from egem.core.errors import RecordError
from egem.evaluation.benchmarks import Benchmark
from egem.evaluation.depth import (
    RESIZING,
    DepthMetrics,
    Family,
    align,
    average,
    depth_range,
    mean_depth_map,
    measure,
)
from egem.evaluation.predictor import Drawing, GeneratedDepth
from egem.evaluation.sharding import World, share_out
from egem.media import check_depth, decode_depth, decode_image
from egem.records import ImageFile
from egem.shards import RecordGroups

logger = logging.getLogger(__name__)

GENERATED, MEAN_MAP, ROUND_TRIP = "generated", "mean training depth", "round trip"

MOST_TRAINING_GROUPS = 1000
"""Baselines are taken over at most this many training groups."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthOptions:
    """How depth is drawn and how much of it."""

    num_images: int | None = 100
    """Only the first so many images with depth; None: all."""
    num_steps: int | None = None
    """Of the sampler; None: the checkpoint's."""
    guidance: float | None = None
    """Classifier-free guidance; None: the checkpoint's."""
    seed: int = 0
    batch_size: int = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthScore:
    """Errors of one kind of depth map under one alignment."""

    name: str
    family: Family
    metrics: DepthMetrics


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthScores:
    """Everything about depth on one benchmark."""

    scores: tuple[DepthScore, ...]
    unit: str
    """What RMSE counts: "m", or "relative" where the benchmark's depth has no unit."""
    depth_range: tuple[float, float]
    """Least and greatest true depth of the images scored; aligned maps are clipped to it."""
    num_steps: int | None
    guidance: float | None

    def find(self, name: str, family: Family | None = None) -> DepthMetrics | None:
        """The metrics of one row; the first family of that name unless one is asked for."""
        found = [s.metrics for s in self.scores if s.name == name and family in (None, s.family)]
        return found[0] if found else None


@dataclass(frozen=True, kw_only=True)
class TrueDepth:
    """An image of a benchmark with its true depth."""

    id: str
    file: ImageFile
    where: str
    """Its record, for messages."""
    depth: Float[np.ndarray, "true_height true_width"]
    """0 = no reading; at least one reading."""
    is_metric: bool

    @cached_property
    def image(self) -> UInt8[np.ndarray, "height width 3"]:
        """Decoded when it is first looked at.

        Raises:
            RecordError: it cannot be read.
        """
        return decode_image(self.file, where=self.where)


def score_depth(
    benchmark: Benchmark,
    predictor: Drawing,
    folder: Path,
    options: DepthOptions,
    *,
    training_data: tuple[Path, ...] = (),
    progress: Callable[[int, int], None] | None = None,
    world: World | None = None,
) -> DepthScores | None:
    """Draw the depth of a benchmark's images and measure it; a killed run goes on where it stopped.

    Args:
        benchmark: images without a single depth reading are left out.
        predictor: the checkpoint.
        folder: gets `depth.jsonl`, one line an image.
        options: how.
        training_data: record folders whose mean depth map is the baseline; none: no baseline.
        progress: called with (images done, images in all).
        world: the processes that share the drawing; all must call this, and all return the scores.

    Returns:
        None where the benchmark has no depth.

    Raises:
        CheckpointError: the folder holds results of another run.
        RecordError: an image or a depth map cannot be read.
    """
    # Only what all images together decide is kept: each process reads its share again when it draws.
    ids, ranges, is_metric = [], [], True
    for truth in islice(true_depths(benchmark), options.num_images):
        ids.append(truth.id)
        ranges.append(depth_range([truth.depth]))
        is_metric &= truth.is_metric
    if not ids:
        return None
    limits = benchmark.depth_range or (min(low for low, _ in ranges), max(high for _, high in ranges))
    mean_map = _mean_training_depth(training_data)
    identity = {
        "benchmark": benchmark.name,
        "questions": benchmark.fingerprint,
        "checkpoint": predictor.fingerprint,
        "num_steps": options.num_steps,
        "guidance": options.guidance,
        "seed": options.seed,
        "depth_range": limits,
        "resizing": RESIZING.name,
        "training_data": RecordGroups(training_data).fingerprint if training_data else None,
    }

    def drawn(wanted: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        truths = true_depths(benchmark, frozenset(wanted))
        while chunk := list(islice(truths, options.batch_size)):
            maps = draw(predictor, chunk, options)
            pairs = zip(chunk, maps, strict=True)
            yield [_entry(truth, depth, predictor, mean_map, limits) for truth, depth in pairs]

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, len(ids))

    journal = share_out(folder / "depth.jsonl", identity, [[id] for id in ids], drawn, world or World(), tell)
    entries = [journal.entries[id] for id in ids]
    return DepthScores(
        scores=_averages(entries),
        unit="m" if is_metric else "relative",
        depth_range=limits,
        num_steps=options.num_steps,
        guidance=options.guidance,
    )


def true_depths(benchmark: Benchmark, wanted: Container[str] | None = None) -> Iterator[TrueDepth]:
    """Every image of a benchmark that has at least one depth reading, in order.

    Args:
        benchmark: what holds them.
        wanted: only images with these ids; others are not decoded.

    Raises:
        RecordError: a depth map cannot be read, or is in an implausible unit.
    """
    for record in benchmark.group_heads():
        for index, file in enumerate(record.depths):
            id = f"{record.group}#{index}"
            if file is None or (wanted is not None and id not in wanted):
                continue
            where = f"record '{record.id}'"
            depth = decode_depth(file, where=where)
            check_depth(depth, file.kind, where=where, unit_m=file.unit_m)
            if (depth > 0).any():
                picture, is_metric = record.images[index], file.kind == "metric"
                yield TrueDepth(id=id, file=picture, where=where, depth=depth, is_metric=is_metric)
            else:
                logger.warning("%s: depth map %d has no reading and is not scored.", where, index)


def draw(predictor: Drawing, truths: Sequence[TrueDepth], options: DepthOptions) -> list[GeneratedDepth]:
    """The maps that are scored for these images (a picture of them shows what the numbers are about)."""
    return predictor.draw_depth(
        [truth.image for truth in truths],
        num_steps=options.num_steps,
        guidance=options.guidance,
        seed=options.seed,
        batch_size=options.batch_size,
    )


def aligned(
    generated: GeneratedDepth, truth: TrueDepth, limits: tuple[float, float] | None = None
) -> Float[np.ndarray, "true_height true_width"]:
    """A drawn map in the truth's unit and resolution, in the family that leaves most to be fitted."""
    family = families(generated, truth.is_metric)[0]
    return align(generated.values, truth.depth, family, limits or depth_range([truth.depth]))


def spread(groups: RecordGroups) -> list[int]:
    """Up to MOST_TRAINING_GROUPS indices over the whole set, because neighbours may be alike."""
    num = min(len(groups), MOST_TRAINING_GROUPS)
    return np.unique(np.linspace(0, len(groups) - 1, num).round().astype(int)).tolist()


def families(generated: GeneratedDepth, is_metric: bool) -> tuple[Family, ...]:
    """Alignments a map may be scored under: the affine one first, then as it is where it is metric."""
    if generated.kind == "inverse_relative":
        return ("disparity-affine",)
    return ("depth-affine", "metric") if is_metric else ("depth-affine",)


def _mean_training_depth(folders: tuple[Path, ...]) -> Float[np.ndarray, "height width"] | None:
    if not folders:
        return None
    groups = RecordGroups(folders)
    maps = (decode_depth(file) for i in spread(groups) for file in groups[i][0].depths if file is not None)
    try:
        return mean_depth_map(maps)
    except RecordError:
        logger.warning("the training data has no depth; there is no mean depth map to compare with.")
        return None


def _entry(
    truth: TrueDepth,
    generated: GeneratedDepth,
    predictor: Drawing,
    mean_map: Float[np.ndarray, "height width"] | None,
    limits: tuple[float, float],
) -> dict[str, Any]:
    height, width = truth.image.shape[:2]
    round_trip = predictor.round_trip(truth.depth, (height, width))
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for family in families(generated, truth.is_metric):
        maps = {GENERATED: generated.values, ROUND_TRIP: round_trip.values}
        if mean_map is not None:
            maps[MEAN_MAP] = 1.0 / mean_map if family == "disparity-affine" else mean_map
        for name, values in maps.items():
            metrics = measure(align(values, truth.depth, family, limits), truth.depth)
            scores.setdefault(family, {})[name] = {
                key: getattr(metrics, key) for key in ("abs_rel", "rmse", "delta1", "delta2", "delta3")
            }
    return {"id": truth.id, "is_metric": truth.is_metric, "scores": scores}


def _averages(entries: Sequence[dict[str, Any]]) -> tuple[DepthScore, ...]:
    found: dict[tuple[str, Family], list[DepthMetrics]] = {}
    for entry in entries:
        for family, by_name in entry["scores"].items():
            for name in (GENERATED, MEAN_MAP, ROUND_TRIP):
                if name in by_name:
                    found.setdefault((name, family), []).append(DepthMetrics(**by_name[name]))
    order: dict[Family, int] = {"disparity-affine": 0, "depth-affine": 1, "metric": 2}
    keys = sorted(found, key=lambda key: order[key[1]])
    return tuple(DepthScore(name=n, family=f, metrics=average(found[n, f])) for n, f in keys)
