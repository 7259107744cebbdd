"""What a checkpoint of a run holds: weights, the optimizer's moments, and the position."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from egem.training.checkpoints import load_tensors, stored_tensors
from egem.training.sharding import local_part

_OPTIMIZER = "optimizer."
_MODEL = "model."


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every tensor that training can change, or that loading the model alone would not bring back.

    Frozen weights are included: a run can then be resumed whatever has happened to where it started from.
    Tied weights are stored once. Of a sharded model, each process has its part of everything.
    """
    return {**_model_tensors(model), **_optimizer_tensors(model, optimizer)}


def load_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Bring model and optimizer back to what they were when the checkpoint was saved.

    Args:
        folder: a valid checkpoint of the run, of the stage that `optimizer` was made for.
        model: of the run, any weights; they are overwritten in place.
        optimizer: fresh.

    Raises:
        CheckpointError: the checkpoint is of another model or trains other parameters.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    moments: dict[str, Tensor] = {}
    for name, stored in stored_tensors(folder).items():
        parameter = parameters.get(name.removeprefix(_OPTIMIZER).rpartition(".")[0])
        if name.startswith(_OPTIMIZER) and parameter is not None:
            moments[name] = _empty_moment(parameter, stored)
    load_tensors(folder, {**_model_tensors(model), **moments})
    for name, moment in moments.items():
        parameter, _, key = name.removeprefix(_OPTIMIZER).rpartition(".")
        # bitsandbytes counts its steps in a plain number, torch's AdamW in a float tensor.
        is_number = moment.ndim == 0 and not moment.is_floating_point()
        optimizer.state[parameters[parameter]][key] = int(moment) if is_number else moment


def _empty_moment(parameter: Tensor, stored: Tensor) -> Tensor:
    """A tensor of the optimizer to be filled: sharded as its parameter is, if it is as large."""
    if isinstance(parameter, DTensor) and stored.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=stored.dtype)
    return torch.empty_like(stored, device=local_part(parameter).device)


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    unique: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        unique.setdefault(id(tensor), (name, tensor))
    return {_MODEL + name: tensor.detach() for name, tensor in unique.values()}


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{_OPTIMIZER}{name}.{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return tensors
