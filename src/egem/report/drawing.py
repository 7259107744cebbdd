"""Points, boxes, paths and regions drawn on an image, so that an answer can be seen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from egem.records import COORDINATE_RANGE

RIGHT_COLOR, GIVEN_COLOR = (26, 158, 75), (224, 60, 49)
"""What is right is green, what the model wrote is red."""


Number = float | int


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """What to draw, in 0..1000 units (x, then y)."""

    points: Sequence[tuple[Number, Number]] = ()
    boxes: Sequence[tuple[Number, Number, Number, Number]] = ()
    path: Sequence[tuple[Number, Number]] = ()
    region: Bool[np.ndarray, "height width"] | None = None
    """Tinted where True; any resolution."""


def draw_answer(
    image: UInt8[np.ndarray, "height width 3"], *, right: Marks, given: Marks, width: int = 384
) -> UInt8[np.ndarray, "h w 3"]:
    """The image scaled to a width, with what is right in green and what was answered in red.

    Marks outside 0..1000 are left out.
    """
    height = max(1, round(width * image.shape[0] / image.shape[1]))
    canvas = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
    for marks, color in ((right, RIGHT_COLOR), (given, GIVEN_COLOR)):
        canvas = _tint(canvas, marks.region, color)
        _draw(ImageDraw.Draw(canvas), marks, color, (width, height))
    return np.asarray(canvas)


def _draw(pen: ImageDraw.ImageDraw, marks: Marks, color: tuple[int, int, int], size: tuple[int, int]) -> None:
    stroke = max(2, size[0] // 130)

    def place(x: Number, y: Number) -> tuple[float, float]:
        return x / COORDINATE_RANGE * (size[0] - 1), y / COORDINATE_RANGE * (size[1] - 1)

    for left, top, right, bottom in marks.boxes:
        if _inside(left, top, right, bottom) and left <= right and top <= bottom:
            corners = [place(left, top), place(right, bottom)]
            pen.rectangle(corners, outline=(255, 255, 255), width=stroke + 2)
            pen.rectangle(corners, outline=color, width=stroke)
    path = [place(x, y) for x, y in marks.path if _inside(x, y)]
    if len(path) > 1:
        pen.line(path, fill=(255, 255, 255), width=stroke + 2, joint="curve")
        pen.line(path, fill=color, width=stroke, joint="curve")
    dots = [place(x, y) for x, y in marks.points if _inside(x, y)] + path[-1:]
    radius = stroke * 2
    for x, y in dots:
        disc = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(disc, fill=color, outline=(255, 255, 255), width=max(1, stroke // 2))


def _tint(
    canvas: Image.Image, region: Bool[np.ndarray, "h w"] | None, color: tuple[int, int, int]
) -> Image.Image:
    if region is None:
        return canvas
    mask = Image.fromarray(np.where(region, np.uint8(115), np.uint8(0)))
    mask = mask.resize(canvas.size, Image.Resampling.NEAREST)
    return Image.composite(Image.new("RGB", canvas.size, color), canvas, mask)


def _inside(*values: Number) -> bool:
    return all(0 <= value <= COORDINATE_RANGE for value in values)
