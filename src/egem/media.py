"""Encoded images and depth maps to arrays and back. No torch.

Everything unreadable ends in a `RecordError` that names the file (or says that the bytes came with the
record); nothing is guessed, repaired or truncated. Images carrying an EXIF orientation are turned upright,
as viewers and transformers' `load_image` do, so sizes and points refer to the upright image. Transparency
is dropped, as transformers' image processors do.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8, UInt16
from PIL import ExifTags, Image, ImageOps

from egem.core.errors import RecordError
from egem.records import DepthFile, DepthKind, ImageFile

MAX_PIXELS = 80_000_000
"""Larger images are refused before they are decoded (decompression bombs); 80 million is 8944 x 8944."""

JPEG_QUALITY = 95
"""Of pictures in records that have to be encoded again."""

MIN_MEDIAN_M, MAX_MEDIAN_M = 0.02, 200.0
"""A metric depth map whose median reading lies outside is in the wrong unit."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_MAX_COUNT = 65535
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_ON_ITS_SIDE = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""

_UNITS = {1e-3: "millimetres", 1e-4: "tenths of a millimetre", 1e-2: "centimetres", 1.0: "metres"}


def decode_image(
    file: ImageFile, *, root: Path | None = None, where: str = ""
) -> UInt8[np.ndarray, "height width 3"]:
    """Read an image as RGB.

    Args:
        file: bytes, or a path; bytes win where both are given.
        root: folder that a relative path starts from.
        where: what the image belongs to, for the message ("record 'a/1'").

    Raises:
        RecordError: missing, damaged, truncated or too large, or 16-bit grey (a depth map?).
    """
    return np.array(open_image(file, root=root, where=where))


def open_image(file: ImageFile, *, root: Path | None = None, where: str = "") -> Image.Image:
    """The image that `decode_image` gives, decoded, as Pillow's: for drawing on it without copies.

    Args:
        file: see `decode_image`.
        root: likewise.
        where: likewise.

    Raises:
        RecordError: see `decode_image`.
    """
    name, data = _read(file, root, where, "image")
    image = _open(data, name)
    if image.mode.startswith("I") or image.mode == "F":
        raise RecordError(f"{name} has mode {image.mode}, more than 8 bits a channel; is it a depth map?")
    try:
        ImageOps.exif_transpose(image, in_place=True)
        return image if image.mode == "RGB" else image.convert("RGB")
    except _DECODING_ERRORS as error:
        raise _undecodable(name, error) from error


def image_size(file: ImageFile, *, root: Path | None = None, where: str = "") -> tuple[int, int]:
    """Height and width that `decode_image` would give, from the file's header alone.

    Args:
        file: see `decode_image`.
        root: likewise.
        where: likewise.

    Raises:
        RecordError: missing, or not an image.
    """
    name, data = _read(file, root, where, "image")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _ON_ITS_SIDE
    except _DECODING_ERRORS as error:
        raise _undecodable(name, error) from error
    return (image.width, image.height) if turned else (image.height, image.width)


def encode_png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """RGB pixels as PNG; the same pixels give the same bytes."""
    return _png(Image.fromarray(image))


def encode_jpeg(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """RGB pixels as JPEG of `JPEG_QUALITY`: frames of videos, which were compressed before."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def decode_depth(
    file: DepthFile, *, root: Path | None = None, where: str = ""
) -> Float[np.ndarray, "height width"]:
    """Read a 16-bit PNG depth map.

    Returns:
        float32 metres (or, for `relative`, the file's units); 0 = no reading.

    Raises:
        RecordError: missing, damaged, truncated, or not one 16-bit channel.
    """
    name, data = _read(file, root, where, "depth map")
    image = _open(data, name)
    try:
        counts = np.asarray(image)
    except _DECODING_ERRORS as error:
        raise _undecodable(name, error) from error
    # Pillow opens 16-bit grey PNGs as I;16 (any byte order) or, before 11.3, in part as 32-bit I.
    if not image.mode.startswith("I") or counts.ndim != 2:
        raise RecordError(f"{name} has mode {image.mode}; a depth map is a PNG with one 16-bit channel.")
    if counts.dtype.itemsize > 2 and (counts.min() < 0 or counts.max() > _MAX_COUNT):
        raise RecordError(f"{name} has values outside 0..{_MAX_COUNT}; a depth map is a 16-bit PNG.")
    return counts.astype(np.float32) * np.float32(file.unit_m)


def encode_depth(depth: Float[np.ndarray, "height width"], unit_m: float) -> bytes:
    """Depth as a 16-bit PNG, rounded to whole units.

    Args:
        depth: metres (or relative units); 0, negative and non-finite values mean no reading.
        unit_m: metres per count.

    Raises:
        RecordError: a reading is too far for 16 bits of this unit.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        counts = np.rint(np.where(depth > 0, depth.astype(np.float64), 0.0) / unit_m)
    counts[~np.isfinite(counts)] = 0
    farthest = float(counts.max(initial=0.0))
    if farthest > _MAX_COUNT:
        raise RecordError(
            f"a depth of {farthest * unit_m:.4g} does not fit into 16 bits of unit_m={unit_m:g} "
            f"(largest {_MAX_COUNT * unit_m:.4g}); give a larger unit or set far readings to 0."
        )
    return _png(Image.fromarray(counts.astype(np.uint16)))


def encode_counts(counts: UInt16[np.ndarray, "height width"]) -> bytes:
    """16-bit counts as a PNG, for maps of few different values: four times as fast as `encode_depth`, and smaller.

    Rows are not filtered (a filter makes many values of few), and compressed once over at zlib's fastest level.
    """
    height, width = counts.shape
    rows = np.zeros((height, 1 + 2 * width), np.uint8)
    rows[:, 1:] = np.ascontiguousarray(counts, ">u2").view(np.uint8)
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.data, 1)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def check_depth(
    depth: Float[np.ndarray, "height width"], kind: DepthKind, *, where: str, unit_m: float = 1.0
) -> None:
    """Refuse depth that cannot be what it says: not finite, negative, or metric in the wrong unit.

    A map without any reading passes; whoever uses it counts it.

    Args:
        depth: as `decode_depth` returns it.
        kind: only `metric` depth has a plausible range.
        where: what the depth belongs to, for the message.
        unit_m: the unit that it was decoded with, so that the remedy can name the right one.

    Raises:
        RecordError: names the median and the unit that would make sense of it.
    """
    stride = max(1, int(np.sqrt(depth.size / 65536)))
    sampled = depth[::stride, ::stride]
    if not np.isfinite(sampled).all() or (sampled < 0).any():
        raise RecordError(f"{where}: depth has negative or non-finite values; 0 means no reading.")
    readings = sampled[sampled > 0]
    if kind != "metric" or readings.size == 0:
        return
    median = float(np.median(readings))
    if MIN_MEDIAN_M <= median <= MAX_MEDIAN_M:
        return
    message = f"{where}: median depth {median:.3g} m is implausible"
    for unit, name in _UNITS.items():
        counts = median / unit_m
        if 0.1 <= counts * unit <= 20:
            raise RecordError(f"{message}: is the unit {name}? give unit_m={unit:g}.")
    raise RecordError(f"{message} ({MIN_MEDIAN_M}..{MAX_MEDIAN_M} m); give the right unit_m.")


def decode_region(
    file: ImageFile, *, root: Path | None = None, where: str = ""
) -> Bool[np.ndarray, "height width"]:
    """Read the region of right answers: True where a point counts.

    Raises:
        RecordError: missing, damaged or truncated.
    """
    name, data = _read(file, root, where, "region")
    image = _open(data, name)
    try:
        return np.asarray(image.convert("L")) >= 128
    except _DECODING_ERRORS as error:
        raise _undecodable(name, error) from error


def encode_region(mask: Bool[np.ndarray, "height width"]) -> bytes:
    """A mask as a one-bit PNG, white where True."""
    return _png(
        Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))).convert("1", dither=Image.Dither.NONE)
    )


def _read(file: ImageFile | DepthFile, root: Path | None, where: str, what: str) -> tuple[str, bytes]:
    """The name for messages, and the encoded bytes."""
    prefix = f"{where}: " if where else ""
    if file.data is not None:
        return f"{prefix}the {what} stored in the record ({len(file.data)} bytes)", file.data
    if file.path is None:
        raise RecordError(f"{prefix}the {what} has neither bytes nor path.")
    path = Path(file.path) if root is None else root / file.path
    name = f"{prefix}{what} {path}"
    try:
        return name, path.read_bytes()
    except OSError as error:
        raise RecordError(f"{name} cannot be read: {error.strerror}; check the path.") from error


def _open(data: bytes, name: str) -> Image.Image:
    """The decoded image; `Image.load` is what meets truncation."""
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise RecordError(f"{name} has {image.width} x {image.height} pixels, over {MAX_PIXELS}.")
        image.load()
    except _DECODING_ERRORS as error:
        raise _undecodable(name, error) from error
    return image


def _undecodable(name: str, error: BaseException) -> RecordError:
    reason = "not a PNG, JPEG, WebP or BMP" if isinstance(error, Image.UnidentifiedImageError) else error
    return RecordError(f"{name} cannot be decoded: {reason}; it is damaged or of another format.")


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # Level 3 is within 5 % of the default's size on rendered and real frames at under half the time.
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
