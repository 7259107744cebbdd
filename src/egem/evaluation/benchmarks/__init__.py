"""The table of benchmarks. To add one: a file with a function of `BenchmarkOptions`, and a line here."""

import importlib
from pathlib import Path

from egem.core.errors import unknown_name
from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions

BENCHMARKS: dict[str, tuple[str, str]] = {
    "tabletop": (
        "egem.evaluation.benchmarks.tabletop:held_out",
        "embedded world, scenes from seeds that training never uses",
    ),
    "tabletop-new-cameras": (
        "egem.evaluation.benchmarks.tabletop:new_cameras",
        "embedded world, seen from camera poses outside the training range",
    ),
    "tabletop-new-objects": (
        "egem.evaluation.benchmarks.tabletop:new_objects",
        "embedded world, with colours and shapes that training never shows",
    ),
}
"""Name -> where its function lives, and its line in `egem eval --list`. Imported only when opened."""

FOLDER_PREFIX = "records:"
"""`records:<path>` is the benchmark made of any folder of records."""


def open_benchmark(name: str, options: BenchmarkOptions) -> Benchmark:
    """A benchmark by name; an embedded one is rendered first, unless the cache has it.

    Raises:
        ConfigError: no such benchmark; the nearest name is suggested.
        RecordError: `records:<path>` is not a folder of records.
        RenderError: a world has to be rendered and no renderer can be had.
    """
    if name.startswith(FOLDER_PREFIX):
        folder = Path(name.removeprefix(FOLDER_PREFIX))
        return Benchmark.from_folder(name, folder, num_groups=options.num_groups)
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, [*BENCHMARKS, f"{FOLDER_PREFIX}<folder>"])
    module, function = BENCHMARKS[name][0].split(":")
    return getattr(importlib.import_module(module), function)(options)


__all__ = ["BENCHMARKS", "FOLDER_PREFIX", "Benchmark", "BenchmarkOptions", "open_benchmark"]
