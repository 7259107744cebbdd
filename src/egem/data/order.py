"""In which order groups are read: a function of (seed, step) alone.

Resuming is therefore an integer, and neither workers nor ranks change what is read, or when.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from egem.core.errors import ConfigError, unknown_name

MIXTURE_BLOCK = 10_000
"""Each run of so many places in a mixture holds every source's exact share, so a share is a multiple of 1 in so
many."""


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


class MixtureOrder:
    """Sources in given shares, whatever their sizes; each goes through its own groups again and again.

    The n-th time that a source's turn comes it gives the n-th group of its own `ReadingOrder`: every group of
    it once before any of them again. A large source with a small share is not read to its end, a small one with
    a large share is read several times; there is no epoch of the whole.

    Args:
        source: of each group, its place in `sources`.
        sources: names.
        weights: name -> share of the samples, above 0; they need not add up to 1. Others are not read.
        seed: of the shuffling.

    Raises:
        ConfigError: a name is unknown, or a share is below 1 in `MIXTURE_BLOCK`.
    """

    def __init__(
        self,
        source: Int[np.ndarray, "group"],
        sources: Sequence[str],
        weights: Mapping[str, float],
        seed: int,
    ) -> None:
        used = sorted(name for name, weight in weights.items() if weight > 0)
        if not used:
            raise ConfigError("mixture: no source has a share above 0.")
        for name in used:
            if name not in sources:
                raise unknown_name("source in mixture", name, sources)
        self.seed = seed
        self._orders = []
        for name in used:
            members = np.flatnonzero(source == list(sources).index(name)).tolist()
            # The name, not its place, so that another source beside it changes nothing.
            own = np.random.SeedSequence([seed, *name.encode()]).generate_state(2, np.uint32)
            number = int(own[0]) << 32 | int(own[1])
            self._orders.append(ReadingOrder(len(source), number, subset=members))
        self._shares = _whole_shares([weights[name] for name in used], used)
        self._block = functools.lru_cache(maxsize=2)(self._drawn)

    def groups(self, step: int, batch_size: int) -> list[int]:
        """The groups of a step's batch.

        Args:
            step: counted from 0.
            batch_size: groups a step.
        """
        return [self._group(step * batch_size + row) for row in range(batch_size)]

    def rng(self, step: int, batch_size: int, row: int) -> np.random.Generator:
        """For random choices about one place in the order (which turns, in which order)."""
        return np.random.default_rng([self.seed, step * batch_size + row, 1])

    def _group(self, place: int) -> int:
        block, within = divmod(place, MIXTURE_BLOCK)
        drawn, turns = self._block(block)
        source = int(drawn[within])
        turn = block * int(self._shares[source]) + int(turns[within])
        return self._orders[source].groups(turn, 1)[0]

    def _drawn(self, block: int) -> tuple[Int[np.ndarray, "place"], Int[np.ndarray, "place"]]:
        """Source of each place of a block, and how often it came before in the block."""
        sources = np.repeat(np.arange(len(self._shares)), self._shares)
        drawn = np.random.default_rng([self.seed, block, 2]).permutation(sources)
        turns = np.empty(MIXTURE_BLOCK, np.int64)
        for source, share in enumerate(self._shares.tolist()):
            turns[drawn == source] = np.arange(share)
        return drawn, turns

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_block"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._block = functools.lru_cache(maxsize=2)(self._drawn)


def _whole_shares(weights: Sequence[float], names: Sequence[str]) -> Int[np.ndarray, "source"]:
    """Places of each source in a block: weights in whole numbers, largest remainders first."""
    exact = np.array(weights, np.float64) * (MIXTURE_BLOCK / math.fsum(weights))
    shares = np.floor(exact).astype(np.int64)
    missing = MIXTURE_BLOCK - int(shares.sum())
    shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
    for name, share in zip(names, shares.tolist(), strict=True):
        if share == 0:
            raise ConfigError(
                f"mixture: the share of '{name}' is below 1 in {MIXTURE_BLOCK}; raise it or leave it out."
            )
    return shares
