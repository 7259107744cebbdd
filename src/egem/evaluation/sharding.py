"""One benchmark answered by several processes (torchrun), each with a share of the questions."""

import datetime
import logging
import os
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
