"""What a record folder says about itself: `manifest.json`, and whether its files still are what it says."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egem.core.config import from_dict
from egem.core.errors import ConfigError, RecordError
from egem.records import SCHEMA_VERSION
from egem.shards.storage import FileInfo, Storage, storage

MANIFEST = "manifest.json"
_READ_AT_ONCE = 16 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardInfo:
    """One Parquet file of a record folder."""

    name: str
    rows: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a record folder holds; the content of `manifest.json`."""

    schema_version: int
    rows: int
    groups: int
    images: int
    """Distinct images: the first record's of each group."""
    depths: int
    """How many of them have a depth map."""
    by_source: dict[str, int]
    by_category: dict[str, int]
    by_skill: dict[str, int]
    shards: tuple[ShardInfo, ...]
    index_sha256: str | None = None
    """Of `groups.arrow`; None where another tool wrote the folder, and groups are found by reading."""

    @property
    def is_foreign(self) -> bool:
        """Whether another tool wrote the folder; egem checks each record when writing, others may not."""
        return self.index_sha256 is None


def read_manifest(folder: Path | str) -> Manifest:
    """What a record folder holds.

    Raises:
        RecordError: not a record folder, one of another schema version, or not to be reached.
    """
    return manifest_of(storage(folder))


def manifest_of(place: Storage) -> Manifest:
    """`read_manifest` of an opened folder."""
    path = place.join(MANIFEST)
    if MANIFEST not in place.stat([MANIFEST]):
        raise RecordError(
            f"{place.address} is not a folder of records: it has no {MANIFEST}. "
            "Make one with `egem data render` or `egem data import`."
        )
    remedy = "It belongs to another version or was edited; make the folder again."
    try:
        manifest = from_dict(Manifest, json.loads(place.read(MANIFEST)))
    except ValueError as error:
        raise RecordError(f"{path} is not valid JSON ({error}). {remedy}") from error
    except ConfigError as error:
        raise RecordError(f"{path}: {error} {remedy}") from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise RecordError(
            f"{place.address} has schema version {manifest.schema_version}, this is version {SCHEMA_VERSION}; "
            "make the folder again or use the matching egem."
        )
    return manifest


def fingerprint(folders: Sequence[Path | str]) -> str:
    """A hash of what the folders hold; equal for equal records in equal order, wherever they lie.

    Reads the manifests and asks for the size of every file, so it is quick enough to be asked often.

    Raises:
        RecordError: a folder is not whole.
    """
    digest = hashlib.sha256()
    for folder in folders:
        place = storage(folder)
        shards = manifest_of(place).shards
        check_sizes(place, shards)
        for shard in shards:
            digest.update(shard.sha256.encode())
    return digest.hexdigest()


def verify_shards(folder: Path | str) -> None:
    """Read every byte and compare with the manifest's hashes.

    Raises:
        RecordError: names the shard that changed.
    """
    place = storage(folder)
    shards = manifest_of(place).shards
    check_sizes(place, shards)
    for shard in shards:
        check_content(place, shard)


def check_size(place: Storage, shard: ShardInfo, found: FileInfo | None) -> FileInfo:
    """Refuse a shard that is missing or has another size than the manifest says; returns what was found."""
    path = place.join(shard.name)
    if found is None:
        raise RecordError(f"{path} is missing; copy the folder {place.address} again, with all its shards.")
    if found.size != shard.num_bytes:
        raise RecordError(
            f"{path} is truncated or was changed: it has {found.size} bytes, the manifest says "
            f"{shard.num_bytes}; copy it again."
        )
    return found


def check_sizes(place: Storage, shards: Sequence[ShardInfo]) -> dict[str, FileInfo]:
    """`check_size` of many, with one question to the storage; returns what it said."""
    found = place.stat([shard.name for shard in shards])
    for shard in shards:
        check_size(place, shard, found.get(shard.name))
    return found


def check_content(place: Storage, shard: ShardInfo) -> None:
    """Refuse a shard whose bytes are not those that were written."""
    digest = hashlib.sha256()
    for start in range(0, shard.num_bytes, _READ_AT_ONCE):
        digest.update(place.read(shard.name, start, min(start + _READ_AT_ONCE, shard.num_bytes)))
    if digest.hexdigest() != shard.sha256:
        raise RecordError(
            f"{place.join(shard.name)} is not the file that was written (its sha256 differs); copy it again."
        )
