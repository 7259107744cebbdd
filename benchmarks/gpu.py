"""One script for a machine with a GPU that is lent for half an hour: what docs/reproduction.md has of gem-2b.

    python benchmarks/gpu.py --out gpu.json          gem-2b's sizes, 448 pixels, packed, about ten minutes
    python benchmarks/gpu.py --tiny --out tiny.json  the same from end to end on a CPU, in about a minute

Random weights; questions of mixed number and length; with and without the depth branch; the straightforward
loop in the same run; then each memory option by itself, and the plan beside what was measured. Last the policy: two
views, ten flow steps, prefix reused, compiled, as a CUDA graph.
"""

import argparse
import json
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from egem.benchmarking.plan import PlanConfig, plan_result
from egem.benchmarking.policy import BenchPolicyConfig, bench_policy
from egem.benchmarking.policy import table as policy_table
from egem.benchmarking.training import BenchTrainConfig, bench_train, table


def main() -> None:
    """Run everything; what fails is recorded in its place, because a lent machine does not come back."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="the tiny preset on the CPU")
    parser.add_argument("--steps", type=int, default=None, help="timed steps of a round")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    if options.tiny:
        base = BenchTrainConfig(
            device="cpu", batch_size=4, row_tokens=1024, steps=options.steps or 2, rounds=1
        )
    else:
        base = BenchTrainConfig(
            preset="gem-2b",
            device="cuda",
            batch_size=64,
            row_tokens=16_384,
            steps=options.steps or 8,
            rounds=1,
            workers=8,
        )
    alone = replace(base, baseline=False)
    runs: dict[str, BenchTrainConfig] = {
        "packed": base,
        "cached latents": replace(alone, cached_latents=True),
        "compiled": replace(alone, compile_blocks=True),
        "selective": replace(alone, activation_checkpointing="selective"),
        "full": replace(alone, activation_checkpointing="full"),
        "8 bit": replace(alone, optimizer="adamw8bit"),
        "padded": replace(alone, row_tokens=None, batch_size=min(16, base.batch_size)),
    }
    results: dict[str, Any] = {}
    for name, config in runs.items():
        print(f"\n## {name}\n", flush=True)
        try:
            results[name] = bench_train(config)
            print(table(results[name]), flush=True)
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            results[name] = {"error": repr(error)}
        options.out.write_text(json.dumps(results, indent=2) + "\n")
    planned = PlanConfig(
        preset=base.preset, row_tokens=base.row_tokens or 16_384, image_size=128 if options.tiny else 448
    )
    results["plan"] = plan_result(planned)
    chunks = options.steps or (3 if options.tiny else 50)
    policy = BenchPolicyConfig(preset=base.preset, device=base.device, chunks=chunks)
    print("\n## policy\n", flush=True)
    try:
        results["policy"] = bench_policy(policy)
        print(policy_table(results["policy"]), flush=True)
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        results["policy"] = {"error": repr(error)}
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nstored in {options.out}")


if __name__ == "__main__":
    main()
