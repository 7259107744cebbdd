"""The machine that trains: the number format it computes in, and what makes its memory faster."""

import ctypes
import logging
import sys

import torch

logger = logging.getLogger(__name__)

# Parameter numbers of glibc's malloc.h.
_TRIM_THRESHOLD = -1
_TOP_PAD = -2
_MMAP_THRESHOLD = -3


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


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory instead of returning it to the kernel; True where that worked.

    A training step allocates and frees the same large buffers again and again. By default glibc maps each
    large one anew, and the kernel zeroes its pages at first touch. Measured on one core: a stack of layers with
    32 MB activations takes 18 to 27 % less time, the tiny preset (batch of 16 at 128 x 128) up to 10 % less
    with a third fewer page faults; peak memory grows by 2 to 10 %. Does nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    settings = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 << 20, _MMAP_THRESHOLD: 1 << 30}
    kept = all(library.mallopt(name, value) == 1 for name, value in settings.items())
    logger.debug("malloc keeps freed memory: %s", kept)
    return kept
