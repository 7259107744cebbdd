"""What every MuJoCo model of a tabletop has besides things and arm: surfaces, room, lamps, cameras.

The first half is XML for a model's compilation, the second half writes a drawn room and drawn views into it.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8

from egem.worlds.tabletop import textures
from egem.worlds.tabletop.cameras import View
from egem.worlds.tabletop.renderer import load_mujoco
from egem.worlds.tabletop.room import MAX_SLABS, Room

SHOWN: Final = 0
HIDDEN: Final = 5
"""Geom groups: MuJoCo draws only the first three."""

BLANK: Final = (
    'type="box" size="0.01 0.01 0.01" pos="0.001 0 0" quat="0.8 0.6 0 0" contype="0" conaffinity="0"'
)
"""Of a geom that scenes give size and place: off its body's frame, or MuJoCo would take the one for the other."""

MATERIALS_XML: Final = (
    '<material name="matte" specular="0" shininess="0"/>'
    '<material name="robot" specular="0.4" shininess="0.5"/>'
)

LAMPS_XML: Final = (
    '<light name="lamp" directional="true" pos="0 0 2" dir="0 0 -1" castshadow="true" specular="0.4 0.4 0.4"/>'
    '<light name="fill" directional="true" pos="0 0 2" dir="0 0 -1" castshadow="false" specular="0 0 0"/>'
)


def visual_xml(height: int, width: int) -> str:
    """Of what makes drawing fast and depth exact; the buffer is `height` x `width` pixels."""
    # Reverse-Z in a float buffer keeps depth exact between these planes; the statistic fixes their unit.
    return (
        '<statistic extent="1" center="0 0 0"/>'
        f'<visual><global offwidth="{width}" offheight="{height}"/><map znear="0.01" zfar="12" shadowclip="1.1"/>'
        '<quality shadowsize="512" offsamples="0" numslices="24" numstacks="12"/>'
        '<headlight ambient="0.3 0.3 0.3" diffuse="0.2 0.2 0.2" specular="0 0 0"/></visual>'
    )


def surfaces_xml() -> str:
    """Of the grounds of tables, walls and floors, each fine and coarse."""
    side = textures.SIDE
    return "".join(
        f'<texture name="{name}" type="2d" builtin="flat" width="{side}" height="{side}"/>'
        + "".join(
            f'<material name="{name}_{pace}" texture="{name}" texuniform="true" '
            f'texrepeat="{repeat} {repeat}" specular="0.1" shininess="0.2"/>'
            for pace, repeat in textures.REPEATS.items()
        )
        for name in textures.SURFACES
    )


def slabs_xml() -> str:
    """Of the room's geoms, hidden until a room is written."""
    return "".join(f'<geom name="slab{i}" {BLANK} mass="0" group="{HIDDEN}"/>' for i in range(MAX_SLABS))


def paint_surfaces(model: Any) -> None:
    """Give the surfaces of a compiled model their patterns."""
    for name in textures.SURFACES:
        paint(model, name, textures.surface(name))


def paint(model: Any, name: str, gray: UInt8[np.ndarray, "height width"]) -> None:
    """Write a grey picture into a texture."""
    texture = model.texture(name).id
    start, channels = model.tex_adr[texture], model.tex_nchannel[texture]
    pixels = np.repeat(gray[..., None], channels, axis=2).ravel()
    model.tex_data[start : start + len(pixels)] = pixels


def write_room(model: Any, room: Room) -> None:
    """Put up table, walls, clutter and lamps; slabs that the room does not have are hidden."""
    mujoco = load_mujoco()
    kinds = {"box": int(mujoco.mjtGeom.mjGEOM_BOX), "cylinder": int(mujoco.mjtGeom.mjGEOM_CYLINDER)}
    slabs = [model.geom(f"slab{i}").id for i in range(MAX_SLABS)]
    model.geom_group[slabs] = HIDDEN
    for geom, slab in zip(slabs, room.slabs, strict=False):
        model.geom_type[geom], model.geom_size[geom] = kinds[slab.kind], slab.size
        model.geom_pos[geom], model.geom_quat[geom] = slab.center, slab.quaternion
        model.geom_rgba[geom] = (*slab.color, 1.0)
        model.geom_matid[geom] = model.material(slab.surface or "matte").id
        model.geom_group[geom] = SHOWN
    for name, light in (("lamp", room.lamp), ("fill", room.fill)):
        number = model.light(name).id
        model.light_pos[number], model.light_dir[number] = light.position, light.direction
        model.light_diffuse[number] = light.diffuse
    model.vis.headlight.ambient[:] = room.ambient
    model.vis.headlight.diffuse[:] = room.headlight


def write_views(model: Any, views: Mapping[str, View]) -> None:
    """Put the cameras of these names where the views say."""
    mujoco = load_mujoco()
    for name, view in views.items():
        number = model.camera(name).id
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(view.rotation).ravel())
        model.cam_pos[number], model.cam_quat[number] = view.position, quaternion
        model.cam_fovy[number] = view.fovy
