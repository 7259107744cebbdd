"""Parquet files that hold records: opened, checked, read by row group, turned into records."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from egem.core.errors import RecordError
from egem.records import SCHEMA, SCHEMA_VERSION, Record, from_row, validate
from egem.shards.storage import RangeFile, Storage

VERSION_KEY = b"egem.schema_version"
PARQUET_ERRORS = (pa.ArrowException, OSError, EOFError)

_LARGEST_GAP = 64 << 10
"""Two parts of a remote file with less than this between them are fetched as one."""


@dataclass(frozen=True)
class ShardFile:
    """An opened shard."""

    path: str
    """For messages."""
    parquet: pq.ParquetFile
    source: str | RangeFile

    @property
    def row_group_starts(self) -> np.ndarray:
        """First row of each row group, and the number of rows."""
        metadata = self.parquet.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def read(self, row_group: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of a row group.

        Raises:
            RecordError: the file is damaged.
        """
        try:
            if isinstance(self.source, RangeFile):
                self.source.fetch(self._ranges(row_group, columns))
            return self.parquet.read_row_group(row_group, columns=list(columns), use_threads=False)
        except PARQUET_ERRORS as error:
            raise damaged(self.path, error) from error

    def group_bounds(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """First and past-the-last row of each group, and its source.

        Raises:
            RecordError: the file is damaged, or the records of a group are scattered.
        """
        try:
            table = self.parquet.read(columns=["group", "source"], use_threads=False).combine_chunks()
        except PARQUET_ERRORS as error:
            raise damaged(self.path, error) from error
        runs = pc.call_function(
            "run_end_encode", [table.column("group").combine_chunks()], pc.RunEndEncodeOptions(pa.int64())
        )
        if len(runs.values.unique()) != len(runs.values):
            raise RecordError(
                f"{self.path}: the records of some group do not stand next to each other; sort by `group`."
            )
        stops = runs.run_ends.to_numpy()
        starts = np.concatenate([np.zeros(1, np.int64), stops[:-1]])
        return starts, stops, table.column("source").take(pa.array(starts)).to_pylist()

    def _ranges(self, row_group: int, columns: Sequence[str]) -> list[tuple[int, int]]:
        """The parts of the file that a read needs, those with small gaps between them joined."""
        metadata = self.parquet.metadata.row_group(row_group)
        parts = []
        for index in range(metadata.num_columns):
            column = metadata.column(index)
            path = column.path_in_schema
            if any(path == name or path.startswith(f"{name}.") for name in columns):
                first = column.dictionary_page_offset or column.data_page_offset
                first = min(first, column.data_page_offset)
                parts.append((first, first + column.total_compressed_size))
        joined: list[tuple[int, int]] = []
        for start, stop in sorted(parts):
            if joined and start - joined[-1][1] < _LARGEST_GAP:
                joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
            else:
                joined.append((start, stop))
        return joined


def open_shard(place: Storage, name: str, digest: str) -> ShardFile:
    """Open a shard and check that it holds records.

    Raises:
        RecordError: damaged, of another schema version, or not a shard of records.
    """
    path, source = place.join(name), place.open(name, digest=digest)
    try:
        parquet = pq.ParquetFile(source, pre_buffer=False)
    except PARQUET_ERRORS as error:
        raise damaged(path, error) from error
    schema = parquet.schema_arrow
    version = (schema.metadata or {}).get(VERSION_KEY)
    if version is not None and version != str(SCHEMA_VERSION).encode():
        raise RecordError(
            f"{path} has schema version {version.decode()}, this is version {SCHEMA_VERSION}; make it again."
        )
    missing = [name for name in SCHEMA.names if name not in schema.names]
    if missing:
        raise RecordError(f"{path} is not a shard of records: column {', '.join(missing)} is missing.")
    for wanted in SCHEMA:
        found = schema.field(wanted.name).type
        if not _same_kind(found, wanted.type):
            raise RecordError(
                f"{path} is not a shard of records: column {wanted.name} has type {found}, not {wanted.type}."
            )
    return ShardFile(path, parquet, source)


def to_record(row: dict[str, Any], place: Storage, *, check: bool) -> Record:
    """A row as a record; files outside the shard are found from its folder (and read, if that is remote).

    Args:
        row: of a shard.
        place: its folder.
        check: that the record is a valid one too, see `validate`.

    Raises:
        RecordError: a column is empty or of another form; or the record is not valid.
    """
    region = (row.get("answer") or {}).get("region")
    for file in (*(row["images"] or ()), *(row.get("depths") or ()), region):
        if file is not None and file["bytes"] is None and file["path"] is not None:
            name, file["path"] = file["path"], place.join(file["path"])
            if place.is_remote and file["path"] != name:
                file["bytes"] = place.read(name)
    record = from_row(row)
    if check:
        validate(record)
    return record


def damaged(path: str, error: BaseException) -> RecordError:
    """The error for a file that pyarrow cannot make sense of."""
    reason = str(error).splitlines()[0].rstrip(".")
    return RecordError(
        f"{path} cannot be read ({reason}); it is truncated or damaged: copy or make it again."
    )


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
