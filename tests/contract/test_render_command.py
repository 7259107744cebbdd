"""`egem data render` with several processes: the same bytes, and nothing left behind when it is stopped."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.processes import is_alive

from egem.recipes.render import CHUNK, RenderConfig, render


def test_workers_change_no_byte(tmp_path):
    config = RenderConfig(num=2 * CHUNK + 3, size=(64, 64), questions=2)
    alone, together = (
        render(RenderConfig(num=config.num, size=config.size, questions=2, workers=workers), tmp_path / name)
        for workers, name in ((1, "alone"), (2, "together"))
    )
    assert alone == together
    for shard in alone.shards:
        assert (tmp_path / "alone" / shard.name).read_bytes() == (
            tmp_path / "together" / shard.name
        ).read_bytes()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are read from Linux's /proc")
def test_a_stopped_command_takes_its_workers_with_it(tmp_path):
    options = ["--num", "5000", "--size", "64", "64", "--workers", "2", "--out", str(tmp_path / "out")]
    command = subprocess.Popen([sys.executable, "-m", "egem", "data", "render", *options])
    children: list[int] = []
    until = time.monotonic() + 120
    while len(children) < 3:  # two workers, and multiprocessing's tracker of resources
        assert command.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
        found = Path(f"/proc/{command.pid}/task/{command.pid}/children")
        children = [int(pid) for pid in found.read_text().split()]
    command.terminate()
    assert command.wait(20) == -signal.SIGTERM
    until = time.monotonic() + 60  # a worker ends after the views that it is at
    while any(is_alive(pid) for pid in children):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert not (tmp_path / "out").exists()
