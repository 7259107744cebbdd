"""Depth as pictures: colour maps, image / true / generated / error panels, 16-bit export.

Near is red, far is blue (matplotlib's "Spectral", as in the released GEM), no reading is grey. All maps of
one row share one colour range, taken from the true map where there is one.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from egem.core.errors import RecordError

NO_READING = (140, 140, 140)
"""Colour of pixels without a depth reading."""

LARGEST_ERROR = 0.3
"""Relative error at which the error map saturates."""

BACKGROUND, INK = (255, 255, 255), (30, 34, 40)
MARGIN = 6
TITLES = ("image", "true depth", "generated depth", "error")


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthPicture:
    """One image with its depth maps, all depth in one unit; any resolution each."""

    image: UInt8[np.ndarray, "height width 3"]
    truth: Float[np.ndarray, "true_height true_width"] | None = None
    """0 = no reading."""
    generated: Float[np.ndarray, "gen_height gen_width"] | None = None
    """Aligned to the truth where there is one, so that colours and errors mean something."""
    label: str = ""


def color_range(depth: Float[np.ndarray, "height width"]) -> tuple[float, float]:
    """2nd and 98th percentile of the readings: (nearest, farthest) colour. (0, 1) without readings."""
    readings = depth[(depth > 0) & np.isfinite(depth)]
    if not readings.size:
        return 0.0, 1.0
    near, far = (float(value) for value in np.percentile(readings, [2, 98]))
    return (near, far) if far > near else (near, near + max(1e-6, 1e-3 * near))


def colorize(
    depth: Float[np.ndarray, "height width"], limits: tuple[float, float] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Depth as colours; grey where it is 0 or not finite.

    Args:
        depth: 0 = no reading.
        limits: depth of the first and the last colour; `color_range(depth)` when None.
    """
    near, far = limits or color_range(depth)
    known = (depth > 0) & np.isfinite(depth)
    position = np.clip((np.where(known, depth, near) - near) / (far - near), 0.0, 1.0)
    colors = _color_table("Spectral")[(position * 255).round().astype(np.uint8)]
    colors[~known] = NO_READING
    return colors


def colorize_error(
    generated: Float[np.ndarray, "height width"], truth: Float[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """|generated - true| / true, black (0) to light yellow (`LARGEST_ERROR` or more); grey without truth."""
    known = truth > 0
    error = np.abs(generated - truth) / np.where(known, truth, 1.0)
    position = np.clip(error / LARGEST_ERROR, 0.0, 1.0)
    colors = _color_table("inferno")[(position * 255).round().astype(np.uint8)]
    colors[~known] = NO_READING
    return colors


def depth_grid(pictures: Sequence[DepthPicture], *, tile_width: int = 192) -> UInt8[np.ndarray, "h w 3"]:
    """One row a picture: image, true depth, generated depth, error; columns nobody has are left out.

    Args:
        pictures: rows from top to bottom.
        tile_width: pixels of one tile; its height follows the image's shape.
    """
    if not pictures:
        raise ValueError("a grid needs at least one picture.")
    rows = [tiles(picture, tile_width) for picture in pictures]
    columns = [title for title in TITLES if any(title in row for row in rows)]
    tile_heights = [_tile_height(picture, tile_width) for picture in pictures]
    size = max(10, round(tile_width / 14))
    header, caption = size + 2 * MARGIN, size + MARGIN
    heights = [h + (caption if p.label else 0) for h, p in zip(tile_heights, pictures, strict=True)]
    width = MARGIN + len(columns) * (tile_width + MARGIN)
    sheet = Image.new("RGB", (width, header + sum(heights) + MARGIN * len(rows)), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(columns):
        middle = MARGIN + column * (tile_width + MARGIN) + tile_width / 2
        title += f" (0 to {LARGEST_ERROR:.0%})" if title == "error" else ""
        pen.text((middle, header / 2), title, INK, font(size), anchor="mm")
    top = header
    for row, picture, tile_height, height in zip(rows, pictures, tile_heights, heights, strict=True):
        for title, tile in row.items():
            left = MARGIN + columns.index(title) * (tile_width + MARGIN)
            sheet.paste(Image.fromarray(tile), (left, top))
        if picture.label:
            place = (MARGIN, top + tile_height + MARGIN // 2)
            pen.text(place, fitted(picture.label, width - 2 * MARGIN, size), INK, font(size))
        top += height + MARGIN
    return np.asarray(sheet)


def tiles(picture: DepthPicture, width: int) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
    """The picture's columns by title, each `width` pixels wide; what the picture lacks is left out."""
    height = _tile_height(picture, width)
    image = Image.fromarray(picture.image).resize((width, height), Image.Resampling.LANCZOS)
    found = {"image": np.asarray(image)}
    truth, generated, limits = picture.truth, picture.generated, None
    if truth is not None:
        truth = _resize(truth, (height, width), Image.Resampling.NEAREST)
        limits = color_range(truth)
        found["true depth"] = colorize(truth, limits)
    if generated is not None:
        generated = _resize(generated, (height, width), Image.Resampling.BILINEAR)
        found["generated depth"] = colorize(generated, limits)
    if truth is not None and generated is not None:
        found["error"] = colorize_error(generated, truth)
    return found


def side_by_side(
    picture: DepthPicture, *, height: int = 384, unit: str | None = "m"
) -> UInt8[np.ndarray, "h w 3"]:
    """One image beside its depth, with a colour bar: what `egem depth --panel` writes.

    Args:
        picture: the image and at least one depth map.
        height: pixels of a tile.
        unit: what the numbers at the colour bar count; None when depth has no unit.
    """
    depth = picture.truth if picture.truth is not None else picture.generated
    if depth is None:
        raise ValueError("a side by side panel needs a depth map.")
    tile_width = max(1, round(height * picture.image.shape[1] / picture.image.shape[0]))
    grid = Image.fromarray(depth_grid([picture], tile_width=tile_width))
    size, bar_width = max(10, tile_width // 24), max(10, tile_width // 20)
    sheet = Image.new("RGB", (grid.width + bar_width + 5 * size + MARGIN, grid.height), BACKGROUND)
    sheet.paste(grid, (0, 0))
    near, far = color_range(depth)
    ramp = np.repeat(np.linspace(near, far, height, dtype=np.float32)[:, None], bar_width, axis=1)
    left, top = grid.width + MARGIN, max(10, round(tile_width / 14)) + 2 * MARGIN
    sheet.paste(Image.fromarray(colorize(np.maximum(ramp, 1e-9), (near, far))), (left, top))
    pen = ImageDraw.Draw(sheet)
    for place, value in ((0.0, near), (0.5, (near + far) / 2), (1.0, far)):
        text = f"{value:.3g}" + (f" {unit}" if unit else "")
        row = top + size * 0.6 + place * (height - size * 1.2)
        pen.text((left + bar_width + MARGIN, row), text, INK, font(size), anchor="lm")
    return np.asarray(sheet)


def depth_png(depth: Float[np.ndarray, "height width"], unit: float, meaning: str) -> bytes:
    """A 16-bit grey PNG of `depth / unit`, with unit and meaning written into the file's text fields.

    Args:
        depth: 0 = no reading.
        unit: metres (or, for relative depth, arbitrary units) per count; see `unit_for`.
        meaning: what a value is, e.g. "depth in metres" or "relative inverse depth".

    Raises:
        RecordError: a value does not fit into 16 bits at this unit.
    """
    counts = np.round(np.nan_to_num(depth.astype(np.float64)) / unit)
    if counts.max(initial=0) > 65535 or counts.min(initial=0) < 0:
        raise RecordError(
            f"depth from {depth.min():.4g} to {depth.max():.4g} does not fit into 16 bits at a unit of "
            f"{unit:g}; choose a larger unit."
        )
    # A reading may not turn into "no reading" by rounding.
    counts = np.where((depth > 0) & (counts == 0), 1, counts)
    text = PngInfo()
    text.add_text("unit", f"{unit:.9g}")
    text.add_text("meaning", meaning)
    buffer = io.BytesIO()
    Image.fromarray(counts.astype(np.uint16)).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def unit_for(depth: Float[np.ndarray, "height width"], *, metric: bool) -> float:
    """A unit at which a map fits into 16 bits: 1 mm where that does, else the finest power of ten that does.

    Depth without a unit is spread over the whole range of counts.
    """
    greatest = float(np.nan_to_num(depth).max(initial=0.0))
    if not metric:
        return greatest / 65535 if greatest > 0 else 1.0 / 65535
    unit = 0.001
    while greatest / unit > 65535:
        unit *= 10
    return unit


def png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """The image as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


@cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: the same letters on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def fitted(text: str, width: float | int, size: int) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def wrapped(text: str, width: float | int, size: int) -> list[str]:
    """The text in lines of at most `width` pixels; a word that is longer by itself is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(fitted(word, width, size))
    return [line for line in lines if line]


def _tile_height(picture: DepthPicture, width: int) -> int:
    return max(1, round(width * picture.image.shape[0] / picture.image.shape[1]))


def _resize(
    depth: Float[np.ndarray, "height width"], size: tuple[int, int], how: Image.Resampling
) -> Float[np.ndarray, "h w"]:
    image = Image.fromarray(np.ascontiguousarray(depth, dtype=np.float32))
    return np.asarray(image.resize((size[1], size[0]), how))


@cache
def _color_table(name: str) -> UInt8[np.ndarray, "256 3"]:
    return (matplotlib.colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
