"""Images that rows name: found below some folders, checked without being decoded, never encoded again.

Checked is what costs microseconds: the header (format, size, orientation) and that the file's end is there. Pixels
are decoded where they are used; damage inside shows there.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool
from PIL import Image

from egem.core.errors import RecordError
from egem.data_engine.sources.layout import contents
from egem.media import MAX_PIXELS, encode_region
from egem.records import DepthFile, DepthKind, ImageFile

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height; images are used upright."""
_TAIL = 64 << 10
"""A JPEG's end mark is looked for in this many last bytes; some cameras write more behind it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An image and its size upright."""

    file: ImageFile
    width: int
    height: int
    mode: str
    """Pillow's name of its channels."""


class Pictures:
    """Where a source's images are.

    Args:
        roots: folders to look in, in this order, each also under images/ and image/.
        keep: whether a record holds the bytes or the absolute path.
    """

    def __init__(self, roots: Sequence[Path], keep: Literal["bytes", "path"] = "bytes") -> None:
        self.roots = tuple(dict.fromkeys(roots))
        self.keep: Literal["bytes", "path"] = keep
        self._folders = [folder for root in self.roots for folder in (root, root / "images", root / "image")]

    def find(self, name: str, where: str, what: str = "image") -> Path:
        """The file of a name in a row (either slash); the folder that held the last one is tried first.

        Raises:
            RecordError: in none of the folders.
        """
        inside = name.replace("\\", "/")
        for index, folder in enumerate(self._folders):
            path = folder / inside
            if path.is_file():
                if index:
                    self._folders.insert(0, self._folders.pop(index))
                return path
        roots = " or ".join(str(root) for root in self.roots)
        raise RecordError(
            f"{where}: {what} {inside} cannot be read: No such file below {roots}; {contents(self.roots[0])}"
        )

    def read(self, name: str, where: str) -> Picture:
        """An image by the name in a row.

        Raises:
            RecordError: missing, truncated or no image.
        """
        return read_picture(self.find(name, where), where, self.keep)


def read_picture(path: Path, where: str, keep: Literal["bytes", "path"]) -> Picture:
    """An image file, checked.

    Raises:
        RecordError: missing, truncated or no image.
    """
    try:
        if keep == "bytes":
            return checked(path.read_bytes(), f"{where}: image {path}")
        with path.open("rb") as file:
            width, height, mode = _probe(file, f"{where}: image {path}")
    except OSError as error:
        raise RecordError(
            f"{where}: image {path} cannot be read: {error.strerror}; check the path."
        ) from error
    return Picture(file=ImageFile(path=str(path.resolve())), width=width, height=height, mode=mode)


def checked(data: bytes, name: str) -> Picture:
    """Encoded bytes as a picture.

    Raises:
        RecordError: truncated or no image.
    """
    width, height, mode = _probe(io.BytesIO(data), name)
    return Picture(file=ImageFile(data=data), width=width, height=height, mode=mode)


def read_depth(
    path: Path,
    picture: Picture,
    *,
    unit_m: float,
    kind: DepthKind,
    origin: str,
    keep: Literal["bytes", "path"],
    where: str,
) -> DepthFile:
    """A 16-bit PNG of depth, as it is where it has the image's size, else resized to it (nearest reading).

    Raises:
        RecordError: missing, damaged, not 16 bits, or of another shape than the image.
    """
    depth = read_picture(path, where, keep)
    if not depth.mode.startswith("I"):
        raise RecordError(
            f"{where}: depth map {path} has mode {depth.mode}; one channel of 16 bits is needed."
        )
    data, name = depth.file.data, depth.file.path
    if (depth.width, depth.height) != (picture.width, picture.height):
        if abs(depth.width * picture.height / (depth.height * picture.width) - 1) > 0.02:
            raise RecordError(
                f"{where}: the depth map is {depth.width} x {depth.height} pixels, its image "
                f"{picture.width} x {picture.height}: of another shape; register the depth to the image first."
            )
        data, name = _resized(path, (picture.width, picture.height), where), None
    return DepthFile(data=data, path=name, unit_m=unit_m, kind=kind, origin=origin)


def read_mask(path: Path, where: str) -> Bool[np.ndarray, "height width"]:
    """A mask file: True where any channel but transparency is above 0.

    Raises:
        RecordError: missing, damaged or no image.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            pixels = np.asarray(image.convert("RGB") if image.mode in ("P", "RGBA", "LA") else image)
    except (OSError, SyntaxError, ValueError) as error:
        raise RecordError(f"{where}: mask {path} cannot be read: {error}; check the path.") from error
    return np.asarray(pixels > 0 if pixels.ndim == 2 else (pixels > 0).any(axis=2))


def region_file(mask: Bool[np.ndarray, "height width"]) -> ImageFile:
    """A mask as an answer's region."""
    return ImageFile(data=encode_region(mask))


def _resized(path: Path, size: tuple[int, int], where: str) -> bytes:
    try:
        with Image.open(path) as image:
            counts = np.asarray(image).astype(np.uint16)
    except (OSError, SyntaxError, ValueError) as error:
        raise RecordError(f"{where}: depth map {path} cannot be decoded: {error}.") from error
    rows = ((np.arange(size[1]) + 0.5) * counts.shape[0] / size[1]).astype(int)
    columns = ((np.arange(size[0]) + 0.5) * counts.shape[1] / size[0]).astype(int)
    buffer = io.BytesIO()
    Image.fromarray(counts[rows[:, None], columns]).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _probe(file: io.BytesIO | io.BufferedReader, name: str) -> tuple[int, int, str]:
    """Width, height and mode from the header; the end of the file must be there."""
    try:
        image = Image.open(file, formats=_FORMATS)
        width, height, mode, kind = *image.size, image.mode, image.format
        orientation = image.getexif().get(_ORIENTATION) if "exif" in image.info else 1
    except Image.UnidentifiedImageError:
        raise RecordError(
            f"{name} cannot be decoded: not a PNG, JPEG, WebP or BMP; it is damaged or of another format."
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RecordError(
            f"{name} cannot be decoded: {error}; it is damaged or of another format."
        ) from error
    if width * height > MAX_PIXELS:
        raise RecordError(f"{name} has {width} x {height} pixels, over {MAX_PIXELS}.")
    if not _complete(file, kind or ""):
        raise RecordError(f"{name} cannot be decoded: it is truncated; copy it again.")
    return (height, width, mode) if orientation in _TURNED else (width, height, mode)


def _complete(file: io.BytesIO | io.BufferedReader, kind: str) -> bool:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    if kind == "JPEG":
        return b"\xff\xd9" in tail
    if kind == "PNG":
        return b"IEND\xaeB`\x82" in tail
    file.seek(0)
    head = file.read(8)
    length = (
        int.from_bytes(head[4:8], "little") + 8 if kind == "WEBP" else int.from_bytes(head[2:6], "little")
    )
    return size >= length
