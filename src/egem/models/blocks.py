"""Memory and speed of the transformer blocks: activations computed again, and compiled blocks.

The blocks are the vision tower's, the text model's, the depth head's and the action expert's. Neither option changes
a parameter's name or a result beyond rounding.
"""

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

F = TypeVar("F", bound=Callable[..., Any])

Checkpointing = Literal["none", "selective", "full"]
"""Which activations of a block are kept for the backward pass: all, the results of matrix products, or none."""


def uncompiled(function: F) -> F:
    """A function that compiled code calls as it is, because the lengths inside differ from batch to batch."""
    return torch.compiler.disable(function)  # pyright: ignore[reportReturnType]


def run_block(mode: Checkpointing, block: Callable[..., Tensor], *inputs: Any, **options: Any) -> Tensor:
    """A block's output, with its activations kept as `mode` says.

    Args:
        mode: see `Checkpointing`.
        block: the module.
        inputs: positional ones.
        options: those by name.
    """
    if mode == "none" or not torch.is_grad_enabled():
        return block(*inputs, **options)
    if mode == "full":
        result = checkpoint(block, *inputs, use_reentrant=False, **options)
    else:
        result = checkpoint(block, *inputs, use_reentrant=False, context_fn=_keep_products, **options)
    assert isinstance(result, Tensor)
    return result


def _keep_products() -> Any:
    return create_selective_checkpoint_contexts(list(products()))


@functools.cache
def products() -> tuple[Any, ...]:
    """Operations whose results cost more to compute again than to keep."""
    importlib.import_module("torch.nn.attention.varlen")  # defines the last one
    aten = torch.ops.aten
    return (
        aten.mm.default,
        aten.addmm.default,
        aten.convolution.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        torch.ops.torch_attn._varlen_attn.default,
    )


def transformer_blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a `GEM`: vision tower, text model, depth head, and the action expert of a `GEMVLA`."""
    qwen = model.get_submodule("backbone.qwen.model")
    for name, parent in (("visual.blocks", qwen), ("language_model.layers", qwen)):
        yield from parent.get_submodule(name).children()
    yield from model.get_submodule("depth_head.sana.transformer_blocks").children()
    if "action_expert" in dict(model.named_children()):
        yield from model.get_submodule("action_expert.blocks").children()


def compile_blocks(model: nn.Module, *, backend: str = "inductor") -> None:
    """Compile each block by itself, in place: equal blocks share one compilation, and packing never needs another.

    Args:
        model: a `GEM`.
        backend: of torch.compile.
    """
    for block in transformer_blocks(model):
        block.compile(backend=backend)


def compile_expert(model: nn.Module, *, backend: str = "inductor") -> None:
    """Compile the action expert's blocks alone, in place, for prompts of any length from the first call on.

    Args:
        model: a `GEMVLA`.
        backend: of torch.compile.
    """
    for block in model.get_submodule("action_expert.blocks").children():
        block.compile(backend=backend, dynamic=True)
