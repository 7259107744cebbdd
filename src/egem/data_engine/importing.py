"""A source's rows to a folder of records; bad rows are counted and put aside with their reason."""

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from egem.core.config import to_dict
from egem.core.errors import ConfigError, unknown_name
from egem.data_engine.ask import chosen
from egem.data_engine.engine import EngineConfig, Job, JobResult, Outcome, run_job
from egem.data_engine.sources import SOURCES, ImportOptions, Row
from egem.shards import Manifest

ROWS_PER_PART = 1000

_EMPTY = "empty"
"""Counted: rows without a record."""
_LOG = logging.getLogger(__name__)


def import_source(
    name: str,
    input: Path,
    out: Path,
    options: ImportOptions | None = None,
    engine: EngineConfig | None = None,
) -> Manifest:
    """Turn a public dataset into a folder of records, which appears whole or not at all.

    Rows left out are listed in `quarantine.jsonl` inside the folder: {"row", "reason"}. An import that was killed goes
    on where it stopped; the shards are the same whoever makes them.

    Args:
        name: of the source (see `SOURCES`).
        input: its file or folder.
        out: folder to write; must not exist or be empty.
        options: how to read it.
        engine: who reads it.

    Raises:
        ConfigError: unknown source, missing input, senseless option, or `out` exists.
        RecordError: a row is bad and `options.max_error_fraction` does not allow it, or there is no good one.
    """
    options = options or ImportOptions()
    if name not in SOURCES:
        raise unknown_name("source", name, SOURCES)
    _check(Path(input), options)
    stated: dict[str, Any] = to_dict(options)
    # What is bad is bad; how much of that is allowed may change when a job goes on.
    del stated["max_error_fraction"]
    job = Job(
        title=f"import {name}",
        unit="row",
        step=load_rows,
        description={"import": name, "input": str(Path(input).absolute()), "options": stated},
        out=Path(out),
        items_per_part=ROWS_PER_PART,
        max_error_fraction=options.max_error_fraction,
    )
    rows = islice(SOURCES[name].rows(Path(input), options), options.limit)
    manifest, result = run_job(rows, job, engine)
    _warn_of_empty(result)
    return manifest


def load_rows(rows: Sequence[Row]) -> Iterator[Outcome]:
    """The records of rows: the step of an import."""
    for row in rows:
        try:
            records = row.load()
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001  one row of millions that a reader trips over is a bad row
            yield Outcome(where=row.where, error=error)
        else:
            yield Outcome(where=row.where, records=records, counts={} if records else {_EMPTY: 1})


def _warn_of_empty(result: JobResult) -> None:
    empty = result.counts.get(_EMPTY, 0)
    if empty:
        _LOG.warning("%d of %d rows hold nothing that can be asked without ambiguity", empty, result.items)


def _check(path: Path, options: ImportOptions) -> None:
    chosen(options.skills)
    if not path.exists():
        raise ConfigError(f"{path} does not exist; give the file or folder to import.")
    for folder in (options.media, options.depth):
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder.")
    for option, value in (("num_questions", options.num_questions), ("num_frames", options.num_frames)):
        if value < 1:
            raise ConfigError(f"{option} is {value}; it must be at least 1.")
    if not 0 <= options.max_error_fraction < 1:
        raise ConfigError(
            f"max_error_fraction is {options.max_error_fraction}; give a share from 0 to below 1."
        )
