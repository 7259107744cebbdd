"""LIBERO's five suites under the protocol of its published evaluations.

* Initial states: the 50 that come with each task; episode k starts from state k mod 50. The simulator's own seed is 7.
  From `DEMONSTRATION_SEED` on, the seed is the simulator's own, which draws the places of things by the task's rules.
* Ten steps without motion and with the gripper open let things settle before the policy sees anything.
* Steps: spatial 220, object 280, goal 300, 10: 520, 90: 400 (openpi, OpenVLA; LeRobot takes 280 for spatial).
* Pictures are flipped along both axes, as in the demonstrations that policies are trained on. That mirrors them: the
  calibration says so by a negative focal length along x.
* Action: position and axis-angle deltas in -1 to 1, and the gripper: -1 open, +1 closed. 20 actions a second.
* State: position of the gripper (world, metres), axis-angle, positions of the two fingers.

Pictures are drawn when they are asked for: stepping costs a tenth of stepping and drawing.
"""

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from egem_simulators.channel import DEMONSTRATION_SEED, ActionProblem, ConfigProblem
from egem_simulators.libero_expert import Step, solve

MAX_STEPS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
SETTLE_STEPS = 10
NOTHING = np.array([0.0] * 6 + [-1.0])
SEED = 7
CAMERAS = {"image": "agentview", "wrist_image": "robot0_eye_in_hand"}
"""Our names (openpi's and the LeRobot sets') -> LIBERO's."""

STATE_NAMES = ("x", "y", "z", "rotation_x", "rotation_y", "rotation_z", "finger_left", "finger_right")
ACTION_NAMES = ("x", "y", "z", "rotation_x", "rotation_y", "rotation_z", "gripper")

_LARGE_ASSETS = (
    "stable_scanned_objects/akita_black_bowl/visual/akita_black_bowl_vis.msh",
    "stable_scanned_objects/basket/visual/basket_vis.msh",
)
_LARGE = 3_900_000
"""Bytes that these files have at least in LIBERO's own tree; stand-ins are far smaller."""

_ROBOT = ("robot0", "gripper0", "mount0")
"""How the names of its bodies begin."""

_MOVED = 0.02
_LIFTED = 0.03


def check() -> str:
    """Versions of what is installed."""
    names = ("hf-libero", "robosuite", "mujoco", "numpy", "torch")
    return "LIBERO is installed: " + ", ".join(f"{name} {version(name)}" for name in names)


def open_simulator(assets: str, size: tuple[int, int]) -> "LiberoSimulator":
    """Prepare LIBERO's configuration and import it.

    Args:
        assets: folder with `scenes/`, `stable_scanned_objects/` and so on.
        size: height and width of pictures.

    Raises:
        ConfigProblem: no assets, or no LIBERO.
    """
    found = importlib.util.find_spec("libero")
    if found is None or not found.submodule_search_locations:
        raise ConfigProblem("LIBERO is not installed here; run tools/libero_env.sh.")
    root = Path(next(iter(found.submodule_search_locations))) / "libero"
    folder = Path(assets) if assets else root / "assets"
    if not (folder / "scenes" / "libero_tabletop_base_style.xml").is_file():
        raise ConfigProblem(
            f"LIBERO's meshes and textures are not in {folder} (no scenes/libero_tabletop_base_style.xml). "
            "Get them with `hf download lerobot/libero-assets --repo-type dataset --local-dir FOLDER`, "
            "or take libero/libero/assets of the LIBERO repository, and name the folder: --assets FOLDER."
        )
    _write_configuration(root, folder)
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])
    return LiberoSimulator(folder, size)


def _write_configuration(root: Path, assets: Path) -> None:
    """LIBERO asks on its standard input for folders when it finds no configuration; it finds this one."""
    folder = Path(tempfile.mkdtemp(prefix="egem-libero-"))
    entries = {
        "assets": assets.resolve(),
        "bddl_files": root / "bddl_files",
        "benchmark_root": root,
        "datasets": root.parent / "datasets",
        "init_states": root / "init_files",
    }
    (folder / "config.yaml").write_text("".join(f"{name}: {path}\n" for name, path in entries.items()))
    os.environ["LIBERO_CONFIG_PATH"] = str(folder)
    import libero.libero as package

    package._assets_path_cache = str(assets.resolve())  # its scenes look there and not in the configuration


class LiberoSimulator:
    """All suites; one task is open at a time."""

    def __init__(self, assets: Path, size: tuple[int, int]) -> None:
        from libero.libero import benchmark

        self._size = size
        self._stand_ins = any((assets / name).stat().st_size < _LARGE for name in _LARGE_ASSETS)
        makers = benchmark.get_benchmark_dict()
        self._suites = {name: makers[name]() for name in MAX_STEPS}
        self._task = ""
        self._env: Any = None
        self._seen: dict[str, Any] = {}
        self._start: np.ndarray | None = None
        self._highest = 0.0
        self._moved = False
        self._plan: Iterator[Step] | None = None

    def describe(self) -> dict[str, Any]:
        """What egem's `EnvironmentInfo` holds."""
        note = "placeholder assets: not comparable with published LIBERO scores" if self._stand_ins else ""
        return {
            "tasks": [
                f"{name}/{index}" for name, suite in self._suites.items() for index in range(suite.n_tasks)
            ],
            "instructions": {
                f"{name}/{index}": suite.get_task(index).language
                for name, suite in self._suites.items()
                for index in range(suite.n_tasks)
            },
            "cameras": list(CAMERAS),
            "state_names": list(STATE_NAMES),
            "action_names": list(ACTION_NAMES),
            "note": note,
        }

    def reset(self, task: str, seed: int) -> dict[str, Any]:
        """Begin an episode from initial state `seed` mod 50, or from one of its own; nothing is rendered."""
        suite_name, _, number = task.partition("/")
        suite = self._suites.get(suite_name)
        if suite is None or not number.isdigit() or int(number) >= suite.n_tasks:
            raise ConfigProblem(f"LIBERO has no task '{task}'; write suite/number, such as libero_spatial/0.")
        if task != self._task:
            self._open(task, suite, int(number))
        published = seed < DEMONSTRATION_SEED
        self._env.seed(SEED if published else seed)
        self._seen = self._env.reset()
        meta: dict[str, Any] = {"suite": suite_name, "instruction": self._instruction}
        if published:
            states = suite.get_task_init_states(int(number))
            meta["initial_state"] = int(seed % len(states))
            self._seen = self._env.set_init_state(states[meta["initial_state"]])
        for _ in range(SETTLE_STEPS):
            self._seen = self._env.step(NOTHING)[0]
        self._start, self._highest, self._moved, self._plan = self._position(), 0.0, False, None
        return {
            "max_steps": MAX_STEPS[suite_name],
            "meta": meta,
            **self._feelings(),
        }

    def step(self, action: np.ndarray) -> dict[str, Any]:
        """One action, without drawing."""
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (7,) or not np.isfinite(action).all():
            raise ActionProblem(f"an action of shape {action.shape} came; 7 finite numbers are right.")
        self._seen = self._env.step(action)[0]
        position = self._position()
        if position is not None and self._start is not None:
            self._highest = max(self._highest, float(position[2] - self._start[2]))
            self._moved |= bool(np.linalg.norm(position - self._start) > _MOVED)
        success = bool(self._env.check_success())
        return {"success": success, "over": success, **self._feelings()}

    def observe(self) -> dict[str, Any]:
        """Draw: RGB, and depth in metres along the optical axis."""
        from robosuite.utils.camera_utils import get_real_depth_map

        sim, (height, width) = self._env.sim, self._size
        images, depths = {}, {}
        for name, camera in CAMERAS.items():
            picture, buffer = sim.render(camera_name=camera, height=height, width=width, depth=True)
            images[name] = np.ascontiguousarray(picture[::-1, ::-1])
            metres = get_real_depth_map(sim, np.clip(buffer, 0.0, 1.0))
            depths[name] = np.ascontiguousarray(metres[::-1, ::-1], dtype=np.float32)
        return {"images": images, "depths": depths, **self._feelings()}

    def calibrations(self) -> dict[str, Any]:
        """Intrinsics and pose of each camera, for the flipped pictures."""
        from robosuite.utils.camera_utils import get_camera_extrinsic_matrix, get_camera_intrinsic_matrix

        sim, (height, width) = self._env.sim, self._size
        found = {}
        for name, camera in CAMERAS.items():
            intrinsics = get_camera_intrinsic_matrix(sim, camera, height, width)
            intrinsics[0, 0] *= -1  # mirrored left to right
            world_from_camera = get_camera_extrinsic_matrix(sim, camera)
            found[name] = {
                "intrinsics": intrinsics.astype(np.float64),
                "camera_from_base": np.linalg.inv(world_from_camera),
            }
        return found

    def failure(self) -> dict[str, str]:
        """Where the attempt stands, from the first object of interest."""
        thing = self._env.obj_of_interest[0].replace("_", " ")
        if self._position() is None:
            return {"stage": "other", "detail": "the goal is not reached"}
        if not self._moved:
            return {"stage": "reach", "detail": f"{thing} was never moved"}
        if self._highest < _LIFTED:
            return {"stage": "grasp", "detail": f"{thing} was never lifted"}
        now = self._position()
        assert now is not None
        assert self._start is not None
        if np.linalg.norm(now - self._seen["robot0_eef_pos"]) < 0.1 and now[2] - self._start[2] > _LIFTED:
            return {"stage": "transport", "detail": f"{thing} is still in the hand"}
        return {"stage": "release", "detail": f"{thing} was lifted and lies where it should not"}

    def expert(self, seed: int) -> None:
        """Begin a scripted solution."""
        suite = self._task.partition("/")[0]
        if suite not in ("libero_spatial", "libero_object"):
            raise ConfigProblem(
                f"no scripted expert for {self._task}; there is one for libero_spatial and libero_object."
            )
        self._plan = solve(
            lambda: self._seen,
            self._height,
            stand=np.array(self._env.sim.data.get_body_xpos("robot0_base")[:2]),
            interest=list(self._env.obj_of_interest),
            rng=np.random.default_rng(seed),
        )

    def expert_next(self) -> dict[str, Any] | None:
        """What the solution does next; None at its end."""
        step = next(self._plan, None) if self._plan is not None else None
        return None if step is None else {"action": step.action.astype(np.float32), "subtask": step.subtask}

    def _open(self, task: str, suite: Any, number: int) -> None:
        from libero.libero import get_libero_path
        from libero.libero.envs.env_wrapper import ControlEnv

        if self._env is not None:
            self._env.close()
        self._task = ""
        entry = suite.get_task(number)
        path = Path(get_libero_path("bddl_files")) / entry.problem_folder / entry.bddl_file
        self._env = ControlEnv(
            bddl_file_name=str(path),
            use_camera_obs=False,
            has_renderer=False,
            has_offscreen_renderer=True,
            camera_heights=self._size[0],
            camera_widths=self._size[1],
            ignore_done=True,
        )
        self._task, self._instruction = task, entry.language

    def _feelings(self) -> dict[str, Any]:
        quaternion = np.asarray(self._seen["robot0_eef_quat"], dtype=np.float64)
        state = [self._seen["robot0_eef_pos"], axis_angle(quaternion), self._seen["robot0_gripper_qpos"]]
        return {"state": np.concatenate(state).astype(np.float32), "instruction": self._instruction}

    def _height(self, x: float, y: float) -> float:
        """Of the highest surface there that things collide with, the robot aside; 0 where there is none.

        MuJoCo's rays pass through what has no colour, and so through a few of libero_object's things.
        """
        import mujoco

        model, data = self._env.sim.model._model, self._env.sim.data._data
        place, hit = np.array([x, y, 3.0]), np.zeros(1, np.int32)
        while True:
            distance = mujoco.mj_ray(model, data, place, np.array([0.0, 0.0, -1.0]), None, 1, -1, hit)
            if distance < 0:
                return 0.0
            place[2] -= distance
            solid = model.geom_contype[hit[0]] or model.geom_conaffinity[hit[0]]
            if solid and not model.body(model.geom_bodyid[hit[0]]).name.startswith(_ROBOT):
                return float(place[2])
            place[2] -= 1e-4  # through it, to what is below

    def _position(self) -> np.ndarray | None:
        name = f"{self._env.obj_of_interest[0]}_pos"
        return np.array(self._seen[name]) if name in self._seen else None


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """A rotation vector in radians from a unit quaternion x, y, z, w, as openpi takes it (angle 0 to 2 pi)."""
    w = float(np.clip(quaternion[3], -1.0, 1.0))
    sine = np.sqrt(1.0 - w * w)
    return np.zeros(3) if sine < 1e-8 else quaternion[:3] * (2.0 * np.arccos(w) / sine)
