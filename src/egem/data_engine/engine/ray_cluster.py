"""Actors of a Ray cluster. Input and output must lie where all its machines see them, on a shared disk."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from egem.core.errors import ConfigError, EgemError
from egem.data_engine.engine.local import answer_of

T = TypeVar("T")
R = TypeVar("R")

_RESTARTS = 3
"""How often an actor, or a value whose actor was lost with its machine, is tried again."""
_AHEAD = 2
"""Values that an actor is given before its first answer, so that it never waits for the network."""


class RayEngine:
    """One actor a worker.

    Args:
        workers: actors; 0 means one per processor of the cluster, or per share of a GPU if they need one.
        address: of the cluster; `auto` or `local` as Ray understands them.
        gpus_per_worker: share of a GPU for each.

    Raises:
        ConfigError: Ray is not installed, no cluster answers, or it has no such GPUs.
    """

    def __init__(self, *, workers: int = 0, address: str = "auto", gpus_per_worker: float = 0.0) -> None:
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ConfigError(
                "the engine 'ray' needs Ray: pip install 'egem[ray]', or use --engine local."
            ) from None
        self._ray: Any = ray
        if not ray.is_initialized():
            try:
                own = {"include_dashboard": False} if address == "local" else {}
                ray.init(address=address, log_to_driver=False, logging_level="warning", **own)
            # Ray itself raises bare exceptions here.
            except Exception as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
                raise ConfigError(
                    f"no Ray cluster at '{address}' ({reason}); start one with `ray start --head`, name it with "
                    "--address, or give --address local."
                ) from error
        found = ray.cluster_resources()
        kind, share = ("GPU", gpus_per_worker) if gpus_per_worker else ("CPU", 1.0)
        possible = int(found.get(kind, 0) / share)
        if not possible:
            raise ConfigError(
                f"the Ray cluster at '{address}' has {found.get(kind, 0):g} {kind}s, a worker needs {share:g}."
            )
        self.workers = min(workers or possible, possible)
        self.gpus_per_worker = gpus_per_worker

    def map(self, work: Callable[[T], R], values: Iterable[T]) -> Iterator[R]:
        """See `Engine`."""
        ray = self._ray
        actor = ray.remote(
            num_cpus=0 if self.gpus_per_worker else 1,
            num_gpus=self.gpus_per_worker,
            max_restarts=_RESTARTS,
            max_task_retries=_RESTARTS,
        )(_Worker)
        shared = ray.put(work)
        actors: list[Any] = []
        running: dict[Any, Any] = {}
        remaining = iter(values)
        exhausted = False
        try:
            while running or not exhausted:
                while not exhausted and len(running) < _AHEAD * self.workers:
                    try:
                        value = next(remaining)
                    except StopIteration:
                        exhausted = True
                        break
                    if len(actors) < self.workers:
                        actors.append(actor.remote(shared))
                    loads = {id(each): 0 for each in actors}
                    for each in running.values():
                        loads[id(each)] += 1
                    chosen = min(actors, key=lambda each: loads[id(each)])
                    running[chosen.run.remote(value)] = chosen
                if running:
                    (done,), _ = ray.wait(list(running), num_returns=1)
                    running.pop(done)
                    yield self._answer(done)
        finally:
            for each in actors:
                ray.kill(each)

    def _answer(self, reference: Any) -> Any:
        try:
            succeeded, answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise EgemError(
                f"a Ray worker was lost {_RESTARTS + 1} times ({reason}); what is finished is kept: see to the "
                "cluster's memory and run the same command again."
            ) from error
        if not succeeded:
            raise answer
        return answer


class _Worker:
    """What an actor is."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work

    def run(self, value: Any) -> tuple[bool, Any]:
        return answer_of(self._work, value)
