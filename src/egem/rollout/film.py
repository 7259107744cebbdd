"""Films: what each camera saw, its depth, the depth that the policy's checkpoint drew, and what was to be done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from egem.policy import DepthGuess, Observation
from egem.report.panels import BACKGROUND, INK, colorize, fitted, font

_TILE: Final = 240
"""Height of a picture in a film, pixels."""
_CAPTION: Final = 26
_DEPTH_RANGE_M: Final = (0.0, 1.5)
"""Nearest and farthest colour: the same in all frames, or the film would flicker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """One moment of a film."""

    seen: Observation
    drawn: Mapping[str, DepthGuess] = field(default_factory=dict)
    """Camera to the depth that was drawn when the policy last looked."""


def write_film(path: str | Path, shots: Sequence[Shot], fps: float) -> None:
    """Write an MP4 (H.264)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing = sorted({camera for shot in shots for camera in shot.drawn})
    frames = [frame(shot, drawing) for shot in shots]
    container: Any = av.open(str(path), "w")
    with container:
        stream = container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "23"}
        )
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def frame(shot: Shot, drawing: Sequence[str] = ()) -> UInt8[np.ndarray, "height width 3"]:
    """One picture of all cameras: RGB and, right of it, depth and drawn depth where there are any; even sides.

    Args:
        shot: what is shown.
        drawing: cameras that have drawn depth somewhere in the film, and so a place for it everywhere.
    """
    tiles = []
    observation = shot.seen
    for name, image in observation.images.items():
        tiles.append(_tile(image))
        if name in observation.depths:
            tiles.append(_tile(colorize(observation.depths[name], _DEPTH_RANGE_M), "simulated"))
        if name in drawing:
            tiles.append(_tile(_drawn(shot.drawn.get(name), image.shape[:2]), "drawn"))
    width = sum(tile.width for tile in tiles)
    sheet = Image.new("RGB", (width + width % 2, _TILE + _CAPTION), BACKGROUND)
    left = 0
    for tile in tiles:
        sheet.paste(tile, (left, 0))
        left += tile.width
    text = fitted(observation.instruction, width - 12, 15)
    ImageDraw.Draw(sheet).text((6, _TILE + 4), text, INK, font(15))
    return np.asarray(sheet)


def _drawn(guess: DepthGuess | None, size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    if guess is None:
        return np.full((*size, 3), BACKGROUND, np.uint8)
    if guess.kind == "metric":
        return colorize(guess.values, _DEPTH_RANGE_M)
    return colorize(1.0 - np.clip(guess.values, 0.0, 0.999), (0.0, 1.0))


def _tile(image: UInt8[np.ndarray, "height width 3"], title: str = "") -> Image.Image:
    width = max(1, round(_TILE * image.shape[1] / image.shape[0]))
    tile = Image.fromarray(image).resize((width, _TILE), Image.Resampling.BILINEAR)
    ImageDraw.Draw(tile).text((6, 4), title, INK, font(13))
    return tile
