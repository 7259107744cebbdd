"""`groups.arrow`: where each group of a record folder lies, so that a million rows open at once.

One row a group, in stored order: number of its shard, number of its records, its source. Without it the `group`
column of every shard has to be read, which takes seconds from a disk and far longer from an address.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from egem.core.errors import RecordError
from egem.shards.manifest import Manifest
from egem.shards.parquet import PARQUET_ERRORS, open_shard
from egem.shards.storage import Storage

INDEX = "groups.arrow"

_SCHEMA = pa.schema(
    [("shard", pa.int32()), ("rows", pa.int32()), ("source", pa.dictionary(pa.int32(), pa.string()))]
)


@dataclass(frozen=True, kw_only=True)
class GroupIndex:
    """The groups of one folder, as columns."""

    shard: np.ndarray
    """Which shard of the manifest, int32."""
    start: np.ndarray
    """First row within the shard, int64."""
    stop: np.ndarray
    """Past the last row, int64."""
    source: np.ndarray
    """Place in `sources`, int32."""
    sources: tuple[str, ...]


def encode_index(groups: Sequence[tuple[int, int, str]]) -> bytes:
    """The content of `groups.arrow`.

    Args:
        groups: number of the shard, number of records and source of each group, in stored order.
    """
    shard, rows, source = zip(*groups, strict=True)
    columns = [pa.array(shard, pa.int32()), pa.array(rows, pa.int32())]
    table = pa.table([*columns, pa.array(source, pa.string()).dictionary_encode()], schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, _SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()


def read_index(place: Storage, manifest: Manifest) -> GroupIndex:
    """The folder's index: from `groups.arrow`, or found by reading where another tool wrote the folder.

    Raises:
        RecordError: a file is missing, damaged or not the one that was written.
    """
    if manifest.index_sha256 is None:
        return _scan(place, manifest)
    data, path = place.read(INDEX), place.join(INDEX)
    if hashlib.sha256(data).hexdigest() != manifest.index_sha256:
        raise RecordError(f"{path} is not the file that was written (its sha256 differs); copy it again.")
    try:
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all().combine_chunks()
    except PARQUET_ERRORS as error:
        raise RecordError(f"{path} cannot be read ({error}); copy it again.") from error
    shard, rows = (table.column(name).to_numpy() for name in ("shard", "rows"))
    source = table.column("source").combine_chunks()
    stop = np.cumsum(rows, dtype=np.int64)
    start = stop - rows
    begins = np.searchsorted(shard, np.arange(len(manifest.shards)))
    offset = start[np.minimum(begins, len(start) - 1)][shard]
    counted = np.bincount(shard, weights=rows, minlength=len(manifest.shards)).astype(np.int64)
    if counted.tolist() != [info.rows for info in manifest.shards]:
        raise RecordError(f"{path} and manifest.json disagree about the number of rows; copy both again.")
    return GroupIndex(
        shard=shard,
        start=start - offset,
        stop=stop - offset,
        source=source.indices.to_numpy(),
        sources=tuple(source.dictionary.to_pylist()),
    )


def _scan(place: Storage, manifest: Manifest) -> GroupIndex:
    shards, starts, stops, sources = [], [], [], []
    for number, info in enumerate(manifest.shards):
        start, stop, names = open_shard(place, info.name, info.sha256).group_bounds()
        shards.append(np.full(len(start), number, np.int32))
        starts.append(start)
        stops.append(stop)
        sources += names
    names, source = np.unique(np.array(sources, dtype=np.str_), return_inverse=True)
    return GroupIndex(
        shard=np.concatenate(shards),
        start=np.concatenate(starts),
        stop=np.concatenate(stops),
        source=source.astype(np.int32),
        sources=tuple(names.tolist()),
    )
