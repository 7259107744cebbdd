"""`report.html`: one self-contained file about one run, to be read on a phone as well as on a desk.

No script, nothing fetched: pictures are data URIs, curves are SVG, the style follows the reader's light or
dark setting. Every text that comes from outside is escaped.
"""

import base64
import html
import io
from importlib import resources
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from egem.core.files import write_atomically
from egem.report import panels
from egem.report.contents import (
    DepthRow,
    DepthTable,
    Example,
    PlainTable,
    Report,
    ScoreRow,
    SkillTable,
    StageRow,
)
from egem.report.curves import svg
from egem.report.drawing import draw_answer
from egem.report.panels import DepthPicture

TILE_WIDTH = 256
EXAMPLE_WIDTH = 384
JPEG_QUALITY = 85


def write_report(path: Path, report: Report) -> Path:
    """Write the page.

    Args:
        path: the file, or a folder (a run's) that gets `report.html`.
        report: what to show.

    Returns:
        Where the page is.

    Raises:
        EgemError: the disk is full or the place cannot be written.
    """
    path = path / "report.html" if path.is_dir() or not path.suffix else path
    write_atomically(path, render(report).encode())
    return path


def render(report: Report) -> str:
    """The page as HTML text."""
    sections = [
        ("trained", "What was trained", _trained(report)),
        ("curves", "Losses and probes", _charts(report)),
        ("totals", "Totals", "".join(map(_plain_table, report.totals))),
        ("skills", "Skills", "".join(map(_skill_table, report.skill_tables))),
        (
            "depth",
            "Depth",
            "".join(map(_depth_table, report.depth_tables)) + _pictures(report) + _panel(report),
        ),
        ("examples", "Answers", _examples(report.examples)),
        ("mistakes", "Worst mistakes", _examples(report.mistakes)),
        ("notes", "Notes", _list(report.notes)),
    ]
    shown = [(anchor, title, body) for anchor, title, body in sections if body]
    style = resources.files("egem.report").joinpath("page.css").read_text()
    title = html.escape(report.title)
    links = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name, _ in shown)
    bodies = "".join(
        f'<section id="{anchor}"><h2>{name}</h2>{body}</section>' for anchor, name, body in shown
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}</style></head><body>"
        f"<header><h1>{title}</h1><p>{html.escape(report.summary)}</p></header>"
        f"{_headlines(report)}<nav>{links}</nav><main>{bodies}</main></body></html>\n"
    )


def duration(seconds: float | int) -> str:
    """Seconds as "48 s", "12 min 5 s" or "3 h 20 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _headlines(report: Report) -> str:
    cards = [
        f'<div class="headline {card.state}"><span>{html.escape(card.label)}</span>'
        f"<b>{html.escape(card.value)}</b><small>{html.escape(card.note)}</small></div>"
        for card in report.headlines
    ]
    return f'<div class="headlines">{"".join(cards)}</div>' if cards else ""


def _trained(report: Report) -> str:
    parts = []
    if report.stages:
        head = _row(["stage", "trains", "loss"], ["parameters", "steps", "time"], cell="th")
        rows = "".join(map(_stage_row, report.stages))
        table = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"
        parts.append(f'<div class="scroll">{table}</div>')
    if report.facts:
        pairs = [f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in report.facts]
        parts.append(f"<h3>Facts</h3><dl>{''.join(pairs)}</dl>")
    return "".join(parts)


def _stage_row(stage: StageRow) -> str:
    time = "" if stage.seconds is None else duration(stage.seconds)
    numbers = [f"{stage.trainable_parameters:,}", f"{stage.steps:,}", time]
    return _row([stage.name, ", ".join(stage.modules), stage.losses], numbers)


def _charts(report: Report) -> str:
    charts = [f"<div><h3>{html.escape(chart.title)}</h3>{svg(chart)}</div>" for chart in report.charts]
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def _plain_table(table: PlainTable) -> str:
    head = _row([table.head[0]], list(table.head[1:]), cell="th")
    rows = "".join(_row([row[0]], list(row[1:])) for row in table.rows)
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    body = f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    return f"<h3>{html.escape(table.title)}</h3>{note}{body}"


def _skill_table(table: SkillTable) -> str:
    num_above = sum(row.above_blind for row in table.rows)
    rows = "".join(_score_row(row) for row in table.rows) + _score_row(table.overall, strong=True)
    head = _row(["skill"], ["n", "score", "blind"], cell="th").replace(
        "</tr>", "<th>0 to 1: score with 95 % interval, blind baseline</th></tr>"
    )
    legend = (
        f'<p class="note">{num_above} of {len(table.rows)} skills are above their blind baseline: the '
        'two 95 % intervals do not touch. <i class="key" style="background:var(--blind)"></i> interval of '
        "the best answer without looking; coloured: interval and mean of this model, green where above. "
        f"{html.escape(table.note)}</p>"
    )
    body = f'<table class="skills"><thead>{head}</thead><tbody>{rows}</tbody></table>'
    return f"<h3>{html.escape(table.benchmark)}</h3>{legend}{body}"


def _score_row(row: ScoreRow, *, strong: bool = False) -> str:
    classes = " ".join(name for name, on in (("above", row.above_blind), ("strong", strong)) if on)
    blind = ""
    marks = ""
    if row.blind_mean is not None:
        low, high = row.blind_low or 0.0, row.blind_high or 0.0
        blind = f"{row.blind_mean:.2f}"
        marks += f'<i class="blind" style="{_span(low, high)}"></i>'
    marks += f'<i class="range" style="{_span(row.low, row.high)}"></i>'
    marks += f'<i class="mean" style="left:{row.mean:.1%}"></i>'
    words = f"{row.mean:.2f}, 95 % interval {row.low:.2f} to {row.high:.2f}"
    words += f", blind {blind}" if blind else ""
    return (
        f'<tr class="{classes}"><td>{html.escape(row.name)} <small>{html.escape(row.category)}</small></td>'
        f'<td class="num"><small>{row.n}</small></td>'
        f'<td class="num score">{row.mean:.2f} <small>{row.low:.2f}-{row.high:.2f}</small></td>'
        f'<td class="num blindness">{blind}</td>'
        f'<td class="graph"><div class="bar" role="img" aria-label="{words}">{marks}</div></td></tr>'
    )


def _span(low: float, high: float) -> str:
    # At least half a per cent wide, so that a narrow interval can still be seen.
    return f"left:{low:.1%};width:{max(high - low, 0.005):.1%}"


def _depth_table(table: DepthTable) -> str:
    names = ["AbsRel", "RMSE", "delta1", "delta2", "delta3", "images"]
    head = _row(["depth map", "alignment"], names, cell="th")
    rows = "".join(map(_depth_row, table.rows))
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    body = f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    return f"<h3>{html.escape(table.benchmark)}</h3>{note}{body}"


def _depth_row(row: DepthRow) -> str:
    numbers = [f"{v:.3f}" for v in (row.abs_rel, row.rmse, row.delta1, row.delta2, row.delta3)]
    return _row([row.name, row.family], [*numbers, str(row.num_images)])


def _pictures(report: Report) -> str:
    if not report.depth_pictures:
        return ""
    ramps = (
        f'<p class="note">Near <span class="key" style="width:110px;{_ramp("Spectral")}"></span> far, each '
        "row in one colour range taken from the true map; grey: no reading. Error: 0 "
        f'<span class="key" style="width:70px;{_ramp("inferno")}"></span> '
        f"{panels.LARGEST_ERROR:.0%} or more.</p>"
    )
    return ramps + "".join(map(_picture, report.depth_pictures))


def _panel(report: Report) -> str:
    if report.depth_panel is None:
        return ""
    title = "Drawn when the probes were last run"
    return f'<h3>{title}</h3><div class="scroll">{_image(report.depth_panel, title)}</div>'


def _picture(picture: DepthPicture) -> str:
    tiles = panels.tiles(picture, TILE_WIDTH)
    figures = [
        f"<figure>{_image(tile, f'{title}: {picture.label}')}<figcaption>{title}</figcaption></figure>"
        for title, tile in tiles.items()
    ]
    label = f"<p>{html.escape(picture.label)}</p>" if picture.label else ""
    return f'<div class="tiles">{label}{"".join(figures)}</div>'


def _ramp(name: str) -> str:
    table = (matplotlib.colormaps[name](np.linspace(0, 1, 9))[:, :3] * 255).round().astype(int)
    return "background:linear-gradient(90deg," + ",".join(f"rgb({r},{g},{b})" for r, g, b in table) + ")"


def _examples(examples: tuple[Example, ...]) -> str:
    if not examples:
        return ""
    note = '<p class="note">Drawn in green: what is right; in red: what was answered.</p>'
    return f'{note}<div class="examples">{"".join(map(_example, examples))}</div>'


def _example(example: Example) -> str:
    right = example.score >= 0.5
    picture = draw_answer(
        example.image, right=example.right_marks, given=example.given_marks, width=EXAMPLE_WIDTH
    )
    verdict = "right" if right else "wrong"
    if 0.0 < example.score < 1.0:
        verdict += f" ({example.score:.2f})"
    return (
        f'<div class="example {"right" if right else "wrong"}">{_image(picture, example.question)}<div>'
        f'<p class="skill"><span>{html.escape(example.skill)}</span>'
        f'<span class="verdict">{verdict}</span></p><p>{html.escape(example.question)}</p>'
        f"<p><b>right answer</b> {html.escape(example.expected)}</p>"
        f"<p><b>its answer</b> {html.escape(example.given) or '(nothing)'}</p></div></div>"
    )


def _list(notes: tuple[str, ...]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(note)}</li>' for note in notes)}</ul>" if notes else ""


def _row(texts: list[str], numbers: list[str], cell: str = "td") -> str:
    cells = [f"<{cell}>{html.escape(text)}</{cell}>" for text in texts]
    cells += [f'<{cell} class="num">{html.escape(number)}</{cell}>' for number in numbers]
    return f"<tr>{''.join(cells)}</tr>"


def _image(image: UInt8[np.ndarray, "height width 3"], text: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode()
    size = f'width="{image.shape[1]}" height="{image.shape[0]}"'
    return f'<img {size} alt="{html.escape(text, quote=True)}" src="data:image/jpeg;base64,{data}">'
