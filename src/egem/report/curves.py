"""Curves as SVG: the raw values faint, a smoothed line over them, dashed lines where a stage begins.

Colours come from the page's style sheet (`currentColor`, custom properties), so a curve reads on light and
dark backgrounds alike. Values that are not finite leave a gap; they are never interpolated.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 26, 30
Number = float | int

MOST_POINTS = 600
"""A longer curve is averaged down to this many points: more cannot be seen and would only weigh."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line."""

    name: str
    steps: tuple[Number, ...]
    values: tuple[Number, ...]
    smooth: bool = True
    """Draw a running mean over the raw values (training losses); else dots joined by a line (probes)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Lines over the same steps."""

    title: str
    series: tuple[Series, ...]
    stages: tuple[tuple[str, Number], ...] = ()
    """(name, first step) of each stage."""
    log: bool | None = None
    """Logarithmic values; None: when all are positive and span more than a factor of 20."""


def series(rows: Sequence[dict[str, Any]], key: str, name: str = "", *, smooth: bool = True) -> Series:
    """The values of one key over steps; rows without the key, or with null, are passed over.

    A step that occurs again (a resumed run wrote it twice) counts with its last value.
    """
    found = {row["step"]: row[key] for row in rows if "step" in row and isinstance(row.get(key), int | float)}
    steps = sorted(found)
    return Series(
        name=name or key,
        steps=tuple(map(float, steps)),
        values=tuple(float(found[s]) for s in steps),
        smooth=smooth,
    )


def stage_starts(rows: Sequence[dict[str, Any]], key: str = "stage") -> tuple[tuple[str, float], ...]:
    """(stage name, first step) in order of first appearance."""
    starts: dict[str, float] = {}
    for row in rows:
        if isinstance(row.get(key), str) and "step" in row:
            starts[row[key]] = min(float(row["step"]), starts.get(row[key], math.inf))
    return tuple(sorted(starts.items(), key=lambda item: item[1]))


def smoothed(values: Sequence[Number], window: int) -> list[float]:
    """Centred running mean over `window` values; the ends use what there is, gaps (NaN) are passed over."""
    array = np.asarray(values, dtype=np.float64)
    known = np.isfinite(array)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, array, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    places = np.arange(len(array))
    first = np.maximum(places - window // 2, 0)
    last = np.minimum(places + (window + 1) // 2, len(array))
    means = (total[last] - total[first]) / np.maximum(count[last] - count[first], 1)
    return [float(m) if known[i] else math.nan for i, m in enumerate(means)]


def svg(chart: Chart) -> str:
    """The chart as an SVG element, to be set into a page."""
    lines = [(s, *_thin(s.steps, s.values)) for s in chart.series]
    values = [v for _, _, ys in lines for v in ys if math.isfinite(v)]
    steps = [x for _, xs, _ in lines for x in xs]
    if not values:
        return f'<p class="empty">{html.escape(chart.title)}: nothing was recorded.</p>'
    log = chart.log if chart.log is not None else min(values) > 0 and max(values) > 20 * min(values)
    log = log and min(values) > 0
    axes = _Axes(
        x=_widened(min(steps), max(steps)),
        y=_widened(*_value_range([ys for _, _, ys in lines], log), margin=0.04),
        log=log,
    )
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(chart.title, quote=True)}">',
        *_grid(axes),
        *_stages(chart.stages, axes),
    ]
    for index, (line, xs, ys) in enumerate(lines):
        parts += _line(line, xs, ys, axes, index)
    parts += _legend([line.name for line, _, _ in lines])
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Axes:
    x: tuple[float, float]
    y: tuple[float, float]
    """Logarithms to base ten when `log`."""
    log: bool

    def column(self, step: Number) -> float:
        return LEFT + (step - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def row(self, value: float) -> float:
        value = math.log10(value) if self.log else value
        share = (value - self.y[0]) / (self.y[1] - self.y[0])
        return TOP + (1 - min(max(share, 0.0), 1.0)) * (HEIGHT - TOP - BOTTOM)


def _value_range(lines: Sequence[Sequence[float]], log: bool) -> tuple[float, float]:
    arrays = [np.asarray([v for v in line if math.isfinite(v)]) for line in lines]
    arrays = [np.log10(array) if log else array for array in arrays if array.size]
    # A few spikes must not flatten a long curve: its top 0.5 % are cut at the frame.
    tops = [np.quantile(array, 0.995) if array.size > 200 else array.max() for array in arrays]
    return float(min(array.min() for array in arrays)), float(max(tops))


def _widened(low: float, high: float, margin: float = 0.0) -> tuple[float, float]:
    if high <= low:
        spread = max(abs(low) * 0.1, 0.5)
        return low - spread, high + spread
    return low - margin * (high - low), high + margin * (high - low)


def _thin(steps: Sequence[Number], values: Sequence[Number]) -> tuple[list[float], list[float]]:
    """Means over equal runs of points, so that at most MOST_POINTS are left."""
    size = math.ceil(len(values) / MOST_POINTS)
    if size <= 1:
        return [float(step) for step in steps], [float(value) for value in values]
    starts = range(0, len(values), size)
    means = [np.asarray(values[i : i + size], dtype=np.float64) for i in starts]
    # A run holding a value that is not finite stays a gap: spikes to infinity should be seen.
    return [float(np.mean(steps[i : i + size])) for i in starts], [float(np.mean(m)) for m in means]


def _line(line: Series, xs: list[float], ys: list[float], axes: _Axes, index: int) -> list[str]:
    style = f"series s{index % 4}"
    raw = _path(xs, ys, axes)
    if line.smooth and len(ys) >= 20:
        mean = _path(xs, smoothed(ys, max(5, len(ys) // 25)), axes)
        return [f'<path class="{style} raw" d="{raw}"/>', f'<path class="{style}" d="{mean}"/>']
    dots = [
        f'<circle class="{style} dot" cx="{axes.column(x):.1f}" cy="{axes.row(y):.1f}" r="3"/>'
        for x, y in zip(xs, ys, strict=True)
        if math.isfinite(y) and len(xs) <= 60
    ]
    return [f'<path class="{style}" d="{raw}"/>', *dots]


def _path(xs: Sequence[float], ys: Sequence[float], axes: _Axes) -> str:
    commands, pen_down = [], False
    for x, y in zip(xs, ys, strict=True):
        drawable = math.isfinite(y) and (y > 0 or not axes.log)
        if drawable:
            commands.append(f"{'L' if pen_down else 'M'}{axes.column(x):.1f} {axes.row(y):.1f}")
        pen_down = drawable
    return "".join(commands)


def _grid(axes: _Axes) -> list[str]:
    parts = []
    for value in _log_ticks(*axes.y) if axes.log else _ticks(*axes.y):
        row = axes.row(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{row:.1f}" y2="{row:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{row + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for step in _ticks(*axes.x, whole=True):
        column = min(axes.column(step), WIDTH - RIGHT - 3.2 * len(f"{step:,.0f}"))
        parts.append(f'<text x="{column:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{step:,.0f}</text>')
    return parts


def _stages(stages: Sequence[tuple[str, Number]], axes: _Axes) -> list[str]:
    parts = []
    for name, start in stages:
        column = axes.column(min(max(start, axes.x[0]), axes.x[1]))
        if start > axes.x[0]:
            parts.append(
                f'<line class="stage" x1="{column:.1f}" x2="{column:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            )
        ends = [other for _, other in stages if other > start]
        until = axes.column(min(ends)) if ends else WIDTH - RIGHT
        if until - column > 6.5 * len(name):
            parts.append(
                f'<text class="stage" x="{column + 4:.1f}" y="{TOP + 10}">{html.escape(name)}</text>'
            )
    return parts


def _legend(names: Sequence[str]) -> list[str]:
    parts, left = [], float(LEFT)
    for index, name in enumerate(names):
        parts.append(f'<rect class="swatch s{index % 4}" x="{left:.0f}" y="6" width="14" height="4" rx="2"/>')
        parts.append(f'<text x="{left + 19:.0f}" y="12">{html.escape(name)}</text>')
        left += 34 + 6.6 * len(name)
    return parts


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """About five round numbers inside a range."""
    raw = (high - low) / 5
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(scale * factor for factor in (1, 2, 5, 10) if scale * factor >= raw * 0.999)
    step = max(1.0, step) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [f * 10.0**p for p in powers for f in factors if low <= math.log10(f * 10.0**p) <= high]
        if 2 <= len(ticks) <= 7:
            return ticks
    return [10.0**tick for tick in np.linspace(low, high, 4)]
