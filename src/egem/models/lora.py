"""Low-rank adapters (LoRA; Hu et al. 2021, arXiv 2106.09685) on the linear layers of transformer blocks, by peft.

In an adapted layer `y = x W^T + (alpha / rank) x A^T B^T` only A and B learn; B starts at 0, so nothing changes at
first. A saved model has them multiplied out: it is a plain checkpoint again, as large as before.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from egem.core.errors import ConfigError
from egem.models.blocks import transformer_blocks

ADAPTABLE = ("backbone", "depth_head")
"""Modules with transformer blocks."""

_MARK = "lora_"
"""In the names of all of peft's adapter parameters."""


def add_adapters(model: nn.Module, modules: Sequence[str], *, rank: int, alpha: float, seed: int) -> None:
    """Put adapters on every linear layer of the modules' blocks, in place.

    Args:
        model: a `GEM` without adapters.
        modules: of `ADAPTABLE`.
        rank: columns of A.
        alpha: see above.
        seed: of A; torch's global generator is left as it was.

    Raises:
        ConfigError: peft is not installed, or a module has no blocks.
    """
    if importlib.util.find_spec("peft") is None:
        raise ConfigError("LoRA needs the package peft; pip install 'egem[lora]', or leave lora_rank out.")
    from peft import LoraConfig, inject_adapter_in_model

    unknown = [name for name in modules if name not in ADAPTABLE]
    if unknown or not modules:
        raise ConfigError(
            f"LoRA on {list(modules)}: only {' and '.join(ADAPTABLE)} have blocks to put it on."
        )
    blocks = {id(block) for block in transformer_blocks(model)}
    for name in modules:
        module = model.get_submodule(name)
        targets = [
            f"{path}.{inner}"
            for path, block in module.named_modules()
            if id(block) in blocks
            for inner, layer in block.named_modules()
            if isinstance(layer, nn.Linear)
        ]
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)  # pyright: ignore[reportArgumentType]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, module)


def is_adapter(parameter: str) -> bool:
    """Whether a parameter of that name belongs to an adapter."""
    return any(part.startswith(_MARK) for part in parameter.split("."))


def adapted_modules(model: nn.Module) -> tuple[str, ...]:
    """The direct submodules in which only adapters learn."""
    return tuple(
        name
        for name, module in model.named_children()
        if any(is_adapter(inner) for inner, _ in module.named_parameters())
    )


@contextmanager
def adapters_merged(model: nn.Module) -> Iterator[None]:
    """Within the block, adapted layers are plain ones of the same names with the adapters multiplied out.

    The layers themselves are not touched and stand in their places again afterwards, so nothing is rounded.
    """
    adapted = [(name, layer) for name, layer in model.named_modules() if _is_adapted(layer)]
    try:
        for name, layer in adapted:
            _put(model, name, _merged(layer))
        yield
    finally:
        for name, layer in adapted:
            _put(model, name, layer)


def _is_adapted(layer: nn.Module) -> bool:
    return isinstance(getattr(layer, "base_layer", None), nn.Linear) and hasattr(layer, "lora_A")


@torch.no_grad()
def _merged(layer: nn.Module) -> nn.Linear:
    base = layer.base_layer
    assert isinstance(base, nn.Linear)
    plain = nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
    weight = base.weight.float()
    for adapter in layer.lora_A:  # pyright: ignore[reportGeneralTypeIssues]
        weight = weight + layer.get_delta_weight(adapter).float()  # pyright: ignore[reportCallIssue]
    plain.weight = nn.Parameter(weight.to(base.weight.dtype), requires_grad=False)
    plain.bias = base.bias
    return plain


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent)._modules[child] = layer
