"""Results written line by line, so that a killed run goes on where it stopped.

A journal is a JSONL file with one object per result, beside a JSON file that says what was being measured.
A line torn by the kill is cut off; results of another measurement are refused, never mixed in.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from egem.core.errors import CheckpointError
from egem.core.files import disk_errors_named, write_atomically


class Journal:
    """An append-only file of results with an `id` each.

    Args:
        path: the JSONL file; what is being measured stands beside it, in `<name>.of.json`.
        identity: everything that decides the results: model, data, settings. JSON values.

    Raises:
        CheckpointError: the file holds results of something else, or was damaged before its last line.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self._check(path.with_suffix(".of.json"), identity)
        self.entries: dict[str, dict[str, Any]] = {}
        """Results by id, in the order they were written."""
        self._read()

    def append(self, entries: Sequence[dict[str, Any]]) -> None:
        """Add results and force them to disk."""
        lines = "".join(json.dumps(entry, ensure_ascii=False, sort_keys=True) + "\n" for entry in entries)
        with disk_errors_named(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self.entries.update((entry["id"], entry) for entry in entries)

    def sort(self, ids: Sequence[str]) -> None:
        """Bring the lines into this order, so that the file does not tell how often the run was stopped."""
        if list(self.entries) != list(ids):
            ordered = [self.entries[id] for id in ids]
            lines = "".join(json.dumps(e, ensure_ascii=False, sort_keys=True) + "\n" for e in ordered)
            write_atomically(self.path, lines.encode())
            self.entries = {entry["id"]: entry for entry in ordered}

    def _check(self, path: Path, identity: dict[str, Any]) -> None:
        wanted = json.loads(json.dumps(identity))
        if self.path.exists():
            try:
                found = json.loads(path.read_text())
            except (OSError, json.JSONDecodeError):
                found = {}
            differing = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
            if differing:
                key = differing[0]
                raise CheckpointError(
                    f"{self.path} holds results of another run: {key} was {found.get(key)!r}, "
                    f"now it is {wanted.get(key)!r}. Choose another output folder or remove this one."
                )
            return
        write_atomically(path, (json.dumps(wanted, indent=2) + "\n").encode())

    def _read(self) -> None:
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
                self.entries[entry["id"]] = entry
            except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
                raise CheckpointError(
                    f"{self.path} line {number} is damaged; remove the line, or the file to start again."
                ) from None
