"""Films of episodes: what each camera saw, RGB above or beside its depth, and what was to be done."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from egem.policy import Observation
from egem.report.panels import BACKGROUND, INK, colorize, fitted, font

_TILE: Final = 240
"""Height of a picture in a film, pixels."""
_CAPTION: Final = 26
_DEPTH_RANGE_M: Final = (0.0, 1.5)
"""Nearest and farthest colour: the same in all frames, or the film would flicker."""


def write_film(path: str | Path, observations: Sequence[Observation], fps: float) -> None:
    """Write an MP4 (H.264)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [frame(observation) for observation in observations]
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


def frame(observation: Observation) -> UInt8[np.ndarray, "height width 3"]:
    """One picture of all cameras: RGB and, right of it, depth where there is one; even sides."""
    tiles = []
    for name, image in observation.images.items():
        tiles.append(_tile(image))
        if name in observation.depths:
            tiles.append(_tile(colorize(observation.depths[name], _DEPTH_RANGE_M)))
    width = sum(tile.width for tile in tiles)
    sheet = Image.new("RGB", (width + width % 2, _TILE + _CAPTION), BACKGROUND)
    left = 0
    for tile in tiles:
        sheet.paste(tile, (left, 0))
        left += tile.width
    text = fitted(observation.instruction, width - 12, 15)
    ImageDraw.Draw(sheet).text((6, _TILE + 4), text, INK, font(15))
    return np.asarray(sheet)


def _tile(image: UInt8[np.ndarray, "height width 3"]) -> Image.Image:
    width = max(1, round(_TILE * image.shape[1] / image.shape[0]))
    return Image.fromarray(image).resize((width, _TILE), Image.Resampling.BILINEAR)
