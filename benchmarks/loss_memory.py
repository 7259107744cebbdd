"""Peak memory of the language loss at Qwen's vocabulary, forward and backward, chunked and with full logits.

    python benchmarks/loss_memory.py [--tokens 16384] [--full]

Each in a process of its own; what the interpreter and the inputs take is subtracted. Full logits need over
25 GB at 16,384 tokens, so they are measured only if asked for, and otherwise counted.
"""

import argparse
import json
import multiprocessing
import resource

import torch
from torch.nn.functional import cross_entropy

from egem.models.cross_entropy import linear_cross_entropy

VOCABULARY, HIDDEN = 151_936, 8


def peak(tokens: int, full: bool) -> float:
    """Gigabytes above what was there before."""
    torch.set_num_threads(1)
    states = torch.randn(tokens, HIDDEN, requires_grad=True)
    weight = torch.randn(VOCABULARY, HIDDEN, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (tokens,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if full:
        loss = cross_entropy(states @ weight.T, targets, reduction="sum")
    else:
        loss = linear_cross_entropy(states, weight, targets)
    loss.backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e9


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--full", action="store_true", help="also measure full logits")
    options = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        result = {
            "tokens": options.tokens,
            "vocabulary": VOCABULARY,
            "chunked_gb": pool.apply(peak, (options.tokens, False)),
            "full_logits_alone_gb": options.tokens * VOCABULARY * 4 / 1e9,
        }
        if options.full:
            result["full_gb"] = pool.apply(peak, (options.tokens, True))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
