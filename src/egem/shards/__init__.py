"""Records on disk: a folder of Parquet shards with a manifest. No torch.

records/
    manifest.json            what is inside: counts, schema version, size and sha256 of each shard
    groups.arrow             where each group of records lies, so that nothing has to be searched
    shard-00000.parquet ...  the columns of `egem.records.SCHEMA`

The records of a group stand next to each other and never cross a row group, so one small read brings a
whole group; their image bytes are equal, and dictionary coding stores them once. A folder may also lie
behind an address that fsspec knows (`storage`).
"""

from egem.shards.groups import RecordGroups, iterate_records
from egem.shards.manifest import (
    MANIFEST,
    Manifest,
    ShardInfo,
    fingerprint,
    read_manifest,
    verify_shards,
)
from egem.shards.writer import ShardWriter

__all__ = [
    "MANIFEST",
    "Manifest",
    "RecordGroups",
    "ShardInfo",
    "ShardWriter",
    "fingerprint",
    "iterate_records",
    "read_manifest",
    "verify_shards",
]
