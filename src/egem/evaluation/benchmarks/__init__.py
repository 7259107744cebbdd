"""The table of benchmarks. To add one: a file with a function of `BenchmarkOptions`, and a line here."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from egem.core.errors import ConfigError, unknown_name
from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions

if TYPE_CHECKING:
    from egem.evaluation.benchmarks.public import Rule

_HERE = "egem.evaluation.benchmarks"

BENCHMARKS: dict[str, tuple[str, str]] = {
    "tabletop": (
        f"{_HERE}.tabletop:held_out",
        "embedded world, scenes from seeds that training never uses",
    ),
    "tabletop-new-cameras": (
        f"{_HERE}.tabletop:new_cameras",
        "embedded world, seen from camera poses outside the training range",
    ),
    "tabletop-new-objects": (
        f"{_HERE}.tabletop:new_objects",
        "embedded world, with colours and shapes that training never shows",
    ),
    "vsi-bench": (
        f"{_HERE}.vsi_bench:full",
        "rooms seen in video: distances, sizes, counts, directions, routes",
    ),
    "vsi-bench-debiased": (f"{_HERE}.vsi_bench:debiased", "what iterative bias pruning keeps of it"),
    "vsi-bench-pruned": (f"{_HERE}.vsi_bench:pruned", "what iterative bias pruning takes out"),
    "mmsi-bench": (f"{_HERE}.mmsi_bench:mmsi_bench", "spatial reasoning over several images"),
    "cv-bench": (f"{_HERE}.cv_bench:cv_bench", "counts and relations in 2D, depth order and distance in 3D"),
    "embspatial-bench": (f"{_HERE}.embspatial:embspatial", "six relations in what an agent sees"),
    "blink": (f"{_HERE}.blink:blink", "fourteen tasks of quick perception"),
    "sat": (f"{_HERE}.sat:sat", "what motion and turning do to a view"),
    "realworldqa": (f"{_HERE}.realworldqa:realworldqa", "photographs, many from vehicles"),
    "mindcube": (f"{_HERE}.mindcube:full", "what cannot be seen, from two to four views"),
    "mindcube-tiny": (f"{_HERE}.mindcube:tiny", "1,050 questions of it"),
    "spar-bench": (f"{_HERE}.spar_bench:spar_bench", "twenty tasks from depth to imagined views"),
    "erqa": (f"{_HERE}.erqa:erqa", "embodied reasoning"),
    "openeqa": (f"{_HERE}.openeqa:openeqa", "open questions about a walk; marked by a language model"),
    "vsr": (f"{_HERE}.vsr:random_split", "is a caption about a relation true, random split"),
    "vsr-zeroshot": (f"{_HERE}.vsr:zeroshot_split", "the same, zero-shot split"),
    "robovqa": (f"{_HERE}.robovqa:robovqa", "clips of robots and people at work"),
    "where2place": (f"{_HERE}.where2place:where2place", "point at free space"),
    "refspatial-bench": (
        f"{_HERE}.refspatial_bench:refspatial_bench",
        "point at what is referred to in steps",
    ),
    "robospatial-home": (f"{_HERE}.robospatial_home:robospatial_home", "relations and free space in homes"),
    "roboafford-eval": (f"{_HERE}.roboafford_eval:roboafford_eval", "where to touch and where to put"),
    "sharerobot": (f"{_HERE}.sharerobot:sharerobot", "where a gripper touches, and how it moves"),
    "nyu-depth": (f"{_HERE}.depth_folder:nyu", "depth of NYUv2's test images"),
    "depth-folder": (
        f"{_HERE}.depth_folder:folder",
        "depth of any folder of RGB-D images, such as ScanNet's",
    ),
}
"""Name -> where its function lives, and its line in `egem eval --list`. Imported only when opened."""

FOLDER_PREFIX = "records:"
"""`records:<path>` is the benchmark made of any folder of records."""


def open_benchmark(name: str, options: BenchmarkOptions) -> Benchmark:
    """A benchmark by name; an embedded one is rendered first, unless the cache has it.

    Args:
        name: of the table; `name=WHERE` reads a published one from that folder or data set of the hub.
        options: sizes and rules.

    Raises:
        ConfigError: no such benchmark (the nearest name is suggested), or a rule, a number of frames or a
            source that means nothing to it.
        RecordError: `records:<path>` is not a folder of records.
        RenderError: a world has to be rendered and no renderer can be had.
    """
    if name.startswith(FOLDER_PREFIX):
        _check_plain(name, options)
        folder = Path(name.removeprefix(FOLDER_PREFIX))
        return Benchmark.from_folder(name, folder, num_groups=options.num_groups)
    name, _, source = name.partition("=")
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, [*BENCHMARKS, f"{FOLDER_PREFIX}<folder>"])
    if not rules_of(name):
        _check_plain(name, options)
    module, function = BENCHMARKS[name][0].split(":")
    return getattr(importlib.import_module(module), function)(
        replace(options, source=source or options.source)
    )


def rules_of(name: str) -> "tuple[Rule, ...]":
    """The rules of a published benchmark, the usual one first; none of one that is rendered or has no question."""
    module, _ = BENCHMARKS[name][0].split(":")
    return getattr(importlib.import_module(module), "RULES", ())


def _check_plain(name: str, options: BenchmarkOptions) -> None:
    for option, given in (("--rule", options.rule), ("--frames", options.frames)):
        if given is not None:
            raise ConfigError(
                f"benchmark {name} is no published set of questions, so {option} {given} means nothing to it; leave "
                f"{option} out, or evaluate it by itself."
            )


__all__ = ["BENCHMARKS", "FOLDER_PREFIX", "Benchmark", "BenchmarkOptions", "open_benchmark", "rules_of"]
