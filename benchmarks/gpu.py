"""One script for a machine with a GPU that is lent for half an hour: what docs/reproduction.md has of gem-2b.

    python benchmarks/gpu.py --out gpu.json          gem-2b's sizes, 448 pixels, packed, about ten minutes
    python benchmarks/gpu.py --tiny --out tiny.json  the same from end to end on a CPU, in about a minute

Random weights; questions of mixed number and length; with and without the depth branch; the straightforward
loop in the same run; then each memory option by itself. What the plan has no room for is not started, and the plan
stands beside what was measured. Last the policy: two views, ten flow steps, prefix reused, compiled, as a CUDA graph.
"""

import argparse
import json
import os
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from egem.benchmarking.plan import PlanConfig, plan
from egem.benchmarking.policy import BenchPolicyConfig, bench_policy
from egem.benchmarking.policy import table as policy_table
from egem.benchmarking.training import BenchTrainConfig, bench_train, table

_SAMPLE_TOKENS = 640
"""Of a picture of 448 pixels with the most questions, for passes that are given in samples."""


def base(*, tiny: bool, steps: int | None) -> BenchTrainConfig:
    """The first run, which the others change in one way each."""
    if tiny:
        return BenchTrainConfig(device="cpu", batch_size=4, row_tokens=1024, steps=steps or 2, rounds=1)
    return BenchTrainConfig(
        preset="gem-2b",
        device="cuda",
        batch_size=64,
        row_tokens=4096,
        steps=steps or 8,
        rounds=1,
        workers=8,
    )


def planned_gb(config: BenchTrainConfig) -> float:
    """Gigabytes that the plan says a run needs."""
    tiny = config.preset == "tiny"
    planned = PlanConfig(
        preset=config.preset,
        row_tokens=config.row_tokens or config.batch_size * _SAMPLE_TOKENS,
        image_size=config.image_size or (128 if tiny else 448),
        activation_checkpointing=config.activation_checkpointing,
        optimizer=config.optimizer,
        cached_latents=config.cached_latents,
    )
    return plan(planned).total


def measured(config: BenchTrainConfig, *, memory_gb: float) -> dict[str, Any]:
    """A run's result beside its plan, or why there is none: a lent machine does not come back.

    Args:
        config: of the run.
        memory_gb: of the device.
    """
    needed = planned_gb(config)
    print(f"planned: {needed:.1f} of {memory_gb:.1f} GB\n", flush=True)
    if needed > memory_gb:
        return {"planned_gb": needed, "error": f"not started: {needed:.1f} GB do not fit {memory_gb:.1f}"}
    try:
        found = bench_train(config)
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return {"planned_gb": needed, "error": repr(error)}
    print(table(found), flush=True)
    return found | {"planned_gb": needed}


def main() -> None:
    """Run everything, and store what there is after each run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="the tiny preset on the CPU")
    parser.add_argument("--steps", type=int, default=None, help="timed steps of a round")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    first = base(tiny=options.tiny, steps=options.steps)
    alone = replace(first, baseline=False)
    runs: dict[str, BenchTrainConfig] = {
        "packed": first,
        "cached latents": replace(alone, cached_latents=True),
        "compiled": replace(alone, compile_blocks=True),
        "selective": replace(alone, activation_checkpointing="selective"),
        "full": replace(alone, activation_checkpointing="full"),
        "8 bit": replace(alone, optimizer="adamw8bit"),
        "padded": replace(alone, row_tokens=None, batch_size=min(8, first.batch_size)),
    }
    memory_gb = _memory_gb(first.device)
    results: dict[str, Any] = {}
    for name, config in runs.items():
        print(f"\n## {name}\n", flush=True)
        results[name] = measured(config, memory_gb=memory_gb)
        options.out.write_text(json.dumps(results, indent=2) + "\n")
    chunks = options.steps or (3 if options.tiny else 50)
    policy = BenchPolicyConfig(preset=first.preset, device=first.device, chunks=chunks)
    print("\n## policy\n", flush=True)
    try:
        results["policy"] = bench_policy(policy)
        print(policy_table(results["policy"]), flush=True)
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        results["policy"] = {"error": repr(error)}
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nstored in {options.out}")


def _memory_gb(device: str) -> float:
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory / 1e9
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9


if __name__ == "__main__":
    main()
