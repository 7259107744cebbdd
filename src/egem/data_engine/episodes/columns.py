"""Columns of LeRobot's Parquet files as arrays, and the images in them as bytes."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Shaped

from egem.core.errors import RecordError

_ERRORS = (pa.ArrowException, OSError, EOFError)


class Cells:
    """Bytes of the cells of an image column: {"bytes", "path"}."""

    def __init__(self, table: pa.Table, key: str, root: Path) -> None:
        if key not in table.column_names:
            raise RecordError(
                f"{root}: the data has no column {key}; it has {', '.join(table.column_names)}."
            )
        self.column, self.key, self.root = table[key], key, root

    def __call__(self, index: int) -> bytes:
        """One cell; the file that it names is read.

        Raises:
            RecordError: there is no such file.
        """
        cell = self.column[index].as_py()
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if isinstance(data, bytes):
            return data
        path = self.root / str(cell.get("path") if isinstance(cell, dict) else cell)
        try:
            return path.read_bytes()
        except OSError as error:
            raise RecordError(f"image {path} of {self.key} cannot be read: {error.strerror}.") from error


def read_schema(path: Path) -> pa.Schema:
    """Names and types of a file's columns.

    Raises:
        RecordError: truncated or damaged.
    """
    try:
        return pq.read_schema(path)
    except _ERRORS as error:
        raise _unreadable(path, error) from error


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A whole file, or some columns of it.

    Raises:
        RecordError: truncated or damaged.
    """
    try:
        return pq.ParquetFile(path).read(columns, use_threads=False)
    except _ERRORS as error:
        raise _unreadable(path, error) from error


class EpisodeRows:
    """Rows of one episode out of data files that hold many; only the row groups that have some of them are read.

    The last few files and row groups stay open: files written at once, whose rows are one group, are read once.
    """

    def __init__(self, *, open_files: int = 32, kept_groups: int = 4) -> None:
        self._file = functools.lru_cache(maxsize=open_files)(_opened)
        self._groups = functools.lru_cache(maxsize=kept_groups)(self._read)

    def read(self, path: Path, episode: int) -> pa.Table:
        """The rows whose `episode_index` is that; the whole file where it has no such column.

        Raises:
            RecordError: truncated or damaged.
        """
        try:
            file, bounds = self._file(path)
            if bounds is None:
                return self._groups(path, 0, file.num_row_groups)
            found = np.flatnonzero((bounds[:, 0] <= episode) & (episode <= bounds[:, 1]))
            if found.size == 0:
                return file.schema_arrow.empty_table()
            table = self._groups(path, int(found[0]), int(found[-1]) + 1)
        except _ERRORS as error:
            raise _unreadable(path, error) from error
        return table.filter(pa.array(numbers(table, "episode_index") == episode))

    def _read(self, path: Path, first: int, end: int) -> pa.Table:
        return self._file(path)[0].read_row_groups(list(range(first, end)), use_threads=False)

    def __reduce__(self) -> tuple[type["EpisodeRows"], tuple[()]]:
        return EpisodeRows, ()


def _opened(path: Path) -> tuple[pq.ParquetFile, np.ndarray | None]:
    """A file, and the least and greatest episode of each row group."""
    file = pq.ParquetFile(path)
    if "episode_index" not in file.schema_arrow.names:
        return file, None
    meta = file.metadata
    leaf = next(i for i in range(meta.num_columns) if meta.schema.column(i).path == "episode_index")
    bounds = np.zeros((file.num_row_groups, 2), np.int64)
    for group in range(file.num_row_groups):
        statistics = meta.row_group(group).column(leaf).statistics
        if statistics is None or not statistics.has_min_max:
            bounds[group] = (0, np.iinfo(np.int64).max)
        else:
            bounds[group] = (statistics.min, statistics.max)
    return file, bounds


def _unreadable(path: Path, error: BaseException) -> RecordError:
    reason = str(error).splitlines()[0].rstrip(".")
    return RecordError(f"{path} cannot be read ({reason}); it is truncated or damaged: copy it again.")


def numbers(table: pa.Table, name: str) -> Shaped[np.ndarray, "step"]:
    """A column of numbers."""
    return matrix(table, name).reshape(-1)


def matrix(table: pa.Table, name: str) -> Shaped[np.ndarray, "step dim"]:
    """A column of numbers, or of lists of so many numbers.

    Raises:
        RecordError: lists of different lengths.
    """
    column = table[name].combine_chunks()
    while isinstance(column, pa.ChunkedArray):
        column = column.chunk(0)
    width = 1
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        flat = column.flatten()
        width, rest = divmod(len(flat), max(len(column), 1))
        lengths = column.value_lengths().unique().to_pylist()
        if rest or len(lengths) > 1:
            raise RecordError(f"column {name}: rows of different lengths {lengths}; they must be equal.")
        column = flat
    return column.to_numpy(zero_copy_only=False).reshape(table.num_rows, width)


def joined(table: pa.Table, keys: Sequence[str]) -> Float[np.ndarray, "step dim"] | None:
    """Several columns side by side; None for none.

    Raises:
        RecordError: a column is missing.
    """
    if not keys:
        return None
    missing = [key for key in keys if key not in table.column_names]
    if missing:
        raise RecordError(f"the data has no column {', '.join(missing)}, though info.json names it.")
    return np.concatenate([matrix(table, key) for key in keys], axis=1).astype(np.float32)
