"""SimplerEnv's four WidowX tasks in ManiSkill 3, under the protocol of its published evaluation.

* Start positions: the official grid; episode k takes entry k mod its size (24). From `DEMONSTRATION_SEED` on, the seed
  draws the entry and moves the thing that is to be carried by up to `SHIFT` along both axes of the table.
* 640 x 480 pictures of the third-person camera with the real photograph behind robot and things, 5 actions a second, as
  many steps as ManiSkill registers for the task; a task counts as done when its own predicate says so at any step.
* Action: metres and radians in the robot's base frame (turned by 180 degrees in the world), gripper +1 open, -1 closed.
* State: position and rotation vector of the gripper in the base frame, and how open it is (0 to 1).

Depth is not part of the published observation: it is drawn beside it, metres. Behind the photograph it is the depth of
the simulated table, not of the photographed one. Pictures are drawn when they are asked for.
"""

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from egem_simulators.channel import DEMONSTRATION_SEED, ActionProblem, ConfigProblem
from egem_simulators.libero_expert import Step
from egem_simulators.simpler_expert import solve

TASKS = {
    "spoon_on_towel": "PutSpoonOnTableClothInScene-v1",
    "carrot_on_plate": "PutCarrotOnPlateInScene-v1",
    "stack_cube": "StackGreenCubeOnYellowCubeBakedTexInScene-v1",
    "eggplant_in_basket": "PutEggplantInBasketScene-v1",
}
"""Our names -> ManiSkill's."""

SENSOR = "3rd_view_camera"
CAMERA = "image"
STATE_NAMES = ("x", "y", "z", "rotation_x", "rotation_y", "rotation_z", "gripper")
ACTION_NAMES = ("x", "y", "z", "rotation_x", "rotation_y", "rotation_z", "gripper")
OBSERVATION = "rgb+depth+segmentation"
SHIFT = 0.02
"""Metres."""
CLOSED, OPEN = 0.015, 0.037
"""Metres of a finger from the middle."""

_ASSETS = ("tasks/bridge_v2_real2sim_dataset", "robots/widowx")
_TABLE = "tasks/bridge_v2_real2sim_dataset/stages/bridge_table_1_v1.glb"
_LARGE = 3_900_000
"""Bytes that the official table has at least; a stand-in is far smaller."""

_GRIPPER_LINKS = (
    "gripper_bar_link",
    "gripper_prop_link",
    "gripper_link",
    "left_finger_link",
    "right_finger_link",
)
_MOVED, _LIFTED = 0.02, 0.03


def check() -> str:
    """Versions of what is installed."""
    names = ("mani-skill", "sapien", "numpy", "torch")
    return "SimplerEnv is installed: " + ", ".join(f"{name} {version(name)}" for name in names)


def open_simulator(assets: str, size: tuple[int, int]) -> "SimplerSimulator":
    """Import ManiSkill with its folder of assets.

    Args:
        assets: what MS_ASSET_DIR names: the folder that holds `data/`.
        size: not used; the evaluation's pictures are 640 x 480.

    Raises:
        ConfigProblem: no assets, no ManiSkill, or no Vulkan driver that SAPIEN can use.
    """
    folder = Path(assets or os.environ.get("MS_ASSET_DIR", Path.home() / ".maniskill"))
    missing = [name for name in _ASSETS if not (folder / "data" / name).is_dir()]
    if missing:
        raise ConfigProblem(
            f"ManiSkill's assets are not in {folder} (no data/{missing[0]}). Get them with "
            "MS_ASSET_DIR=FOLDER python -m mani_skill.utils.download_asset bridge_v2_real2sim widowx250s, "
            "and name the folder: --assets FOLDER."
        )
    os.environ["MS_ASSET_DIR"] = str(folder)
    os.environ["MS_SKIP_ASSET_DOWNLOAD_PROMPT"] = "1"
    try:
        import mani_skill.envs  # noqa: F401 - registers the tasks
    except ImportError as error:
        raise ConfigProblem(f"ManiSkill cannot be imported ({error}); run tools/simpler_env.sh.") from error
    _let_the_gripper_close()
    return SimplerSimulator(folder)


def _let_the_gripper_close() -> None:
    """In the robot's older description the fingers collide with the bar that they slide on, and never close."""
    from mani_skill.agents.robots.widowx.widowx import WidowX250S

    before = WidowX250S._after_loading_articulation

    def after(self: Any) -> None:
        before(self)
        for name in _GRIPPER_LINKS:
            self.robot.links_map[name].set_collision_group_bit(group=2, bit_idx=30, bit=1)

    WidowX250S._after_loading_articulation = after


class SimplerSimulator:
    """The four tasks; one is open at a time."""

    def __init__(self, assets: Path) -> None:
        self._stand_ins = (assets / "data" / _TABLE).stat().st_size < _LARGE
        self._task = ""
        self._env: Any = None
        self._start = np.zeros(3)
        self._highest = 0.0
        self._moved = False
        self._plan: Iterator[Step] | None = None

    def describe(self) -> dict[str, Any]:
        """What egem's `EnvironmentInfo` holds."""
        note = (
            "placeholder assets: not comparable with published SimplerEnv scores" if self._stand_ins else ""
        )
        return {
            "tasks": list(TASKS),
            "instructions": {},
            "cameras": [CAMERA],
            "state_names": list(STATE_NAMES),
            "action_names": list(ACTION_NAMES),
            "note": note,
        }

    def reset(self, task: str, seed: int) -> dict[str, Any]:
        """Begin an episode from entry `seed` of the grid, or beside one; nothing is rendered."""
        if task not in TASKS:
            raise ConfigProblem(f"SimplerEnv has no task '{task}'; it has {', '.join(TASKS)}.")
        if task != self._task:
            self._open(task)
        inner = self._env.unwrapped
        grid = inner.xyz_configs
        entries = len(grid) * len(inner.quat_configs)
        meta: dict[str, Any] = {"episode_id": int(seed) % entries, "task": TASKS[task]}
        if seed >= DEMONSTRATION_SEED:
            rng = np.random.default_rng(seed)
            meta |= {
                "episode_id": int(rng.integers(entries)),
                "shift": rng.uniform(-SHIFT, SHIFT, 2).tolist(),
            }
            moved = grid.clone()
            moved[:, list(inner.objs).index(inner.source_obj_name), :2] += moved.new_tensor(meta["shift"])
            inner.xyz_configs = moved
        try:
            self._env.reset(seed=int(seed), options={"episode_id": meta["episode_id"]})
        finally:
            inner.xyz_configs = grid
        self._start, self._highest, self._moved, self._plan = self._position(), 0.0, False, None
        import gymnasium

        return {
            "max_steps": int(gymnasium.spec(TASKS[task]).max_episode_steps or 60),
            "meta": meta,
            **self._feelings(),
        }

    def step(self, action: np.ndarray) -> dict[str, Any]:
        """One action, without drawing."""
        action = np.asarray(action, dtype=np.float32)
        if action.shape != (7,) or not np.isfinite(action).all():
            raise ActionProblem(f"an action of shape {action.shape} came; 7 finite numbers are right.")
        info = self._env.unwrapped.step(action)[4]
        position = self._position()
        self._highest = max(self._highest, float(position[2] - self._start[2]))
        self._moved |= bool(np.linalg.norm(position - self._start) > _MOVED)
        success = bool(np.asarray(info["success"]).reshape(-1)[0])
        return {"success": success, "over": success, **self._feelings()}

    def observe(self) -> dict[str, Any]:
        """Draw: RGB with the photograph behind, and depth in metres along the optical axis."""
        inner = self._env.unwrapped
        # ManiSkill itself lays the photograph behind robot and things, because segmentation is in the mode.
        seen = type(inner).get_obs(inner, inner.get_info())["sensor_data"][SENSOR]
        picture = seen["rgb"][0].numpy().astype(np.uint8)
        # Millimetres in 16 bits: what is too far to be told comes out at 0 or below.
        depth = np.maximum(seen["depth"][0, ..., 0].numpy().astype(np.float32), 0.0) / 1000.0
        return {"images": {CAMERA: picture}, "depths": {CAMERA: depth}, **self._feelings()}

    def calibrations(self) -> dict[str, Any]:
        """Intrinsics and pose of the camera."""
        found = self._env.unwrapped.get_sensor_params()[SENSOR]
        world = np.eye(4)
        world[:3] = np.asarray(found["extrinsic_cv"])[0][:3]
        base = self._base()
        return {
            CAMERA: {
                "intrinsics": np.asarray(found["intrinsic_cv"])[0].astype(np.float64),
                "camera_from_base": world @ base,
            }
        }

    def failure(self) -> dict[str, str]:
        """Where the attempt stands, from the thing to be moved."""
        inner = self._env.unwrapped
        thing = inner.source_obj_name.replace("_", " ")
        if not self._moved:
            return {"stage": "reach", "detail": f"{thing} was never moved"}
        if self._highest < _LIFTED:
            return {"stage": "grasp", "detail": f"{thing} was never lifted"}
        if bool(inner.agent.is_grasping(inner.objs[inner.source_obj_name])[0]):
            return {"stage": "transport", "detail": f"{thing} is still in the hand"}
        return {"stage": "release", "detail": f"{thing} was lifted and lies where it should not"}

    def expert(self, seed: int) -> None:
        """Begin a scripted solution."""
        inner = self._env.unwrapped
        self._plan = solve(
            lambda: (
                self._hand(),
                self._position(),
                inner.objs[inner.target_obj_name].pose.p[0].numpy().astype(np.float64),
            ),
            self._base()[:3, :3],
            task=self._task,
            rng=np.random.default_rng(seed),
        )

    def expert_next(self) -> dict[str, Any] | None:
        """What the solution does next; None at its end."""
        step = next(self._plan, None) if self._plan is not None else None
        return None if step is None else {"action": step.action.astype(np.float32), "subtask": step.subtask}

    def _open(self, task: str) -> None:
        import gymnasium
        from mani_skill.envs.tasks.digital_twins.bridge_dataset_eval.base_env import BaseBridgeEnv

        if self._env is not None:
            self._env.close()
        self._task = ""
        if OBSERVATION not in BaseBridgeEnv.SUPPORTED_OBS_MODES:
            BaseBridgeEnv.SUPPORTED_OBS_MODES = [*BaseBridgeEnv.SUPPORTED_OBS_MODES, OBSERVATION]
        try:
            self._env = gymnasium.make(
                TASKS[task], obs_mode=OBSERVATION, sim_backend="cpu", render_backend="cpu", num_envs=1
            )
        except RuntimeError as error:
            if "rendering device" not in str(error) and "physical device" not in str(error):
                raise
            raise ConfigProblem(
                f"SAPIEN finds no Vulkan device it can draw with ({error}); without a GPU it needs Mesa 24.3 or newer: "
                "run tools/simpler_env.sh."
            ) from error
        # Stepping asks for an observation each time; it is drawn only in `observe`.
        self._env.unwrapped.get_obs = lambda *_, **__: {}
        self._task = task

    def _base(self) -> np.ndarray:
        return self._env.unwrapped.agent.robot.pose.to_transformation_matrix()[0].numpy().astype(np.float64)

    def _hand(self) -> np.ndarray:
        link = self._env.unwrapped.agent.robot.links_map["ee_gripper_link"]
        return link.pose.p[0].numpy().astype(np.float64)

    def _position(self) -> np.ndarray:
        inner = self._env.unwrapped
        return inner.objs[inner.source_obj_name].pose.p[0].numpy().astype(np.float64)

    def _feelings(self) -> dict[str, Any]:
        inner = self._env.unwrapped
        robot = inner.agent.robot
        hand = (
            robot.links_map["ee_gripper_link"].pose.to_transformation_matrix()[0].numpy().astype(np.float64)
        )
        local = np.linalg.inv(self._base()) @ hand
        finger = float(robot.get_qpos()[0, -2:].mean())
        openness = np.clip((finger - CLOSED) / (OPEN - CLOSED), 0.0, 1.0)
        state = np.concatenate([local[:3, 3], rotation_vector(local[:3, :3]), [openness]])
        instruction = inner.get_language_instruction()
        return {
            "state": state.astype(np.float32),
            "instruction": instruction if isinstance(instruction, str) else instruction[0],
        }


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Axis times angle (0 to pi) of a rotation matrix."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(rotation).as_rotvec()
