"""What surrounds the table: room, light, cameras. Plain is always the same, varied is drawn from the seed."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from egem.environments.tabletop.layout import BASE
from egem.environments.tabletop.model import HIDDEN, SHOWN
from egem.worlds.tabletop.cameras import View, looking_at
from egem.worlds.tabletop.renderer import load_mujoco
from egem.worlds.tabletop.room import MAX_SLABS, Room, draw_room

_FRONT: Final = (0.62, 0.0, 0.56)
_LOOKS_AT: Final = (-0.09, 0.0, 0.02)
_WRIST: Final = (0.075, 0.0, 0.018)
_PLAIN_SEED: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenery:
    """Room and cameras of an episode."""

    room: Room
    front: View
    wrist: View

    def write(self, model: Any) -> None:
        """Put it into the environment's model."""
        mujoco = load_mujoco()
        kinds = {"box": int(mujoco.mjtGeom.mjGEOM_BOX), "cylinder": int(mujoco.mjtGeom.mjGEOM_CYLINDER)}
        slabs = [model.geom(f"slab{i}").id for i in range(MAX_SLABS)]
        model.geom_group[slabs] = HIDDEN
        for geom, slab in zip(slabs, self.room.slabs, strict=False):
            model.geom_type[geom], model.geom_size[geom] = kinds[slab.kind], slab.size
            model.geom_pos[geom], model.geom_quat[geom] = slab.center, slab.quaternion
            model.geom_rgba[geom] = (*slab.color, 1.0)
            model.geom_matid[geom] = model.material(slab.surface or "matte").id
            model.geom_group[geom] = SHOWN
        for name, view in (("front", self.front), ("wrist", self.wrist)):
            number = model.camera(name).id
            quaternion = np.zeros(4)
            mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(view.rotation).ravel())
            model.cam_pos[number], model.cam_quat[number] = view.position, quaternion
            model.cam_fovy[number] = view.fovy
        for name, light in (("lamp", self.room.lamp), ("fill", self.room.fill)):
            number = model.light(name).id
            model.light_pos[number], model.light_dir[number] = light.position, light.direction
            model.light_diffuse[number] = light.diffuse
        model.vis.headlight.ambient[:] = self.room.ambient
        model.vis.headlight.diffuse[:] = self.room.headlight


def draw_scenery(rng: np.random.Generator | None, colors: set[str]) -> Scenery:
    """A room and cameras.

    Args:
        rng: None: the plain scenery, the same for all episodes.
        colors: of the things on the table, from which a drawn table differs.
    """
    jitter = 0.0 if rng is None else 1.0
    rng = np.random.default_rng(_PLAIN_SEED) if rng is None else rng
    position = np.asarray(_FRONT) + jitter * rng.normal(0, 0.02, 3)
    target = np.asarray(_LOOKS_AT) + jitter * rng.normal(0, 0.01, 3)
    front = View(
        position=position,
        rotation=looking_at(position, target, 0.0),
        fovy=43.0 + jitter * float(rng.normal()),
    )
    tilt = np.radians(12.0 + jitter * float(rng.normal()))
    right, up, forward = (
        np.array([0.0, 1.0, 0.0]),
        np.array([np.cos(tilt), 0.0, np.sin(tilt)]),
        np.array([-np.sin(tilt), 0.0, np.cos(tilt)]),
    )
    wrist = View(
        position=np.asarray(_WRIST) + jitter * rng.normal(0, 0.003, 3),
        rotation=np.stack([right, up, -forward], axis=1),
        fovy=66.0,
    )
    room = draw_room(
        rng,
        colors=colors if jitter else set(),
        base=BASE[:2],
        viewpoints=np.stack([front.position, front.position]),
    )
    return Scenery(room=room, front=front, wrist=wrist)
