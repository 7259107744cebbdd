"""In which order groups are read: a function of (seed, step) alone.

Resuming is therefore an integer, and neither workers nor ranks change what is read, or when.
"""

import functools
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from egem.core.errors import ConfigError


@runtime_checkable
class Order(Protocol):
    """What the loader asks of an order; one rank's share of an order is one too."""

    def groups(self, step: int, batch_size: int) -> list[int]:
        """The groups of a step's batch."""
        ...

    def rng(self, step: int, batch_size: int, row: int) -> np.random.Generator:
        """For random choices about one place in the order (which turns, in which order)."""
        ...


class ReadingOrder:
    """Every group exactly once an epoch, in another order each epoch; batches may span two epochs.

    Args:
        num_groups: how many there are.
        seed: of the shuffling.
        shuffle: False reads them as they are stored, epoch after epoch.
        subset: only these groups, for probes and controlled comparisons.
    """

    def __init__(
        self, num_groups: int, seed: int, shuffle: bool = True, *, subset: Sequence[int] | None = None
    ) -> None:
        self.members = np.arange(num_groups) if subset is None else np.array(subset, np.int64)
        if len(self.members) == 0:
            raise ConfigError("no groups to read; the data is empty.")
        if self.members.min() < 0 or self.members.max() >= num_groups:
            raise ConfigError(f"subset names a group outside 0..{num_groups - 1}.")
        self.seed = seed
        self.shuffle = shuffle
        self._epoch = functools.lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        """Groups of one epoch."""
        return len(self.members)

    def groups(self, step: int, batch_size: int) -> list[int]:
        """The groups of a step's batch.

        Args:
            step: counted from 0 over all epochs.
            batch_size: groups a step.
        """
        first = step * batch_size
        found: list[int] = []
        while len(found) < batch_size:
            epoch, offset = divmod(first + len(found), len(self))
            found += self._epoch(epoch)[offset : offset + batch_size - len(found)].tolist()
        return found

    def steps_per_epoch(self, batch_size: int) -> int:
        """Steps after which every group has been read at least once."""
        return -(-len(self) // batch_size)

    def rng(self, step: int, batch_size: int, row: int) -> np.random.Generator:
        """For random choices about one place in the order (which turns, in which order)."""
        return np.random.default_rng([self.seed, step * batch_size + row, 1])

    def _shuffled(self, epoch: int) -> Int[np.ndarray, "group"]:
        if not self.shuffle:
            return self.members
        return np.random.default_rng([self.seed, epoch, 0]).permutation(self.members)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_epoch"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._epoch = functools.lru_cache(maxsize=2)(self._shuffled)
