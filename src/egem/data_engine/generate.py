"""3D scenes on disk to a folder of records, by several processes, with a count of all that was refused.

What is asked about a scene depends on `(seed, its id)` alone, so the shards are the same whatever the number of
workers.
"""

import json
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from egem.core.errors import ConfigError, RecordError
from egem.core.files import write_atomically
from egem.data_engine.ask_room import Asked, Wording, ask_room, chosen
from egem.data_engine.room_questions import RULES
from egem.data_engine.sources.room_folders import LAYOUTS, find_rooms
from egem.data_engine.sources.source import ImportOptions
from egem.data_engine.statistics import QUARANTINE
from egem.shards import Manifest, ShardWriter, read_manifest

REFUSED = "refused.json"
"""In the folder of records: {"refused": {family: {rule: count}}, "held_back": {family: count}, "rules": {...}}."""


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """What to ask and how much."""

    num_questions: int = 60
    """Questions about each scene."""
    num_frames: int = 16
    """Frames taken from each scene, evenly from first to last."""
    families: tuple[str, ...] = ()
    """Kinds of questions, by VSI-Bench's names; all if empty."""
    wording: Wording = "both"
    """published: VSI-Bench's words and letters; own: several phrasings; both: half and half."""
    seed: int = 0
    images: Literal["bytes", "path"] = "bytes"
    """Whether a record holds its images' bytes, or the absolute paths of the files (smaller, but not movable)."""
    limit: int | None = None
    """Read no more than this many scenes."""
    max_bad_fraction: float = 0.0
    """Share of scenes that cannot be read and are put aside in quarantine.jsonl; with 0 the first one ends it."""
    workers: int = 0
    """Processes; 0 means one per processor."""


@dataclass(kw_only=True)
class Generated:
    """What came of a folder of scenes."""

    manifest: Manifest
    rooms: int
    asked: Counter[str] = field(default_factory=Counter)
    """Family -> questions."""
    refused: dict[str, Counter[str]] = field(default_factory=dict)
    """Family -> rule -> refusals."""
    held_back: Counter[str] = field(default_factory=Counter)
    """Family -> questions not asked, to keep answers in balance."""
    quarantine: list[tuple[str, str]] = field(default_factory=list)
    """(scene's file, reason)."""

    def table(self) -> str:
        """A line for each family: how much was asked, and what was refused by which rule."""
        lines = [f"{'family':<28} {'asked':>7}  refused by rule"]
        for name in self.refused:
            rules = ", ".join(f"{rule} {count}" for rule, count in self.refused[name].most_common())
            held = f"; held back for balance {self.held_back[name]}" if self.held_back[name] else ""
            lines.append(f"{name:<28} {self.asked[name]:>7}  {rules or 'nothing'}{held}")
        return "\n".join(lines)


def generate(scenes: Path, out: Path, config: GenerateConfig | None = None) -> Generated:
    """Ask about every 3D scene below a folder and write the records to the folder `out`.

    Args:
        scenes: a folder of scenes, or one scene's file; see `LAYOUTS` for what is understood.
        out: folder to write; must not exist or be empty.
        config: what to ask.

    Raises:
        ConfigError: no scene, a senseless option, an unknown family, or `out` exists.
        RecordError: too many scenes cannot be read, or none gave a question.
    """
    config = config or GenerateConfig()
    scenes, out = Path(scenes), Path(out)
    _check(scenes, config)
    files = [file for file, _ in find_rooms(scenes)][: config.limit]
    asked, refused, held_back = Counter[str](), {}, Counter[str]()
    quarantine: list[tuple[str, str]] = []
    with (
        ShardWriter(out) as writer,
        tqdm(total=len(files), desc="generate", unit="scene", disable=None) as bar,
    ):
        for file, found in _results(files, config):
            bar.update()
            if isinstance(found, RecordError):
                if config.max_bad_fraction == 0:
                    raise found
                quarantine.append((str(file), str(found)))
                continue
            for record in found.records:
                writer.add(record)
                asked[record.skill] += 1
            for family, rules in found.refused.items():
                refused.setdefault(family, Counter()).update(rules)
            held_back.update(found.held_back)
        if len(quarantine) > config.max_bad_fraction * len(files):
            raise RecordError(
                f"{len(quarantine)} of {len(files)} scenes are bad, more than the {config.max_bad_fraction:.1%} "
                f"allowed; repair them or raise max_bad_fraction. The first: {quarantine[0][1]}"
            )
    result = Generated(
        manifest=read_manifest(out),
        rooms=len(files) - len(quarantine),
        asked=asked,
        refused=refused,
        held_back=held_back,
        quarantine=quarantine,
    )
    _write_notes(out, result)
    return result


def ask_file(file: Path, config: GenerateConfig) -> Asked | RecordError:
    """The records of one scene, or why it cannot be read: what one worker does."""
    options = ImportOptions(num_frames=config.num_frames, images=config.images, seed=config.seed)
    try:
        ((file, layout),) = find_rooms(file)
        room = layout.read(file, options)
        if not room.views:
            raise RecordError(f"{file}: the scene has no frame with a pose.")
    except RecordError as error:
        return error
    rng = np.random.default_rng([config.seed, *room.id.encode()])
    return ask_room(
        room,
        rng,
        num_questions=config.num_questions,
        families=config.families,
        wording=config.wording,
    )


def _results(files: list[Path], config: GenerateConfig) -> Iterator[tuple[Path, Asked | RecordError]]:
    workers = min(config.workers or os.cpu_count() or 1, len(files))
    if workers <= 1:
        yield from ((file, ask_file(file, config)) for file in files)
        return
    # Spawned, not forked: threads of the caller do not survive a fork. A few ahead, so that memory stays low.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: deque[tuple[Path, Future[Asked | RecordError]]] = deque()
        for file in files:
            waiting.append((file, pool.submit(ask_file, file, config)))
            if len(waiting) > 2 * workers:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def _check(scenes: Path, config: GenerateConfig) -> None:
    if not scenes.exists():
        known = ", ".join(LAYOUTS)
        raise ConfigError(f"{scenes} does not exist; give a folder of 3D scenes ({known}).")
    chosen(config.families)
    for option, value in (("num_questions", config.num_questions), ("num_frames", config.num_frames)):
        if value < 1:
            raise ConfigError(f"{option} is {value}; it must be at least 1.")
    if config.limit is not None and config.limit < 1:
        raise ConfigError(f"limit is {config.limit}; it must be at least 1.")
    if config.workers < 0:
        raise ConfigError(f"workers is {config.workers}; give 0 or more.")
    if not 0 <= config.max_bad_fraction < 1:
        raise ConfigError(f"max_bad_fraction is {config.max_bad_fraction}; give a share from 0 to below 1.")


def _write_notes(out: Path, result: Generated) -> None:
    notes = {
        "refused": {family: dict(rules) for family, rules in result.refused.items()},
        "held_back": dict(result.held_back),
        "rules": RULES,
    }
    write_atomically(out / REFUSED, (json.dumps(notes, indent=2) + "\n").encode())
    if result.quarantine:
        lines = [json.dumps({"row": file, "reason": reason}) for file, reason in result.quarantine]
        write_atomically(out / QUARANTINE, ("\n".join(lines) + "\n").encode())
