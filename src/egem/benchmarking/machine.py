"""What a number was measured on, and what that machine can do."""

import gc
import os
import platform
from contextlib import suppress
from pathlib import Path

import torch

from egem.benchmarking.parts import clock_of

PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "H800": 989.0, "A100": 312.0, "A800": 312.0, "L40S": 362.0}
"""Dense bfloat16 by makers' data sheets, by a part of the device's name; others are measured."""


def machine_name(device: torch.device) -> str:
    """Device, processors and torch."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{name}, {os.cpu_count()} processors, torch {torch.__version__}"


def peak_tflops(device: torch.device, dtype: str) -> tuple[float, str]:
    """What the device can do in a number format, and how that is known."""
    if device.type == "cuda" and dtype == "bfloat16":
        name = torch.cuda.get_device_name(device)
        for part, value in PEAK_TFLOPS.items():
            if part in name:
                return value, "data sheet"
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.ones(side, side, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    now, best = clock_of(device), float("inf")
    for _ in range(6):
        start = now()
        torch.matmul(left, right)
        best = min(best, now() - start)
    return 2 * side**3 / best / 1e12, f"measured: product of two {side} x {side} matrices"


def forget_peak(device: torch.device) -> None:
    """Let `peak_memory_gb` start anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # Linux: 5 sets the peak back to what is used now
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_gb(device: torch.device) -> float | None:
    """Gigabytes at most since `forget_peak`; of the GPU's allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM")), None)
