"""Worker processes of this machine."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from egem.core.errors import EgemError

T = TypeVar("T")
R = TypeVar("R")

_END = object()


class LocalEngine:
    """Processes that are handed one value at a time; a single value, or one worker, is served in this process.

    Args:
        workers: processes; 0 means one per processor that this process may use.
    """

    def __init__(self, *, workers: int = 0) -> None:
        self.workers = workers or len(os.sched_getaffinity(0))

    def map(self, work: Callable[[T], R], values: Iterable[T]) -> Iterator[R]:
        """See `Engine`."""
        remaining = iter(values)
        first = list(islice(remaining, 2))
        if self.workers == 1 or len(first) < 2:
            yield from map(work, chain(first, remaining))
            return
        pool = _Pool(work)
        try:
            yield from self._served(pool, chain(first, remaining))
        finally:
            pool.close()

    def _served(self, pool: "_Pool", values: Iterator[Any]) -> Iterator[Any]:
        idle: list[Connection] = []
        busy: list[Connection] = []
        value = next(values, _END)
        while busy or value is not _END:
            while value is not _END and (idle or len(busy) < self.workers):
                pipe = idle.pop() if idle else pool.start()
                pool.send(pipe, value)
                busy.append(pipe)
                # Fetched before a worker is waited for, so that the next one to be free finds it ready.
                value = next(values, _END)
            for pipe in multiprocessing.connection.wait(busy):
                assert isinstance(pipe, Connection)
                busy.remove(pipe)
                idle.append(pipe)
                yield pool.receive(pipe)


class _Pool:
    """Processes and the pipes to them."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work = work
        # Spawned, not forked: neither threads nor a GPU of the caller survive a fork.
        self.context = multiprocessing.get_context("spawn")
        self.processes: dict[Connection, SpawnProcess] = {}

    def start(self) -> Connection:
        own, other = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(self.work, other), daemon=True)
        process.start()
        # With this end closed here, a process that dies, or whose parent does, is noticed by the other side.
        other.close()
        self.processes[own] = process
        return own

    def send(self, pipe: Connection, value: Any) -> None:
        try:
            pipe.send(value)
        except (BrokenPipeError, ConnectionResetError):
            raise self._died(pipe) from None

    def receive(self, pipe: Connection) -> Any:
        try:
            succeeded, answer = pipe.recv()
        except (EOFError, ConnectionResetError):
            raise self._died(pipe) from None
        if not succeeded:
            raise answer
        return answer

    def close(self) -> None:
        for pipe, process in self.processes.items():
            pipe.close()
            process.terminate()
        for process in self.processes.values():
            process.join()

    def _died(self, pipe: Connection) -> EgemError:
        process = self.processes[pipe]
        process.join()
        return EgemError(
            f"a worker process ended with exit code {process.exitcode} (-9: killed, often for lack of memory); run the "
            "same command again, perhaps with fewer --workers: imports and generation go on where they stopped."
        )


def answer_of(work: Callable[[Any], Any], value: Any) -> tuple[bool, Any]:
    """Whether a call succeeded, and its result or an exception that can travel between processes."""
    try:
        return True, work(value)
    except EgemError as error:
        return False, error
    except Exception:  # noqa: BLE001  raised again by the caller, with the traceback that would be lost on the way
        return False, RuntimeError(f"in a worker:\n{traceback.format_exc()}")


def _serve(work: Callable[[Any], Any], pipe: Connection) -> None:
    """What a worker process does until the other end of its pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            value = pipe.recv()
        except EOFError:
            return
        answer = answer_of(work, value)
        try:
            pipe.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return
