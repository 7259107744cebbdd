"""The tabletop world: one compiled model, changed in place for every seed."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Int

from egem.core.errors import unknown_name
from egem.records import Intrinsics
from egem.scene import Camera, Scene, SceneObject
from egem.worlds.tabletop import meshes
from egem.worlds.tabletop.arm import NUM_JOINTS, Kinematics
from egem.worlds.tabletop.body import Part
from egem.worlds.tabletop.cameras import CAMERAS, NEW, SEEN, View, draw_views
from egem.worlds.tabletop.catalog import COLORS, SPLITS
from egem.worlds.tabletop.grasps import Robot, is_reachable
from egem.worlds.tabletop.layout import MAX_THINGS, Thing
from egem.worlds.tabletop.model import NUM_FIXED, NUM_MOVING, compile_model
from egem.worlds.tabletop.renderer import Painter, load_mujoco
from egem.worlds.tabletop.room import MAX_SLABS, Room, draw_room
from egem.worlds.tabletop.setting import HIDDEN, SHOWN, write_room, write_views
from egem.worlds.tabletop.tasks import Situation, draw_situation

DEPTH_UNIT_M: Final = 0.0001
"""Unit for stored depth: 0.1 mm, up to 6.5 m in 16 bits."""

# Share of white in a light part, brightness of a dark one: enough to tell neighbouring parts apart.
_LIGHT: Final = 0.35
_DARK: Final = 0.62


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    """What a reset has put into the model."""

    seed: int
    split: str
    situation: Situation
    views: dict[str, View]
    objects: tuple[SceneObject, ...]
    room: Room
    base: tuple[float, float]


class TabletopWorld:
    """Scenes from seeds. The same seed gives the same bytes, whatever was drawn before.

    Example:
        >>> with TabletopWorld(size=(96, 96)) as world:
        ...     world.reset(7)
        ...     scene = world.view("front")
    """

    def __init__(self, size: tuple[int, int] = (96, 96)) -> None:
        """Find a renderer, compile the model and open a drawing context (under a second).

        Args:
            size: (height, width) of the pictures in pixels.

        Raises:
            RenderError: nothing can draw here, or the size is out of range.
        """
        mujoco = load_mujoco()
        self._mujoco = mujoco
        self.size = size
        self._model: Any = compile_model(*size)
        self._data: Any = mujoco.MjData(self._model)
        self._kinematics = Kinematics()
        self._painter = Painter(self._model, *size)
        self._pool = _Pool(self._model)
        self._state: _State | None = None

    def close(self) -> None:
        """Free the drawing context; the world cannot be used afterwards."""
        self._painter.close()

    def __enter__(self) -> "TabletopWorld":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def reset(self, seed: int, split: str = "train") -> None:
        """Draw a scene: things, room, cameras, a task and a moment of it.

        Args:
            seed: any integer >= 0. The same seed in two splits gives unrelated scenes.
            split: one of `SPLITS`.

        Raises:
            ConfigError: unknown split.
        """
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        rng = np.random.default_rng([SPLITS.index(split), seed])
        base = (float(rng.uniform(-0.78, -0.55)), float(rng.uniform(-0.10, 0.10)))
        robot = Robot(self._kinematics, base)
        situation = draw_situation(rng, split, robot)
        objects = tuple(
            _object(number, situation, is_reachable(number, situation.things, robot))
            for number in range(len(situation.things))
        )
        centers = np.stack([o.center for o in objects])
        radii = [float(np.linalg.norm(o.extent)) / 2 for o in objects]
        arm = robot.base + self._kinematics.links(situation.joints)
        views = draw_views(rng, NEW if split == "new_cameras" else SEEN, centers, radii, arm)
        room = draw_room(
            rng,
            colors={o.color for o in objects},
            base=base,
            viewpoints=np.stack([views[name].position for name in ("front", "side")]),
        )
        self._state = _State(
            seed=seed,
            split=split,
            situation=situation,
            views=views,
            objects=objects,
            room=room,
            base=base,
        )
        self._write(self._state)

    def view(self, camera: str) -> Scene:
        """Draw the scene from one of `CAMERAS`.

        Raises:
            ConfigError: unknown camera.
            RuntimeError: `reset` has not been called.
        """
        if camera not in CAMERAS:
            raise unknown_name("camera", camera, CAMERAS)
        state = self._state
        if state is None:
            raise RuntimeError("reset(seed) the world before looking at it")
        image, depth, geoms = self._painter.draw(self._data, self._model.camera(camera).id)
        mask = self._pool.instance[geoms]
        robot_mask = self._pool.is_robot[geoms]
        pose = self._camera(camera)
        return Scene(
            id=f"tabletop/{state.split}/{state.seed}/{camera}",
            source="tabletop",
            image=image,
            depth=depth,
            depth_kind="metric",
            depth_origin="simulator",
            depth_unit_m=DEPTH_UNIT_M,
            mask=mask,
            camera=pose,
            objects=state.objects,
            robot_mask=robot_mask,
            task=state.situation.task,
            support=state.room.support,
            meta=self._meta(state, camera, mask, pose),
        )

    def _meta(
        self, state: _State, camera: str, mask: Int[np.ndarray, "height width"], pose: Camera
    ) -> dict[str, Any]:
        counts = np.bincount(mask.ravel(), minlength=len(state.objects) + 1)
        held = state.situation.held
        return {
            "scene": f"tabletop/{state.split}/{state.seed}",
            "world": "tabletop",
            "seed": state.seed,
            "split": state.split,
            "camera": camera,
            "fovy": state.views[camera].fovy,
            "world_from_camera": pose.world_from_camera.round(6).tolist(),
            "visible_pixels": {str(o.index): int(counts[o.index]) for o in state.objects},
            "held": None if held is None else held + 1,
            "robot": {
                "base": [*state.base, 0.0],
                "tip": state.situation.tip.round(6).tolist(),
                "joints": state.situation.joints.round(6).tolist(),
                "opening": 2 * state.situation.opening,
            },
        }

    def _camera(self, name: str) -> Camera:
        number = self._model.camera(name).id
        height, width = self.size
        focal = height / 2 / float(np.tan(np.radians(self._model.cam_fovy[number]) / 2))
        pose = np.eye(4)
        # MuJoCo's camera looks along -z with y up; ours along +z with y down.
        pose[:3, :3] = self._data.cam_xmat[number].reshape(3, 3) * (1, -1, -1)
        pose[:3, 3] = self._data.cam_xpos[number]
        intrinsics = Intrinsics(fx=focal, fy=focal, cx=width / 2, cy=height / 2)
        return Camera(name=name, intrinsics=intrinsics, world_from_camera=pose)

    def _write(self, state: _State) -> None:
        """Put a scene into the model: every number that any scene sets is set anew."""
        model, data, mujoco = self._model, self._data, self._mujoco
        situation = state.situation
        self._pool.hide()
        for number in range(MAX_THINGS):
            thing = situation.things[number] if number < len(situation.things) else None
            self._pool.write_thing(data, number, thing)
        write_room(model, state.room)
        write_views(model, state.views)
        data.qpos[self._pool.joints] = situation.joints
        data.qpos[self._pool.fingers] = situation.opening
        model.body("arm").pos[:] = (*state.base, 0.0)
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)


class _Pool:
    """Where things go in the model's arrays."""

    def __init__(self, model: Any) -> None:
        self._mujoco = load_mujoco()
        self._model = model
        kinds = self._mujoco.mjtGeom
        self._kinds = {
            "box": int(kinds.mjGEOM_BOX),
            "cylinder": int(kinds.mjGEOM_CYLINDER),
            "sphere": int(kinds.mjGEOM_SPHERE),
            "capsule": int(kinds.mjGEOM_CAPSULE),
            "mesh": int(kinds.mjGEOM_MESH),
        }
        self._fixed = [[model.geom(f"thing{i}_{k}").id for k in range(NUM_FIXED)] for i in range(MAX_THINGS)]
        self._moving = [
            [model.geom(f"thing{i}_moving{k}").id for k in range(NUM_MOVING)] for i in range(MAX_THINGS)
        ]
        self._geoms = np.array([*np.ravel(self._fixed), *np.ravel(self._moving)])
        self._materials = {model.material(i).name: i for i in range(model.nmat)}
        self._meshes = {model.mesh(i).name: i for i in range(model.nmesh)}
        self._addresses = [
            [int(model.joint(f"thing{i}{end}").qposadr[0]) for end in ("", "_slide", "_hinge")]
            for i in range(MAX_THINGS)
        ]
        self.joints = [int(model.joint(f"joint{i + 1}").qposadr[0]) for i in range(NUM_JOINTS)]
        self.fingers = [int(model.joint(f"finger_{side}").qposadr[0]) for side in ("left", "right")]
        # One more entry than there are geoms: number -1, nothing hit, finds the last.
        self.instance: Int[np.ndarray, "geom"] = np.zeros(model.ngeom + 1, np.int32)
        for i in range(MAX_THINGS):
            self.instance[self._fixed[i] + self._moving[i]] = i + 1
        self.is_robot: Bool[np.ndarray, "geom"] = np.ones(model.ngeom + 1, bool)
        self.is_robot[self._geoms] = False
        self.is_robot[[model.geom(f"slab{i}").id for i in range(MAX_SLABS)]] = False
        self.is_robot[-1] = False

    def hide(self) -> None:
        """Take every thing out of the picture."""
        self._model.geom_group[self._geoms] = HIDDEN

    def write_thing(self, data: Any, number: int, thing: Thing | None) -> None:
        """Make the number-th body a thing (None: leave it hidden)."""
        free, slide, hinge = self._addresses[number]
        if thing is None:
            data.qpos[free : free + 7] = (0, 0, -5, 1, 0, 0, 0)
            data.qpos[slide] = data.qpos[hinge] = 0.0
            return
        half = thing.yaw / 2
        data.qpos[free : free + 7] = (*thing.position, np.cos(half), 0, 0, np.sin(half))
        joint = thing.body.joint
        data.qpos[slide], data.qpos[hinge] = joint.slide, joint.angle
        self._model.joint(f"thing{number}_hinge").pos[:] = joint.hinge
        material = self._materials[thing.material]
        counts = [0, 0]
        for part in thing.body.parts:
            geoms = self._moving[number] if part.moving else self._fixed[number]
            geom = geoms[counts[part.moving]]
            counts[part.moving] += 1
            is_plain = part.tone == "contrast"
            self._write_geom(
                geom, part, _toned(thing.color, part.tone), self._materials["matte"] if is_plain else material
            )

    def _write_geom(self, geom: int, part: Part, color: tuple[float, float, float], material: int) -> None:
        model = self._model
        position, quaternion = np.asarray(part.position, float), np.asarray(part.quaternion, float)
        model.geom_dataid[geom] = -1
        if part.kind == "mesh":
            # MuJoCo keeps a mesh in the frame of its own inertia.
            mesh = self._meshes[meshes.mesh_name(part.mesh, part.scale)]
            model.geom_dataid[geom] = mesh
            offset, turned = np.zeros(3), np.zeros(4)
            self._mujoco.mju_rotVecQuat(offset, model.mesh_pos[mesh], quaternion)
            self._mujoco.mju_mulQuat(turned, quaternion, model.mesh_quat[mesh])
            position, quaternion = position + offset, turned
        model.geom_type[geom] = self._kinds[part.kind]
        model.geom_size[geom] = part.size
        model.geom_pos[geom], model.geom_quat[geom] = position, quaternion
        model.geom_rgba[geom] = (*color, 1.0)
        model.geom_matid[geom] = material
        model.geom_group[geom] = SHOWN


def _toned(color: str, tone: str) -> tuple[float, float, float]:
    rgb = np.asarray(COLORS[color])
    if tone == "light":
        rgb = rgb + _LIGHT * (1 - rgb)
    if tone == "dark":
        rgb = _DARK * rgb
    if tone == "contrast":
        rgb = np.full(3, 0.12 if rgb @ (0.3, 0.59, 0.11) > 0.33 else 0.88)
    return float(rgb[0]), float(rgb[1]), float(rgb[2])


def _object(number: int, situation: Situation, reachable: bool) -> SceneObject:
    thing = situation.things[number]
    body = thing.body
    host = None if thing.host is None else thing.host + 1
    return SceneObject(
        index=number + 1,
        name=thing.name,
        shape=body.shape,
        color=thing.color,
        size=thing.size,
        material=thing.material,
        pose=thing.pose,
        extent=body.high - body.low,
        center=thing.world((body.low + body.high) / 2),
        is_container=body.is_container,
        is_graspable=body.grasp.width <= 0.08,
        grasp_part=body.grasp.part,
        grasp_point=thing.world(body.grasp.point),
        inside=host if thing.relation == "inside" else None,
        on=host if thing.relation == "on" else None,
        reachable=reachable,
    )
