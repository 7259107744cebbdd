"""Which engine works, and the one thing that engines do."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, runtime_checkable

from egem.core.errors import ConfigError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Who does the work."""

    engine: Literal["local", "ray"] = "local"
    """local: processes of this machine; ray: actors of a Ray cluster (needs the extra `ray`)."""
    workers: int = 0
    """Processes or actors; 0 means one per processor of the machine or cluster."""
    address: str = "auto"
    """Ray's: of the cluster's head node; `auto` finds the one that runs here, `local` starts one on this machine."""
    gpus_per_worker: float = 0.0
    """Ray's: share of a GPU that each actor is given."""
    items_per_part: int = 0
    """Items whose records become one shard, the unit that is repeated after a crash; 0: what suits the command."""

    @property
    def in_this_process(self) -> bool:
        """Whether the work is done by the caller's own process, so that what it has loaded is used."""
        return self.engine == "local" and self.workers == 1

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigError: names the option.
        """
        for name in ("workers", "gpus_per_worker", "items_per_part"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 0 or more.")


@runtime_checkable
class Engine(Protocol):
    """Calls a function with many values, in some order, somewhere."""

    def map(self, work: Callable[[T], R], values: Iterable[T]) -> Iterator[R]:
        """The results, in the order in which they are done.

        Values are taken one at a time as workers become free, so an endless iterable needs little memory. An exception
        of `work` is raised here and ends the rest.

        Args:
            work: can be pickled; each worker keeps its own copy for all its values, so what it caches stays.
            values: can be pickled.

        Raises:
            EgemError: a worker died.
        """
        ...


def open_engine(config: EngineConfig) -> Engine:
    """The engine of a configuration.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers at the address.
    """
    if config.engine == "ray":
        from egem.data_engine.engine.ray_cluster import RayEngine

        return RayEngine(
            workers=config.workers, address=config.address, gpus_per_worker=config.gpus_per_worker
        )
    from egem.data_engine.engine.local import LocalEngine

    return LocalEngine(workers=config.workers)
