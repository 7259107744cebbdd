"""Where to compute and in which numbers: one reading of `--device` and `dtype` for all that runs a model."""

import torch

from egem.core.errors import ConfigError


def device_of(name: str) -> torch.device:
    """The device of that name; `auto` takes a GPU if there is one.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device '{name}' cannot be used here ({reason}); try auto or cpu.") from None
    return device


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type to compute in: `auto` takes bfloat16 where the processor multiplies it natively.

    A processor without such instructions emulates them: the tiny preset's step takes ten times as long in
    bfloat16 as in float32 on an AVX2 machine, and about half on one with AVX-512-BF16.
    """
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def inference_dtype(dtype: torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """The type to load weights in: None keeps what is stored, but becomes float32 where bfloat16 would be emulated."""
    if dtype is None and compute_dtype("auto", device) == torch.float32:
        return torch.float32
    return dtype
