"""`egem data view`: one self-contained page to look through records.

Each group of records is a card with its images, their depth in colour, and its questions. Places that a
question or answer names are drawn over the picture: green is right, blue is what the question points at.
Pictures are data URIs, each stored once a page; two menus filter by source and skill.
"""

import base64
import html
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Int
from PIL import Image

from egem.core.errors import ConfigError, unknown_name
from egem.core.files import write_atomically
from egem.media import decode_depth, decode_image, decode_region
from egem.records import IMAGE_MARK, Answer, Message, Record
from egem.report.panels import color_range, colorize
from egem.shards import RecordGroups, read_manifest

TILE_SIDE = 288
MAX_IMAGES = 8
"""Images shown of one group."""
JPEG_QUALITY = 80
REGION_COLOR = (26, 158, 75, 130)

_POINT = re.compile(r"(?:\b([A-Z])\s*)?[\[(]\s*(\d+)\s*,\s*(\d+)\s*[\])]")
_STYLE = """
.menus { position: sticky; top: 0; background: var(--paper); padding: 8px 0; display: flex; gap: 10px;
  flex-wrap: wrap; z-index: 1; border-bottom: 1px solid var(--line); }
select { font: inherit; max-width: 100%; padding: 4px; }
.group { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px;
  margin: 14px 0; }
.group h3 { margin: 0 0 8px; font-size: 0.9rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 8px; }
.pictures figure { margin: 0; flex: 0 1 calc(50% - 4px); max-width: 230px; }
.pictures img { width: 100%; display: block; }
figcaption { font-size: 0.8rem; color: var(--soft); }
.questions { display: grid; gap: 10px; margin-top: 10px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }
.question { display: flex; gap: 10px; align-items: flex-start; border-top: 1px solid var(--line);
  padding-top: 8px; font-size: 0.9rem; min-width: 0; }
.question > div { min-width: 0; } .question p { margin: 0; }
.question .skill { color: var(--soft); font-size: 0.78rem; } .question .right { color: var(--good); }
.drawn { position: relative; flex: 0 0 120px; } .drawn img, .drawn svg { width: 100%; display: block; }
.drawn svg { position: absolute; inset: 0; height: 100%; overflow: visible; }
[hidden] { display: none !important; }
"""
_SCRIPT = """
const menus = document.querySelectorAll("select");
function show() {
  const [source, skill] = [...menus].map(menu => menu.value);
  let shown = 0;
  for (const group of document.querySelectorAll(".group")) {
    let any = false;
    for (const question of group.querySelectorAll(".question")) {
      question.hidden = skill !== "" && question.dataset.skill !== skill;
      any ||= !question.hidden;
      shown += !question.hidden && (source === "" || group.dataset.source === source);
    }
    group.hidden = !any || (source !== "" && group.dataset.source !== source);
  }
  document.getElementById("shown").textContent = shown + " questions";
}
for (const menu of menus) menu.addEventListener("change", show);
for (const picture of document.querySelectorAll("img[data-of]"))
  picture.src = document.getElementById(picture.dataset.of).src;
show();
"""


def write_contact_sheet(
    folder: Path, out: Path, *, num: int = 500, sources: Sequence[str] = (), skills: Sequence[str] = ()
) -> Path:
    """Write the page about a folder of records.

    Args:
        folder: records.
        out: HTML file to write.
        num: about this many questions, in whole groups taken evenly from first to last.
        sources: only questions of these sources; all if empty.
        skills: only questions of these skills; all if empty.

    Raises:
        ConfigError: `num` is not positive, or the folder has no such source or skill.
        RecordError: the folder or an image in it cannot be read.
    """
    if num < 1:
        raise ConfigError(f"num is {num}; show at least 1 question.")
    groups, manifest = RecordGroups([folder]), read_manifest(folder)
    for kind, names, known in (
        ("source", sources, manifest.by_source),
        ("skill", skills, manifest.by_skill),
    ):
        for name in names:
            if name not in known:
                raise unknown_name(kind, name, known)
    matching = _matching(groups, sources, skills)
    rows = int(matching.sum())
    if not rows:
        raise ConfigError(
            f"{folder} has no question of both {', '.join(sources)} and {', '.join(skills)}; choose again."
        )
    some = np.flatnonzero(matching)
    count = min(max(1, round(num * len(some) / rows)), len(some))
    wanted = sorted({int(some[round(float(i))]) for i in np.linspace(0, len(some) - 1, count)})
    shown = [
        [r for r in groups[i] if (not sources or r.source in sources) and (not skills or r.skill in skills)]
        for i in wanted
    ]
    page = render_contact_sheet(shown, title=Path(folder).name, total=len(groups), root=Path(folder))
    write_atomically(out, page.encode())
    return out


def _matching(
    groups: RecordGroups, sources: Sequence[str], skills: Sequence[str]
) -> Int[np.ndarray, "group"]:
    """How many questions of each group are wanted; pictures are not read."""
    if not sources and not skills:
        return groups.group_sizes
    found = []
    for shard in groups.shards:
        with pq.ParquetFile(shard.place.open(shard.info.name, digest=shard.info.sha256)) as file:
            table = file.read(columns=["source", "skill"])
        fits = np.ones(table.num_rows, bool)
        for column, names in (("source", sources), ("skill", skills)):
            if names:
                fits &= np.isin(table.column(column).to_numpy(), list(names))
        found.append(fits)
    sizes = groups.group_sizes
    return np.add.reduceat(np.concatenate(found).astype(np.int64), np.cumsum(sizes) - sizes)


def render_contact_sheet(
    groups: Sequence[Sequence[Record]], *, title: str, total: int, root: Path | None = None
) -> str:
    """The page as HTML.

    Args:
        groups: records of each group to show.
        title: at the top.
        total: number of groups where these came from.
        root: folder that relative paths of images start from.

    Raises:
        RecordError: an image, depth map or region cannot be decoded.
    """
    sources = Counter(record.source for group in groups for record in group)
    skills = Counter(record.skill for group in groups for record in group)
    style = resources.files("egem.report").joinpath("page.css").read_text()
    cards = "".join(_group(number, group, root) for number, group in enumerate(groups))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}{_STYLE}</style>"
        f'<h1>{html.escape(title)}</h1><p class="note">{len(groups)} of {total} groups. Drawn in green: what '
        "is right; in blue: what the question points at. Depth: red is near, blue is far, grey is missing.</p>"
        f'<div class="menus">{_menu("source", sources)}{_menu("skill", skills)}'
        f'<span class="note" id="shown"></span></div>{cards}<script>{_SCRIPT}</script></html>'
    )


def _menu(name: str, counts: Counter[str]) -> str:
    options = "".join(
        f'<option value="{html.escape(value)}">{html.escape(value)} ({number})</option>'
        for value, number in sorted(counts.items())
    )
    return f'<label>{name} <select><option value="">all</option>{options}</select></label>'


def _group(number: int, records: Sequence[Record], root: Path | None) -> str:
    first = records[0]
    pictures = []
    for index, image in enumerate(first.images[:MAX_IMAGES]):
        where = f"group '{first.group}'"
        seconds = "" if first.timestamps is None else f"{first.timestamps[index]:.1f} s"
        pixels = decode_image(image, root=root, where=where)
        pictures.append(_figure(pixels, seconds or "image", name=f"g{number}i{index}"))
        depth = first.depths[index] if first.depths else None
        if depth is not None:
            values = decode_depth(depth, root=root, where=where)
            pictures.append(_figure(colorize(values), _depth_caption(values, depth.kind, depth.origin)))
    questions = "".join(_question(record, f"g{number}i0", root) for record in records)
    return (
        f'<section class="group" data-source="{html.escape(first.source)}"><h3>{html.escape(first.group)} '
        f'<span class="note">{html.escape(first.source)}</span></h3>'
        f'<div class="pictures">{"".join(pictures)}</div><div class="questions">{questions}</div></section>'
    )


def _depth_caption(depth: np.ndarray, kind: str, origin: str) -> str:
    near, far = color_range(depth)
    share = float((depth > 0).mean())
    unit = " m" if kind == "metric" else f" ({kind})"
    return f"depth {near:.2f} to {far:.2f}{unit}, {share:.0%} known, {origin}"


def _figure(pixels: np.ndarray, caption: str, name: str = "") -> str:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if max(image.size) > TILE_SIDE:
        image.thumbnail((TILE_SIDE, TILE_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    identity = f' id="{name}"' if name else ""
    return (
        f'<figure><img{identity} alt="" src="data:image/jpeg;base64,{_base64(buffer.getvalue())}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _question(record: Record, picture: str, root: Path | None) -> str:
    turns = [message for message in record.messages if message.role != "system"]
    marks = _asked_marks(turns[-2].content) + _right_marks(record.answer, root)
    drawn = ""
    if marks and record.images:
        drawn = (
            f'<div class="drawn"><img alt="" data-of="{picture}">'
            f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none">{marks}</svg></div>'
        )
    return (
        f'<div class="question" data-skill="{html.escape(record.skill)}">{drawn}<div>'
        f'<p class="skill">{html.escape(record.skill)} | {record.category}</p>{_turns(turns)}</div></div>'
    )


def _turns(turns: Iterable[Message]) -> str:
    lines = []
    for message in turns:
        text = html.escape(message.content.replace(IMAGE_MARK, "").strip())
        lines.append(
            f'<p class="right"><b>{text}</b></p>' if message.role == "assistant" else f"<p>{text}</p>"
        )
    return "".join(lines)


def _asked_marks(question: str) -> str:
    found = []
    for label, x, y in _POINT.findall(question):
        found.append(f'<circle cx="{x}" cy="{y}" r="24" fill="#2563c9" stroke="#fff" stroke-width="8"/>')
        if label:
            shift = f'x="{x}" y="{int(y) - 36}"'
            found.append(
                f'<text {shift} font-size="110" font-weight="bold" text-anchor="middle" fill="#2563c9" '
                f'stroke="#fff" stroke-width="14" paint-order="stroke">{label}</text>'
            )
    return "".join(found)


def _right_marks(answer: Answer, root: Path | None) -> str:
    color = '#1a9e4b" stroke-width="16'
    if answer.kind == "box" and answer.box is not None:
        left, top, right, bottom = answer.box
        size = f'width="{right - left}" height="{bottom - top}"'
        return f'<rect x="{left}" y="{top}" {size} fill="none" stroke="{color}"/>'
    if answer.kind == "trajectory":
        path = " ".join(f"{x},{y}" for x, y in answer.points)
        x, y = answer.points[-1]
        end = f'<circle cx="{x}" cy="{y}" r="26" fill="#1a9e4b"/>'
        return f'<polyline points="{path}" fill="none" stroke="{color}"/>{end}'
    if answer.kind != "point":
        return ""
    dots = "".join(
        f'<circle cx="{x}" cy="{y}" r="22" fill="#1a9e4b" stroke="#fff" stroke-width="8"/>'
        for x, y in answer.points
    )
    return dots if answer.region is None else _region(decode_region(answer.region, root=root)) + dots


def _region(region: np.ndarray) -> str:
    pixels = np.zeros((*region.shape, 4), np.uint8)
    pixels[region] = REGION_COLOR
    image = Image.fromarray(pixels)
    if max(image.size) > TILE_SIDE:
        image.thumbnail((TILE_SIDE, TILE_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return (
        f'<image href="data:image/png;base64,{_base64(buffer.getvalue())}" width="1000" height="1000" '
        'preserveAspectRatio="none"/>'
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
