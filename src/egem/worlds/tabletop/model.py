"""The one MuJoCo model of a world: an arm, a pool of bodies that any thing can become, a room."""

from typing import Any, Final

from egem.core.errors import RenderError
from egem.worlds.tabletop import arm, meshes, textures
from egem.worlds.tabletop.catalog import PATTERNED, SCALES
from egem.worlds.tabletop.layout import MAX_THINGS
from egem.worlds.tabletop.renderer import load_mujoco
from egem.worlds.tabletop.setting import (
    BLANK,
    HIDDEN,
    LAMPS_XML,
    MATERIALS_XML,
    paint,
    paint_surfaces,
    slabs_xml,
    surfaces_xml,
    visual_xml,
)

NUM_FIXED: Final = 5
NUM_MOVING: Final = 8
"""Geoms of a thing that belong to its body, and to its drawer or lid."""

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
    paint_surfaces(model)
    for name in PATTERNED:
        paint(model, name, textures.wrapping(name))
    return model


def _xml(height: int, width: int) -> str:
    side = textures.SIDE
    assets = "".join(
        meshes.to_xml(meshes.mesh_name(name, scale), meshes.build(name, scale))
        for name in meshes.NAMES
        for scale in SCALES
    )
    assets += MATERIALS_XML + surfaces_xml()
    for name in PATTERNED:
        assets += (
            f'<texture name="{name}" type="cube" builtin="flat" width="{side}" height="{6 * side}"/>'
            f'<material name="{name}" texture="{name}" specular="0.15" shininess="0.3"/>'
        )
    assets += '<material name="glossy" specular="0.9" shininess="0.85"/>'
    things = "".join(_thing_xml(i) for i in range(MAX_THINGS))
    return f"""<mujoco model="tabletop">
<compiler angle="radian" autolimits="true"/>
<option timestep="0.002" integrator="implicitfast" cone="elliptic" impratio="10">
<flag midphase="disable"/></option>
{visual_xml(height, width)}
<default><default class="robot"><geom contype="0" conaffinity="0" material="robot"/><default class="pad"/></default>
</default>
<asset>{assets}</asset>
<worldbody>
{LAMPS_XML}
<camera name="front" pos="1 0 1" fovy="50"/><camera name="side" pos="0 1 1" fovy="50"/>
{slabs_xml()}{things}{arm.body_xml(wrist_camera=True)}
</worldbody><actuator>{arm.actuators_xml()}</actuator></mujoco>"""


def _thing_xml(number: int) -> str:
    name = f"thing{number}"
    fixed = "".join(
        f'<geom name="{name}_{k}" {BLANK} mass="0.01" group="{HIDDEN}"/>' for k in range(NUM_FIXED)
    )
    moving = "".join(
        f'<geom name="{name}_moving{k}" {BLANK} mass="0.01" group="{HIDDEN}"/>' for k in range(NUM_MOVING)
    )
    return (
        f'<body name="{name}"><freejoint name="{name}"/>{fixed}<body name="{name}_moving">'
        f'<joint name="{name}_slide" type="slide" axis="1 0 0"/>'
        f'<joint name="{name}_hinge" type="hinge" axis="0 1 0"/>{moving}</body></body>'
    )
