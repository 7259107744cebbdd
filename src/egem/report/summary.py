"""One wide picture that says what a run achieved: for the top of a README."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from egem.report.contents import Example, ScoreRow
from egem.report.drawing import draw_answer
from egem.report.panels import DepthPicture, fitted, font, tiles, wrapped

WIDTH, HEIGHT, EDGE = 1200, 600, 28
PAPER, INK, SOFT, LINE = (255, 255, 255), (29, 36, 48), (110, 120, 135), (238, 241, 245)
BLIND, RANGE, ABOVE, MEAN = (196, 203, 212), (150, 180, 228), (140, 200, 168), (30, 60, 110)
MOST_SKILLS = 18


def summary_picture(
    *,
    title: str,
    example: Example,
    depth: DepthPicture,
    depth_line: str,
    skills: Sequence[ScoreRow],
) -> UInt8[np.ndarray, "600 1200 3"]:
    """A question with its answer, true and generated depth, and the skills' scores as bars.

    Args:
        title: one line.
        example: shown large at the left.
        depth: shown below it.
        depth_line: what the depth numbers are, one line.
        skills: at most MOST_SKILLS are drawn, the highest above their blind baseline first.
    """
    sheet = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((EDGE, 22), title, INK, font(26, bold=True))
    _question(sheet, pen, example, top=76)
    _depth(sheet, pen, depth, depth_line, top=330)
    _skills(pen, skills, left=690, top=76)
    return np.asarray(sheet)


def _question(sheet: Image.Image, pen: ImageDraw.ImageDraw, example: Example, *, top: int) -> None:
    picture = draw_answer(example.image, right=example.right_marks, given=example.given_marks, width=460)
    tile = _contained(picture, 300, 226)
    sheet.paste(tile, (EDGE, top))
    left, row = EDGE + tile.width + 20, top
    for text, color, bold in (
        ("question", SOFT, False),
        (example.question, INK, False),
        ("answer", SOFT, False),
        (example.given or "(nothing)", INK, True),
        (f"right answer: {example.expected}", SOFT, False),
    ):
        size = 14 if color == SOFT else 17
        for line in wrapped(text, 640 - left, size)[:5]:
            pen.text((left, row), line, color, font(size, bold=bold))
            row += size + 6
        row += 8 if color == INK else 2


def _depth(sheet: Image.Image, pen: ImageDraw.ImageDraw, depth: DepthPicture, line: str, *, top: int) -> None:
    shown = {title: tile for title, tile in tiles(depth, 400).items() if title != "error"}
    width = (640 - EDGE - 12 * (len(shown) - 1)) // len(shown)
    for column, (title, tile) in enumerate(shown.items()):
        left = EDGE + column * (width + 12)
        sheet.paste(_contained(tile, width, 200), (left, top))
        pen.text((left, top + 206), title, SOFT, font(14))
    for row, text in enumerate(wrapped(line, 640 - EDGE, 13)[:2]):
        pen.text((EDGE, top + 230 + 17 * row), text, INK, font(13))


def _skills(pen: ImageDraw.ImageDraw, skills: Sequence[ScoreRow], *, left: int, top: int) -> None:
    ranked = sorted(skills, key=lambda row: row.mean - (row.blind_mean or 0.0), reverse=True)[:MOST_SKILLS]
    name_width, bar_left = 180, left + 190
    bar_width = WIDTH - EDGE - bar_left
    num_above = sum(row.above_blind for row in skills)
    pen.text(
        (left, top), f"{num_above} of {len(skills)} skills above blind guessing", INK, font(17, bold=True)
    )
    step = (HEIGHT - top - 76) / max(len(ranked), 12)
    for index, row in enumerate(ranked):
        middle = top + 38 + step * (index + 0.5)

        def bar(
            low: float, high: float, half: int, color: tuple[int, int, int], middle: float = middle
        ) -> None:
            start, end = bar_left + low * bar_width, bar_left + high * bar_width
            pen.rounded_rectangle((start, middle - half, max(end, start + 3), middle + half), 2, fill=color)

        name = fitted(row.name.replace("_", " "), name_width, 14)
        pen.text((left, middle), name, INK, font(14), anchor="lm")
        bar(0.0, 1.0, 8, LINE)
        if row.blind_low is not None and row.blind_high is not None:
            bar(row.blind_low, row.blind_high, 8, BLIND)
        bar(row.low, row.high, 4, ABOVE if row.above_blind else RANGE)
        bar(row.mean - 0.003, row.mean + 0.003, 8, MEAN)
    legend = "grey: best guess without looking, bar: score, both with 95 % intervals, 0 to 1"
    pen.text((left, HEIGHT - 34), legend, SOFT, font(12))


def _contained(image: UInt8[np.ndarray, "height width 3"], width: int, height: int) -> Image.Image:
    """The image as large as fits into a box, its shape kept."""
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
