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


def data(arguments: list[str]) -> None:
    """Time reading."""
    from egem.benchmarking.data import BenchDataConfig, bench_data, table

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Samples a second of one processor core by part, and opening a million rows at an exact record."""

        config: OmitArgPrefixes[BenchDataConfig] = field(default_factory=BenchDataConfig)
        out: Path | None = None
        """File for the result as JSON."""

    options = parse(Options, "bench data", arguments)
    result = bench_data(options.config)
    print(table(result))
    _store(result, options.out)


def _store(result: object, out: Path | None) -> None:
    """Write a result as JSON."""
    import json

    from egem.core.files import write_atomically

    if out is not None:
        write_atomically(out, (json.dumps(result, indent=2) + "\n").encode())
        print(f"stored in {out}")
