"""Rows of Parquet files as Hugging Face's `datasets` writes them, some at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from egem.core.errors import RecordError

_BATCH_ROWS = 64
_ERRORS = (pa.ArrowException, OSError, EOFError)


def read_parquet_rows(
    path: Path, *, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """The rows of a file as dictionaries; images are {"bytes", "path"}.

    Args:
        path: a Parquet file.
        columns: needed.
        optional: read where they exist.

    Raises:
        RecordError: damaged, truncated, or a column is missing.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            missing = [name for name in columns if name not in names]
            if missing:
                raise RecordError(f"{path} has no column {', '.join(missing)}; it has {', '.join(names)}.")
            wanted = [*columns, *(name for name in optional if name in names)]
            for batch in file.iter_batches(_BATCH_ROWS, columns=wanted, use_threads=False):
                yield from batch.to_pylist()
    except _ERRORS as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise RecordError(
            f"{path} cannot be read ({reason}); it is truncated or damaged: copy it again."
        ) from error
