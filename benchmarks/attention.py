"""Torch's fused attention on the CPU against two matrix products and a softmax, at the sizes of the tiny preset.

    python benchmarks/attention.py [--dtype float32] [--threads 1] [--repeats 40]

Prints a table: milliseconds of both (medians), and the fused kernel's time as a share of the other's.
`egem.models.attention` decides by such a table which of them it takes.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from egem.benchmarking.machine import machine_name
from egem.core.machine import commit
from egem.models.attention import attend_explicitly

HEAD_DIM = 32
SIZES = {
    "16 pictures of 144 patches": (16, 3, 144, False),
    "2 pictures of 256 patches": (2, 3, 256, False),
    "8 maps of 36 latents": (8, 4, 36, False),
    "text of 94 tokens": (1, 4, 94, True),
    "text of 210 tokens": (1, 4, 210, True),
    "text of 330 tokens": (1, 4, 330, True),
    "text of 600 tokens": (1, 4, 600, True),
}
"""What -> samples, heads, tokens, causal."""
Attention = Callable[[Tensor, Tensor, Tensor, bool], Tensor]


def fused(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """Torch's kernel."""
    return functional.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=HEAD_DIM**-0.5)


def explicit(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """Two matrix products and a softmax."""
    return attend_explicitly(query, key, value, scale=HEAD_DIM**-0.5, causal=causal)


def median_ms(attention: Attention, states: list[Tensor], causal: bool, repeats: int) -> float:
    """With a backward pass where the states want one."""
    times = []
    for _ in range(repeats + 5):
        start = time.perf_counter()
        attended = attention(*states, causal)
        if attended.requires_grad:
            attended.sum().backward()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[5:])


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{machine_name(torch.device('cpu'))}, {options.dtype}, {options.threads} threads, commit {commit()}\n"
    )
    print("| what | pass | explicit, ms | fused, ms | share |\n|---|---|--:|--:|--:|")
    for name, (samples, heads, tokens, causal) in SIZES.items():
        for backward in (False, True):
            # Heads of the tokens of a projection, as models have them: not contiguous.
            states = [
                torch.randn(samples, tokens, heads, HEAD_DIM, dtype=getattr(torch, options.dtype))
                .transpose(1, 2)
                .requires_grad_(backward)
                for _ in range(3)
            ]
            ours, theirs = (median_ms(way, states, causal, options.repeats) for way in (explicit, fused))
            passes = "forward + backward" if backward else "forward"
            print(f"| {name} | {passes} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.2f} |")


if __name__ == "__main__":
    main()
