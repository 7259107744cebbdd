"""Linear probes: what a linear map can read from the backbone's visual tokens, without training the backbone.

Each visual token looks at a cell of the image. From its final hidden state (what the depth head is given) a ridge
regression predicts the cell's mean depth (its logarithm) and where the middle of the cell lies in space, in metres
before the camera (x to the right, y down, z forward). Scenes are dealt into folds: weights are fitted on some, their
ridge penalty is chosen on another, and only tokens of yet another are scored. Beside it stands the mean map: what
the cell's place in the picture alone tells.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from egem.core.errors import RecordError
from egem.evaluation.answers import scene_of
from egem.evaluation.benchmarks import Benchmark
from egem.evaluation.predictor import Predictor
from egem.media import decode_depth
from egem.models.generation import prompt_batch
from egem.records import Intrinsics, Record

NUM_FOLDS = 5
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of the ridge, tried in turn, in units of one variance of a (standardised) feature."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explained:
    """How well one quantity is predicted for tokens of scenes that nothing was fitted on."""

    r2: float
    """Share of the variance that is explained: 1 is perfect, 0 as good as the mean, below 0 worse."""
    error: float
    """Depth: mean of |predicted - true| / true. Position: mean distance in metres."""
    mean_map_r2: float
    """The same two of the mean over the fitted scenes at the token's place."""
    mean_map_error: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeScores:
    """What can be read from the visual tokens."""

    num_images: int
    num_tokens: int
    """With a depth reading in their cell."""
    depth: Explained
    position: Explained


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """The visual tokens of some images, with what their cells show; images have equally many."""

    features: Float[np.ndarray, "image token hidden"]
    points: Float[np.ndarray, "image token 3"]
    """Metres before the camera; the last is the depth."""
    known: Bool[np.ndarray, "image token"]
    """False where the cell has no reading; nothing else of it counts."""
    scene: tuple[str, ...]
    """Of each image."""


def probe(
    predictor: Predictor, benchmark: Benchmark, *, num_images: int, batch_size: int = 32
) -> ProbeScores:
    """Fit and score both probes on a benchmark's images.

    Args:
        predictor: whose backbone's tokens are read.
        benchmark: images of one size with metric depth and intrinsics.
        num_images: at most so many of them.
        batch_size: images at a time.

    Raises:
        RecordError: fewer scenes than folds have depth and intrinsics, or images differ in size.
    """
    heads = (r for r in benchmark.group_heads() if len(r.images) == 1 and any(r.depths) and any(r.intrinsics))
    return scores(read_tokens(predictor, list(islice(heads, num_images)), batch_size=batch_size))


@torch.no_grad()
def read_tokens(predictor: Predictor, records: Sequence[Record], *, batch_size: int = 32) -> Tokens:
    """The final hidden states at the visual tokens of records of one image each.

    Raises:
        RecordError: no record, a depth map that cannot be read, or images of different sizes.
    """
    features, points, known = [], [], []
    model = predictor.model
    for start in range(0, len(records), batch_size):
        chunk = records[start : start + batch_size]
        batch = prompt_batch([predictor.prompt(record) for record in chunk], model.device)
        states, _ = model.backbone.image_tokens(model.backbone(batch), batch)
        features.append(states.float().cpu().numpy())
        merge = model.backbone.merge_size
        for record, (_, rows, columns) in zip(chunk, batch.image_grid.tolist(), strict=True):
            place, is_known = cell_points(record, rows // merge, columns // merge)
            points.append(place)
            known.append(is_known)
    if len({len(place) for place in points}) != 1:
        raise RecordError(
            f"{len(records)} images with depth and intrinsics, of "
            f"{len({len(place) for place in points})} sizes; the probes want several, all of one size."
        )
    return Tokens(
        features=np.concatenate(features).astype(np.float64),
        points=np.stack(points),
        known=np.stack(known),
        scene=tuple(scene_of(record) for record in records),
    )


def cell_points(
    record: Record, rows: int, columns: int
) -> tuple[Float[np.ndarray, "token 3"], Bool[np.ndarray, "token"]]:
    """Where the middle of each cell of a grid lies, at the mean of the cell's depths, and whether it has any.

    Args:
        record: with one depth map in metres and its camera.
        rows: of the grid.
        columns: of the grid.

    Raises:
        RecordError: the depth map cannot be read.
    """
    camera = next(found for found in record.intrinsics if found is not None)
    depth = decode_depth(next(d for d in record.depths if d is not None), where=f"record '{record.id}'")
    height, width = depth.shape
    places, known = [], []
    for row in range(rows):
        top, bottom = row * height // rows, (row + 1) * height // rows
        for column in range(columns):
            left, right = column * width // columns, (column + 1) * width // columns
            readings = depth[top:bottom, left:right]
            readings = readings[readings > 0]
            known.append(readings.size > 0)
            z = float(readings.mean()) if readings.size else 1.0
            places.append(back_projected((left + right) / 2, (top + bottom) / 2, z, camera))
    return np.array(places), np.array(known)


def back_projected(u: float, v: float, z: float, camera: Intrinsics) -> tuple[float, float, float]:
    """The point before a pinhole camera that is seen at (u, v), in pixels from the image's corner, at depth z."""
    return (u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z


def scores(tokens: Tokens) -> ProbeScores:
    """Both probes, each token predicted by weights fitted without its scene.

    Raises:
        RecordError: fewer scenes than folds.
    """
    fold = deal(tokens.scene)
    depth = tokens.points[..., 2:]
    log_depth, log_map = _predicted(tokens, np.log(depth), fold)
    position, position_map = _predicted(tokens, tokens.points, fold)

    def relative(guess: np.ndarray) -> float:
        return float(np.mean(np.abs(np.exp(guess) - depth)[tokens.known] / depth[tokens.known]))

    def metres(guess: np.ndarray) -> float:
        return float(np.mean(np.linalg.norm(guess - tokens.points, axis=-1)[tokens.known]))

    return ProbeScores(
        num_images=len(tokens.scene),
        num_tokens=int(tokens.known.sum()),
        depth=Explained(
            r2=_r2(log_depth, np.log(depth), tokens.known),
            error=relative(log_depth),
            mean_map_r2=_r2(log_map, np.log(depth), tokens.known),
            mean_map_error=relative(log_map),
        ),
        position=Explained(
            r2=_r2(position, tokens.points, tokens.known),
            error=metres(position),
            mean_map_r2=_r2(position_map, tokens.points, tokens.known),
            mean_map_error=metres(position_map),
        ),
    )


def deal(scenes: Sequence[str]) -> Int[np.ndarray, "image"]:
    """The fold of each image: all of a scene in one, the scenes dealt in random order.

    Raises:
        RecordError: fewer scenes than folds.
    """
    names, which = np.unique(np.array(scenes, dtype=np.str_), return_inverse=True)
    if len(names) < NUM_FOLDS:
        raise RecordError(
            f"{len(names)} scenes with depth and intrinsics; the probes need at least {NUM_FOLDS} of them."
        )
    order = np.random.default_rng(0).permutation(len(names))
    return (order % NUM_FOLDS)[which]


def _predicted(
    tokens: Tokens, truth: Float[np.ndarray, "image token value"], fold: Int[np.ndarray, "image"]
) -> tuple[np.ndarray, np.ndarray]:
    """For every token: the probe's prediction and the mean map's, both from other folds."""
    guess, mean_map = np.zeros_like(truth), np.zeros_like(truth)
    for test in range(NUM_FOLDS):
        inside, chooses = fold == test, fold == (test + 1) % NUM_FOLDS
        fits = ~inside & ~chooses
        x, y = tokens.features[fits][tokens.known[fits]], truth[fits][tokens.known[fits]]
        held = tokens.known[chooses]
        errors = []
        for read in (candidates := list(_ridges(x, y))):
            missed = read(tokens.features[chooses]) - truth[chooses]
            errors.append(float(np.mean(np.square(missed[held]))))
        guess[inside] = candidates[int(np.argmin(errors))](tokens.features[inside])
        counts = tokens.known[~inside].sum(axis=0)[:, None]
        sums = (truth[~inside] * tokens.known[~inside][..., None]).sum(axis=0)
        mean_map[inside] = np.where(counts > 0, sums / np.maximum(counts, 1), y.mean(axis=0))
    return guess, mean_map


@dataclass(frozen=True, kw_only=True, slots=True)
class _Linear:
    centre: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, features: Float[np.ndarray, "*token hidden"]) -> Float[np.ndarray, "*token value"]:
        return (features - self.centre) / self.scale @ self.weight + self.bias


def _ridges(x: Float[np.ndarray, "token hidden"], y: Float[np.ndarray, "token value"]) -> Iterator[_Linear]:
    """The ridge regression of every penalty, on standardised features, the mean not penalised."""
    centre, bias = x.mean(axis=0), y.mean(axis=0)
    scale = x.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    standard = (x - centre) / scale
    gram, cross = standard.T @ standard / len(x), standard.T @ (y - bias) / len(x)
    for penalty in PENALTIES:
        weight = np.linalg.solve(gram + penalty * np.eye(len(gram)), cross)
        yield _Linear(centre=centre, scale=scale, weight=weight, bias=bias)


def _r2(guess: np.ndarray, truth: np.ndarray, known: np.ndarray) -> float:
    """Explained share of the variance of each value, averaged over the values."""
    missed = np.square(guess - truth)[known].sum(axis=0)
    spread = np.square(truth - truth[known].mean(axis=0))[known].sum(axis=0)
    return float(np.mean(1 - missed / np.maximum(spread, 1e-12)))
