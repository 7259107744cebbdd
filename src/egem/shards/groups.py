"""Random access to groups of records, over one or more folders."""

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from egem.core.errors import RecordError
from egem.records import SCHEMA, Record
from egem.shards.index import read_index
from egem.shards.manifest import Manifest, ShardInfo, check_content, check_size, check_sizes, manifest_of
from egem.shards.parquet import ShardFile, open_shard, to_record
from egem.shards.storage import FileInfo, Storage, storage

_TRAINING = ("id", "source", "category", "skill", "group", "images", "timestamps", "messages")
_OPEN_FILES = 128


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of one of the folders."""

    place: Storage
    info: ShardInfo
    first_group: int
    """Number of its first group among all groups."""
    num_groups: int
    file: FileInfo
    """What the storage said about it when it was opened."""
    foreign: bool
    """Written by another tool, so each of its records is checked when it is read."""


class RecordGroups(Sequence[tuple[Record, ...]]):
    """Random access to the groups of one or more record folders.

    Only the index of each folder is read at the start and only four numbers a group are kept, so a million
    rows open within a second. Reads bring one row group; the last few stay in memory.

    Args:
        folders: paths or addresses, read as if they were one after another.
        cached_row_groups: how many row groups stay decoded.
        cache: local folder for copies of remote shards; without it only what is needed is fetched.

    Raises:
        RecordError: not a record folder, or a shard is missing, truncated or of another format.
    """

    def __init__(
        self, folders: Sequence[Path | str], *, cached_row_groups: int = 8, cache: Path | None = None
    ) -> None:
        if not folders:
            raise RecordError("no record folder was given.")
        self.folders = tuple(folders)
        self.places = tuple(storage(folder, cache=cache) for folder in folders)
        self.manifests: list[Manifest] = []
        self.shards: list[Shard] = []
        names: dict[str, int] = {}
        columns: dict[str, list[np.ndarray]] = {name: [] for name in ("shard", "start", "stop", "source")}
        digest = hashlib.sha256()
        for place in self.places:
            manifest = manifest_of(place)
            files = check_sizes(place, manifest.shards)
            index = read_index(place, manifest)
            counts = np.bincount(index.shard, minlength=len(manifest.shards))
            columns["shard"].append(index.shard + np.int32(len(self.shards)))
            columns["start"].append(index.start)
            columns["stop"].append(index.stop)
            codes = np.array([names.setdefault(name, len(names)) for name in index.sources], np.int32)
            columns["source"].append(codes[index.source])
            for info, count in zip(manifest.shards, counts.tolist(), strict=True):
                first = self.shards[-1].first_group + self.shards[-1].num_groups if self.shards else 0
                self.shards.append(
                    Shard(
                        place=place,
                        info=info,
                        first_group=first,
                        num_groups=count,
                        file=files[info.name],
                        foreign=manifest.is_foreign,
                    )
                )
                digest.update(info.sha256.encode())
            self.manifests.append(manifest)
        self._shard, self._start, self._stop, source = map(np.concatenate, columns.values())
        self.source = source
        """Place in `sources` of each group (of its first record), int32."""
        self.sources = tuple(names)
        """Names of all sources."""
        self.fingerprint = digest.hexdigest()
        """Hash of the shards' content: equal fingerprints mean equal records in equal order."""
        self._columns: tuple[str, ...] = tuple(SCHEMA.names)
        self._cached_row_groups = cached_row_groups
        self._forget_files()

    def __len__(self) -> int:
        return len(self._start)

    def __getitem__(self, index: Any) -> Any:
        """The records of one group, in stored order (equal images share their bytes).

        Raises:
            RecordError: the shard is damaged, or a record is not as docs/record-format.md says.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        shard, start, stop = int(self._shard[index]), int(self._start[index]), int(self._stop[index])
        bounds = self._open(shard)[1]
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
            for file in (*(row["images"] or ()), *(row.get("depths") or ())):
                if file is not None and file["bytes"] is not None:
                    file["bytes"] = seen.setdefault(file["bytes"], file["bytes"])
        place, foreign = self.shards[shard].place, self.shards[shard].foreign
        return tuple(to_record(row, place, check=foreign) for row in rows)

    def for_training(self, *, with_depth: bool) -> "RecordGroups":
        """The same groups without what training never looks at: answers, meta data, cameras.

        Args:
            with_depth: False leaves the depth maps out too.
        """
        view = copy.copy(self)
        # A record has to have an answer; what training supervises stands in the messages.
        answer = (
            ("answer",) if any(shard.foreign for shard in self.shards) else ("answer.kind", "answer.text")
        )
        view._columns = (*_TRAINING, *answer, *(("depths",) if with_depth else ()))
        view._forget_files()
        return view

    def locate(self, index: int) -> tuple[int, int]:
        """Number of a group's shard in `shards`, and the group's place among those of the shard."""
        shard = int(self._shard[index])
        return shard, index - self.shards[shard].first_group

    @property
    def group_sizes(self) -> np.ndarray:
        """Records of each group, int64."""
        return self._stop - self._start

    def groups_by_source(self) -> dict[str, int]:
        """How many groups each source has."""
        counts = np.bincount(self.source, minlength=len(self.sources)).tolist()
        return dict(zip(self.sources, counts, strict=True))

    @property
    def stamp(self) -> str:
        """Hash of the shards' names, sizes and times of change; equal stamps mean that none was written again."""
        said = [(shard.info.name, shard.file.size, shard.file.stamp) for shard in self.shards]
        return hashlib.sha256(repr(said).encode()).hexdigest()

    def check_content(self) -> None:
        """Read every shard and compare it with the manifest's hash.

        Raises:
            RecordError: names the first shard whose bytes are not those that were written.
        """
        for shard in self.shards:
            check_content(shard.place, shard.info)

    def check_unchanged(self) -> None:
        """Make sure that every shard still is the file that was opened.

        A file with another time of change but the same content passes.

        Raises:
            RecordError: names the shard that is gone or was written again.
        """
        for place in self.places:
            own = [number for number, shard in enumerate(self.shards) if shard.place is place]
            found = place.stat([self.shards[number].info.name for number in own])
            for number in own:
                shard = self.shards[number]
                now = found.get(shard.info.name)
                if now != shard.file:
                    now = check_size(place, shard.info, now)
                    check_content(place, shard.info)
                    # Its content is read once, not at every later check.
                    self.shards[number] = replace(shard, file=now)

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes open their own files."""
        return {**self.__dict__, "_files": OrderedDict(), "_tables": OrderedDict()}

    def _forget_files(self) -> None:
        self._files: OrderedDict[int, tuple[ShardFile, np.ndarray]] = OrderedDict()
        self._tables: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()

    def _open(self, number: int) -> tuple[ShardFile, np.ndarray]:
        if number not in self._files:
            shard = self.shards[number]
            file = open_shard(shard.place, shard.info.name, shard.info.sha256)
            self._files[number] = file, file.row_group_starts
            while len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)
        self._files.move_to_end(number)
        return self._files[number]

    def _table(self, shard: int, row_group: int) -> pa.Table:
        key = (shard, row_group)
        if key not in self._tables:
            self._tables[key] = self._open(shard)[0].read(row_group, self._columns)
            while len(self._tables) > self._cached_row_groups:
                self._tables.popitem(last=False)
        self._tables.move_to_end(key)
        return self._tables[key]


def iterate_records(folder: Path | str) -> Iterator[Record]:
    """All records of a folder in stored order, one row group in memory at a time; paths are resolved.

    Raises:
        RecordError: a shard is damaged or of another format, or a record is not as docs/record-format.md says.
    """
    place = storage(folder)
    manifest = manifest_of(place)
    check_sizes(place, manifest.shards)
    for info in manifest.shards:
        file = open_shard(place, info.name, info.sha256)
        for index in range(file.parquet.num_row_groups):
            for row in file.read(index, SCHEMA.names).to_pylist():
                yield to_record(row, place, check=manifest.is_foreign)
