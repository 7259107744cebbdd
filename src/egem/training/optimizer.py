"""Which parameters are trained, at which rate, and how one step is applied."""

import importlib.util
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from egem.core.errors import ConfigError, unknown_name
from egem.models.lora import adapted_modules, is_adapter
from egem.training.config import StageConfig, TrainConfig, learning_rate_factor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainableReport:
    """What a stage trains; stored as `trainable-<stage>.json` in the run folder."""

    stage: str
    num_trainable: int
    """Trained values, not tensors."""
    num_frozen: int
    learning_rates: dict[str, float]
    parameters: dict[str, tuple[int, ...]]
    """Shape of each trained parameter, by its name."""


def freeze(model: nn.Module, stage: StageConfig) -> TrainableReport:
    """Let only the stage's modules learn; modules without any trained parameter go to evaluation mode.

    The model itself stays in training mode, so that conditions are dropped in every stage.

    Raises:
        ConfigError: a name in `learning_rates` is no module (or parameter) of the model.
    """
    names = [name for name, _ in model.named_parameters()]
    for module in stage.learning_rates:
        if not any(_belongs(name, module) for name in names):
            known = {name.rsplit(".", depth)[0] for name in names for depth in range(name.count(".") + 1)}
            top = {name for name in known if name.count(".") <= module.count(".")}
            raise unknown_name(f"module in stage '{stage.name}'", module, top)
    parameters, num_frozen, adapted = {}, 0, adapted_modules(model)
    for name, parameter in model.named_parameters():
        trained = is_trained(name, stage, adapted)
        parameter.requires_grad_(trained)
        parameter.grad = None
        if trained:
            parameters[name] = tuple(parameter.shape)
        else:
            num_frozen += parameter.numel()
    set_training(model)
    return TrainableReport(
        stage=stage.name,
        num_trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        num_frozen=num_frozen,
        learning_rates=stage.learning_rates,
        parameters=parameters,
    )


def is_trained(parameter: str, stage: StageConfig, adapted: Collection[str]) -> bool:
    """Whether a stage trains a parameter: by its rate, and in modules with adapters (`adapted`) those alone."""
    return _rate(stage, parameter) > 0 and (is_adapter(parameter) or parameter.split(".")[0] not in adapted)


def set_training(model: nn.Module) -> None:
    """Training mode for the model and every child that learns, evaluation mode for frozen children."""
    model.train()
    for child in model.children():
        child.train(any(parameter.requires_grad for parameter in child.parameters()))


def make_optimizer(model: nn.Module, stage: StageConfig, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over the trained parameters: for each module one group that decays and one that does not.

    Vectors and scalars (norms, biases, embeddings' scales) do not decay. A group's `module` and `peak` say
    where its rate comes from.

    Raises:
        ConfigError: 8-bit states are asked for and bitsandbytes is not installed.
    """
    members: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members.setdefault((_module(stage, name), parameter.ndim >= 2), []).append(parameter)
    groups = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decays else 0.0,
            "module": module,
            "peak": stage.learning_rates[module],
            "lr": 0.0,
        }
        for (module, decays), parameters in members.items()
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=config.betas, fused=True)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "optimizer adamw8bit needs the package bitsandbytes; pip install 'egem[8bit]', or take adamw."
        )
    from bitsandbytes.optim.adamw import AdamW8bit

    return AdamW8bit(groups, betas=config.betas)


def set_learning_rates(
    optimizer: torch.optim.Optimizer, stage: StageConfig, step: int, steps: int
) -> dict[str, float]:
    """Set each group's rate for a step of the stage; returns the rate of each module."""
    factor = learning_rate_factor(stage, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return {group["module"]: group["lr"] for group in optimizer.param_groups}


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Global 2-norm of all gradients, before any clipping; not finite when a gradient is not.

    Of sharded ones all processes must call it.
    """
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that the current stage trains."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def log_report(report: TrainableReport, shown: int = 8) -> None:
    """One line of totals and the first names; the whole list is in the run folder."""
    names = list(report.parameters)
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    logger.info(
        "stage %s trains %s of %s values in %d tensors: %s%s",
        report.stage,
        f"{report.num_trainable:,}",
        f"{report.num_trainable + report.num_frozen:,}",
        len(names),
        ", ".join(names[:shown]),
        rest,
    )


def _belongs(parameter: str, module: str) -> bool:
    return parameter == module or parameter.startswith(module + ".")


def _module(stage: StageConfig, parameter: str) -> str:
    matching = [module for module in stage.learning_rates if _belongs(parameter, module)]
    if not matching:
        raise ConfigError(f"stage '{stage.name}': no learning rate for '{parameter}'.")
    return max(matching, key=len)


def _rate(stage: StageConfig, parameter: str) -> float:
    if not any(_belongs(parameter, module) for module in stage.learning_rates):
        return 0.0
    return stage.learning_rates[_module(stage, parameter)]
