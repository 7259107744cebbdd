"""What a benchmark is: a name and a folder of records."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from egem.core.errors import ConfigError
from egem.records import Record
from egem.scoring import score
from egem.shards import RecordGroups


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """How large a benchmark to make, where its size is free."""

    cache: Path
    """Folder that rendered or converted benchmarks are kept in."""
    num_groups: int | None = None
    """Number of views (images with their questions); None: the benchmark's own."""
    questions_per_group: int = 12
    """Of rendered benchmarks."""
    image_size: tuple[int, int] = (96, 96)
    """Height and width in pixels, of rendered benchmarks."""
    cameras: tuple[str, ...] = ("front", "side", "wrist")
    """Of rendered benchmarks."""
    skills: tuple[str, ...] = ()
    """Of rendered benchmarks: what to ask; if empty, what is asked by default."""
    seed: int = 0
    """Of rendered benchmarks; every split keeps its seeds apart from those of training by itself."""
    source: str | None = None
    """Of published benchmarks: folder or hub id, where it is not the usual one."""
    rule: str | None = None
    """Of published benchmarks: whose way of asking and scoring; the benchmark's first when None."""
    frames: int | None = None
    """Of published benchmarks with videos: frames of each, where it is not the rule's number."""

    def __post_init__(self) -> None:
        """Refuse sizes that mean nothing.

        Raises:
            ConfigError: names the option.
        """
        for name in ("num_groups", "questions_per_group"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value} must be at least 1.")


@runtime_checkable
class Groups(Protocol):
    """Records in groups that share their images: a folder of them, or a published benchmark."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any: ...

    @property
    def fingerprint(self) -> str:
        """Equal only for equal records in equal order."""
        ...


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Questions to be scored, in groups that share their images."""

    name: str
    groups: Groups
    num_groups: int
    """Only the first so many groups count."""
    depth_range: tuple[float, float] | None = None
    """Metres that aligned depth maps are clipped to; None: the range of the true ones."""

    @classmethod
    def from_folder(cls, name: str, folder: Path, *, num_groups: int | None = None) -> "Benchmark":
        """The benchmark made of a folder of records.

        Raises:
            RecordError: not such a folder, or a damaged one.
        """
        groups = RecordGroups([folder])
        return cls(name=name, groups=groups, num_groups=min(len(groups), num_groups or len(groups)))

    @property
    def fingerprint(self) -> str:
        """Equal only for the same questions in the same order."""
        return f"{self.groups.fingerprint}/{self.num_groups}"

    def records(self) -> Iterator[Record]:
        """Every question, group after group."""
        for index in range(self.num_groups):
            yield from self.groups[index]

    def questions(self) -> Iterator[Record]:
        """Every question in the same order, perhaps without its images: cheap to go through."""
        yield from self.records()

    def load(self, record: Record) -> Record:
        """One of `questions` with its images."""
        return record

    def check_media(self) -> None:
        """Make sure that all images are there before anything is asked; a folder of records holds its own."""

    def score(self, record: Record, text: str) -> dict[str, float]:
        """How right an answer is: "score" in [0, 1], and beside it whatever else the benchmark's rule gives.

        Raises:
            RecordError: a region of right answers is missing or cannot be decoded.
        """
        return {"score": score(record.answer, text)}

    def group_heads(self) -> Iterator[Record]:
        """One record of each group, for its images: the first with depth, else the first."""
        for index in range(self.num_groups):
            group = self.groups[index]
            yield next((record for record in group if any(record.depths)), group[0])
