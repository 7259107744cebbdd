"""Records on disk: a folder of Parquet shards with a manifest. No torch.

    records/
        manifest.json            what is inside: counts, schema version, sha256 of each shard
        shard-00000.parquet ...  zstd; the columns of `egem.records.SCHEMA`

The records of a group stand next to each other and never cross a row group, so one small read brings a
whole group; their image bytes are equal, and dictionary coding stores them once.
"""

import contextlib
import hashlib
import json
import sys
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from egem.core.config import load_json, to_dict
from egem.core.errors import ConfigError, RecordError
from egem.core.files import new_folder
from egem.records import SCHEMA, SCHEMA_VERSION, Record, from_row, to_row, validate

MANIFEST = "manifest.json"

_VERSION_KEY = b"egem.schema_version"
_ROW_GROUP_BYTES = 64 << 20
_SHARD_BYTES = 512 << 20
_DICTIONARY_BYTES = 256 << 20
_PARQUET_ERRORS = (pa.ArrowException, OSError, EOFError)


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


class ShardWriter:
    """Writes records to a new folder, which appears whole or not at all.

        with ShardWriter(folder) as writer:
            for record in records:
                writer.add(record)

    Args:
        folder: must not exist, or be empty.
        rows_per_shard: a new file is begun at the first group past this many rows (or 512 MiB).
        rows_per_row_group: the unit of reading; a group larger than this still stays in one.

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
        self._writer: pq.ParquetWriter | None = None
        self._file: Any = None
        self._shard_rows = 0
        self._shards: list[ShardInfo] = []
        self._ids: set[int] = set()
        self._groups: set[int] = set()
        self._images = self._depths = 0
        self._counts: dict[str, Counter[str]] = {k: Counter() for k in ("source", "category", "skill")}

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
        size = sum(_num_bytes(record) for record in self._group)
        full = len(self._buffer) + len(self._group) > self.rows_per_row_group
        if self._buffer and (full or self._buffer_bytes + size > _ROW_GROUP_BYTES):
            self._write_row_group()
        for record in self._group:
            self._buffer.append(to_row(record))
            for column, counter in self._counts.items():
                counter[getattr(record, column)] += 1
        self._buffer_bytes += size
        self._group = []

    def _write_row_group(self) -> None:
        full = self._shard_rows + len(self._buffer) > self.rows_per_shard
        if self._writer is not None and (full or self._file.tell() > _SHARD_BYTES):
            self._close_shard()
        if self._writer is None:
            self._file = (self._temporary / _shard_name(len(self._shards))).open("wb")
            self._writer = pq.ParquetWriter(
                self._file,
                SCHEMA,
                compression="zstd",
                use_dictionary=True,
                # Above this a column chunk stops sharing equal images; it must hold a whole row group.
                dictionary_pagesize_limit=_DICTIONARY_BYTES,
                write_statistics=False,
                store_schema=True,
            )
        table = pa.Table.from_pylist(self._buffer, SCHEMA)
        self._writer.write_table(table, row_group_size=len(self._buffer))
        self._shard_rows += len(self._buffer)
        self._buffer, self._buffer_bytes = [], 0

    def _close_shard(self) -> None:
        assert self._writer is not None
        self._writer.close()
        self._file.close()
        path = self._temporary / _shard_name(len(self._shards))
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
        )
        with (self._temporary / MANIFEST).open("w") as file:
            json.dump(to_dict(manifest), file, indent=2)

    def _abandon(self) -> None:
        """Close the half-written file; the folder itself is removed by `new_folder`."""
        if self._writer is not None:
            # A writer that met a full disk fails again at closing; the first error is the one to show.
            with contextlib.suppress(*_PARQUET_ERRORS, ValueError):
                self._writer.close()
            with contextlib.suppress(OSError):
                self._file.close()


def read_manifest(folder: Path) -> Manifest:
    """What a record folder holds.

    Raises:
        RecordError: not a record folder, or one of another schema version.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise RecordError(
            f"{folder} is not a folder of records: it has no {MANIFEST}. "
            "Make one with `egem data render` or `egem data import`."
        )
    try:
        manifest = load_json(Manifest, path)
    except ConfigError as error:
        raise RecordError(
            f"{error} It belongs to another version or was edited; make the folder again."
        ) from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise RecordError(
            f"{folder} has schema version {manifest.schema_version}, this is version {SCHEMA_VERSION}; "
            "make the folder again or use the matching egem."
        )
    return manifest


def verify_shards(folder: Path) -> None:
    """Read every byte and compare with the manifest's hashes.

    Raises:
        RecordError: names the shard that changed.
    """
    for shard in read_manifest(folder).shards:
        path = _checked(Path(folder), shard)
        if _sha256(path) != shard.sha256:
            raise RecordError(f"{path} is not the file that was written (its sha256 differs); copy it again.")


def iterate_records(folder: Path) -> Iterator[Record]:
    """All records of a folder in stored order, one row group in memory at a time; paths are resolved.

    Raises:
        RecordError: a shard is damaged or of another format.
    """
    for shard in read_manifest(folder).shards:
        path = _checked(Path(folder), shard)
        file = _open_parquet(path)
        for index in range(file.num_row_groups):
            for row in _read_rows(file, path, index).to_pylist():
                yield _record(row, path.parent)


class RecordGroups(Sequence[tuple[Record, ...]]):
    """Random access to the groups of one or more record folders.

    Only the `group` column is read at the start and only three numbers a group are kept, so a million rows
    open within a second or two. Reads bring one row group; the last few stay in memory.

    Args:
        folders: read as if they were one after another.
        cached_row_groups: how many row groups stay decoded.

    Raises:
        RecordError: not a record folder, or a shard is missing, truncated or of another format.
    """

    def __init__(self, folders: Sequence[Path], *, cached_row_groups: int = 8) -> None:
        self.folders = tuple(Path(folder) for folder in folders)
        self._cached_row_groups = cached_row_groups
        self._paths: list[Path] = []
        self._row_group_starts: list[np.ndarray] = []
        shards, starts, stops = [], [], []
        digest = hashlib.sha256()
        for folder in self.folders:
            for shard in read_manifest(folder).shards:
                path = _checked(folder, shard)
                file = _open_parquet(path)
                begin, end = _group_bounds(file, path)
                digest.update(shard.sha256.encode())
                shards.append(np.full(len(begin), len(self._paths), np.int32))
                starts.append(begin)
                stops.append(end)
                sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
                self._row_group_starts.append(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
                self._paths.append(path)
        if not self._paths:
            raise RecordError("no record folder was given.")
        self._shard, self._start, self._stop = map(np.concatenate, (shards, starts, stops))
        self.fingerprint = digest.hexdigest()
        """Hash of the shards' content: equal fingerprints mean equal records in equal order."""
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._tables: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()

    def __len__(self) -> int:
        return len(self._start)

    def __getitem__(self, index: Any) -> Any:
        """The records of one group, in stored order (equal images share their bytes)."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        shard, start, stop = int(self._shard[index]), int(self._start[index]), int(self._stop[index])
        bounds = self._row_group_starts[shard]
        first = int(np.searchsorted(bounds, start, side="right")) - 1
        last = int(np.searchsorted(bounds, stop, side="left"))
        rows: list[dict[str, Any]] = []
        for row_group in range(first, last):
            offset = int(bounds[row_group])
            table = self._table(shard, row_group)
            begin, end = max(start - offset, 0), min(stop - offset, table.num_rows)
            rows.extend(table.slice(begin, end - begin).to_pylist())
        seen: dict[bytes, bytes] = {}
        for row in rows:
            for file in (*(row["images"] or ()), *(row["depths"] or ())):
                if file is not None and file["bytes"] is not None:
                    file["bytes"] = seen.setdefault(file["bytes"], file["bytes"])
        return tuple(_record(row, self._paths[shard].parent) for row in rows)

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes open their own files."""
        return {**self.__dict__, "_files": OrderedDict(), "_tables": OrderedDict()}

    def _table(self, shard: int, row_group: int) -> pa.Table:
        key = (shard, row_group)
        if key not in self._tables:
            if shard not in self._files:
                self._files[shard] = _open_parquet(self._paths[shard])
                while len(self._files) > 16:
                    self._files.popitem(last=False)
            self._tables[key] = _read_rows(self._files[shard], self._paths[shard], row_group)
            while len(self._tables) > self._cached_row_groups:
                self._tables.popitem(last=False)
        self._tables.move_to_end(key)
        return self._tables[key]


def _group_bounds(file: pq.ParquetFile, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """First and past-the-last row of each group of a shard."""
    try:
        column = file.read(columns=["group"], use_threads=False).column("group").combine_chunks()
    except _PARQUET_ERRORS as error:
        raise _damaged(path, error) from error
    runs = pc.call_function("run_end_encode", [column], pc.RunEndEncodeOptions(pa.int64()))
    if len(runs.values.unique()) != len(runs.values):
        raise RecordError(
            f"{path}: the records of some group do not stand next to each other; sort by `group`."
        )
    stops = runs.run_ends.to_numpy()
    return np.concatenate([np.zeros(1, np.int64), stops[:-1]]), stops


def _read_rows(file: pq.ParquetFile, path: Path, row_group: int) -> pa.Table:
    try:
        return file.read_row_group(row_group, columns=SCHEMA.names, use_threads=False)
    except _PARQUET_ERRORS as error:
        raise _damaged(path, error) from error


def _record(row: dict[str, Any], folder: Path) -> Record:
    """A row as a record; paths of files outside the shard are resolved from the shard's folder."""
    for file in (*(row["images"] or ()), *(row["depths"] or ()), row["answer"]["region"]):
        if file is not None and file["bytes"] is None and file["path"] is not None:
            file["path"] = str(folder / file["path"])
    return from_row(row)


def _checked(folder: Path, shard: ShardInfo) -> Path:
    path = folder / shard.name
    if not path.is_file():
        raise RecordError(f"{path} is missing; copy the folder {folder} again, with all its shards.")
    size = path.stat().st_size
    if size != shard.num_bytes:
        raise RecordError(
            f"{path} is truncated or was changed: it has {size} bytes, the manifest says {shard.num_bytes}; "
            "copy it again."
        )
    return path


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path, pre_buffer=False)
    except _PARQUET_ERRORS as error:
        raise _damaged(path, error) from error
    version = (file.schema_arrow.metadata or {}).get(_VERSION_KEY)
    if version is not None and version != str(SCHEMA_VERSION).encode():
        raise RecordError(
            f"{path} has schema version {version.decode()}, this is version {SCHEMA_VERSION}; make it again."
        )
    missing = [name for name in SCHEMA.names if name not in file.schema_arrow.names]
    if missing:
        raise RecordError(f"{path} is not a shard of records: column {', '.join(missing)} is missing.")
    for wanted in SCHEMA:
        found = file.schema_arrow.field(wanted.name).type
        if not _same_kind(found, wanted.type):
            raise RecordError(
                f"{path} is not a shard of records: column {wanted.name} has type {found}, not {wanted.type}."
            )
    return file


def _same_kind(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column gives the same Python values; pandas, polars and DuckDB write wider types than we do."""
    listlike = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if pa.types.is_null(found):
        return True
    if pa.types.is_list(wanted):
        return any(check(found) for check in listlike) and _same_kind(found.value_type, wanted.value_type)
    if pa.types.is_struct(wanted):
        names = {field.name for field in found} if pa.types.is_struct(found) else set()
        return all(
            field.name in names and _same_kind(found.field(field.name).type, field.type) for field in wanted
        )
    families = (
        (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
        (pa.types.is_integer, pa.types.is_integer),
        (pa.types.is_floating, pa.types.is_floating),
    )
    return any(family[0](wanted) and any(check(found) for check in family) for family in families)


def _damaged(path: Path, error: BaseException) -> RecordError:
    reason = str(error).splitlines()[0].rstrip(".")
    return RecordError(
        f"{path} cannot be read ({reason}); it is truncated or damaged: copy or make it again."
    )


def _num_bytes(record: Record) -> int:
    files = [*record.images, *(d for d in record.depths if d is not None)]
    return sum(len(file.data) for file in files if file.data is not None)


def _shard_name(index: int) -> str:
    return f"shard-{index:05d}.parquet"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
