"""Pictures changed at random while a policy learns, so that it does not lean on the light or on where a camera stood.

Crop, then colour: brightness, contrast, saturation (Pillow's `ImageEnhance`) and hue. The depth map of a picture is
cropped by the same rectangle; its readings stay as they are. Never used in evaluation.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageEnhance

from egem.core.errors import ConfigError

Depth = Float[np.ndarray, "height width"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far pictures may be changed; each amount is drawn evenly from 0 to these, in either direction."""

    min_crop: float = 0.95
    """Smallest side of the crop as a share of the picture's; 1 crops nothing. The size stays the same."""
    brightness: float = 0.2
    """0.2 draws a factor from 0.8 to 1.2; likewise below."""
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.03
    """Share of the colour circle."""

    def __post_init__(self) -> None:
        """Refuse amounts that leave no picture.

        Raises:
            ConfigError: outside their range.
        """
        if not 0 < self.min_crop <= 1:
            raise ConfigError(f"augmentation: min_crop {self.min_crop} must lie above 0 and be at most 1.")
        for name in ("brightness", "contrast", "saturation", "hue"):
            if not 0 <= getattr(self, name) <= 0.9:
                raise ConfigError(f"augmentation: {name} {getattr(self, name)} must lie in 0..0.9.")


def augment(
    image: UInt8[np.ndarray, "height width 3"],
    depth: Depth | None,
    options: Augmentation,
    rng: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "height width 3"], Depth | None]:
    """A changed picture and its depth map, in the sizes they came in.

    Args:
        image: RGB.
        depth: metres, 0 = no reading, of the picture's size; None without one.
        options: how far.
        rng: the same draws the same change.
    """
    height, width = image.shape[:2]
    rows, columns = _crop(height, width, options, rng)
    picture = Image.fromarray(image[rows, columns])
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    enhancers = (
        (ImageEnhance.Brightness, options.brightness),
        (ImageEnhance.Contrast, options.contrast),
        (ImageEnhance.Color, options.saturation),
    )
    for enhancer, amount in enhancers:
        # Drawn also where the amount is 0, so that one amount does not change what another draws.
        factor = 1 + amount * rng.uniform(-1, 1)
        if amount > 0:
            picture = enhancer(picture).enhance(factor)
    shift = round(255 * options.hue * rng.uniform(-1, 1))
    if shift:
        hue, saturation, value = picture.convert("HSV").split()
        turned = (np.asarray(hue, np.int16) + shift) % 256
        hue = Image.fromarray(turned.astype(np.uint8))
        picture = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    return np.asarray(picture), None if depth is None else _resized(depth[rows, columns], (height, width))


def _crop(height: int, width: int, options: Augmentation, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns that stay."""
    share = rng.uniform(options.min_crop, 1.0)
    place = rng.uniform(0, 1, 2)
    found = []
    for side, where in zip((height, width), place, strict=True):
        kept = max(1, round(side * share))
        first = round((side - kept) * float(where))
        found.append(slice(first, first + kept))
    return found[0], found[1]


def _resized(depth: Float[np.ndarray, "_ _"], size: tuple[int, int]) -> Depth:
    """The nearest reading, because a mean over an edge is no depth of anything."""
    if depth.shape == size:
        return depth
    return np.asarray(
        Image.fromarray(np.asarray(depth, np.float32)).resize((size[1], size[0]), Image.Resampling.NEAREST)
    )
