"""States and actions of robots to numbers of about one, and back; the statistics travel with the checkpoint.

Two methods: `quantiles` brings the 1st and 99th percentile of each dimension to -1 and 1, `mean_std` its mean to 0 and
its standard deviation to 1. Values beyond are not cut off, so the way back is exact. Three kinds of dimensions differ:

* Grippers (`ActionSpace.gripper_dims`) keep their two ends: their whole range becomes -1 to 1. Percentiles of a
  gripper that seldom closes would know nothing of its closing.
* A dimension whose percentiles nearly coincide although its range is wide is brought to -1 to 1 by its range.
* A constant dimension becomes 0, whatever a later reading says, and comes back as its constant.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from egem.core.config import load_json, save_json
from egem.core.errors import CheckpointError, ConfigError, RecordError

NORMALIZATION_FILE = "normalization.json"
"""Name of the statistics in a checkpoint folder."""

Method = Literal["quantiles", "mean_std"]

_CONSTANT = 1e-6
"""A range of less than this, relative to the value where that is above 1, is no movement."""
_NARROW = 1e-3
"""Percentiles closer than this share of the range say nothing about it."""


@dataclass(frozen=True, kw_only=True)
class DimensionStatistics:
    """One number a dimension each, in the robot's units."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]
    min: tuple[float, ...]
    max: tuple[float, ...]
    whole_range: tuple[int, ...] = ()
    """Dimensions normalised by their range: grippers."""

    def __post_init__(self) -> None:
        """Refuse numbers that do not fit each other.

        Raises:
            ConfigError: other lengths, not finite, or out of order.
        """
        lists = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "whole_range"}
        if len({len(values) for values in lists.values()}) != 1 or not self.mean:
            lengths = ", ".join(f"{name} {len(values)}" for name, values in lists.items())
            raise ConfigError(
                f"statistics of different lengths: {lengths}; each needs one number a dimension."
            )
        if not all(np.isfinite(values).all() for values in lists.values()):
            raise ConfigError("statistics that are not finite; compute them anew from clean data.")
        if min(self.std) < 0 or any(low > high for low, high in zip(self.min, self.max, strict=True)):
            raise ConfigError("statistics with a negative std, or a min above its max.")
        outside = [dim for dim in self.whole_range if not 0 <= dim < self.dim]
        if outside:
            raise ConfigError(f"whole_range names dimension {outside[0]} of {self.dim}.")

    @property
    def dim(self) -> int:
        """How many dimensions."""
        return len(self.mean)

    @classmethod
    def of(
        cls, values: Float[np.ndarray, "step dim"], *, whole_range: Sequence[int] = ()
    ) -> "DimensionStatistics":
        """Exact statistics of all steps, computed in float64.

        Raises:
            RecordError: no step, or a value that is not finite.
        """
        values = np.asarray(values, np.float64)
        if len(values) == 0 or not np.isfinite(values).all():
            raise RecordError("statistics need at least one step, and finite values alone.")
        low, high = np.quantile(values, [0.01, 0.99], axis=0)

        def numbers(array: np.ndarray) -> tuple[float, ...]:
            return tuple(float(value) for value in array)

        return cls(
            mean=numbers(values.mean(0)),
            std=numbers(values.std(0)),
            q01=numbers(low),
            q99=numbers(high),
            min=numbers(values.min(0)),
            max=numbers(values.max(0)),
            whole_range=tuple(whole_range),
        )

    def offset_and_scale(self, method: Method) -> tuple[np.ndarray, np.ndarray]:
        """`value = offset + scale * normalised`, float64; a scale of 0 marks a constant dimension."""
        low, high = np.array(self.min), np.array(self.max)
        middle, half = (low + high) / 2, (high - low) / 2
        if method == "quantiles":
            q01, q99 = np.array(self.q01), np.array(self.q99)
            wide = (q99 - q01) >= _NARROW * (high - low)
            offset, scale = np.where(wide, (q01 + q99) / 2, middle), np.where(wide, (q99 - q01) / 2, half)
        else:
            offset, scale = np.array(self.mean), np.array(self.std)
        kept = list(self.whole_range)
        offset[kept], scale[kept] = middle[kept], half[kept]
        constant = (high - low) <= _CONSTANT * np.maximum(1.0, np.abs(middle))
        return np.where(constant, middle, offset), np.where(constant, 0.0, scale)


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """How a checkpoint's states and actions are normalised; `normalization.json` holds it."""

    method: Method
    state: DimensionStatistics
    action: DimensionStatistics
    version: int = 1
    """Of these rules."""

    def __post_init__(self) -> None:
        """Refuse another version's rules.

        Raises:
            ConfigError: this program does not know them.
        """
        if self.version != 1:
            raise ConfigError(f"normalization version {self.version} is not known; this is 1.")

    def normalize_state(self, state: Float[np.ndarray, "*step dim"]) -> Float[np.ndarray, "*step dim"]:
        """The robot's units to what the model sees, float32."""
        return _forwards(state, self.state, self.method, "state")

    def normalize_actions(self, actions: Float[np.ndarray, "*step dim"]) -> Float[np.ndarray, "*step dim"]:
        """The robot's units to what the model generates, float32."""
        return _forwards(actions, self.action, self.method, "action")

    def denormalize_actions(self, actions: Float[np.ndarray, "*step dim"]) -> Float[np.ndarray, "*step dim"]:
        """What the model generated in the robot's units, float32."""
        offset, scale = _fitting(actions, self.action, self.method, "action")
        return (np.asarray(actions, np.float64) * scale + offset).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write `normalization.json` into a checkpoint folder."""
        save_json(self, Path(folder) / NORMALIZATION_FILE)

    @classmethod
    def load(cls, folder: Path) -> "Normalization":
        """Read `normalization.json` of a checkpoint folder.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        path = Path(folder) / NORMALIZATION_FILE
        if not path.is_file():
            raise CheckpointError(
                f"{folder} has no {NORMALIZATION_FILE}: without it nobody knows what the model's numbers mean to the "
                "robot. Copy it from the run's own model folder, or train from the data again."
            )
        try:
            return load_json(cls, path)
        except ConfigError as error:
            raise CheckpointError(f"{error} Copy the file from the run's model folder again.") from None

    def require_dims(self, *, state: int, action: int, where: str) -> None:
        """Refuse statistics of another robot.

        Args:
            state: dimensions of the states to be normalised.
            action: likewise of actions.
            where: whose they are, for the message ("the action expert").

        Raises:
            ConfigError: names both numbers.
        """
        for name, here, there in (("state", self.state.dim, state), ("action", self.action.dim, action)):
            if here != there:
                raise ConfigError(
                    f"{NORMALIZATION_FILE} has {here} {name} dimensions, {where} {there}; they belong to different "
                    "robots: take the file that was saved with this model."
                )


def _forwards(values: np.ndarray, statistics: DimensionStatistics, method: Method, name: str) -> np.ndarray:
    offset, scale = _fitting(values, statistics, method, name)
    moving = scale > 0
    shifted = np.asarray(values, np.float64) - offset
    return np.where(moving, shifted / np.where(moving, scale, 1.0), 0.0).astype(np.float32)


def _fitting(
    values: np.ndarray, statistics: DimensionStatistics, method: Method, name: str
) -> tuple[np.ndarray, np.ndarray]:
    if values.shape[-1] != statistics.dim:
        raise ConfigError(
            f"{name} of {values.shape[-1]} dimensions; the checkpoint's {NORMALIZATION_FILE} has {statistics.dim}."
        )
    return statistics.offset_and_scale(method)
