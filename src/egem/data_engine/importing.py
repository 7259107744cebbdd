"""A source's rows to a folder of records; bad rows are counted and put aside with their reason."""

import json
import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from egem.core.errors import ConfigError, RecordError, unknown_name
from egem.core.files import write_atomically
from egem.data_engine.ask import chosen
from egem.data_engine.build import write_records
from egem.data_engine.sources import SOURCES, ImportOptions, Row
from egem.data_engine.statistics import QUARANTINE
from egem.records import Record, validate
from egem.shards import Manifest

SETTLED_ROWS = 200
"""The share of bad rows is judged from this many rows on, and at the end."""

_LOG = logging.getLogger(__name__)


def import_source(name: str, input: Path, out: Path, options: ImportOptions | None = None) -> Manifest:
    """Turn a public dataset into a folder of records, which appears whole or not at all.

    Rows left out are listed in `quarantine.jsonl` inside the folder: {"row", "reason"}.

    Args:
        name: of the source (see `SOURCES`).
        input: its file or folder.
        out: folder to write; must not exist or be empty.
        options: how to read it.

    Raises:
        ConfigError: unknown source, missing input, senseless option, or `out` exists.
        RecordError: a row is bad and `options.max_bad_fraction` does not allow it, or there is no good one.
    """
    options = options or ImportOptions()
    if name not in SOURCES:
        raise unknown_name("source", name, SOURCES)
    _check(Path(input), options)
    quarantine: list[tuple[str, str]] = []
    rows = islice(SOURCES[name].rows(Path(input), options), options.limit)
    manifest = write_records(_records(rows, options.max_bad_fraction, quarantine), out)
    if quarantine:
        lines = [json.dumps({"row": where, "reason": reason}) for where, reason in quarantine]
        write_atomically(Path(out) / QUARANTINE, ("\n".join(lines) + "\n").encode())
        _LOG.warning("%d rows of %s left out, see %s", len(quarantine), input, Path(out) / QUARANTINE)
    return manifest


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
    if not 0 <= options.max_bad_fraction < 1:
        raise ConfigError(f"max_bad_fraction is {options.max_bad_fraction}; give a share from 0 to below 1.")


def _records(
    rows: Iterator[Row], max_bad_fraction: float, quarantine: list[tuple[str, str]]
) -> Iterator[Record]:
    seen, empty = 0, 0
    for seen, row in enumerate(rows, 1):
        try:
            records = _valid(row)
        except RecordError as error:
            if max_bad_fraction == 0:
                raise
            quarantine.append((row.where, str(error)))
            if seen >= SETTLED_ROWS:
                _judge(quarantine, seen, max_bad_fraction)
            continue
        empty += not records
        yield from records
    if quarantine:
        _judge(quarantine, seen, max_bad_fraction)
    if empty:
        _LOG.warning("%d of %d rows hold nothing that can be asked without ambiguity", empty, seen)


def _valid(row: Row) -> list[Record]:
    """The records of a row, all of them or none."""
    records = row.load()
    for record in records:
        try:
            validate(record)
        except RecordError as error:
            raise RecordError(f"{row.where}: {error}") from None
    return records


def _judge(quarantine: list[tuple[str, str]], seen: int, max_bad_fraction: float) -> None:
    if len(quarantine) > max_bad_fraction * seen:
        reasons = "\n  ".join(reason for _, reason in quarantine[:3])
        raise RecordError(
            f"{len(quarantine)} of {seen} rows are bad, more than the {max_bad_fraction:.1%} allowed; "
            f"repair them or raise max_bad_fraction. The first:\n  {reasons}"
        )
