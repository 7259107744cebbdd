"""Simulators in processes of their own: what they say, and how their deaths are told from mistakes."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.processes import is_alive

from egem.core.errors import ConfigError, ProtocolError, SimulatorError
from egem.environments.environment import DEMONSTRATION_SEED, EnvironmentOptions
from egem.environments.libero import ACTION_SPACE, open_libero
from egem.environments.remote_simulator import RemoteSimulator
from egem.environments.simpler import ACTION_SPACE as WIDOWX_SPACE
from egem.environments.simpler import open_simpler
from egem.environments.simulator_process import SimulatorProcess

FAKE = Path(__file__).resolve().parents[1] / "fake_simulator.py"


def start(timeout_s: float = 120.0) -> RemoteSimulator:
    process = SimulatorProcess("Line", [sys.executable, str(FAKE)], timeout_s=timeout_s)
    return RemoteSimulator("line", process, action_space=ACTION_SPACE, limits=(1.0,) * 7, control_hz=20.0)


@pytest.fixture(scope="module")
def line():
    environment = start()
    yield environment
    environment.close()


def action(**entries: float) -> np.ndarray:
    chosen = np.zeros(7)
    for name, value in entries.items():
        chosen["xyzabg".index(name) if name != "g" else 6] = value
    return chosen


def test_demonstrations_begin_elsewhere_on_both_sides_of_the_pipe():
    simulators = FAKE.parents[1] / "packages" / "egem-simulators" / "src" / "egem_simulators"
    source = (simulators / "channel.py").read_text()
    assert f"\nDEMONSTRATION_SEED = {DEMONSTRATION_SEED:_}\n" in source


def test_an_episode(line):
    assert line.info.tasks == ("go/0", "go/1")
    assert line.info.note == "a point on a line"
    begun = line.reset("go/0", 1)
    assert (begun.max_steps, begun.meta, begun.observation.instruction) == (9, {"task": "go/0"}, "go right")
    assert begun.observation.images["image"].shape == (4, 6, 3)
    assert begun.observation.images["image"][0, 0, 0] == 10
    assert not line.step(action(x=0.5)).success
    assert line.step(action(x=40.0)).over  # moved to the limit, 1
    seen = line.observe()
    np.testing.assert_allclose(seen.state, [2.5, 0, 0])
    assert seen.depths["image"].dtype == np.float32
    assert line.failure().stage == "reach"
    assert [step.subtask for step in line.expert(1)] == ["go"] * 3
    assert line.calibrations()["image"].camera_from_base.shape == (4, 4)


def test_mistakes_are_told_from_crashes(line):
    with pytest.raises(ConfigError, match="seed 99"):
        line.reset("go/0", 99)
    with pytest.raises(ConfigError, match="Did you mean 'go/"):
        line.reset("go/7", 0)
    with pytest.raises(ProtocolError, match="stuck"):
        line.step(action(g=-1))
    for wrong in (np.zeros(6), np.full(7, np.nan)):
        with pytest.raises(ProtocolError, match="7 finite numbers"):
            line.step(wrong)
    with pytest.raises(SimulatorError, match="physics exploded"):
        line.step(action(b=0) + np.eye(7)[5])
    assert line.reset("go/1", 0).max_steps == 9  # it lives


def test_a_death_and_a_hang_are_named():
    dying = start()
    with pytest.raises(SimulatorError, match=r"exit code 7(.|\n)*last words before the fall"):
        dying.step(np.eye(7)[4])
    with pytest.raises(SimulatorError, match="died"):
        dying.observe()
    dying.close()
    hanging = start()
    hanging._process._timeout_s = 0.2
    with pytest.raises(SimulatorError, match=r"did not answer 'step' within 0\.2 s"):
        hanging.step(np.eye(7)[3])
    hanging.close()


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux's kernel tells of a parent's death"
)
def test_a_busy_simulator_ends_with_the_rollout(tmp_path):
    """SIGTERM of the command ends its worker and the worker's simulator, which is in the middle of something."""
    python, busy = tmp_path / "python", tmp_path / "busy"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} {FAKE}\n")
    python.chmod(0o755)
    options = shlex.split("--env libero --tasks go/0 --episodes 1 --seed 98 --workers 1 --films 0")
    rollout = subprocess.Popen(
        [sys.executable, "-m", "egem", "rollout", "expert", *options, "--out", str(tmp_path / "out")],
        env=os.environ | {"EGEM_LIBERO_PYTHON": str(python), "LINE_IS_BUSY": str(busy)},
    )
    try:
        until = time.monotonic() + 120
        while not (busy.exists() and busy.read_text()):
            assert rollout.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        simulator = int(busy.read_text())
        worker = int(Path(f"/proc/{simulator}/stat").read_text().rpartition(")")[2].split()[1])
        assert is_alive(simulator)
        assert worker != rollout.pid
        rollout.terminate()
        assert rollout.wait(10) == -signal.SIGTERM
        until = time.monotonic() + 10  # at once; a busy machine is given time
        while any(is_alive(pid) for pid in (worker, simulator)):
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        rollout.kill()
        rollout.wait()


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EGEM_LIBERO_PYTHON", raising=False)
    monkeypatch.delenv("EGEM_SIMPLER_PYTHON", raising=False)
    with pytest.raises(ConfigError, match=r"tools/libero_env\.sh"):
        open_libero(EnvironmentOptions(size=(64, 64)))
    with pytest.raises(ConfigError, match=r"tools/simpler_env\.sh"):
        open_simpler(EnvironmentOptions(size=(64, 64)))
    assert any("gripper_open is -1 here, 1 there" in text for text in ACTION_SPACE.differences(WIDOWX_SPACE))


@pytest.mark.slow
@pytest.mark.skipif(
    not (os.environ.get("EGEM_LIBERO_PYTHON") and os.environ.get("EGEM_LIBERO_ASSETS")),
    reason="EGEM_LIBERO_PYTHON and EGEM_LIBERO_ASSETS name no LIBERO",
)
def test_libero_itself():
    libero = open_libero(EnvironmentOptions(size=(64, 64)))
    try:
        begun = libero.reset("libero_object/0", 3)
        assert "alphabet soup" in begun.observation.instruction
        assert begun.meta["initial_state"] == 3
        for camera in ("image", "wrist_image"):
            assert begun.observation.images[camera].shape == (64, 64, 3)
            assert 0.01 < begun.observation.depths[camera].min() < begun.observation.depths[camera].max() < 20
        # The point that the calibration finds is between the fingers: one of them is drawn beside it, about as deep.
        camera = libero.calibrations()["image"]
        point = camera.camera_from_base @ np.r_[begun.observation.state[:3], 1]
        column, row, _ = (camera.intrinsics @ point[:3] / point[2]).astype(int)
        around = begun.observation.depths["image"][row - 2 : row + 3, column - 2 : column + 3]
        assert abs(around.min() - point[2]) < 0.08
        before = begun.observation.state[0]
        for _ in range(3):
            libero.step(np.array([1.0, 0, 0, 0, 0, 0, -1]))
        assert libero.observe().state[0] > before + 0.01
    finally:
        libero.close()
