"""Several processes on one machine that form a gloo group, for tests of what they do together.

They are forked from a server that has imported everything once, so that they start in an instant.
"""

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["egem.training.loop", "egem.models.pretrained", "transformers", "diffusers"])
SECONDS = 280
"""After which a child counts as hanging."""
MEETINGS = 3
"""Attempts to form a group."""


def run_together(
    target: Callable[..., None],
    folder: Path,
    *arguments: Any,
    size: int = 2,
    expected: Any = None,
    abandoned: Sequence[int] = (),
) -> list[str]:
    """Run `target` in processes that form a group; returns what each wrote to stderr.

    Args:
        target: a function of a module.
        folder: for files of this call.
        arguments: of `target`.
        size: number of processes.
        expected: exit code of each; all 0 by default.
        abandoned: ranks that are killed once the others have ended.
    """
    children, outputs = _met(target, folder, arguments, size)
    awaited = [rank for rank in range(size) if rank not in abandoned]
    for rank in awaited:
        children[rank].join(SECONDS)
    hanging = [rank for rank in awaited if children[rank].is_alive()]
    for child in children:
        child.kill()
        child.join()
    texts = [output.read_text() if output.exists() else "" for output in outputs]
    assert not hanging, f"ranks {hanging} hang: {texts}"
    assert [child.exitcode for child in children] == (expected or [0] * size), "\n".join(texts)
    return texts


def _met(
    target: Callable[..., None], folder: Path, arguments: tuple[Any, ...], size: int
) -> tuple[list[Any], list[Path]]:
    """The processes once all are in the group, and where they write.

    Now and then gloo's connections over the loopback are refused while the group forms; that is tried again, what
    happens after it is not.
    """
    for _ in range(MEETINGS):
        number = len(list(folder.glob("meeting-*")))
        meeting = folder / f"meeting-{number}"
        meeting.mkdir()
        outputs = [folder / f"output-{number}-{rank}" for rank in range(size)]
        children = [
            CHILDREN.Process(target=_joined, args=(rank, size, meeting, output, target, *arguments))
            for rank, output in enumerate(outputs)
        ]
        for child in children:
            child.start()
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            joined = [(meeting / f"joined-{rank}").exists() for rank in range(size)]
            if all(joined):
                return children, outputs
            if any(child.exitcode for child, there in zip(children, joined, strict=True) if not there):
                break
            time.sleep(0.02)
        for child in children:
            child.kill()
            child.join()
    texts = [output.read_text() for output in outputs if output.exists()]
    raise AssertionError(f"no group of {size} processes in {MEETINGS} attempts: {texts}")


def _joined(
    rank: int, size: int, meeting: Path, output: Path, target: Callable[..., None], *arguments: Any
) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting / 'store'}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=SECONDS),
    )
    (meeting / f"joined-{rank}").touch()
    target(*arguments)
    if dist.is_initialized():
        dist.destroy_process_group()


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_alive(pid: int) -> bool:
    """Whether a process runs, by Linux's /proc; one that has ended and is only not yet waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@contextmanager
def locked_elsewhere(path: Path) -> Iterator[None]:
    """Another process holds the lock file, because a process never waits for a lock of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    holds = (
        "import fcntl, sys\nfile = open(sys.argv[1], 'w')\nfcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", holds, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        yield
        other.communicate()
