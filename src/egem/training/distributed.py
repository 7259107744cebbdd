"""The few collectives that training needs; each is the identity in a single process."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from egem.data.order import Order

_BUCKET_VALUES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class World:
    """Which of how many training processes this is."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """The process that writes the run folder."""
        return self.rank == 0


def current_world() -> World:
    """From torch.distributed if it has been initialised, else a single process."""
    if dist.is_available() and dist.is_initialized():
        return World(rank=dist.get_rank(), size=dist.get_world_size())
    return World()


def sum_over_ranks(values: Tensor, world: World) -> Tensor:
    """The sum of every process's `values`, in place."""
    if world.size > 1:
        dist.all_reduce(values)
    return values


def any_over_ranks(flag: bool, world: World) -> bool:
    """Whether any process says so."""
    if world.size == 1:
        return flag
    return bool(sum_over_ranks(torch.tensor(float(flag)), world) > 0)


def from_first(value: int, world: World) -> int:
    """The first process's number; all wait for it."""
    if world.size > 1:
        holder = torch.tensor(value)
        dist.broadcast(holder, src=0)
        return int(holder)
    return value


def wait_for_all(world: World) -> None:
    """Return once every process has come here."""
    if world.size > 1:
        dist.barrier()


def sum_gradients(parameters: Sequence[nn.Parameter], world: World) -> None:
    """Add up each parameter's gradient over all processes.

    Losses are divided by global counts, so the sum of the processes' gradients is the gradient of the whole
    batch. A parameter with a gradient on some processes only (no target elsewhere) counts as zero on the
    others; one without any gradient keeps none, as in a single process.
    """
    if world.size == 1:
        return
    has_gradient = torch.tensor([float(p.grad is not None) for p in parameters])
    sum_over_ranks(has_gradient, world)
    bucket: list[nn.Parameter] = []
    for parameter, known in zip(parameters, has_gradient.tolist(), strict=True):
        if known == 0:
            continue
        bucket.append(parameter)
        if sum(p.numel() for p in bucket) >= _BUCKET_VALUES:
            _sum_bucket(bucket, world)
            bucket = []
    _sum_bucket(bucket, world)


def _sum_bucket(parameters: list[nn.Parameter], world: World) -> None:
    if not parameters:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = sum_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]), world)
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


@dataclass(frozen=True, kw_only=True)
class OrderOfRank:
    """One process's share of a reading order: every `world.size`-th forward pass, beginning at its rank.

    So two processes read in one step what one process reads in two forward passes.
    """

    order: Order
    world: World

    def groups(self, step: int, batch_size: int) -> list[int]:
        """The groups of this process's `step`-th forward pass."""
        return self.order.groups(step * self.world.size + self.world.rank, batch_size)

    def rng(self, step: int, batch_size: int, row: int) -> np.random.Generator:
        """For random choices about one place in the whole order."""
        return self.order.rng(step * self.world.size + self.world.rank, batch_size, row)
