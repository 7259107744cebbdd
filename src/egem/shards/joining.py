"""Folders of records as one folder: shards are linked, not written again."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from egem.core.config import to_dict
from egem.core.errors import RecordError
from egem.records import SCHEMA_VERSION
from egem.shards.index import INDEX, encode_index, read_index
from egem.shards.manifest import MANIFEST, Manifest, ShardInfo, manifest_of
from egem.shards.parquet import PARQUET_ERRORS, damaged
from egem.shards.storage import storage
from egem.shards.writer import shard_name


def join_folders(folders: Sequence[Path], target: Path) -> Manifest:
    """Put the shards of several folders into one, one folder after another.

    Args:
        folders: on a local disk; they stay as they are.
        target: an empty folder.

    Raises:
        RecordError: a record's id occurs twice, a group in two folders, or a folder is damaged.
    """
    shards: list[ShardInfo] = []
    index: list[tuple[int, int, str]] = []
    ids: list[pa.ChunkedArray] = []
    groups: list[pa.ChunkedArray] = []
    manifests: list[Manifest] = []
    for folder in folders:
        place = storage(folder)
        manifest = manifest_of(place)
        found = read_index(place, manifest)
        rows = (found.stop - found.start).tolist()
        for shard, count, source in zip(found.shard.tolist(), rows, found.source.tolist(), strict=True):
            index.append((len(shards) + shard, count, found.sources[source]))
        names: list[pa.ChunkedArray] = []
        for info in manifest.shards:
            path = Path(folder) / info.name
            columns = _names(path)
            ids.append(columns.column("id"))
            names.append(columns.column("group"))
            renamed = replace(info, name=shard_name(len(shards)))
            _link(path, target / renamed.name)
            shards.append(renamed)
        # Within a folder its writer has seen to it that a group stands together.
        groups.append(_chained(names).unique())
        manifests.append(manifest)
    _refuse_twice(_chained(ids), "record", "records need ids of their own")
    _refuse_twice(_chained(groups), "group", "a group's records must be made together")
    encoded = encode_index(index)
    (target / INDEX).write_bytes(encoded)
    joined = Manifest(
        schema_version=SCHEMA_VERSION,
        rows=sum(manifest.rows for manifest in manifests),
        groups=sum(manifest.groups for manifest in manifests),
        images=sum(manifest.images for manifest in manifests),
        depths=sum(manifest.depths for manifest in manifests),
        by_source=_added([manifest.by_source for manifest in manifests]),
        by_category=_added([manifest.by_category for manifest in manifests]),
        by_skill=_added([manifest.by_skill for manifest in manifests]),
        shards=tuple(shards),
        index_sha256=sha256(encoded).hexdigest(),
    )
    (target / MANIFEST).write_text(json.dumps(to_dict(joined), indent=2))
    return joined


def _names(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, columns=["id", "group"])
    except PARQUET_ERRORS as error:
        raise damaged(str(path), error) from error


def _chained(arrays: Sequence[pa.ChunkedArray | pa.Array]) -> pa.ChunkedArray:
    chunks = [c for a in arrays for c in (a.chunks if isinstance(a, pa.ChunkedArray) else [a])]
    return pa.chunked_array(chunks, pa.string())


def _refuse_twice(names: pa.ChunkedArray, kind: str, remedy: str) -> None:
    if len(names.unique()) == len(names):
        return
    name, count = Counter(names.to_pylist()).most_common(1)[0]
    raise RecordError(f"{kind} '{name}' occurs {count} times; {remedy}.")


def _link(path: Path, target: Path) -> None:
    """The same file under another name; a copy where the disk knows no links."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def _added(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))
