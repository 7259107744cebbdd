"""A benchmark as published: a folder on this machine, or a data set of the Hugging Face hub."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egem.core.errors import RecordError
from egem.evaluation.benchmarks.benchmark import BenchmarkOptions
from egem.evaluation.benchmarks.tables import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a benchmark is.

    Attributes:
        benchmark: its name, for messages.
        hub_id: the data set it is published as.
        folder: its copy on this machine.
    """

    benchmark: str
    hub_id: str
    folder: Path

    @classmethod
    def open(cls, benchmark: str, hub_id: str, options: BenchmarkOptions) -> "Source":
        """The folder that was given, or a snapshot of the hub's data set (from its cache if it is there).

        Raises:
            RecordError: no such folder, or the hub cannot be reached.
        """
        where = options.source or hub_id
        if Path(where).is_dir():
            return cls(benchmark=benchmark, hub_id=hub_id, folder=Path(where))
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", where) or where.startswith("."):
            raise RecordError(
                f"benchmark {benchmark}: {where} is not a folder; give the folder with a copy of {hub_id}, "
                "or the id of a data set on the Hugging Face hub."
            )
        from huggingface_hub import snapshot_download

        try:
            return cls(
                benchmark=benchmark,
                hub_id=hub_id,
                folder=Path(snapshot_download(where, repo_type="dataset")),
            )
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise RecordError(
                f"benchmark {benchmark}: data set {where} cannot be had from the Hugging Face hub ({reason}). "
                f"Download it where there is a network (`hf download {where} --repo-type dataset --local-dir D`) "
                f"and name the folder: {benchmark}=D."
            ) from error

    def files(self, *patterns: str) -> list[Path]:
        """The files of the first pattern that any file matches, sorted.

        Raises:
            RecordError: nothing matches; says what was looked for and what is there.
        """
        for pattern in patterns:
            found = sorted(path for path in self.folder.glob(pattern) if path.is_file())
            if found:
                return found
        raise self.incomplete(f"no file matches {' or '.join(patterns)}")

    def table(self, *patterns: str, columns: Sequence[str], lazy: Sequence[str] = ()) -> Table:
        """The rows of the files of the first pattern that any file matches.

        Raises:
            RecordError: no such file, a damaged one, or one without a needed column.
        """
        table = Table(self.files(*patterns), columns=columns, lazy=lazy)
        if not len(table):
            raise self.incomplete(f"{table.paths[0]} has no rows")
        return table

    def incomplete(self, problem: str) -> RecordError:
        """The error for a folder in which something is missing."""
        there = sorted(path.name + "/" * path.is_dir() for path in self.folder.iterdir())
        listed = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "") or "nothing"
        return RecordError(
            f"benchmark {self.benchmark}: {self.folder} is incomplete: {problem} (there is {listed}). "
            f"Download all of {self.hub_id} again."
        )
