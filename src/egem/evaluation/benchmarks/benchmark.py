"""What a benchmark is: a name and a folder of records."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from egem.core.errors import ConfigError
from egem.records import Record
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
    seed: int = 0
    """Of rendered benchmarks; every split keeps its seeds apart from those of training by itself."""

    def __post_init__(self) -> None:
        """Refuse sizes that mean nothing.

        Raises:
            ConfigError: names the option.
        """
        for name in ("num_groups", "questions_per_group"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value} must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Questions to be scored, in groups that share their images."""

    name: str
    groups: RecordGroups
    num_groups: int
    """Only the first so many groups count."""

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

    def group_heads(self) -> Iterator[Record]:
        """One record of each group, for its images: the first with depth, else the first."""
        for index in range(self.num_groups):
            group = self.groups[index]
            yield next((record for record in group if any(record.depths)), group[0])
