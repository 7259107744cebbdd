"""The perceptual hashes of the pictures of a record folder, kept beside the shards: computed once, taken up again.

FOLDER/hashes/<digest of the shards>/part-00012.bin    rows of `_ROW`, a picture each
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt64
from tqdm import tqdm

from egem.core.errors import ConfigError, RecordError
from egem.core.files import write_atomically
from egem.data_engine.curation.perceptual_hash import hash_of_bytes
from egem.data_engine.engine import EngineConfig, open_engine
from egem.records import ImageFile, Record
from egem.shards import RecordGroups

FOLDER = "hashes"
GROUPS_PER_PART = 500

_ROW = np.dtype([("group", "<i8"), ("place", "<i4"), ("decodable", "?"), ("hash", "<u8")])


@dataclass(frozen=True, kw_only=True)
class PictureHashes:
    """Hashes of all pictures of some groups, group after group, in the records' order of images."""

    group: Int[np.ndarray, "picture"]
    """Number of its group."""
    place: Int[np.ndarray, "picture"]
    """Which image of the group."""
    hash: UInt64[np.ndarray, "picture"]
    """0 where it cannot be decoded."""
    decodable: Bool[np.ndarray, "picture"]

    @property
    def unreadable(self) -> int:
        """Pictures that cannot be decoded."""
        return int((~self.decodable).sum())


@dataclass(frozen=True, kw_only=True)
class _HashPart:
    """What a worker does: the hashes of some groups of a folder, written to a file."""

    folder: Path
    target: Path
    num_groups: int

    @cached_property
    def groups(self) -> RecordGroups:
        return RecordGroups([self.folder])

    def __call__(self, part: int) -> int:
        start = part * GROUPS_PER_PART
        rows = []
        for number in range(start, min(start + GROUPS_PER_PART, self.num_groups)):
            rows += [(number, *row) for row in hashes_of(self.groups[number])]
        path = _part_file(self.target, part)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, np.array(rows, _ROW).tobytes())
        return part


def hashes_of(records: Sequence[Record]) -> Iterator[tuple[int, bool, int]]:
    """Place, whether it can be decoded, and hash of each picture of a group."""
    for place, image in enumerate(records[0].images):
        try:
            yield place, True, hash_of_bytes(_bytes(image), f"group '{records[0].group}'")
        except RecordError:
            yield place, False, 0


def picture_hashes(folder: Path, engine: EngineConfig | None = None) -> PictureHashes:
    """The hashes of a folder's pictures; what was computed before is read.

    Args:
        folder: of records, on a local or shared disk.
        engine: who computes.

    Raises:
        ConfigError: the folder lies behind an address.
        RecordError: a shard is damaged.
    """
    groups = RecordGroups([folder])
    if groups.places[0].is_remote:
        raise ConfigError(f"{folder}: hashes are kept beside the records; copy the folder to a disk first.")
    target = Path(folder).absolute() / FOLDER / groups.fingerprint[:16]
    parts = range(-(-len(groups) // GROUPS_PER_PART))
    todo = [part for part in parts if not _part_file(target, part).exists()]
    work = _HashPart(folder=Path(folder).absolute(), target=target, num_groups=len(groups))
    if todo:
        with tqdm(total=len(parts), initial=len(parts) - len(todo), desc="hash", disable=None) as bar:
            for _ in open_engine(engine or EngineConfig()).map(work, todo):
                bar.update()
    rows = np.concatenate([np.frombuffer(_part_file(target, part).read_bytes(), _ROW) for part in parts])
    return PictureHashes(
        group=rows["group"].astype(np.int64),
        place=rows["place"].astype(np.int64),
        hash=rows["hash"].astype(np.uint64),
        decodable=rows["decodable"].astype(bool),
    )


def _part_file(target: Path, part: int) -> Path:
    return target / f"part-{part:05d}.bin"


def _bytes(image: ImageFile) -> bytes:
    if image.data is not None:
        return image.data
    assert image.path is not None
    try:
        return Path(image.path).read_bytes()
    except OSError as error:
        raise RecordError(f"{image.path} cannot be read: {error.strerror}.") from error
