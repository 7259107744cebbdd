"""Where named things are in an image: masks with boxes, points inside them, and how they are written down."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

from egem.core.errors import RecordError
from egem.records import COORDINATE_RANGE


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """One thing found in one image."""

    phrase: str
    """What was looked for."""
    mask: Bool[np.ndarray, "height width"]
    """As large as the image; never empty."""
    score: float
    """0 to 1."""
    object_id: int | None = None
    """The same number in every frame of a clip; None for single images."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in pixels: the mask's first column and row, and past its last."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@runtime_checkable
class MaskDetector(Protocol):
    """Finds things by their names."""

    @property
    def origin(self) -> str:
        """`<detector>/<checkpoint>`."""
        ...

    @property
    def licence(self) -> str:
        """Of the checkpoint."""
        ...

    def detect(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], phrases: Sequence[Sequence[str]]
    ) -> list[list[Detection]]:
        """What is found in each image, best first for each phrase.

        Args:
            images: RGB, of any sizes.
            phrases: for each image, what to look for: short noun phrases ("red mug").
        """
        ...


@runtime_checkable
class ClipDetector(Protocol):
    """Finds things by their names and follows them from frame to frame."""

    @property
    def origin(self) -> str:
        """`<detector>/<checkpoint>`."""
        ...

    @property
    def licence(self) -> str:
        """Of the checkpoint."""
        ...

    def detect_clip(
        self, frames: Sequence[UInt8[np.ndarray, "height width 3"]], phrases: Sequence[str]
    ) -> list[list[Detection]]:
        """What is found in each frame; `object_id` says which are the same thing."""
        ...


class KnownMasks:
    """Masks somebody has already, answered by name: a simulator's, or hand-made ones.

    Args:
        origin: where they come from.
        licence: theirs.
    """

    def __init__(self, *, origin: str, licence: str) -> None:
        self.origin, self.licence = origin, licence
        self._masks: dict[bytes, Mapping[str, Bool[np.ndarray, "height width"]]] = {}

    def add(
        self,
        image: UInt8[np.ndarray, "height width 3"],
        masks: Mapping[str, Bool[np.ndarray, "height width"]],
    ) -> None:
        """Remember the masks of an image, by the names of the things."""
        self._masks[_hash(image)] = masks

    def detect(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], phrases: Sequence[Sequence[str]]
    ) -> list[list[Detection]]:
        """See `MaskDetector`: a phrase finds what is named exactly so, without regard to case and article.

        Raises:
            RecordError: an image whose masks are not known.
        """
        return [self._of(image, wanted) for image, wanted in zip(images, phrases, strict=True)]

    def detect_clip(
        self, frames: Sequence[UInt8[np.ndarray, "height width 3"]], phrases: Sequence[str]
    ) -> list[list[Detection]]:
        """See `ClipDetector`."""
        return [self._of(frame, phrases) for frame in frames]

    def _of(self, image: UInt8[np.ndarray, "height width 3"], phrases: Sequence[str]) -> list[Detection]:
        known = self._masks.get(_hash(image))
        if known is None:
            raise RecordError(
                f"{self.origin} has no masks of this {image.shape[1]} x {image.shape[0]} image."
            )
        names = {bare(name): (number, mask) for number, (name, mask) in enumerate(known.items())}
        found = [(phrase, *names[bare(phrase)]) for phrase in phrases if bare(phrase) in names]
        return [
            Detection(phrase=phrase, mask=mask, score=1.0, object_id=number)
            for phrase, number, mask in found
            if mask.any()
        ]


def bare(phrase: str) -> str:
    """A noun phrase without article, in lower case, with single blanks."""
    words = phrase.lower().split()
    return " ".join(words[1:] if words[:1] and words[0] in ("a", "an", "the") else words)


def spread_points(mask: Bool[np.ndarray, "height width"], num: int) -> np.ndarray:
    """Points of a mask, spread over it: those to follow when a thing is tracked.

    Points near the edge are avoided where the mask is thick enough, as what is behind moves differently.

    Args:
        mask: not empty.
        num: at most this many.

    Returns:
        (point, 2) float32 pixel centres, x then y, in rows from top left to bottom right.
    """
    from scipy import ndimage

    inside = mask
    for _ in range(2):
        smaller = ndimage.binary_erosion(inside)
        if smaller.sum() < min(num, 4):
            break
        inside = smaller
    rows, columns = np.nonzero(inside)
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(num, len(rows))).round().astype(int))
    # Ordered along a Z through coarse cells, so that evenly spaced ranks are evenly spread places.
    cell = max(1, round(float(np.sqrt(len(rows) / num))))
    order = np.lexsort((columns, columns // cell, rows // cell))
    picked = order[chosen]
    return np.stack([columns[picked], rows[picked]], axis=1).astype(np.float32) + np.float32(0.5)


def centre(mask: Bool[np.ndarray, "height width"]) -> tuple[float, float]:
    """Mean position of a mask's pixels, x and y in pixels from the image's top left corner."""
    rows, columns = np.nonzero(mask)
    return float(columns.mean()) + 0.5, float(rows.mean()) + 0.5


def iou(one: Bool[np.ndarray, "height width"], other: Bool[np.ndarray, "height width"]) -> float:
    """Intersection over union; 0 for two empty masks."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 0.0


def box_in_thousandths(box: tuple[int, int, int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """A pixel box as 0 to 1000: outward to whole thousandths, so that it is never empty."""
    left, top, right, bottom = box
    scaled = (
        np.floor(left * COORDINATE_RANGE / width),
        np.floor(top * COORDINATE_RANGE / height),
        np.ceil(right * COORDINATE_RANGE / width),
        np.ceil(bottom * COORDINATE_RANGE / height),
    )
    return tuple(int(v) for v in scaled)  # pyright: ignore[reportReturnType]


def to_runs(mask: Bool[np.ndarray, "height width"]) -> dict[str, Any]:
    """A mask as COCO's uncompressed run lengths {"size": [height, width], "counts": [...]}, JSON values."""
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    ends = (
        [*changes.tolist(), mask.size] if not len(changes) or changes[-1] != mask.size else changes.tolist()
    )
    return {"size": list(mask.shape), "counts": np.diff([0, *ends]).tolist()}


def _hash(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()
