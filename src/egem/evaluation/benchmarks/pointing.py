"""What the pointing benchmarks share: masks, and the share of points inside them."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from egem.core.errors import RecordError
from egem.evaluation.benchmarks.media import Media
from egem.evaluation.benchmarks.public import Entry, entry
from egem.evaluation.measures import mask_share
from egem.records import Answer, Record

Points = Callable[[str, int, int], Int[np.ndarray, "point 2"]]
"""Text, width and height to columns and rows."""


def read_mask(record: Record) -> Float[np.ndarray, "height width"]:
    """The published mask of a question, first channel, 0 to 1.

    Raises:
        RecordError: there is none, or it cannot be read. A missing mask never becomes a score.
    """
    region = record.answer.region
    if region is None:
        raise RecordError(
            f"question '{record.id}' has no mask; download the benchmark again, with its masks."
        )
    try:
        image = Image.open(io.BytesIO(region.data) if region.data is not None else str(region.path))
        values = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise RecordError(f"question '{record.id}': its mask cannot be read ({error}).") from error
    values = values[:, :, 0] if values.ndim == 3 else values
    return values.astype(np.float64) / (1.0 if values.dtype == bool else 255.0)


def binary(mask: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """Above nothing is inside (RoboRefer, VLMEvalKit)."""
    return (mask > 0).astype(np.float64)


def rounded(mask: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """To the nearest of 0 and 1, a half to 0 (lmms-eval)."""
    return np.round(mask, 0)


def share_inside(
    points: Points, mask: Callable[[Float[np.ndarray, "_ _"]], Float[np.ndarray, "_ _"]] = lambda mask: mask
) -> Callable[[Record, str], float]:
    """The rule of most pointing benchmarks: the mean of the mask over all points of an answer."""

    def score(record: Record, text: str) -> float:
        values = mask(read_mask(record))
        height, width = values.shape
        try:
            return mask_share(values, points(text, width, height))
        except (ValueError, OverflowError):
            return 0.0  # a box with its corners in the wrong order, or a number beyond all pixels

    return score


def point_entry(
    *,
    benchmark: str,
    id: str,
    skill: str,
    prompt: str,
    media: Media,
    scene: str,
    labels: tuple[str, ...] = (),
    meta: Mapping[str, Any] | None = None,
) -> Entry:
    """A question whose answer is one or more points inside a mask, which is read with the image."""
    return entry(
        benchmark=benchmark,
        id=id,
        skill=skill,
        category="grounding",
        prompt=prompt,
        answer=Answer(kind="point", text="any points inside the mask"),
        media=media,
        scene=scene,
        labels=labels,
        meta=meta,
    )
