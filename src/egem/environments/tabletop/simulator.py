"""The physics: a layout written into the model, the arm's tip led by small steps, what touches what, pictures."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int, UInt8

from egem.core.errors import RenderError
from egem.environments.environment import Calibration
from egem.environments.tabletop import model as parts
from egem.environments.tabletop.layout import (
    BASE,
    BIN_FLOOR,
    BIN_HALF,
    BIN_HEIGHT,
    PLATE_RADIUS,
    PLATE_TOP,
    Holder,
    Layout,
    Thing,
)
from egem.environments.tabletop.scenery import Scenery
from egem.worlds.tabletop.arm import FINGER_TRAVEL, HOME, NUM_JOINTS, Kinematics, pointing_down
from egem.worlds.tabletop.catalog import COLORS
from egem.worlds.tabletop.renderer import Painter, load_mujoco
from egem.worlds.tabletop.setting import HIDDEN, SHOWN

CONTROL_HZ: Final = 10.0
CAMERAS: Final = ("front", "wrist")

MAX_SIDE: Final = 2048

LOWEST, HIGHEST = np.array([-0.36, -0.38, 0.010]), np.array([0.26, 0.38, 0.42])
"""Corners of the box in which the tip's target is kept, world frame, metres."""

_LEAD: Final = 0.05
"""The target runs ahead of the tip by at most this much, metres: pressing against the table does not wind up."""

_BLOCKS: Final = 5
"""Parts of a control step in which the servos' targets advance."""

_TINY: Final = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What is where, world frame; for success, experts and records, never for policies."""

    things: Float[np.ndarray, "thing 3"]
    """Of their middles."""
    turns: Float[np.ndarray, "thing 3 3"]
    speeds: Float[np.ndarray, "thing"]
    """Metres a second."""
    holders: Float[np.ndarray, "holder 3"]
    holder_turns: Float[np.ndarray, "holder 3 3"]
    drawer: float
    """Metres it is open."""
    tip: Float[np.ndarray, "3"]
    opening: float
    """Between the fingers, metres."""
    held: int | None
    """Number of the thing that both fingers touch."""
    touched: frozenset[int]
    """Numbers of the things that a finger touches."""


class Simulator:
    """One model, one arm, one scene at a time."""

    def __init__(self, size: tuple[int, int]) -> None:
        """Compile the model; a drawing context is opened with the first picture.

        Raises:
            RenderError: MuJoCo is missing, or the size is out of range.
        """
        if not all(16 <= side <= MAX_SIDE for side in size):
            raise RenderError(
                f"pictures of {size[0]} x {size[1]} were asked for; sides go from 16 to {MAX_SIDE}."
            )
        self.size = size
        self._mujoco = load_mujoco()
        self.model: Any = parts.compile_model(*size)
        self.data: Any = self._mujoco.MjData(self.model)
        self._kinematics = Kinematics()
        self._painter: Painter | None = None
        self._layout = Layout(things=())
        m = self.model
        kinds = self._mujoco.mjtGeom
        self._kinds = {"box": int(kinds.mjGEOM_BOX), "cylinder": int(kinds.mjGEOM_CYLINDER)}
        self._tip = m.site("tip").id
        self._fingers = [int(m.joint(f"finger_{side}").qposadr[0]) for side in ("left", "right")]
        self._joints = [int(m.joint(f"joint{i + 1}").qposadr[0]) for i in range(NUM_JOINTS)]
        self._drawer = int(m.joint("drawer").qposadr[0])
        self._pads = [m.geom(f"pad_{side}").id for side in ("left", "right")]
        self._bodies = [m.body(f"thing{i}").id for i in range(parts.NUM_THINGS)]
        self._holders = [m.body(f"holder{i}").id for i in range(parts.NUM_HOLDERS)]
        self._thing_of_geom = np.full(m.ngeom, -1)
        for i, body in enumerate(self._bodies):
            self._thing_of_geom[m.geom_bodyid == body] = i
        self._target = np.zeros(3)
        self._turn = np.eye(3)

    @property
    def target(self) -> Float[np.ndarray, "3"]:
        """Where the tip is being led, world frame."""
        return self._target.copy()

    @property
    def tip(self) -> Float[np.ndarray, "3"]:
        """Where the point between the fingertips is, world frame."""
        return self.data.site_xpos[self._tip].copy()

    @property
    def closing(self) -> float:
        """Direction in which the fingers are being led to close, radians from +x."""
        axis = self._turn[:, 1]
        return float(np.arctan2(axis[1], axis[0]))

    def close(self) -> None:
        """Free the drawing context."""
        if self._painter is not None:
            self._painter.close()
            self._painter = None

    def write(self, layout: Layout, scenery: Scenery, offset: Float[np.ndarray, "3"]) -> None:
        """Put a scene into the model: every number that any scene sets is set anew.

        Args:
            layout: what is on the table.
            scenery: what surrounds it.
            offset: of the tip from its usual first place, metres.
        """
        m, d, mujoco = self.model, self.data, self._mujoco
        self._layout = layout
        mujoco.mj_resetData(m, d)
        for i in range(parts.NUM_THINGS):
            self._write_thing(i, layout.things[i] if i < len(layout.things) else None)
        for i in range(parts.NUM_HOLDERS):
            self._write_holder(i, layout.holders[i] if i < len(layout.holders) else None)
        cabinet = layout.cabinet
        m.body("cabinet").pos[:] = (0, 0, -5) if cabinet is None else (*cabinet.position, 0.0)
        d.qpos[self._drawer] = 0.0 if cabinet is None else cabinet.opening
        scenery.write(m)
        m.body("arm").pos[:] = BASE
        self._target = np.asarray(BASE) + self._kinematics.tip(HOME) + offset
        self._turn = pointing_down(-np.pi / 2)
        joints = self._kinematics.follow(HOME, self._target - BASE, self._turn, iterations=30)
        d.qpos[self._joints], d.qpos[self._fingers] = joints, FINGER_TRAVEL
        d.ctrl[:NUM_JOINTS], d.ctrl[NUM_JOINTS:] = joints, FINGER_TRAVEL
        mujoco.mj_step(m, d, nstep=25)

    def step(self, action: Float[np.ndarray, "7"]) -> None:
        """Carry out one action: metres and radians that the target moves, then the gripper from -1 to 1."""
        mujoco, d = self._mujoco, self.data
        target = np.clip(self._target + action[:3], LOWEST, HIGHEST)
        tip = d.site_xpos[self._tip]
        ahead = target - tip
        distance = np.linalg.norm(ahead)
        self._target = target if distance <= _LEAD else tip + ahead * (_LEAD / distance)
        angle = float(np.linalg.norm(action[3:6]))
        if angle > 1e-6:
            self._turn = _rotation(action[3:6] / angle, angle) @ self._turn
        before = d.ctrl[:NUM_JOINTS].copy()
        after = self._kinematics.follow(before, self._target - BASE, self._turn)
        d.ctrl[NUM_JOINTS:] = FINGER_TRAVEL * (float(action[6]) + 1) / 2
        steps = round(1 / CONTROL_HZ / parts.TIMESTEP_S / _BLOCKS)
        for block in range(1, _BLOCKS + 1):
            d.ctrl[:NUM_JOINTS] = before + (after - before) * block / _BLOCKS
            mujoco.mj_step(self.model, d, nstep=steps)

    def state(self) -> State:
        """What is where now."""
        d, layout = self.data, self._layout
        bodies = self._bodies[: len(layout.things)]
        holders = self._holders[: len(layout.holders)]
        touching = [set(self._touched(pad)) for pad in self._pads]
        both = touching[0] & touching[1]
        return State(
            things=d.xpos[bodies].copy(),
            turns=d.xmat[bodies].reshape(-1, 3, 3).copy(),
            speeds=np.array([np.linalg.norm(d.qvel[9 + 6 * i : 12 + 6 * i]) for i in range(len(bodies))]),
            holders=d.xpos[holders].copy(),
            holder_turns=d.xmat[holders].reshape(-1, 3, 3).copy(),
            drawer=float(d.qpos[self._drawer]),
            tip=d.site_xpos[self._tip].copy(),
            opening=float(d.qpos[self._fingers].sum()),
            held=min(both) if both else None,
            touched=frozenset(touching[0] | touching[1]),
        )

    def proprioception(self) -> Float[np.ndarray, "7"]:
        """Tip (metres, base frame), turn from pointing straight down (rotation vector), gripper opening (metres)."""
        d = self.data
        straight = pointing_down(-np.pi / 2)
        turn = d.site_xmat[self._tip].reshape(3, 3) @ straight.T
        opening = d.qpos[self._fingers].sum()
        return np.concatenate([d.site_xpos[self._tip] - BASE, _vector(turn), [opening]]).astype(np.float32)

    def draw(self, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """RGB (uint8) and metric depth (float32 metres along the optical axis, 0 where nothing is hit)."""
        image, depth, _ = self.draw_bodies(camera)
        return image, depth

    def draw_bodies(
        self, camera: str
    ) -> tuple[
        UInt8[np.ndarray, "height width 3"],
        Float[np.ndarray, "height width"],
        Int[np.ndarray, "height width"],
    ]:
        """As `draw`, and the number of the model's body that each pixel shows, 0 where it is none that can move."""
        if self._painter is None:
            self._painter = Painter(self.model, *self.size)
        image, depth, geoms = self._painter.draw(self.data, self.model.camera(camera).id)
        return image, depth, np.where(geoms < 0, 0, self.model.geom_bodyid[geoms])

    def calibration(self, camera: str) -> Calibration:
        """A camera at this moment."""
        number = self.model.camera(camera).id
        height, width = self.size
        focal = height / 2 / float(np.tan(np.radians(self.model.cam_fovy[number]) / 2))
        # MuJoCo's camera looks along -z with y up; ours along +z with y down.
        axes = self.data.cam_xmat[number].reshape(3, 3) * (1, -1, -1)
        pose = np.eye(4)
        pose[:3, :3] = axes.T
        pose[:3, 3] = -axes.T @ (self.data.cam_xpos[number] - BASE)
        intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
        return Calibration(intrinsics=intrinsics, camera_from_base=pose)

    def _touched(self, pad: int) -> list[int]:
        pairs = self.data.contact.geom[: self.data.ncon]
        mine = (pairs == pad).any(axis=1)
        return [int(i) for i in self._thing_of_geom[pairs[mine].ravel()] if i >= 0]

    def _write_thing(self, number: int, thing: Thing | None) -> None:
        body, look = self._bodies[number], self.model.geom(f"thing{number}_look").id
        boxes = [self.model.geom(f"thing{number}_box{k}").id for k in range(parts.NUM_PRISM_BOXES)]
        self._place(body, None if thing is None else (thing.position, thing.yaw), -4.0 - number)
        self.model.geom_group[look] = HIDDEN if thing is None else SHOWN
        if thing is None:
            return
        a, b, c = thing.half
        is_round = thing.kind == "cylinder"
        self._shape(look, "cylinder" if is_round else "box", (a, c, 0.0) if is_round else (a, b, c))
        self.model.geom_rgba[look] = (*COLORS[thing.color], 1.0)
        prism = (0.96 * a, 0.96 * a * float(np.tan(np.pi / 8)), c)
        for k, box in enumerate(boxes):
            self._shape(box, "box", prism if is_round else ((a, b, c) if k == 0 else (_TINY, _TINY, _TINY)))

    def _write_holder(self, number: int, holder: Holder | None) -> None:
        m, name = self.model, f"holder{number}"
        floor, well = m.geom(f"{name}_floor").id, m.geom(f"{name}_well").id
        walls = [m.geom(f"{name}_wall{k}").id for k in range(4)]
        place = None if holder is None else ((*holder.position, 0.0005), holder.yaw)
        self._place(self._holders[number], place, -10.0 - number)
        is_bin = holder is not None and holder.kind == "bin"
        m.geom_group[[floor, well, *walls]] = HIDDEN
        if holder is None:
            return
        color = np.asarray(COLORS[holder.color])
        m.geom_group[floor] = SHOWN
        m.geom_group[walls if is_bin else well] = SHOWN
        m.geom_rgba[[floor, *walls], :3] = color
        m.geom_rgba[well, :3] = color + 0.4 * (1 - color)
        if not is_bin:
            self._shape(floor, "cylinder", (PLATE_RADIUS, PLATE_TOP / 2, 0.0), (0.0, 0.0, PLATE_TOP / 2))
            self._shape(well, "cylinder", (0.7 * PLATE_RADIUS, 0.0004, 0.0), (0.0, 0.0, PLATE_TOP + 0.0004))
            for wall in walls:
                self._shape(wall, "box", (_TINY, _TINY, _TINY), (0.0, 0.0, PLATE_TOP / 2))
            return
        half, rise, thin = BIN_HALF, (BIN_HEIGHT - BIN_FLOOR) / 2, 0.003
        self._shape(floor, "box", (half, half, BIN_FLOOR / 2), (0.0, 0.0, BIN_FLOOR / 2))
        for wall, (x, y) in zip(walls, ((1, 0), (-1, 0), (0, 1), (0, -1)), strict=True):
            size = (thin, half, rise) if x else (half, thin, rise)
            self._shape(wall, "box", size, ((half - thin) * x, (half - thin) * y, BIN_FLOOR + rise))

    def _place(
        self, body: int, place: tuple[tuple[float, float, float], float] | None, parked: float
    ) -> None:
        """Put a free body somewhere; None: let it float at a height far below."""
        address = int(self.model.jnt_qposadr[self.model.body_jntadr[body]])
        self.model.body_gravcomp[body] = 1.0 if place is None else 0.0
        position, yaw = place or ((0.0, 0.0, parked), 0.0)
        self.data.qpos[address : address + 7] = (*position, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))

    def _shape(
        self,
        geom: int,
        kind: str,
        size: tuple[float, float, float],
        position: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        """Write a geom with the bounds that collision detection goes by."""
        m = self.model
        m.geom_type[geom], m.geom_size[geom], m.geom_pos[geom] = self._kinds[kind], size, position
        half = size if kind == "box" else (size[0], size[0], size[1])
        m.geom_aabb[geom] = (0, 0, 0, *half)
        m.geom_rbound[geom] = np.linalg.norm(half if kind == "box" else (size[0], size[1]))


def _rotation(axis: Float[np.ndarray, "3"], angle: float) -> Float[np.ndarray, "3 3"]:
    """Rotation matrix about a unit axis (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _vector(turn: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3"]:
    """Rotation vector of a matrix, angle below pi."""
    skew = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
    sine, cosine = float(np.linalg.norm(skew)), (float(turn.trace()) - 1) / 2
    return skew if sine < 1e-9 else skew / sine * np.arctan2(sine, cosine)
