"""3D scenes on disk to a folder of records, with a count of all that was refused.

What is asked about a scene depends on `(seed, its id)` alone.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from egem.core.config import to_dict
from egem.core.errors import ConfigError, RecordError
from egem.data_engine.ask_room import Asked, Wording, ask_room, chosen
from egem.data_engine.engine import EngineConfig, Job, JobResult, Outcome, run_job
from egem.data_engine.room_questions import RULES
from egem.data_engine.sources.room_folders import LAYOUTS, find_rooms
from egem.data_engine.sources.source import ImportOptions
from egem.shards import Manifest

SCENES_PER_PART = 16

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
    max_error_fraction: float = 0.0
    """Share of scenes that cannot be read and are put aside in quarantine.jsonl; with 0 the first one ends it."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneFile:
    """A scene that is to be asked about."""

    file: Path
    num_bytes: int = 0

    @property
    def where(self) -> str:
        """For messages."""
        return str(self.file)


@dataclass(frozen=True, kw_only=True)
class AskScenes:
    """The step of `generate`: the questions of scenes."""

    config: GenerateConfig

    def __call__(self, scenes: Sequence[SceneFile]) -> Iterator[Outcome]:
        """One outcome for each scene; a scene that cannot be read is a bad one."""
        for scene in scenes:
            try:
                asked = ask_file(scene.file, self.config)
            except ConfigError:
                raise
            except Exception as error:  # noqa: BLE001  one scene that a reader trips over is a bad scene
                yield Outcome(where=scene.where, error=error)
            else:
                yield Outcome(where=scene.where, records=asked.records, counts=_counts(asked))


def generate(
    scenes: Path, out: Path, config: GenerateConfig | None = None, engine: EngineConfig | None = None
) -> Generated:
    """Ask about every 3D scene below a folder and write the records to the folder `out`.

    A killed one goes on where it stopped; the shards are the same whoever makes them.

    Args:
        scenes: a folder of scenes, or one scene's file; see `LAYOUTS` for what is understood.
        out: folder to write; must not exist or be empty.
        config: what to ask.
        engine: who asks.

    Raises:
        ConfigError: no scene, a senseless option, an unknown family, or `out` exists.
        RecordError: too many scenes cannot be read, or none gave a question.
    """
    config = config or GenerateConfig()
    scenes, out = Path(scenes), Path(out)
    _check(scenes, config)
    files = [SceneFile(file=file) for file, _ in find_rooms(scenes)][: config.limit]
    stated: dict[str, Any] = to_dict(config)
    del stated["max_error_fraction"]
    job = Job(
        title="generate",
        unit="scene",
        step=AskScenes(config=config),
        description={"generate": str(scenes.absolute()), "options": stated},
        out=out,
        items_per_part=SCENES_PER_PART,
        max_error_fraction=config.max_error_fraction,
        notes=_notes,
    )
    manifest, result = run_job(files, job, engine)
    return Generated(
        manifest=manifest,
        rooms=result.items - len(result.errors),
        asked=Counter(_by_family(result, "asked")),
        refused=_refused(result),
        held_back=Counter(_by_family(result, "held_back")),
        quarantine=list(result.errors),
    )


def ask_file(file: Path, config: GenerateConfig) -> Asked:
    """The records of one scene.

    Raises:
        RecordError: it cannot be read.
    """
    options = ImportOptions(num_frames=config.num_frames, images=config.images, seed=config.seed)
    ((file, layout),) = find_rooms(file)
    room = layout.read(file, options)
    if not room.views:
        raise RecordError(f"{file}: the scene has no frame with a pose.")
    rng = np.random.default_rng([config.seed, *room.id.encode()])
    return ask_room(
        room,
        rng,
        num_questions=config.num_questions,
        families=config.families,
        wording=config.wording,
    )


def _counts(asked: Asked) -> dict[str, int]:
    """As flat names: asked/FAMILY, held_back/FAMILY, refused/FAMILY (0) and refused/FAMILY/RULE."""
    counts: Counter[str] = Counter()
    for record in asked.records:
        counts[f"asked/{record.skill}"] += 1
    for family, number in asked.held_back.items():
        counts[f"held_back/{family}"] += number
    for family, rules in asked.refused.items():
        counts[f"refused/{family}"] += 0
        for rule, number in rules.items():
            counts[f"refused/{family}/{rule}"] += number
    return dict(counts)


def _by_family(result: JobResult, kind: str) -> dict[str, int]:
    found = ((name.split("/"), number) for name, number in result.counts.items())
    return {words[1]: number for words, number in found if words[0] == kind}


def _refused(result: JobResult) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for name, number in result.counts.items():
        kind, family, *rule = name.split("/")
        if kind == "refused":
            rules = found.setdefault(family, Counter())
            if rule:
                rules[rule[0]] = number
    return found


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
    if not 0 <= config.max_error_fraction < 1:
        raise ConfigError(
            f"max_error_fraction is {config.max_error_fraction}; give a share from 0 to below 1."
        )


def _notes(_folder: Path, result: JobResult) -> dict[str, bytes]:
    notes = {
        "refused": {family: dict(rules) for family, rules in _refused(result).items()},
        "held_back": _by_family(result, "held_back"),
        "rules": RULES,
    }
    return {REFUSED: (json.dumps(notes, indent=2) + "\n").encode()}
