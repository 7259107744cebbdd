"""Writing a record folder."""

import contextlib
import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from egem.core.config import to_dict
from egem.core.errors import RecordError
from egem.core.files import new_folder
from egem.records import SCHEMA, SCHEMA_VERSION, Record, to_row, validate
from egem.shards.index import INDEX, encode_index
from egem.shards.manifest import MANIFEST, Manifest, ShardInfo
from egem.shards.parquet import PARQUET_ERRORS

_ROW_GROUP_BYTES = 1 << 20
"""A row group is what one read brings, whatever is wanted of it; smaller ones make the footers longer."""

_SHARD_BYTES = 512 << 20
_DICTIONARY_BYTES = 256 << 20
_COMPRESSED_ALREADY = ("images.list.element.bytes", "depths.list.element.bytes")


class ShardWriter:
    """Writes records to a new folder, which appears whole or not at all.

        with ShardWriter(folder) as writer:
            for record in records:
                writer.add(record)

    Args:
        folder: must not exist, or be empty.
        rows_per_shard: a new file is begun at the first group past this many rows (or 512 MiB).
        rows_per_row_group: the unit of reading, at most this many rows (or 1 MiB); a larger group still stays
            in one.

    Raises:
        ConfigError: the folder holds something already.
        RecordError: a record is invalid, its id is used twice, its group was closed before, or there was
            no record at all.
        EgemError: the disk is full or the folder cannot be written.
    """

    def __init__(self, folder: Path, *, rows_per_shard: int = 20_000, rows_per_row_group: int = 96) -> None:
        self.folder = Path(folder)
        self.rows_per_shard = rows_per_shard
        self.rows_per_row_group = min(rows_per_row_group, rows_per_shard)
        self._stack = contextlib.ExitStack()
        self._group: list[Record] = []
        self._buffer: list[dict[str, Any]] = []
        self._buffer_bytes = 0
        self._pending: list[tuple[int, str]] = []
        self._writer: pq.ParquetWriter | None = None
        self._file: Any = None
        self._shard_rows = 0
        self._shards: list[ShardInfo] = []
        self._ids: set[int] = set()
        self._groups: set[int] = set()
        self._images = self._depths = 0
        self._counts: dict[str, Counter[str]] = {k: Counter() for k in ("source", "category", "skill")}
        self._index: list[tuple[int, int, str]] = []

    def __enter__(self) -> "ShardWriter":
        self._temporary = self._stack.enter_context(new_folder(self.folder))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            try:
                self._finish()
            except BaseException:
                self._abandon()
                if not self._stack.__exit__(*sys.exc_info()):
                    raise
            else:
                self._stack.close()
        else:
            self._abandon()
            self._stack.__exit__(kind, error, trace)

    def add(self, record: Record) -> None:
        """Validate a record and put it behind the others of its group.

        Raises:
            RecordError: see the class.
        """
        validate(record)
        if hash(record.id) in self._ids:
            raise RecordError(f"record '{record.id}': a record with this id was added before.")
        self._ids.add(hash(record.id))
        if self._group and self._group[0].group != record.group:
            self._close_group()
        if hash(record.group) in self._groups:
            raise RecordError(
                f"record '{record.id}': group '{record.group}' was closed before; "
                "records of one group must be added one after another."
            )
        self._group.append(record)

    def _close_group(self) -> None:
        first = self._group[0]
        self._groups.add(hash(first.group))
        self._images += len(first.images)
        self._depths += sum(depth is not None for depth in first.depths)
        size = _stored_bytes(self._group)
        full = len(self._buffer) + len(self._group) > self.rows_per_row_group
        if self._buffer and (full or self._buffer_bytes + size > _ROW_GROUP_BYTES):
            self._write_row_group()
        for record in self._group:
            self._buffer.append(to_row(record))
            for column, counter in self._counts.items():
                counter[getattr(record, column)] += 1
        self._buffer_bytes += size
        self._pending.append((len(self._group), first.source))
        self._group = []

    def _write_row_group(self) -> None:
        full = self._shard_rows + len(self._buffer) > self.rows_per_shard
        if self._writer is not None and (full or self._file.tell() > _SHARD_BYTES):
            self._close_shard()
        if self._writer is None:
            self._file = (self._temporary / shard_name(len(self._shards))).open("wb")
            self._writer = pq.ParquetWriter(
                self._file,
                SCHEMA,
                compression=COMPRESSION,  # pyright: ignore[reportArgumentType]
                use_dictionary=True,
                # Above this a column chunk stops sharing equal images; it must hold a whole row group.
                dictionary_pagesize_limit=_DICTIONARY_BYTES,
                write_statistics=False,
                store_schema=True,
            )
        table = pa.Table.from_pylist(self._buffer, SCHEMA)
        self._writer.write_table(table, row_group_size=len(self._buffer))
        self._shard_rows += len(self._buffer)
        self._index += [(len(self._shards), rows, source) for rows, source in self._pending]
        self._buffer, self._buffer_bytes, self._pending = [], 0, []

    def _close_shard(self) -> None:
        assert self._writer is not None
        self._writer.close()
        self._file.close()
        path = self._temporary / shard_name(len(self._shards))
        info = ShardInfo(
            name=path.name, rows=self._shard_rows, num_bytes=path.stat().st_size, sha256=_sha256(path)
        )
        self._shards.append(info)
        self._writer, self._file, self._shard_rows = None, None, 0

    def _finish(self) -> None:
        if self._group:
            self._close_group()
        if self._buffer:
            self._write_row_group()
        if self._writer is not None:
            self._close_shard()
        if not self._shards:
            raise RecordError(f"{self.folder}: no record was added, so nothing is written.")
        index = encode_index(self._index)
        with (self._temporary / INDEX).open("wb") as file:
            file.write(index)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            rows=sum(shard.rows for shard in self._shards),
            groups=len(self._groups),
            images=self._images,
            depths=self._depths,
            by_source=dict(sorted(self._counts["source"].items())),
            by_category=dict(sorted(self._counts["category"].items())),
            by_skill=dict(sorted(self._counts["skill"].items())),
            shards=tuple(self._shards),
            index_sha256=hashlib.sha256(index).hexdigest(),
        )
        with (self._temporary / MANIFEST).open("w") as file:
            json.dump(to_dict(manifest), file, indent=2)

    def _abandon(self) -> None:
        """Close the half-written file; the folder itself is removed by `new_folder`."""
        if self._writer is not None:
            # A writer that met a full disk fails again at closing; the first error is the one to show.
            with contextlib.suppress(*PARQUET_ERRORS, ValueError):
                self._writer.close()
            with contextlib.suppress(OSError):
                self._file.close()


def _leaves(field: pa.Field, path: str) -> list[str]:
    """Parquet's names of the columns that a field becomes."""
    kind = field.type
    if pa.types.is_list(kind):
        return _leaves(kind.value_field, f"{path}.list.element")
    if pa.types.is_struct(kind):
        return [leaf for inner in kind for leaf in _leaves(inner, f"{path}.{inner.name}")]
    return [path]


COMPRESSION = {
    leaf: "none" if leaf in _COMPRESSED_ALREADY else "zstd"
    for field in SCHEMA
    for leaf in _leaves(field, field.name)
}
"""Pictures are compressed already; doing it again costs time at every read and saves nothing."""


def _stored_bytes(records: list[Record]) -> int:
    """Bytes of the distinct pictures of a group; equal ones are stored once."""
    files = (file for record in records for file in (*record.images, *record.depths))
    return sum(map(len, {file.data for file in files if file is not None and file.data is not None}))


def shard_name(index: int) -> str:
    """The file of a folder's shard, numbered from 0."""
    return f"shard-{index:05d}.parquet"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
