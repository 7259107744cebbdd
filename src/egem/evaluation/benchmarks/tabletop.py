"""The embedded world as a benchmark: scenes that training cannot have seen, in three splits.

Rendered once and kept: the same options on the same version of world and skills open the same records again.
"""

import hashlib
import logging
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np

from egem.core.errors import ConfigError
from egem.evaluation.benchmarks.benchmark import Benchmark, BenchmarkOptions
from egem.shards import MANIFEST, ShardWriter

logger = logging.getLogger(__name__)

NUM_VIEWS = 300
PROGRAMS = ("egem.worlds.tabletop", "egem.data_engine")
"""A change in any file of these makes other questions, so it makes another benchmark."""


def held_out(options: BenchmarkOptions) -> Benchmark:
    """New scenes of the kind that training sees."""
    return _open("tabletop", "held_out", options)


def new_cameras(options: BenchmarkOptions) -> Benchmark:
    """New scenes from camera poses outside the range of training."""
    return _open("tabletop-new-cameras", "new_cameras", options)


def new_objects(options: BenchmarkOptions) -> Benchmark:
    """New scenes with colours and shapes outside those of training."""
    return _open("tabletop-new-objects", "new_objects", options)


def _open(name: str, split: str, options: BenchmarkOptions) -> Benchmark:
    if options.source is not None:
        raise ConfigError(
            f"benchmark {name} is rendered, so it is read from nowhere; leave '={options.source}' out (and give "
            "--cache to say where it is kept)."
        )
    num_views = options.num_groups or NUM_VIEWS
    height, width = options.image_size
    size = f"{num_views}x{options.questions_per_group}-{height}x{width}-{'-'.join(options.cameras)}"
    asked = f"-{hashlib.sha256(repr(options.skills).encode()).hexdigest()[:6]}" if options.skills else ""
    folder = options.cache / f"tabletop-{split}-{size}{asked}-seed{options.seed}-{_version()}"
    if not (folder / MANIFEST).exists():
        logger.info("rendering benchmark %s into %s", name, folder)
        try:
            _render(split, num_views, options, folder)
        except (ConfigError, OSError):
            # Another process may have finished the same folder meanwhile; anything else is an error.
            if not (folder / MANIFEST).exists():
                raise
    # No limit here: a view that allows no question has no group, and all that were made count.
    return Benchmark.from_folder(name, folder)


def _render(split: str, num_views: int, options: BenchmarkOptions, folder: Path) -> None:
    # Imported here, because a benchmark that is in the cache needs no renderer.
    from egem.data_engine import ask
    from egem.worlds.tabletop import scenes

    drawn = scenes(options.seed, num_views, size=options.image_size, split=split, cameras=options.cameras)
    with ShardWriter(folder) as writer:
        for index, scene in enumerate(drawn):
            # Its own stream, so that questions differ from a training set of the same seed and index.
            rng = np.random.default_rng([options.seed, index, 1])
            skills = options.skills or None
            for record in ask(scene, rng, num_questions=options.questions_per_group, skills=skills):
                writer.add(record)


@cache
def _version() -> str:
    digest = hashlib.sha256()
    for package in PROGRAMS:
        for name, content in sorted(_sources(resources.files(package), package)):
            digest.update(name.encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()[:8]


def _sources(folder: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found = []
    for item in folder.iterdir():
        if item.is_dir():
            found += _sources(item, f"{prefix}/{item.name}")
        elif item.name.endswith(".py"):
            found.append((f"{prefix}/{item.name}", item.read_bytes()))
    return found
