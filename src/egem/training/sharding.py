"""One model over many processes: FSDP2, block by block.

Each transformer block (text layer, vision block, block of the depth head or the action expert) is a unit whose
weights, gradients and optimizer state are split over the processes and gathered while it computes; everything else
(embeddings and the output layer, which may be tied, norms, mergers, connector) is one more unit, gathered for the
whole forward pass. Losses are divided by global counts, so gradients are summed, never averaged.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from egem.core.errors import ConfigError
from egem.models.blocks import transformer_blocks
from egem.models.gem import GEM
from egem.models.gem_vla import GEMVLA
from egem.training.distributed import World


def shard(
    model: GEM, world: World, *, device: torch.device, dtype: torch.dtype, shard_size: int | None = None
) -> None:
    """Split the model over the processes, in place; its weights go to `device` in float32.

    Args:
        model: the same on all processes; on the CPU, so that no device ever holds all of it.
        world: at least two processes.
        device: of this process.
        dtype: weights are gathered and multiplied in it; gradients are summed in float32.
        shard_size: split over so many neighbouring processes and keep equal copies in the others (hybrid
            sharding: the processes of one node); None splits over all.

    Raises:
        ConfigError: `shard_size` does not divide the number of processes.
    """
    mesh = data_mesh(world, shard_size, device)
    policy = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype,
        reduce_dtype=torch.float32,
        # Autocast decides what an input is computed in, as in a single process; positions stay float32.
        cast_forward_inputs=False,
    )
    for unit in (*transformer_blocks(model), model):
        unit.to(torch.float32)
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    for unit in _units(model):
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    # Probes call these instead of `forward`.
    register_fsdp_forward_method(model, "generate_text")
    register_fsdp_forward_method(model, "sample_depth")
    if isinstance(model, GEMVLA):
        register_fsdp_forward_method(model, "sample_actions")
        for block in model.action_expert.blocks:
            register_fsdp_forward_method(block, "condition")


def data_mesh(world: World, shard_size: int | None, device: torch.device) -> DeviceMesh:
    """All processes in a row, or in rows of `shard_size`: weights are split along a row.

    Raises:
        ConfigError: the rows do not come out even.
    """
    size = world.size if shard_size is None else shard_size
    if size < 1 or world.size % size:
        raise ConfigError(
            f"shard_size {shard_size} does not divide the {world.size} processes; give the number of GPUs of a "
            "node, or leave it out to split over all."
        )
    if size == world.size:
        return init_device_mesh(device.type, (size,), mesh_dim_names=("shard",))
    shape = (world.size // size, size)
    return init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))


def settle(model: nn.Module) -> None:
    """To be called when other parameters than before are trained: FSDP looks at them only once by itself.

    Without it, a unit in which nothing was trained at first would later sum its gradients in the dtype of the
    computation. Does nothing to a model that is not sharded.
    """
    for unit in _units(model):
        unit.unshard()
        unit.reshard()


def free_gathered(model: nn.Module) -> None:
    """Give back the weights that a forward pass without a backward pass has left gathered."""
    for unit in _units(model):
        unit.reshard()


def sync_gradients(model: nn.Module, enabled: bool) -> None:
    """Whether the next backward pass sums gradients over the processes, or keeps them for a later one."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(enabled)


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_first_copy(tensor: Tensor) -> bool:
    """Whether this process is the one to write its part of a tensor: of equal copies, only the first is.

    Of a sharded tensor that is anything in it; of a tensor that is whole on every process, rank 0 has it.
    """
    if isinstance(tensor, DTensor):
        replicas = tensor.device_mesh.ndim == 1 or tensor.device_mesh.get_coordinate()[0] == 0  # pyright: ignore
        return replicas and tensor.to_local().numel() > 0
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def whole_model(model: GEM, folder: Path, world: World) -> GEM | None:
    """A copy with all weights in the first process's memory, None in the others. All must call it.

    Args:
        model: sharded or not.
        folder: a checkpoint of the same model, from which everything but the weights is taken.
        world: the processes it is sharded over.
    """
    whole = GEM.from_pretrained(folder, dtype=torch.float32) if world.is_first else None
    into = {} if whole is None else whole.state_dict()
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:  # tied: the copy's are too
            continue
        seen.add(id(tensor))
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if whole is not None:
            into[name].copy_(full.detach())
    return whole


def _units(model: nn.Module) -> Iterator[FSDPModule]:
    for module in model.modules():
        if isinstance(module, FSDPModule):
            yield module
