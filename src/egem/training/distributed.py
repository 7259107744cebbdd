"""Which processes train together, and the few collectives they need besides FSDP's own.

Every collective here takes tensors in CPU memory (gloo), also on GPUs, and is the identity in a single
process. No object is pickled: what is not a number travels as text.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from egem.core.errors import (
    CheckpointError,
    ConfigError,
    EgemError,
    RecordError,
    TrainingError,
)
from egem.data.order import Order

_KINDS = {
    kind.__name__: kind for kind in (CheckpointError, ConfigError, RecordError, TrainingError, EgemError)
}


@dataclass(frozen=True, kw_only=True)
class World:
    """Which of how many training processes this is."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None
    """Where the collectives run; None is the default group."""

    @property
    def is_first(self) -> bool:
        """The process that writes the run folder."""
        return self.rank == 0

    def with_own_group(self) -> "World":
        """The same processes with a channel of their own, for a second thread. All must call it."""
        return self if self.size == 1 else replace(self, group=dist.new_group(backend="gloo"))


def current_world() -> World:
    """From torch.distributed if it has been initialised, else a single process.

    Raises:
        ConfigError: it was initialised without gloo for tensors in CPU memory.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return World()
    backend = str(dist.get_backend_config())
    if dist.get_world_size() > 1 and "gloo" not in backend:
        raise ConfigError(
            f"the process group has backend '{backend}', which cannot sum tensors in CPU memory; "
            "initialise it with 'cpu:gloo,cuda:nccl'."
        )
    return World(rank=dist.get_rank(), size=dist.get_world_size())


@contextmanager
def joined_processes(timeout: timedelta) -> Iterator[World]:
    """Join the processes that torchrun (or a scheduler that sets the same variables) has started.

    Alone, nothing is initialised. On a machine with GPUs each process takes the one of its local rank.

    Args:
        timeout: after which a collective on GPUs gives up; longer than the watchdog's.

    Raises:
        ConfigError: more processes than GPUs on this machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield current_world()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        local, available = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= available:
            raise ConfigError(
                f"process {local} of this machine has no GPU of its own, there are {available}; "
                f"start torchrun with --nproc-per-node {available}."
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=timeout)
    try:
        yield current_world()
    finally:
        dist.destroy_process_group()


def sum_over_ranks(values: Tensor, world: World) -> Tensor:
    """The sum of every process's `values`, in place."""
    if world.size > 1:
        dist.all_reduce(values, group=world.group)
    return values


def largest_over_ranks(values: Sequence[int], world: World) -> list[int]:
    """The largest of every process's number, place by place."""
    if world.size == 1:
        return list(values)
    found = torch.tensor(values)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=world.group)
    return found.tolist()


def any_over_ranks(flags: Sequence[bool], world: World) -> list[bool]:
    """Whether any process says so, flag by flag."""
    return [bool(flag) for flag in largest_over_ranks([int(flag) for flag in flags], world)]


def from_first(value: int, world: World) -> int:
    """The first process's number; all wait for it."""
    if world.size > 1:
        holder = torch.tensor(value)
        dist.broadcast(holder, src=0, group=world.group)
        return int(holder)
    return value


def wait_for_all(world: World) -> None:
    """Return once every process has come here."""
    if world.size > 1:
        dist.barrier(group=world.group)


def texts_of_all(text: str, world: World) -> list[str]:
    """Every process's text, in the order of ranks."""
    if world.size == 1:
        return [text]
    content = text.encode()
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world.size)]
    dist.all_gather(lengths, torch.tensor([len(content)]), group=world.group)
    longest = max(int(length) for length in lengths)
    if longest == 0:
        return [""] * world.size
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else 0
    found = [torch.zeros(longest, dtype=torch.uint8) for _ in range(world.size)]
    dist.all_gather(found, padded, group=world.group)
    return [bytes(each[: int(n)].numpy()).decode() for each, n in zip(found, lengths, strict=True)]


@contextmanager
def failing_together(world: World) -> Iterator[None]:
    """A block that fails on all processes if it fails on one, so that nobody waits for who will not come.

    A user's mistake is raised with the same words everywhere; a bug keeps its traceback where it happened.

    Raises:
        EgemError: what happened on the first process that failed.
    """
    if world.size == 1:
        yield
        return
    own: Exception | None = None
    try:
        yield
    except Exception as error:  # noqa: BLE001 - raised again below
        own = error
    words = "" if own is None else f"{type(own).__name__}\n{own}"
    reports = texts_of_all(words, world)
    failed = [rank for rank, report in enumerate(reports) if report]
    if not failed:
        return
    if own is not None and (world.rank == failed[0] or not isinstance(own, EgemError)):
        raise own
    kind, _, message = reports[failed[0]].partition("\n")
    if kind in _KINDS:
        raise _KINDS[kind](message) from own
    raise TrainingError(f"rank {failed[0]} failed: {kind}: {message}") from own


def require_equal(names: Sequence[str], values: Sequence[str], world: World) -> None:
    """Refuse processes that were started differently.

    Args:
        names: of what is compared.
        values: this process's, as text.
        world: all of them.

    Raises:
        ConfigError: on every process; names the first rank and the first value that differ.
    """
    for name, value in zip(names, values, strict=True):
        found = texts_of_all(value, world)
        for rank, other in enumerate(found):
            if other != found[0]:
                raise ConfigError(
                    f"rank {rank} has another {name} than rank 0: {_shortened(other)} instead of "
                    f"{_shortened(found[0])}; start every process with the same command on the same data."
                )


@contextmanager
def naming_lost_contact(world: World) -> Iterator[None]:
    """Say in one line that another process has ended, instead of how a collective fails then.

    Raises:
        TrainingError: a collective could not reach another process.
    """
    try:
        yield
    except RuntimeError as error:
        if world.size == 1 or not _lost_contact(error):
            raise
        raise TrainingError(
            f"rank {world.rank} lost contact with another process, which has ended or cannot be reached "
            f"({str(error).splitlines()[0][:120]}); its own output says why. Every checkpoint is intact."
        ) from error


def _lost_contact(error: RuntimeError) -> bool:
    if isinstance(error, dist.DistError):
        return True
    words = ("closed by peer", "connection reset", "connection refused", "gloo", "nccl")
    return any(word in str(error).lower() for word in words)


@dataclass(frozen=True, kw_only=True)
class OrderOfRank:
    """One process's share of a reading order: every `world.size`-th forward pass, beginning at its rank.

    So two processes read in one step what one process reads in two forward passes.
    """

    order: Order
    world: World
    num_groups: int | None = None
    """Groups to read in all; the last forward passes are smaller, or empty. None reads on and on."""

    def groups(self, step: int, batch_size: int) -> list[int]:
        """The groups of this process's `step`-th forward pass."""
        place = self._place(step)
        found = self.order.groups(place, batch_size)
        return found if self.num_groups is None else found[: max(0, self.num_groups - place * batch_size)]

    def rng(self, step: int, batch_size: int, row: int) -> np.random.Generator:
        """For random choices about one place in the whole order."""
        return self.order.rng(self._place(step), batch_size, row)

    def _place(self, step: int) -> int:
        return step * self.world.size + self.world.rank


def _shortened(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
