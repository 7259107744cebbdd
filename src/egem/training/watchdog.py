"""Ends a run that has come to a halt, and says which process the others are waiting for.

A process that hangs (a dead disk, a stuck worker, a stopped process) makes all others wait inside a collective,
where no exception can reach them. So each process notes what it is doing, a thread passes that on through
torch.distributed's store, and when nothing has moved for too long the threads compare notes and end the run.
"""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store

from egem.training.distributed import World

EXIT_CODE = 2
_SLACK = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Note:
    """Where a process stands."""

    count: int
    """Things begun so far; every process begins the same ones in the same order."""
    step: int
    """Step of the run that is under way."""
    doing: str
    """What it has begun: `loader`, `forward`, ..."""
    ticks: int
    """Grows while the process lives, whatever it does."""

    def __str__(self) -> str:
        """In the store."""
        return f"{self.count} {self.step} {self.ticks} {self.doing}"

    @classmethod
    def parse(cls, text: str) -> "Note":
        """The inverse of `str`."""
        count, step, ticks, doing = text.split(" ", maxsplit=3)
        return cls(count=int(count), step=int(step), ticks=int(ticks), doing=doing)


class Watchdog:
    """Used as a context manager around training; in a single process it does nothing.

    Args:
        world: all processes.
        minutes: after which a run that does not move is ended.
        run: folder that gets `stalled-rank-<n>.txt`, the Python stacks of each process that still can.
    """

    def __init__(self, world: World, *, minutes: float, run: Path) -> None:
        self._world = world
        self._limit = 60 * minutes
        self._pause = min(5.0, max(1.0, self._limit / 10))
        self._run = run
        self._count, self._step, self._doing, self._ticks = 0, 0, "start", 0
        self._moved = time.monotonic()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Watchdog":
        """Start watching."""
        if self._world.size > 1:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def begins(self, doing: str, *, step: int | None = None) -> None:
        """Note what this process does from now on.

        Args:
            doing: a word.
            step: of the run, if it is another one than before.
        """
        self._count += 1
        self._doing = doing
        if step is not None:
            self._step = step
        self._moved = time.monotonic()

    def _watch(self) -> None:
        store = PrefixStore("egem-watchdog", _get_default_store().clone())  # pyright: ignore
        self._tell(store)
        while not self._done.wait(self._pause):
            self._tell(store)
            if time.monotonic() - self._moved > self._limit:
                self._end(store)

    def _tell(self, store: Store) -> None:
        self._ticks += 1
        note = Note(count=self._count, step=self._step, doing=self._doing, ticks=self._ticks)
        # The store ends with the process (or launcher) that holds it.
        with contextlib.suppress(RuntimeError):
            store.set(str(self._world.rank), str(note))

    def _end(self, store: Store) -> None:
        with (self._run / f"stalled-rank-{self._world.rank}.txt").open("w") as file:
            faulthandler.dump_traceback(file)
        before = self._notes(store)
        # Who is alive moves on in the meantime.
        for _ in range(3):
            self._tell(store)
            time.sleep(self._pause)
        after = self._notes(store)
        silent = [
            rank
            for rank, note in enumerate(after)
            if rank != self._world.rank and (note is None or note == before[rank])
        ]
        if self._done.is_set():
            return
        if self._world.rank == min(set(range(self._world.size)) - set(silent)):
            text = describe_stall(after, silent, seconds=self._limit)
            sys.stderr.write(f"error: {text} The stacks are in {self._run}/stalled-rank-*.txt.\n")
            sys.stderr.flush()
        else:
            time.sleep(self._pause)  # the message first: a launcher ends all when one ends
        os._exit(EXIT_CODE)

    def _notes(self, store: Store) -> list[Note | None]:
        ranks = [str(rank) for rank in range(self._world.size)]
        try:
            return [Note.parse(store.get(rank).decode()) if store.check([rank]) else None for rank in ranks]
        except RuntimeError:
            return [None] * self._world.size


def describe_stall(notes: Sequence[Note | None], silent: Sequence[int], *, seconds: float) -> str:
    """What to tell the user.

    Args:
        notes: of each process; None where there was never one.
        silent: ranks that no longer answer.
        seconds: since anything moved.
    """
    known = [note for note in notes if note is not None]
    step = min((note.step for note in known), default=0)
    head = f"nothing has moved for {seconds:g} s in step {step}: "
    if silent:
        last = [
            f"rank {rank}"
            + ("" if (note := notes[rank]) is None else f" (last seen in step {note.step}, {note.doing})")
            for rank in silent
        ]
        return f"{head}{', '.join(last)} no longer answers; look at its machine."
    behind = min(note.count for note in known)
    late = [rank for rank, note in enumerate(notes) if note is not None and note.count == behind]
    if len(late) == len(notes):
        return f"{head}all processes are in '{known[0].doing}'; look at the network between them."
    waiting = sorted({note.doing for note in known if note.count > behind})
    names = ", ".join(f"rank {rank} (in '{notes[rank].doing}')" for rank in late)  # pyright: ignore
    return (
        f"{head}the others wait in '{', '.join(waiting)}' for {names}; look at it, or raise stall_minutes if it "
        "only needs longer."
    )


def collective_timeout(minutes: float) -> timedelta:
    """For process groups: later than the watchdog, whose message is the better one."""
    return timedelta(minutes=minutes) + _SLACK
