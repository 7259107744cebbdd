"""Depth as the depth codec sees it: three named, versioned encodings in [-1, 1], and the way back.

* `spectral` (3 channels): the released GEM-2B's. Inverse depth between its 2nd and 98th percentile, drawn
  with the Spectral colour map. Decodes to about 1 % of that range.
* `inverse` (1 channel): the same normalisation in grey, near = +1. Decodes exactly between the percentiles;
  readings beyond are held at them.
* `log` (1 channel): the logarithm of depth, -1 at `near_m`, +1 at `far_m`. Decodes exactly between the two,
  and is metric by itself.

`spectral` and `inverse` forget scale and shift; `EncodedDepth` keeps them beside the pixels:
`1 / depth = scale * normalised + shift`, where `normalised` is 0 (far) to 1 (near).
Where `valid` is False there was no reading: the pixel is a filling that no loss or metric may use.
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image
from scipy import ndimage

from egem.core.errors import ConfigError, RecordError

Encoding = Literal["spectral", "inverse", "log"]
DepthTarget = Literal["depth", "image", "shuffled"]
"""What a depth head is taught to draw; see `egem.data.targets`."""
Size = tuple[int, int]
"""Height, width."""

_VERSION = 1
_PERCENTILES = (2, 98)
_FEW_READINGS = 10
_LEAST_RANGE = 1e-6
_SPECTRAL = np.array(
    [
        (158, 1, 66),
        (213, 62, 79),
        (244, 109, 67),
        (253, 174, 97),
        (254, 224, 139),
        (255, 255, 191),
        (230, 245, 152),
        (171, 221, 164),
        (102, 194, 165),
        (50, 136, 189),
        (94, 79, 162),
    ]
) / np.float64(255)
"""ColorBrewer's eleven-class Spectral; matplotlib's map of that name interpolates between these."""


@dataclass(frozen=True, kw_only=True)
class DepthPolicy:
    """Which encoding a checkpoint's depth head was trained with, and at which size."""

    encoding: Encoding
    version: int = _VERSION
    """Of the encoding's formula; a checkpoint never decodes with another one."""
    near_m: float = 0.1
    """`log` only: depth of pixel value -1, metres; nearer readings are held there."""
    far_m: float = 10.0
    """`log` only: depth of pixel value +1, metres; farther readings are held there."""
    long_side: int
    """Pixels of the longer side of an encoded map."""
    multiple: int
    """Both sides are multiples of this: the codec's compression times its patch."""

    def __post_init__(self) -> None:
        if self.version != _VERSION:
            raise ConfigError(f"depth encoding version {self.version} is not known; this is {_VERSION}.")
        if not 0 < self.near_m < self.far_m:
            raise ConfigError(f"depth range {self.near_m}..{self.far_m} m: 0 < near_m < far_m is needed.")
        if self.multiple < 1 or self.long_side < self.multiple:
            raise ConfigError(f"depth long_side {self.long_side} is less than its multiple {self.multiple}.")

    @property
    def num_channels(self) -> int:
        """Channels of an encoded map."""
        return 3 if self.encoding == "spectral" else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedDepth:
    """One depth map as the codec sees it."""

    pixels: Float[np.ndarray, "channel height width"]
    """In [-1, 1]; filled where `valid` is False."""
    valid: Bool[np.ndarray, "height width"]
    """True where at least one reading went into the pixel."""
    scale: float
    """1 / depth = scale * normalised + shift; 1 and 0 for `log`, which needs neither."""
    shift: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedDepth:
    """What an encoded (or generated) map says about depth."""

    values: Float[np.ndarray, "height width"]
    """Metres (`metric`), or inverse depth from 0, far, to 1, near (`inverse_relative`)."""
    kind: Literal["metric", "inverse_relative"]
    scale: float | None
    shift: float | None


def target_size(image_height: int, image_width: int, policy: DepthPolicy) -> Size:
    """Size of the depth map of an image.

    The released AdaptiveResize32 with any long side and multiple: the long side becomes `long_side`, then
    both are floored to multiples of `multiple` (at least one). In whole numbers, so that no rounding of the
    scale can lose a multiple.

    Args:
        image_height: of the image as the vision tower sees it (a multiple of its patches).
        image_width: likewise.
        policy: of the checkpoint.
    """
    longest = max(image_height, image_width)

    def fit(side: int) -> int:
        return max(1, side * policy.long_side // longest // policy.multiple) * policy.multiple

    return fit(image_height), fit(image_width)


def encode(
    depth: Float[np.ndarray, "height width"],
    size: Size,
    policy: DepthPolicy,
    *,
    image_size: Size | None = None,
) -> EncodedDepth:
    """Depth to what the codec sees.

    Args:
        depth: metres (any unit for `spectral` and `inverse`), 0 = no reading.
        size: of the result, see `target_size`.
        policy: of the checkpoint.
        image_size: `spectral` only: of the image as the vision tower sees it, to which the released pipeline
            brings the depth first. Default: the depth's own.

    Raises:
        RecordError: depth is not finite or negative.
    """
    if not np.isfinite(depth).all() or (depth < 0).any():
        raise RecordError("depth has negative or non-finite values; 0 means no reading.")
    if policy.encoding == "spectral":
        return _encode_spectral(depth, size, image_size or depth.shape)
    valid = depth > 0
    if policy.encoding == "log":
        clipped = np.clip(np.where(valid, depth, policy.near_m), policy.near_m, policy.far_m)
        span = np.log(policy.far_m / policy.near_m)
        full, scale, shift = 2 * np.log(clipped / policy.near_m) / span - 1, 1.0, 0.0
    else:
        inverse = np.divide(1.0, depth, where=valid, out=np.zeros(depth.shape))
        scale, shift = _inverse_range(inverse[valid])
        full = 2 * np.clip((inverse - shift) / scale, 0, 1) - 1
    pixels, kept = _masked_resize(full.astype(np.float32), valid, size)
    return EncodedDepth(pixels=pixels[None], valid=kept, scale=scale, shift=shift)


def decode(
    pixels: Float[np.ndarray, "channel height width"],
    policy: DepthPolicy,
    *,
    scale: float | None = None,
    shift: float | None = None,
) -> DecodedDepth:
    """Encoded or generated pixels back to depth.

    Args:
        pixels: values outside [-1, 1] are held at the ends.
        policy: of the checkpoint that made them.
        scale: of the `EncodedDepth`, or found by alignment; with `shift`, it makes the result metres.
        shift: see `scale`.
    """
    if pixels.shape[0] != policy.num_channels:
        raise ConfigError(f"{pixels.shape[0]} channels; '{policy.encoding}' has {policy.num_channels}.")
    clipped = np.clip(pixels.astype(np.float64), -1, 1)
    if policy.encoding == "log":
        depth = policy.near_m * (policy.far_m / policy.near_m) ** ((clipped[0] + 1) / 2)
        return DecodedDepth(values=depth.astype(np.float32), kind="metric", scale=1.0, shift=0.0)
    normalised = (clipped[0] + 1) / 2 if policy.encoding == "inverse" else _spectral_to_normalised(clipped)
    if scale is None or shift is None:
        values = normalised.astype(np.float32)
        return DecodedDepth(values=values, kind="inverse_relative", scale=None, shift=None)
    # An inverse depth of 1e-6 (1000 km) stands for anything at or beyond infinity.
    depth = 1 / np.maximum(scale * normalised + shift, 1e-6)
    return DecodedDepth(values=depth.astype(np.float32), kind="metric", scale=scale, shift=shift)


def _inverse_range(readings: Float[np.ndarray, "reading"]) -> tuple[float, float]:
    """Scale and shift of the normalisation: 2nd percentile to 0, 98th to 1."""
    if readings.size == 0:
        return 1.0, 0.0
    # Percentiles of a handful of readings would cut real ones off.
    percentiles = _PERCENTILES if readings.size > _FEW_READINGS else (0, 100)
    low, high = (float(value) for value in np.percentile(readings, percentiles))
    if high - low < _LEAST_RANGE:
        low, high = low - _LEAST_RANGE, high + _LEAST_RANGE
    return high - low, low


def _masked_resize(
    values: Float[np.ndarray, "height width"], valid: Bool[np.ndarray, "height width"], size: Size
) -> tuple[Float[np.ndarray, "new_height new_width"], Bool[np.ndarray, "new_height new_width"]]:
    """Mean over the valid pixels under each new pixel; where there is none, the nearest mean."""
    if values.shape != size:
        share = _box_resize(valid.astype(np.float32), size)
        total = _box_resize(np.where(valid, values, np.float32(0)), size)
        valid = share > 1e-6
        values = np.divide(total, share, where=valid, out=np.zeros(size, np.float32))
        values = np.clip(values, -1, 1)
    if valid.all():
        return values, valid
    if not valid.any():
        return np.zeros(size, np.float32), valid
    nearest = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    assert isinstance(nearest, np.ndarray)
    return values[tuple(nearest)], valid


def _box_resize(values: Float[np.ndarray, "height width"], size: Size) -> np.ndarray:
    """Mean of the pixels whose centres lie under each new pixel; nearest where it is enlarged."""
    return np.asarray(Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BOX))


def _encode_spectral(depth: Float[np.ndarray, "height width"], size: Size, image_size: Size) -> EncodedDepth:
    """The released pipeline step by step: nearest resize, normalise, colour as 8 bit, antialiased resize.

    Source: `visualize_depth` of Depth Anything 3 and `AdaptiveResize32` of the released training code. The
    arithmetic stays in float32 as there, so that the 8-bit colours agree.
    """
    depth = np.asarray(
        Image.fromarray(depth.astype(np.float32)).resize(
            (image_size[1], image_size[0]), Image.Resampling.NEAREST
        )
    )
    valid = depth > 0
    inverse = np.divide(np.float32(1), depth, where=valid, out=np.zeros_like(depth))
    low = high = np.float32(0)
    if valid.sum() > _FEW_READINGS:
        low, high = np.percentile(inverse[valid], _PERCENTILES).astype(np.float32)
    if low == high:
        low, high = low - np.float32(_LEAST_RANGE), high + np.float32(_LEAST_RANGE)
    level = 1 - ((inverse - low) / (high - low)).clip(0, 1)
    colours = _spectral_table()[np.minimum(level * np.float32(256), 255).astype(np.intp)]
    resized = Image.fromarray(colours).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = (np.asarray(resized, dtype=np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    kept = valid if valid.shape == size else _box_resize(valid.astype(np.float32), size) > 1e-6
    return EncodedDepth(
        pixels=np.ascontiguousarray(pixels.transpose(2, 0, 1)),
        valid=kept,
        scale=float(high - low),
        shift=float(low),
    )


def _spectral_table() -> np.ndarray:
    """The 256 colours of matplotlib's "Spectral", cut to 8 bits as the released code cuts them."""
    # Places in 0..1, as matplotlib has them: whole levels are cut to 8 bits, so the last digit counts.
    place, knots = np.linspace(0, 1, 256), np.linspace(0, 1, len(_SPECTRAL))
    channels = [np.interp(place, knots, _SPECTRAL[:, channel]) for channel in range(3)]
    return (np.stack(channels, axis=1) * 255).astype(np.uint8)


def _spectral_to_normalised(pixels: Float[np.ndarray, "3 height width"]) -> Float[np.ndarray, "height width"]:
    """The place of the nearest colour on the colour map's path of ten straight pieces, near = 1."""
    colours = (pixels.transpose(1, 2, 0) + 1) / 2
    best = np.full(colours.shape[:2], np.inf)
    place = np.zeros(colours.shape[:2])
    for piece, (start, end) in enumerate(itertools.pairwise(_SPECTRAL)):
        along = end - start
        part = np.clip((colours - start) @ along / (along @ along), 0, 1)
        distance = np.square(colours - start - part[..., None] * along).sum(axis=-1)
        closer = distance < best
        best = np.where(closer, distance, best)
        place = np.where(closer, piece + part, place)
    # Entry i of the table is at i / 255 of the path and stands for levels i / 256 to (i + 1) / 256.
    level = (place / (len(_SPECTRAL) - 1) * 255 + 0.5) / 256
    return 1 - np.clip(level, 0, 1)
