"""The one MuJoCo model of a world: an arm, a pool of bodies that any thing can become, a room."""

from typing import Any, Final

import numpy as np

from egem.core.errors import RenderError
from egem.worlds.tabletop import arm, meshes, textures
from egem.worlds.tabletop.catalog import PATTERNED, SCALES
from egem.worlds.tabletop.layout import MAX_THINGS
from egem.worlds.tabletop.renderer import load_mujoco
from egem.worlds.tabletop.room import MAX_SLABS

NUM_FIXED: Final = 5
NUM_MOVING: Final = 8
"""Geoms of a thing that belong to its body, and to its drawer or lid."""

SHOWN: Final = 0
HIDDEN: Final = 5
"""Geom groups: MuJoCo draws only the first three."""

MAX_SIDE: Final = 2048


def compile_model(height: int, width: int) -> Any:
    """Compile the model with an offscreen buffer of the given size and paint its textures.

    Returns:
        MjModel; geoms are named `slab<i>`, `thing<i>_<k>`, `thing<i>_moving<k>`.

    Raises:
        RenderError: the size is not between 16 and 2048 pixels.
    """
    if not (16 <= height <= MAX_SIDE and 16 <= width <= MAX_SIDE):
        raise RenderError(f"a picture of {height} x {width} was asked for; sides go from 16 to {MAX_SIDE}.")
    model: Any = load_mujoco().MjModel.from_xml_string(_xml(height, width))
    # Geoms are moved within their bodies later on: MuJoCo must not take any frame for its body's own.
    model.geom_sameframe[:] = 0
    for name in textures.SURFACES:
        _paint(model, name, textures.surface(name))
    for name in PATTERNED:
        _paint(model, name, textures.wrapping(name))
    return model


def _paint(model: Any, name: str, gray: np.ndarray) -> None:
    texture = model.texture(name).id
    start, channels = model.tex_adr[texture], model.tex_nchannel[texture]
    pixels = np.repeat(gray[..., None], channels, axis=2).ravel()
    model.tex_data[start : start + len(pixels)] = pixels


def _xml(height: int, width: int) -> str:
    side = textures.SIDE
    assets = "".join(
        meshes.to_xml(meshes.mesh_name(name, scale), meshes.build(name, scale))
        for name in meshes.NAMES
        for scale in SCALES
    )
    for name in textures.SURFACES:
        assets += f'<texture name="{name}" type="2d" builtin="flat" width="{side}" height="{side}"/>'
        for pace, repeat in textures.REPEATS.items():
            assets += (
                f'<material name="{name}_{pace}" texture="{name}" texuniform="true" '
                f'texrepeat="{repeat} {repeat}" specular="0.1" shininess="0.2"/>'
            )
    for name in PATTERNED:
        assets += (
            f'<texture name="{name}" type="cube" builtin="flat" width="{side}" height="{6 * side}"/>'
            f'<material name="{name}" texture="{name}" specular="0.15" shininess="0.3"/>'
        )
    assets += (
        '<material name="matte" specular="0.0" shininess="0.0"/>'
        '<material name="glossy" specular="0.9" shininess="0.85"/>'
        '<material name="robot" specular="0.4" shininess="0.5"/>'
    )
    blank = 'type="box" size="0.01 0.01 0.01" pos="0.001 0 0" quat="0.8 0.6 0 0" contype="0" conaffinity="0"'
    slabs = "".join(f'<geom name="slab{i}" {blank} group="{HIDDEN}"/>' for i in range(MAX_SLABS))
    things = "".join(_thing_xml(i, blank) for i in range(MAX_THINGS))
    # Reverse-Z in a float buffer keeps depth exact between these planes; the statistic fixes their unit.
    return f"""<mujoco model="tabletop">
<compiler angle="radian" autolimits="true"/><statistic extent="1" center="0 0 0"/>
<option timestep="0.002" integrator="implicitfast" cone="elliptic" impratio="10">
<flag midphase="disable"/></option>
<visual><global offwidth="{width}" offheight="{height}"/><map znear="0.01" zfar="12" shadowclip="1.1"/>
<quality shadowsize="512" offsamples="0" numslices="24" numstacks="12"/>
<headlight ambient="0.3 0.3 0.3" diffuse="0.2 0.2 0.2" specular="0 0 0"/></visual>
<default><default class="robot"><geom contype="0" conaffinity="0" material="robot"/><default class="pad"/></default>
</default>
<asset>{assets}</asset>
<worldbody>
<light name="lamp" directional="true" pos="0 0 2" dir="0 0 -1" castshadow="true" specular="0.4 0.4 0.4"/>
<light name="fill" directional="true" pos="0 0 2" dir="0 0 -1" castshadow="false" specular="0 0 0"/>
<camera name="front" pos="1 0 1" fovy="50"/><camera name="side" pos="0 1 1" fovy="50"/>
{slabs}{things}{arm.body_xml(wrist_camera=True)}
</worldbody><actuator>{arm.actuators_xml()}</actuator></mujoco>"""


def _thing_xml(number: int, blank: str) -> str:
    name = f"thing{number}"
    fixed = "".join(
        f'<geom name="{name}_{k}" {blank} mass="0.01" group="{HIDDEN}"/>' for k in range(NUM_FIXED)
    )
    moving = "".join(
        f'<geom name="{name}_moving{k}" {blank} mass="0.01" group="{HIDDEN}"/>' for k in range(NUM_MOVING)
    )
    return (
        f'<body name="{name}"><freejoint name="{name}"/>{fixed}<body name="{name}_moving">'
        f'<joint name="{name}_slide" type="slide" axis="1 0 0"/>'
        f'<joint name="{name}_hinge" type="hinge" axis="0 1 0"/>{moving}</body></body>'
    )
