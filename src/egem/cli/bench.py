"""`egem bench ...`: what things cost, as a table and as JSON. One function a sub-command."""

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from egem.cli.options import parse


def train(arguments: list[str]) -> None:
    """Time training beside the straightforward loop, or plan its memory."""
    if "--plan" in arguments:
        _plan(["--preset" if word == "--plan" else word for word in arguments])
        return
    from egem.benchmarking.training import BenchTrainConfig, bench_train, table

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Time training against a straightforward Hugging Face loop at the same sizes, weights random.

        `egem bench train --plan PRESET --gpus N --gpu-memory GB` says instead what one GPU's memory has to hold, by
        component, and what to turn on where it does not fit; `--plan PRESET --help` shows its options.
        """

        config: OmitArgPrefixes[BenchTrainConfig] = field(default_factory=BenchTrainConfig)
        out: Path | None = None
        """File for the result as JSON."""

    options = parse(Options, "bench train", arguments)
    result = bench_train(options.config)
    print(table(result))
    _store(result, options.out)


def _plan(arguments: list[str]) -> None:
    from egem.benchmarking.plan import PlanConfig, plan_result, plan_table

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """What the memory of one GPU has to hold in the joint stage. Nothing of the model's size is allocated."""

        config: OmitArgPrefixes[PlanConfig]
        out: Path | None = None
        """File for the result as JSON."""

    options = parse(Options, "bench train", arguments)
    result = plan_result(options.config)
    print(plan_table(result))
    _store(result, options.out)


def policy(arguments: list[str]) -> None:
    """Time a policy's chunks of actions, or plan its memory."""
    plan = "--plan" in arguments
    arguments = ["--preset" if word == "--plan" else word for word in arguments]
    from egem.benchmarking.policy import BenchPolicyConfig, bench_policy, plan_policy, plan_table, table

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Latency of GEM-VLA at a preset's sizes: prefix reused or recomputed, compiled, as a CUDA graph.

        `egem bench policy --plan PRESET` says instead what it needs of a GPU; nothing of its size is allocated then.
        """

        config: OmitArgPrefixes[BenchPolicyConfig] = field(default_factory=BenchPolicyConfig)
        out: Path | None = None
        """File for the result as JSON."""

    options = parse(Options, "bench policy", arguments)
    result = plan_policy(options.config) if plan else bench_policy(options.config)
    print(plan_table(result) if plan else table(result))
    _store(result, options.out)


def data(arguments: list[str]) -> None:
    """Time reading, or making records."""
    if "--engine" in arguments:
        _engine([word for word in arguments if word != "--engine"])
        return
    from egem.benchmarking.data import BenchDataConfig, bench_data, table

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Samples a second of one processor core by part, and opening a million rows at an exact record.

        `egem bench data --engine` times imports and questions instead; `--engine --help` shows its options.
        """

        config: OmitArgPrefixes[BenchDataConfig] = field(default_factory=BenchDataConfig)
        out: Path | None = None
        """File for the result as JSON."""

    options = parse(Options, "bench data", arguments)
    result = bench_data(options.config)
    print(table(result))
    _store(result, options.out)


def _engine(arguments: list[str]) -> None:
    from egem.benchmarking.engine import BenchEngineConfig, bench_engine, table

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Records a second of one processor core by source, and how much faster several workers are."""

        config: OmitArgPrefixes[BenchEngineConfig] = field(default_factory=BenchEngineConfig)
        out: Path | None = None
        """File for the result as JSON."""

    options = parse(Options, "bench data", arguments)
    result = bench_engine(options.config)
    print(table(result))
    _store(result, options.out)


def _store(result: object, out: Path | None) -> None:
    """Write a result as JSON."""
    import json

    from egem.core.files import write_atomically

    if out is not None:
        write_atomically(out, (json.dumps(result, indent=2) + "\n").encode())
        print(f"stored in {out}")
