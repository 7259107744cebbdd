"""SimplerEnv's four WidowX tasks, simulated by ManiSkill 3 in an environment of its own (docs/simulators.md)."""

import os
from pathlib import Path

from egem.environments.environment import EnvironmentOptions
from egem.environments.remote_simulator import RemoteSimulator
from egem.environments.simulator_process import SimulatorProcess, interpreter
from egem.episodes import ActionSpace

PYTHON_VARIABLE = "EGEM_SIMPLER_PYTHON"
ASSETS_VARIABLE = "EGEM_SIMPLER_ASSETS"

ACTION_SPACE = ActionSpace(
    control="end_effector_delta",
    dim=7,
    rotation="axis_angle",
    gripper_dims=(6,),
    gripper_open=1.0,
    gripper_closed=-1.0,
    names=("x", "y", "z", "rotation_x", "rotation_y", "rotation_z", "gripper"),
)
"""Metres and radians in the robot's base frame, not normalised. The gripper's sign is the opposite of LIBERO's."""

LIMITS = (0.1, 0.1, 0.1, 0.5, 0.5, 0.5, 1.0)
"""Metres and radians of one action; the arm cannot follow larger ones within a fifth of a second."""

CONTROL_HZ = 5.0


def open_simpler(options: EnvironmentOptions) -> RemoteSimulator:
    """Start the WidowX tasks.

    Args:
        options: `assets` (or the variable EGEM_SIMPLER_ASSETS) is ManiSkill's folder of assets (what MS_ASSET_DIR
            names), `python` (or EGEM_SIMPLER_PYTHON) the interpreter that `tools/simpler_env.sh` made. Pictures are
            640 x 480, as the evaluation was published; `size` is not used.

    Raises:
        ConfigError: one of them is missing; says how to get it.
    """
    python = interpreter(options.python, PYTHON_VARIABLE, ".venv/simpler", "tools/simpler_env.sh")
    command = [str(python), "-m", "egem_simulators", "simpler"]
    assets = options.assets or os.environ.get(ASSETS_VARIABLE)
    if assets:
        command += ["--assets", str(Path(assets))]
    environment = {"MS_SKIP_ASSET_DOWNLOAD_PROMPT": "1"}
    icd = python.parent.parent / "mesa" / "lvp.json"
    if icd.is_file():  # the Mesa that tools/simpler_env.sh unpacked
        libraries = icd.parent / "usr" / "lib" / "x86_64-linux-gnu"
        environment |= {
            "VK_ICD_FILENAMES": str(icd),
            "LD_LIBRARY_PATH": str(libraries),
            "LP_NUM_THREADS": "1",
        }
    process = SimulatorProcess("SimplerEnv", command, environment=environment)
    return RemoteSimulator(
        "simpler-widowx",
        process,
        action_space=ACTION_SPACE,
        limits=LIMITS,
        control_hz=CONTROL_HZ,
        effector_dims=(0, 1, 2),
    )
