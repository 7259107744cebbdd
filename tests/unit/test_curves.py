import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from egem.report.curves import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Series,
    series,
    smoothed,
    stage_starts,
    svg,
)


def drawn(chart):
    """The chart's elements by tag; parsing proves that it is well formed."""
    root = ET.fromstring(svg(chart))
    found = {}
    for element in root.iter():
        found.setdefault(element.tag, []).append(element)
    return found


def path_points(element):
    text = element.get("d").replace("M", " M").replace("L", " L")
    return [
        tuple(map(float, part.split())) for part in text.replace("M", "|").replace("L", "|").split("|")[1:]
    ]


def test_points_lie_where_their_values_say():
    line = Series(name="loss", steps=(0, 50, 100), values=(1.0, 3.0, 2.0), smooth=False)
    elements = drawn(Chart(title="t", series=(line,), log=False))
    points = path_points(elements["path"][0])
    inner = HEIGHT - TOP - BOTTOM
    margin = 0.04 / 1.08 * inner
    assert points[0] == pytest.approx((LEFT, HEIGHT - BOTTOM - margin), abs=0.06)
    assert points[1] == pytest.approx((LEFT + (WIDTH - LEFT - RIGHT) / 2, TOP + margin), abs=0.06)
    assert points[2][1] == pytest.approx(HEIGHT - BOTTOM - margin - (inner - 2 * margin) / 2, abs=0.06)
    assert len(elements["circle"]) == 3


def test_logarithmic_rows_are_evenly_spaced():
    line = Series(name="loss", steps=(0, 1, 2), values=(1.0, 10.0, 100.0), smooth=False)
    points = path_points(drawn(Chart(title="t", series=(line,)))["path"][0])
    assert points[0][1] - points[1][1] == pytest.approx(points[1][1] - points[2][1], abs=0.1)


def test_the_raw_curve_stands_behind_the_smoothed_one():
    rng = np.random.default_rng(0)
    values = tuple((1 + rng.normal(0, 0.1, 300)).tolist())
    line = Series(name="loss", steps=tuple(range(300)), values=values)
    raw, mean = drawn(Chart(title="t", series=(line,)))["path"]
    assert "raw" in raw.get("class")
    spread = [np.std([y for _, y in path_points(path)]) for path in (raw, mean)]
    assert spread[1] < 0.5 * spread[0]


def test_long_curves_are_thinned_to_means():
    line = Series(name="x", steps=tuple(range(10_000)), values=tuple(float(i % 2) for i in range(10_000)))
    whole = Series(name="range", steps=(0, 10_000), values=(0.0, 1.0), smooth=False)
    paths = drawn(Chart(title="t", series=(line, whole), log=False))["path"]
    points = path_points(paths[0])
    assert len(points) <= MOST_POINTS
    assert np.ptp([y for _, y in points]) < 20  # neighbours averaged, not picked


def test_values_that_are_not_finite_leave_a_gap():
    line = Series(name="x", steps=(0, 1, 2, 3), values=(1.0, math.nan, 2.0, 3.0), smooth=False)
    path = drawn(Chart(title="t", series=(line,)))["path"][0].get("d")
    assert path.count("M") == 2
    assert "nan" not in path


def test_stages_are_marked_where_they_begin():
    line = Series(name="x", steps=(0, 100), values=(1.0, 2.0), smooth=False)
    chart = Chart(title="t", series=(line,), stages=(("connector", 0), ("joint & all", 50)))
    elements = drawn(chart)
    (stage,) = [e for e in elements["line"] if e.get("class") == "stage"]
    assert float(stage.get("x1")) == pytest.approx(LEFT + (WIDTH - LEFT - RIGHT) / 2, abs=0.1)
    assert "joint & all" in [e.text for e in elements["text"]]


def test_an_empty_or_flat_chart():
    empty = svg(Chart(title="<Language>", series=(Series(name="x", steps=(), values=()),)))
    assert "nothing was recorded" in empty
    assert "&lt;Language&gt;" in empty
    assert drawn(Chart(title="t", series=(Series(name="x", steps=(5,), values=(2.0,)),)))["path"]


def test_the_running_mean():
    assert smoothed([1.0, 2.0, 3.0, 4.0, 5.0], 3) == pytest.approx([1.5, 2.0, 3.0, 4.0, 4.5])
    with_gap = smoothed([1.0, math.nan, 3.0], 3)
    assert with_gap[0] == 1.0
    assert math.isnan(with_gap[1])
    assert with_gap[2] == 3.0


def test_rows_become_lines_and_stages():
    rows = [{"step": 1, "stage": "a", "loss": 2.0}, {"step": 2, "stage": "b", "loss": 1}]
    assert series(rows, "loss").values == (2.0, 1.0)
    assert stage_starts(rows) == (("a", 1.0), ("b", 2.0))


def test_a_step_written_twice_counts_once():
    rows = [{"step": 1, "x": 1.0}, {"step": 2, "x": 5.0}, {"step": 2, "x": 7.0}, {"step": 3, "y": 1.0}]
    assert series(rows, "x", "name").steps == (1.0, 2.0)
    assert series(rows, "x").values == (1.0, 7.0)
