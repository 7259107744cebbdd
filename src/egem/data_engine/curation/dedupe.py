"""`egem data dedupe`: of records that say the same about pictures that look the same, the first is kept."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Int

from egem.core.config import to_dict
from egem.core.errors import ConfigError, RecordError
from egem.data_engine.curation.perceptual_hash import distance, near_pairs
from egem.data_engine.curation.picture_hashes import PictureHashes, picture_hashes
from egem.data_engine.curation.selection import Chosen, write_selection
from egem.data_engine.engine import EngineConfig, JobResult
from egem.records import IMAGE_MARK
from egem.shards import Manifest, RecordGroups

REPORT = "duplicates.json"
"""In the folder of records: what was left out, by source."""


@dataclass(frozen=True, kw_only=True)
class DedupeConfig:
    """What counts as the same."""

    what: Literal["questions", "pictures"] = "questions"
    """questions: the same question and answer about the same pictures; pictures: whatever is asked about them."""
    max_distance: int = 4
    """Bits of 64 in which the hashes of two pictures may differ; 0 to 16."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigError: names the option.
        """
        check_distance(self.max_distance)


@dataclass(frozen=True, kw_only=True)
class Deduped:
    """What came of a folder."""

    manifest: Manifest
    records: int
    """Before."""
    removed: dict[str, int]
    """Source -> records left out."""
    unreadable: int
    """Pictures that cannot be decoded; their groups are kept (`egem data filter` finds them)."""


def check_distance(max_distance: int) -> None:
    """Refuse a distance of hashes that nearly all pictures keep.

    Raises:
        ConfigError: it is not 0 to 16 bits.
    """
    if not 0 <= max_distance <= 16:
        raise ConfigError(
            f"max_distance is {max_distance}; give 0 to 16 bits of 64 (unlike pictures differ in about 32)."
        )


def dedupe(
    folder: Path, out: Path, config: DedupeConfig | None = None, engine: EngineConfig | None = None
) -> Deduped:
    """Write a folder without its duplicates.

    Groups match when they have equally many pictures and each looks like its counterpart. Compared is with the first
    group of a kind, so that a chain of small changes does not make one of all.

    Args:
        folder: of records, on a disk.
        out: folder to write; must not exist or be empty.
        config: what counts as the same.
        engine: who hashes and copies.

    Raises:
        ConfigError: `out` exists.
        RecordError: a shard is damaged.
    """
    config = config or DedupeConfig()
    hashes = picture_hashes(folder, engine)
    groups = RecordGroups([folder])
    alike = first_alike(hashes, len(groups), config.max_distance)
    removed: Counter[str] = Counter()
    chosen = list(_chosen(Path(folder), alike, config, removed))
    facts: dict[str, Any] = {
        "options": to_dict(config),
        "records": sum(m.rows for m in groups.manifests),
        "removed": dict(sorted(removed.items())),
        "unreadable_pictures": hashes.unreadable,
    }

    def notes(_folder: Path, _result: JobResult) -> dict[str, bytes]:
        return {REPORT: (json.dumps(facts, indent=2) + "\n").encode()}

    manifest = write_selection(
        chosen, [folder], out, why={"dedupe": to_dict(config)}, notes=notes, engine=engine
    )
    return Deduped(
        manifest=manifest, records=facts["records"], removed=facts["removed"], unreadable=hashes.unreadable
    )


def first_alike(hashes: PictureHashes, num_groups: int, max_distance: int) -> Int[np.ndarray, "group"]:
    """For each group the number of the first one whose pictures look the same: its own where there is none before.

    Groups without pictures, and those with one that cannot be decoded, are alike to none.
    """
    first = np.arange(num_groups)
    counts = np.bincount(hashes.group, minlength=num_groups)
    starts = np.cumsum(counts) - counts
    bad = np.bincount(hashes.group, weights=~hashes.decodable, minlength=num_groups) > 0
    seen: dict[bytes, int] = {}
    kinds: list[int] = []
    for group in np.flatnonzero((counts > 0) & ~bad).tolist():
        signature = hashes.hash[starts[group] : starts[group] + counts[group]].tobytes()
        first[group] = seen.setdefault(signature, group)
        if first[group] == group:
            kinds.append(group)
    if max_distance == 0 or not kinds:
        return first
    # Equal ones are settled, so that a thousand blank frames are one hash and not a million pairs.
    own = np.array(kinds)
    heads = hashes.hash[starts[own]]
    earlier: dict[int, list[int]] = {}
    for left, right in near_pairs(heads, heads, max_distance):
        for i, j in zip(left[right < left].tolist(), right[right < left].tolist(), strict=True):
            earlier.setdefault(i, []).append(j)
    settled: dict[int, int] = {}
    for i in sorted(earlier):
        group = kinds[i]
        for j in sorted(earlier[i]):
            other = kinds[j]
            if other in settled or counts[other] != counts[group]:
                continue
            span = np.arange(counts[group])
            apart = distance(hashes.hash[starts[group] + span], hashes.hash[starts[other] + span])
            if int(apart.max()) <= max_distance:
                settled[group] = other
                break
    targets = np.arange(num_groups)
    for group, other in settled.items():
        targets[group] = other
    return targets[first]


def _chosen(
    folder: Path, alike: Int[np.ndarray, "group"], config: DedupeConfig, removed: Counter[str]
) -> Iterator[Chosen]:
    seen: set[tuple[int, int]] = set()
    for group, (rows, source) in enumerate(_texts(folder)):
        kind = int(alike[group])
        if config.what == "pictures":
            if kind == group:
                yield Chosen(group=group)
            else:
                removed[source] += len(rows)
            continue
        kept = []
        for place, text in enumerate(rows):
            key = (kind, hash(text))
            if key in seen:
                removed[source] += 1
            else:
                seen.add(key)
                kept.append(place)
        if kept:
            yield Chosen(group=group, places=None if len(kept) == len(rows) else tuple(kept))


def _texts(folder: Path) -> Iterator[tuple[list[str], str]]:
    """What is said in each record of each group, spaces and case aside, and the group's source."""
    groups = RecordGroups([folder])
    for shard in groups.shards:
        path = folder / shard.info.name
        try:
            table = pq.read_table(path, columns=["group", "source", "messages"])
        except OSError as error:
            raise RecordError(f"{path} cannot be read ({error}); copy it again.") from error
        name, rows, source = None, [], ""
        for row in table.to_pylist():
            if row["group"] != name and name is not None:
                yield rows, source
                rows = []
            name, source = row["group"], row["source"]
            said = "\n".join(m["content"].replace(IMAGE_MARK, "") for m in row["messages"])
            rows.append(" ".join(said.lower().split()))
        if name is not None:
            yield rows, source
