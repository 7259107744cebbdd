"""One benchmark answered by several processes (torchrun), each with a share of the questions and of the depth maps."""

import datetime
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egem.core.errors import ConfigError
from egem.evaluation.journal import Journal

logger = logging.getLogger(__name__)

LONGEST_WAIT = datetime.timedelta(days=7)
"""A process that is done waits this long for the others; one that fails ends all of them under torchrun."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1

    @classmethod
    def from_environment(cls) -> "World":
        """What torchrun says; one process otherwise.

        Raises:
            ConfigError: RANK and WORLD_SIZE do not fit each other.
        """
        rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if not 0 <= rank < size:
            raise ConfigError(
                f"RANK={rank} and WORLD_SIZE={size} do not fit; start with torchrun, or unset both."
            )
        return cls(rank=rank, size=size)

    @property
    def is_first(self) -> bool:
        """Whether this process merges and writes the results."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size == 1:
            return
        import torch.distributed as dist

        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=LONGEST_WAIT)
        dist.barrier()


def share_path(path: Path, world: World) -> Path:
    """Where a process writes its answers until they are merged."""
    return path.with_name(f"{path.stem}.share-{world.rank}-of-{world.size}{path.suffix}")


def merge_shares(path: Path, identity: dict[str, Any]) -> Journal:
    """The journal, after the answers of any shares (of a killed run too, of any size) were moved into it.

    Raises:
        CheckpointError: a file holds results of something else.
    """
    journal = Journal(path, identity)
    for share in sorted(path.parent.glob(f"{path.stem}.share-*{path.suffix}")):
        left = Journal(share, identity)
        fresh = [entry for id, entry in left.entries.items() if id not in journal.entries]
        if fresh:
            journal.append(fresh)
            logger.info("%d answers of %s were merged", len(fresh), share.name)
        share.unlink()
        share.with_suffix(".of.json").unlink(missing_ok=True)
    return journal


def share_out(
    path: Path,
    identity: dict[str, Any],
    groups: Sequence[Sequence[str]],
    work: Callable[[Sequence[str]], Iterable[list[dict[str, Any]]]],
    world: World,
    tell: Callable[[int], None],
) -> Journal:
    """The journal with an entry for every id, in their order: this process does its share of what is left.

    Args:
        path: of the journal.
        identity: see `Journal`.
        groups: ids; those of one group are left to one process, because they share images that must be decoded.
        work: gives the entries of these ids, batch after batch.
        world: the processes that share the work; all must call this.
        tell: called with how many entries are there.

    Raises:
        CheckpointError: the journal holds results of something else.
    """
    if world.is_first:
        done = merge_shares(path, identity)
        if done.entries:
            logger.info("%s: %d entries are there already", path, len(done.entries))
    world.wait()
    journal = Journal(path, identity)
    left = [[id for id in group if id not in journal.entries] for group in groups]
    count = sum(map(len, groups)) - sum(map(len, left))
    shares = [group for group in left if group][world.rank :: world.size]
    mine = journal if world.size == 1 else Journal(share_path(path, world), identity)
    for entries in work([id for group in shares for id in group]):
        mine.append(entries)
        count += len(entries)
        tell(count)
    world.wait()
    if world.is_first:
        whole = merge_shares(path, identity)
        asked = dict.fromkeys(id for group in groups for id in group)
        whole.sort([*asked, *(id for id in whole.entries if id not in asked)])
    world.wait()
    return Journal(path, identity)
