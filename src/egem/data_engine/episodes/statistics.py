"""Statistics of a LeRobot dataset's features, in the form that its tools expect.

Numbers: exact minimum, maximum, mean, standard deviation and quantiles of every dimension over all steps.
Images: the same of each colour channel in 0 to 1, over a sample of frames, shaped (3, 1, 1).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Real, UInt8

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
Statistics = dict[str, np.ndarray]
"""`min`, `max`, `mean`, `std`, `count` and the quantiles."""


def of_numbers(values: Real[np.ndarray, "step dim"]) -> Statistics:
    """Of every dimension over all steps, float64."""
    values = values.astype(np.float64)
    return {
        "min": values.min(0),
        "max": values.max(0),
        "mean": values.mean(0),
        "std": values.std(0),
        "count": np.array([len(values)]),
        **{name: np.quantile(values, share, axis=0) for name, share in QUANTILES.items()},
    }


def of_images(frames: Sequence[UInt8[np.ndarray, "height width 3"]]) -> Statistics:
    """Of every colour channel over the pixels of some frames; `count` is the number of frames."""
    pixels = np.concatenate([frame.reshape(-1, 3) for frame in frames]) / 255.0
    found = {name: values.reshape(-1, 1, 1) for name, values in of_numbers(pixels).items()}
    return {**found, "count": np.array([len(frames)])}


def merged(parts: Sequence[Statistics]) -> Statistics:
    """Statistics of a whole from those of its parts.

    Minimum, maximum, mean and standard deviation are exact. Quantiles are the parts' averaged by count, as quantiles
    cannot be merged; where exact ones are wanted, keep the values and use `of_numbers`.
    """
    counts = np.array([float(part["count"][0]) for part in parts])
    share = counts / counts.sum()

    def averaged(values: Sequence[np.ndarray]) -> np.ndarray:
        return np.tensordot(share, np.stack(values), axes=1)

    mean = averaged([part["mean"] for part in parts])
    variance = averaged([part["std"] ** 2 + (part["mean"] - mean) ** 2 for part in parts])
    return {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": np.array([int(counts.sum())]),
        **{name: averaged([part[name] for part in parts]) for name in QUANTILES},
    }


def as_json(statistics: Mapping[str, Statistics]) -> dict[str, dict[str, list]]:
    """For meta/stats.json."""
    return {
        key: {name: values.tolist() for name, values in found.items()} for key, found in statistics.items()
    }
