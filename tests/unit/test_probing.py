"""Linear probes, against independent computations."""

import numpy as np
import pytest
from tests.record_sets import group

from egem.core.errors import RecordError
from egem.evaluation.probing import NUM_FOLDS, Tokens, _ridges, back_projected, cell_points, deal, scores
from egem.media import decode_depth
from egem.records import Intrinsics

CAMERA = Intrinsics(fx=50.0, fy=40.0, cx=32.0, cy=24.0)


def tokens(*, noise: float, num_images: int = 40, informative: bool = True) -> Tokens:
    """Features that are a linear map of the log depth and the position, or of nothing."""
    rng = np.random.default_rng(0)
    depth = np.exp(rng.uniform(-1, 1, (num_images, 9)))
    points = np.stack([rng.normal(size=depth.shape), rng.normal(size=depth.shape), depth], axis=2)
    said = np.concatenate([points, np.log(depth)[..., None]], axis=2)
    said = said if informative else rng.normal(size=said.shape)
    features = said @ rng.normal(size=(4, 12)) + noise * rng.normal(size=(num_images, 9, 12))
    return Tokens(
        features=features,
        points=points,
        known=rng.random(depth.shape) < 0.9,
        scene=tuple(f"scene/{n // 2}" for n in range(num_images)),
    )


def test_what_is_there_is_read_and_what_is_not_is_not() -> None:
    clear, noisy, nothing = (
        scores(tokens(noise=0.01)),
        scores(tokens(noise=1.0)),
        scores(tokens(noise=1.0, informative=False)),
    )
    assert clear.depth.r2 > 0.99
    assert clear.position.r2 > 0.99
    assert 0.1 < noisy.depth.r2 < clear.depth.r2
    assert nothing.depth.r2 < 0.05
    assert abs(clear.depth.mean_map_r2) < 0.1
    assert clear.num_tokens == int(tokens(noise=1.0).known.sum())


def test_unknown_cells_count_for_nothing() -> None:
    given = tokens(noise=0.5)
    broken = given.points.copy()
    broken[~given.known] = 1e3
    spoiled = Tokens(features=given.features, points=broken, known=given.known, scene=given.scene)
    assert scores(spoiled).depth.r2 == pytest.approx(scores(given).depth.r2, abs=1e-12)
    assert scores(spoiled).position.error == pytest.approx(scores(given).position.error, abs=1e-12)


def test_ridge_solves_the_penalised_least_squares_problem() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(2.0, 3.0, (50, 4)), rng.normal(size=(50, 2))
    standard = (x - x.mean(0)) / x.std(0)
    for penalty, read in zip((1e-4, 1e-3, 1e-2, 1e-1, 1.0), _ridges(x, y), strict=True):
        # The penalty as extra rows of an ordinary least-squares problem.
        rows = np.concatenate([standard, np.sqrt(penalty * len(x)) * np.eye(4)])
        right = np.concatenate([y - y.mean(0), np.zeros((4, 2))])
        weight, *_ = np.linalg.lstsq(rows, right, rcond=None)
        np.testing.assert_allclose(read(x), standard @ weight + y.mean(0), atol=1e-9)


def test_scenes_stay_together_and_fill_all_folds() -> None:
    scenes = [f"s{n % 11}" for n in range(33)]
    folds = deal(scenes)
    assert all(len(set(folds[np.array(scenes) == name])) == 1 for name in set(scenes))
    assert set(folds.tolist()) == set(range(NUM_FOLDS))
    with pytest.raises(RecordError, match="at least 5"):
        deal(["a", "b"])


def test_cells_lie_where_a_ray_of_their_mean_depth_ends() -> None:
    from dataclasses import replace

    record = replace(group(3)[0], intrinsics=(CAMERA,))
    depth = decode_depth(record.depths[0], where="test")
    points, known = cell_points(record, 6, 8)
    cell = depth[16:24, 40:48]
    # Row 2, column 5 of 48 x 64 pixels in cells of 8 x 8: its middle is at (44, 20).
    expected = cell[cell > 0].mean() * np.array([(44 - 32) / 50, (20 - 24) / 40, 1.0])
    np.testing.assert_allclose(points[2 * 8 + 5], expected, rtol=1e-6)
    assert known.all()
    u, v = 10.0, 30.0
    x, y, z = back_projected(u, v, 2.0, CAMERA)
    assert (CAMERA.fx * x / z + CAMERA.cx, CAMERA.fy * y / z + CAMERA.cy) == pytest.approx((u, v))
