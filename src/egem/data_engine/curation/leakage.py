"""`egem data leakage`: which pictures of a training set does a benchmark show too?"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from egem.core.errors import RecordError
from egem.data_engine.curation.dedupe import check_distance
from egem.data_engine.curation.perceptual_hash import distance, near_pairs
from egem.data_engine.curation.picture_hashes import hashes_of, picture_hashes
from egem.data_engine.curation.selection import Chosen, write_selection
from egem.data_engine.engine import EngineConfig, JobResult
from egem.records import Record
from egem.shards import Manifest, RecordGroups

REPORT = "leakage.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """A picture of the training set that looks like one of a benchmark."""

    group: str
    """Of the training set."""
    source: str
    picture: int
    """Which of the group's images."""
    benchmark: str
    item: str
    """Id of the benchmark's record."""
    bits: int
    """In which the hashes differ; of several pictures of the benchmark the nearest counts."""


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """What was found."""

    benchmarks: dict[str, int]
    """Name -> pictures compared with."""
    pictures: int
    """Of the training set."""
    groups: int
    matches: tuple[Match, ...]
    leaked_groups: tuple[int, ...]
    """Numbers of the groups with a match."""
    unreadable: int
    """Pictures, of both, that cannot be decoded and were not compared."""

    def as_json(self) -> bytes:
        """The report's file."""
        return (json.dumps(_report(self), indent=2) + "\n").encode()

    def table(self) -> str:
        """A line for each benchmark."""
        found = Counter(match.benchmark for match in self.matches)
        lines = [f"{'benchmark':<28} {'pictures':>9} {'matches':>8}"]
        lines += [f"{name:<28} {count:>9} {found[name]:>8}" for name, count in self.benchmarks.items()]
        lines.append(
            f"{len(self.leaked_groups)} of {self.groups} groups have a picture that looks like one of these"
        )
        if self.unreadable:
            lines.append(f"{self.unreadable} pictures cannot be decoded and were not compared")
        return "\n".join(lines)


def find_leakage(
    folder: Path,
    benchmarks: Iterable[tuple[str, Iterable[Record]]],
    *,
    max_distance: int,
    engine: EngineConfig | None = None,
) -> Leakage:
    """Compare all pictures of a folder with those of benchmarks.

    Args:
        folder: of records, on a disk.
        benchmarks: name, and records with their images; a picture may come several times.
        max_distance: bits of 64 in which two hashes may differ; 0 to 16.
        engine: who hashes the folder's pictures.

    Raises:
        ConfigError: a senseless distance.
        RecordError: a shard is damaged, or a benchmark has no picture that can be read.
    """
    check_distance(max_distance)
    names: list[tuple[str, str]] = []
    values: list[int] = []
    counts: dict[str, int] = {}
    unreadable = 0
    for name, records in benchmarks:
        seen: set[int] = set()
        for record in records:
            for _, decodable, value in hashes_of([record]):
                unreadable += not decodable
                if decodable and value not in seen:
                    seen.add(value)
                    names.append((name, record.id))
                    values.append(value)
        if not seen:
            raise RecordError(f"benchmark '{name}' has no picture that can be read; nothing can be compared.")
        counts[name] = len(seen)
    hashes = picture_hashes(folder, engine)
    groups = RecordGroups([folder])
    theirs = np.array(values, np.uint64)
    nearest: dict[tuple[int, str], tuple[int, int]] = {}
    own = np.flatnonzero(hashes.decodable)
    for left, right in near_pairs(hashes.hash[own], theirs, max_distance):
        bits = distance(hashes.hash[own[left]], theirs[right])
        for picture, item, apart in zip(own[left].tolist(), right.tolist(), bits.tolist(), strict=True):
            key = (picture, names[item][0])
            nearest[key] = min(nearest.get(key, (65, 0)), (apart, item))
    matches = []
    for (picture, name), (apart, item) in sorted(nearest.items()):
        first = groups[int(hashes.group[picture])][0]
        matches.append(
            Match(
                group=first.group,
                source=first.source,
                picture=int(hashes.place[picture]),
                benchmark=name,
                item=names[item][1],
                bits=apart,
            )
        )
    return Leakage(
        benchmarks=counts,
        pictures=len(hashes.hash),
        groups=len(groups),
        matches=tuple(matches),
        leaked_groups=tuple(sorted({int(hashes.group[picture]) for picture, _ in nearest})),
        unreadable=unreadable + hashes.unreadable,
    )


def write_clean(
    folder: Path, out: Path, leakage: Leakage, *, max_distance: int, engine: EngineConfig | None = None
) -> Manifest:
    """Write a folder without the groups that were found, with the report in it.

    Raises:
        ConfigError: `out` exists.
        RecordError: a shard is damaged, or every group leaks.
    """
    leaked = set(leakage.leaked_groups)
    chosen = (Chosen(group=number) for number in range(leakage.groups) if number not in leaked)

    def notes(_folder: Path, _result: JobResult) -> dict[str, bytes]:
        return {REPORT: leakage.as_json()}

    why = {"leakage": leakage.benchmarks, "max_distance": max_distance}
    return write_selection(chosen, [folder], out, why=why, notes=notes, engine=engine)


def _report(leakage: Leakage) -> dict[str, object]:
    return {
        "benchmarks": leakage.benchmarks,
        "pictures": leakage.pictures,
        "groups": leakage.groups,
        "leaked_groups": len(leakage.leaked_groups),
        "unreadable_pictures": leakage.unreadable,
        "matches": [{name: getattr(match, name) for name in Match.__slots__} for match in leakage.matches],
    }
