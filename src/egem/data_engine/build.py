"""Records to a folder, and scenes to records."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from egem.data_engine.ask import ask, chosen
from egem.records import Record
from egem.scene import Scene
from egem.shards import Manifest, ShardWriter, read_manifest


def write_records(records: Iterable[Record], out: Path) -> Manifest:
    """Write records to a new folder, which appears whole or not at all.

    Raises:
        ConfigError: the folder exists and is not empty.
        RecordError: a record is invalid, or there is none.
    """
    with ShardWriter(out) as writer:
        for record in records:
            writer.add(record)
    return read_manifest(out)


def build(
    scenes: Iterable[Scene],
    out: Path,
    *,
    num_questions: int,
    seed: int,
    skills: Sequence[str] | None = None,
) -> Manifest:
    """Ask about scenes and write the records; what is asked about scene i depends on `(seed, i)` alone.

    Args:
        scenes: from a world or a source.
        out: folder to write; must not exist or be empty.
        num_questions: at most this many about each scene.
        seed: of the choice of questions.
        skills: names of the skills to use; all if None.

    Raises:
        ConfigError: a skill does not exist, or `out` exists.
        RecordError: a scene's depth is implausible, or no scene gave any question.
    """
    chosen(skills)

    def records() -> Iterable[Record]:
        for index, scene in enumerate(scenes):
            rng = np.random.default_rng([seed, index])
            yield from ask(scene, rng, num_questions=num_questions, skills=skills)

    return write_records(records(), out)
