"""LIBERO's suites (spatial, object, goal, 10, 90), simulated in an environment of their own (docs/simulators.md)."""

import os
from pathlib import Path

from egem.environments.environment import EnvironmentOptions
from egem.environments.remote_simulator import RemoteSimulator
from egem.environments.simulator_process import SimulatorProcess, interpreter
from egem.episodes import ActionSpace

PYTHON_VARIABLE = "EGEM_LIBERO_PYTHON"
ASSETS_VARIABLE = "EGEM_LIBERO_ASSETS"

ACTION_SPACE = ActionSpace(
    control="end_effector_delta",
    dim=7,
    rotation="axis_angle",
    gripper_dims=(6,),
    gripper_open=-1.0,
    gripper_closed=1.0,
    names=("x", "y", "z", "rotation_x", "rotation_y", "rotation_z", "gripper"),
)
"""Deltas in -1 to 1: 5 cm and 0.5 radians at the ends."""

LIMITS = (1.0,) * 7
CONTROL_HZ = 20.0


def open_libero(options: EnvironmentOptions) -> RemoteSimulator:
    """Start LIBERO; tasks are named "libero_spatial/0".

    Args:
        options: `assets` (or the variable EGEM_LIBERO_ASSETS) is the folder of LIBERO's meshes and textures, `python`
            (or EGEM_LIBERO_PYTHON) the interpreter that `tools/libero_env.sh` made.

    Raises:
        ConfigError: one of them is missing; says how to get it.
    """
    python = interpreter(options.python, PYTHON_VARIABLE, ".venv/libero", "tools/libero_env.sh")
    height, width = options.size
    command = [str(python), "-m", "egem_simulators", "libero", "--height", str(height), "--width", str(width)]
    assets = options.assets or os.environ.get(ASSETS_VARIABLE)
    if assets:
        command += ["--assets", str(Path(assets))]
    process = SimulatorProcess("LIBERO", command)
    return RemoteSimulator(
        "libero",
        process,
        action_space=ACTION_SPACE,
        limits=LIMITS,
        control_hz=CONTROL_HZ,
        effector_dims=(0, 1, 2),
    )
