"""Tables of published benchmarks: Parquet, JSON, JSON lines or TSV, with image cells read when asked for."""

import base64
import binascii
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from egem.core.errors import RecordError
from egem.records import ImageFile

_ERRORS = (pa.ArrowException, OSError, EOFError)
_FIRST_BYTES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM")


class Table:
    """The rows of one or more files, one after another.

    Args:
        paths: files of one kind.
        columns: that every file must have.
        lazy: columns of images: of Parquet files they are read row group by row group, when asked for.

    Attributes:
        rows: everything but the lazy columns of Parquet files, in order.

    Raises:
        RecordError: a file is damaged or lacks a column.
    """

    def __init__(self, paths: Sequence[Path], *, columns: Sequence[str], lazy: Sequence[str] = ()) -> None:
        self.paths = tuple(paths)
        self.rows: list[dict[str, Any]] = []
        self._starts: list[int] = []
        self._lazy = tuple(lazy)
        self._cache: tuple[int, int, int, pa.Table] | None = None
        for path in self.paths:
            self._starts.append(len(self.rows))
            rows, names = self._read(path)
            missing = [name for name in columns if name not in names]
            if missing:
                raise RecordError(
                    f"{path} lacks column {', '.join(missing)}; it has {', '.join(names)}. Is it another data set?"
                )
            self.rows += rows

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, row: int) -> str:
        """The row for a message."""
        number = self._file(row)
        return f"{self.paths[number]}, row {row - self._starts[number] + 1}"

    def cell(self, row: int, column: str) -> Any:
        """One cell, of a lazy column or any other; None where it is empty or there is no such column.

        Raises:
            RecordError: the file is damaged.
        """
        number = self._file(row)
        path, inner = self.paths[number], row - self._starts[number]
        if column in self.rows[row] or path.suffix != ".parquet":
            return self.rows[row].get(column)
        first, table = self._row_group(number, inner)
        if column not in table.column_names:
            return None
        return table.column(column)[inner - first].as_py()

    def _file(self, row: int) -> int:
        return next(i for i in reversed(range(len(self._starts))) if self._starts[i] <= row)

    def _row_group(self, number: int, inner: int) -> tuple[int, pa.Table]:
        if self._cache is not None and self._cache[0] == number and self._cache[1] <= inner < self._cache[2]:
            return self._cache[1], self._cache[3]
        path = self.paths[number]
        try:
            with pq.ParquetFile(path) as file:
                first = 0
                for group in range(file.num_row_groups):
                    size = file.metadata.row_group(group).num_rows
                    if inner < first + size:
                        names = [name for name in self._lazy if name in file.schema_arrow.names]
                        table = file.read_row_group(group, columns=names, use_threads=False)
                        self._cache = (number, first, first + size, table)
                        return first, table
                    first += size
        except _ERRORS as error:
            raise _damaged(path, error) from error
        raise IndexError(inner)

    def _read(self, path: Path) -> tuple[list[dict[str, Any]], list[str]]:
        if path.suffix == ".parquet":
            try:
                with pq.ParquetFile(path) as file:
                    names = file.schema_arrow.names
                    kept = [name for name in names if name not in self._lazy]
                    return file.read(columns=kept, use_threads=False).to_pylist(), names
            except _ERRORS as error:
                raise _damaged(path, error) from error
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _damaged(path, error) from error
        rows = _tsv_rows(text) if path.suffix == ".tsv" else _json_rows(text, path)
        return rows, list(dict.fromkeys(name for row in rows for name in row))


def as_image(cell: Any, where: str, *, what: str = "image") -> ImageFile:
    """An image cell in any of the forms that data sets have: {bytes, path}, bytes, or base64 text.

    Raises:
        RecordError: empty, or none of these.
    """
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(data, str):
        try:
            data = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise RecordError(f"{where}: the {what} is text but not base64.") from None
    if not data:
        raise RecordError(
            f"{where}: there is no {what}; the copy is incomplete, download the benchmark again."
        )
    if not isinstance(data, bytes) or not data.startswith(_FIRST_BYTES):
        raise RecordError(f"{where}: the {what} is neither PNG nor JPEG, WebP or BMP.")
    return ImageFile(data=data)


def _json_rows(text: str, path: Path) -> list[dict[str, Any]]:
    try:
        if text.lstrip()[:1] == "[":
            rows = json.loads(text)
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise _damaged(path, error) from None
    if not all(isinstance(row, dict) for row in rows):
        raise RecordError(f"{path}: every row must be an object with named fields.")
    return rows


def _tsv_rows(text: str) -> list[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)  # base64 images
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


def _damaged(path: Path, error: Exception) -> RecordError:
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return RecordError(f"{path} cannot be read ({reason}); it is truncated or damaged: download it again.")
