"""Closest points, ways and floors, against slower and simpler ways to get the same numbers."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from egem.data_engine.room_questions.geometry import (
    box_distance,
    closest_points,
    corners,
    floor_area,
    meets_footprint,
)
from egem.data_engine.room_scene import RoomObject
from room_scans import FLOOR_M2, box, l_shape


def any_box(rng: np.random.Generator, index: int) -> RoomObject:
    return RoomObject(
        index=index,
        category="thing",
        name=f"thing {index}",
        center=rng.uniform(-1, 1, 3),
        axes=Rotation.random(random_state=rng).as_matrix(),
        lengths=rng.uniform(0.05, 1.0, 3),
    )


def alternated(a: RoomObject, b: RoomObject, rounds: int = 700) -> float:
    """Distance by projecting to and fro between both solids (von Neumann), which ends at the nearest points."""
    point = a.center
    for _ in range(rounds):
        for thing in (b, a):
            local = np.clip((point - thing.center) @ thing.axes.T, -thing.lengths / 2, thing.lengths / 2)
            point, before = thing.center + local @ thing.axes, point
    return float(np.linalg.norm(point - before))


def test_distances_agree_with_alternating_projections() -> None:
    rng = np.random.default_rng(0)
    apart = 0
    for number in range(30):
        a, b = any_box(rng, 2 * number), any_box(rng, 2 * number + 1)
        distance = box_distance(a, b)
        assert box_distance(b, a) == pytest.approx(distance, abs=1e-9)
        # Overlapping boxes alternate to 0, and only slowly where they barely touch.
        assert alternated(a, b) == pytest.approx(distance, abs=2e-3)
        apart += distance > 0.05
    assert 10 < apart < 29


def test_closest_points_lie_on_the_boxes() -> None:
    rng = np.random.default_rng(1)
    for number in range(40):
        a, b = any_box(rng, 2 * number), any_box(rng, 2 * number + 1)
        found = closest_points(a, b)
        if found is not None:
            for point, thing in zip(found, (a, b), strict=True):
                assert (np.abs((point - thing.center) @ thing.axes.T) <= thing.lengths / 2 + 1e-9).all()


def test_distances_worked_out_by_hand() -> None:
    base = box(1, "a", (0, 0, 0), (1, 1, 1))
    assert box_distance(base, box(2, "b", (3, 0, 0), (2, 1, 1))) == pytest.approx(1.5)
    assert box_distance(base, box(2, "b", (2, 2, 0), (1, 1, 1))) == pytest.approx(np.sqrt(2))
    # A cube on its edge: sqrt(2) / 2 wide towards the other one.
    assert box_distance(base, box(2, "b", (2, 0, 0), (1, 1, 1), turn=np.pi / 4)) == pytest.approx(
        1.5 - np.sqrt(0.5)
    )
    assert closest_points(base, box(2, "b", (0.9, 0, 0), (1, 1, 1))) is None


def test_corners_are_those_of_the_turned_box() -> None:
    found = corners(box(1, "a", (1, 2, 3), (2, 2, 2), turn=np.pi / 4))
    assert found[:, 0].max() == pytest.approx(1 + np.sqrt(2))
    assert found[:, 2].tolist().count(4.0) == 4


def test_ways_meet_outlines_as_sampled_points_do() -> None:
    rng = np.random.default_rng(2)
    outcomes = []
    for _ in range(150):
        thing = box(1, "a", (0, 0), rng.uniform(0.2, 1.5, 3), turn=float(rng.uniform(0, 6)))
        start, end = rng.uniform(-2, 2, (2, 2))
        on_way = start + np.linspace(0, 1, 4000)[:, None] * (end - start)
        local = np.abs(on_way @ thing.axes[:2, :2].T)
        shrunk, grown = (
            bool((local <= thing.lengths[:2] / 2 + by).all(axis=1).any()) for by in (-0.002, 0.002)
        )
        if shrunk == grown:
            outcomes.append(shrunk)
            assert meets_footprint(start, end, thing, 0.0) == shrunk
    assert 20 < sum(outcomes) < len(outcomes) - 20


def test_ways_keep_a_margin() -> None:
    thing = box(1, "a", (0, 0), (1, 1, 1))
    start, end = np.array([-2.0, 0.6]), np.array([2.0, 0.6])
    assert not meets_footprint(start, end, thing, 0.05)
    assert meets_footprint(start, end, thing, 0.15)


def test_floor_areas_of_known_shapes() -> None:
    floor = l_shape()
    assert floor_area(floor) == pytest.approx(FLOOR_M2, rel=0.02)
    noisy = floor + np.random.default_rng(0).normal(0, 0.01, floor.shape)
    assert floor_area(noisy) == pytest.approx(FLOOR_M2, rel=0.03)
    under_a_table = ~((np.abs(floor[:, 0] - 2) < 0.3) & (np.abs(floor[:, 1] - 2) < 0.3))
    assert floor_area(floor[under_a_table]) == pytest.approx(FLOOR_M2, rel=0.02)
    angle = np.random.default_rng(1).uniform(0, 2 * np.pi, 20000)
    radius = 2 * np.sqrt(np.random.default_rng(2).uniform(0, 1, 20000))
    disc = np.stack([radius * np.cos(angle), radius * np.sin(angle), angle * 0], axis=1)
    assert floor_area(disc) == pytest.approx(4 * np.pi, rel=0.03)
    far = floor + np.array([20, 0, 0])
    assert floor_area(np.concatenate([floor, far])) == pytest.approx(2 * FLOOR_M2, rel=0.02)


def test_points_that_span_nothing_have_no_area() -> None:
    assert floor_area(np.zeros((50, 3))) == 0
    assert floor_area(np.stack([np.linspace(0, 5, 300)] * 3, axis=1)) == 0
