"""Processes that each hold one environment and play episodes; what they have seen comes here to be answered."""

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Final

from egem.core.errors import EgemError, SimulatorError
from egem.environments import ENVIRONMENTS, EnvironmentOptions
from egem.environments.environment import EnvironmentInfo
from egem.policy import Observation
from egem.rollout.episode import Job, Reply, play

_log = logging.getLogger(__name__)

_MAX_LOST: Final = 3
"""Workers that may die one after the other without an episode in between before the rollout gives up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """An observation that waits for a chunk."""

    worker: "Worker"
    job: Job
    observation: Observation
    number: int
    """Of the chunk in its episode."""


@dataclass(eq=False, kw_only=True, slots=True)
class Worker:
    """One process and what it is doing."""

    process: Any
    connection: Connection
    job: Job | None = None
    since: float = 0.0

    def answer(self, reply: Reply) -> None:
        """Give what was asked for."""
        self.since = time.monotonic()
        self.connection.send(reply)


class Workers:
    """A number of processes; use as a context manager.

    Args:
        name: of the environment.
        options: of it.
        count: how many processes.
        timeout_s: a worker that is silent for so long is ended, and its episode counts as a crash.
    """

    def __init__(
        self, name: str, options: EnvironmentOptions, *, count: int, timeout_s: float = 900.0
    ) -> None:
        self._name, self._options, self._timeout_s = name, options, timeout_s
        self._context = multiprocessing.get_context("spawn")
        self._lost = 0
        self.workers: list[Worker] = []
        try:
            self.workers.append(self._start())
            self.info = self._ready(self.workers[0])
            """The environment's, as the first worker told it."""
            self.workers += [self._start() for _ in range(count - 1)]
            for worker in self.workers[1:]:
                self._ready(worker)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        for worker in self.workers:
            worker.connection.close()
        for worker in self.workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def play(self, jobs: list[Job]) -> Iterator[dict[str, Any] | list[Question]]:
        """Play all jobs.

        Yields:
            Journal entries as episodes end, and lists of questions that the caller must answer before it goes on.

        Raises:
            ConfigError: a worker says that the user must change something.
            SimulatorError: workers die again and again.
        """
        waiting = list(reversed(jobs))
        for worker in self.workers:
            self._give(worker, waiting)
        while busy := [worker for worker in self.workers if worker.job is not None]:
            ready = wait([worker.connection for worker in busy], timeout=5.0)
            questions = []
            for worker in busy:
                if worker.connection not in ready:
                    if time.monotonic() - worker.since > self._timeout_s:
                        yield self._replace(worker, f"no answer for {self._timeout_s:g} s")
                        self._give(worker, waiting)
                    continue
                job = worker.job
                assert job is not None
                try:
                    kind, *content = worker.connection.recv()
                except (EOFError, OSError):
                    yield self._replace(worker, "")
                    self._give(worker, waiting)
                    continue
                worker.since = time.monotonic()
                if kind == "question":
                    questions.append(
                        Question(worker=worker, job=job, observation=content[0], number=content[1])
                    )
                elif kind == "error":
                    raise content[0](content[1])
                else:
                    self._lost = 0 if content[0]["status"] != "crash" else self._lost
                    yield content[0]
                    self._give(worker, waiting)
            if questions:
                yield questions

    def _give(self, worker: Worker, waiting: list[Job]) -> None:
        worker.job = waiting.pop() if waiting else None
        worker.since = time.monotonic()
        if worker.job is not None:
            worker.connection.send(worker.job)

    def _replace(self, worker: Worker, reason: str) -> dict[str, Any]:
        """Start a process anew; the entry of the episode that it was playing."""
        job = worker.job
        assert job is not None
        worker.process.kill()
        worker.process.join()
        reason = reason or f"the simulator's process ended (exit code {worker.process.exitcode})"
        _log.warning("%s: %s; started anew", job.id, reason)
        self._lost += 1
        if self._lost > _MAX_LOST:
            raise SimulatorError(
                f"{self._lost} simulator processes were lost one after the other, the last in {job.id} ({reason}). "
                "Play it with --workers 0 to see where it ends; the episodes so far are kept."
            )
        worker.connection.close()
        fresh = self._start()
        worker.process, worker.connection = fresh.process, fresh.connection
        self._ready(worker)
        return {
            "id": job.id,
            "task": job.task,
            "seed": job.seed,
            "status": "crash",
            "detail": reason,
            "steps": 0,
            "seconds": 0.0,
            "waited": 0.0,
        }

    def _start(self) -> Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_work, args=(there, self._name, self._options), daemon=False)
        process.start()
        there.close()
        return Worker(process=process, connection=here)

    def _ready(self, worker: Worker) -> EnvironmentInfo:
        try:
            kind, *content = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join(5)
            raise SimulatorError(
                f"environment '{self._name}' ended while it was being opened (exit code {worker.process.exitcode})."
            ) from None
        if kind == "error":
            raise content[0](content[1])
        return content[0]


def _end_with_parent() -> None:
    """End this process, in the middle of whatever it does, when the one that started it is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(connection: Connection, name: str, options: EnvironmentOptions) -> None:
    """A worker's life: open the environment, then play what comes until the other side hangs up.

    Whatever else a simulator throws ends the process with its traceback, which the other side counts as a crash.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        environment = ENVIRONMENTS[name].open(options)
    except EgemError as error:
        connection.send(("error", type(error), str(error)))
        return
    try:
        connection.send(("ready", environment.info))

        def ask(observation: Observation, number: int) -> Reply:
            connection.send(("question", observation, number))
            return connection.recv()

        while True:
            job = connection.recv()
            try:
                entry = play(environment, job, ask)
            except EgemError as error:
                connection.send(("error", type(error), str(error)))
                return
            connection.send(("entry", entry))
            if entry["status"] == "crash":
                environment.close()
                environment = ENVIRONMENTS[name].open(options)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass
    finally:
        environment.close()
