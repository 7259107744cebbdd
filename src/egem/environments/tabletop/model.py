"""The one MuJoCo model of the environment: an arm, bodies that any thing can become, a cabinet with a drawer, a room.

Compiled once; a reset writes sizes, colours and places into it. What a scene does not use floats far below the floor.
Contact settings are those with which the fingers hold without chatter: 2 ms steps, soft pads, elliptic cones.
"""

from typing import Any, Final

import numpy as np

from egem.worlds.tabletop import arm
from egem.worlds.tabletop.renderer import load_mujoco
from egem.worlds.tabletop.setting import (
    HIDDEN,
    LAMPS_XML,
    MATERIALS_XML,
    paint_surfaces,
    slabs_xml,
    surfaces_xml,
    visual_xml,
)

NUM_THINGS: Final = 5
"""Small things to grasp: a scene has up to so many."""

NUM_HOLDERS: Final = 2
"""Plates and bins."""

NUM_PRISM_BOXES: Final = 4
"""Boxes, one turned against the other, that a cylinder collides as: flat faces for the fingers."""

TIMESTEP_S: Final = 0.002

THING_MASS: Final = 0.06
HOLDER_MASS: Final = 0.4

# Of the cabinet, metres: its front is at x = 0 of its own frame, the drawer slides along +x.
CABINET_DEPTH: Final = 0.13
CABINET_HALF_WIDTH: Final = 0.078
CABINET_HEIGHT: Final = 0.070
DRAWER_TRAVEL: Final = 0.105
DRAWER_HALF_WIDTH: Final = 0.066
"""Inside."""
DRAWER_WALL: Final = 0.046
"""Height of its walls above the table."""
DRAWER_FLOOR: Final = 0.010
HANDLE_GAP: Final = 0.038
"""Between the drawer's face and the bar in front of it."""
HANDLE_HEIGHT: Final = 0.036
_WALL: Final = 0.003
_FACE: Final = 0.005


def compile_model(height: int, width: int) -> Any:
    """The model, with an offscreen buffer of that size.

    Returns:
        MjModel with bodies `thing<i>`, `holder<i>`, `cabinet`, `drawer`; geoms `thing<i>_look`, `thing<i>_box<k>`,
        `holder<i>_floor`, `holder<i>_wall<k>`, `holder<i>_well`, `slab<i>`; joint `drawer`.
    """
    model: Any = load_mujoco().MjModel.from_xml_string(_xml(height, width))
    model.geom_sameframe[:] = 0  # geoms are moved within their bodies later on
    paint_surfaces(model)
    return model


def _xml(height: int, width: int) -> str:
    things = "".join(_thing_xml(i) for i in range(NUM_THINGS))
    holders = "".join(_holder_xml(i) for i in range(NUM_HOLDERS))
    return f"""<mujoco model="tabletop_tasks">
<compiler angle="radian" autolimits="true"/>
<option timestep="{TIMESTEP_S}" integrator="implicitfast" cone="elliptic" impratio="10">
<flag midphase="disable"/></option>
{visual_xml(height, width)}
<default>
<default class="look"><geom contype="0" conaffinity="0" mass="0"/></default>
<default class="robot"><geom contype="0" conaffinity="0" material="robot"/>
<default class="pad"><geom contype="1" conaffinity="1" friction="1.5 0.05 0.001" condim="4" priority="1"
solref="0.01 1" solimp="0.9 0.95 0.001"/></default></default>
<default class="solid"><geom type="box" friction="1 0.02 0.001" condim="4" solref="0.01 1" mass="0"/></default>
<default class="fixed"><geom type="box" contype="2" conaffinity="1" friction="1 0.02 0.001" condim="4"
solref="0.01 1"/></default>
</default>
<asset>{MATERIALS_XML}{surfaces_xml()}</asset>
<worldbody>
{LAMPS_XML}
<camera name="front" pos="1 0 1" fovy="50"/>
<geom class="fixed" name="top" size="1 1 0.05" pos="0 0 -0.05" group="{HIDDEN}"/>
{slabs_xml()}{things}{holders}{_cabinet_xml()}{arm.body_xml(wrist_camera=True)}
</worldbody><actuator>{arm.actuators_xml()}</actuator></mujoco>"""


def _thing_xml(number: int) -> str:
    """A body whose origin is its middle; sizes are placeholders."""
    boxes = "".join(
        f'<geom class="solid" name="thing{number}_box{k}" size="0.02 0.02 0.02" euler="0 0 {k * np.pi / 4:.8f}" '
        f'group="{HIDDEN}"/>'
        for k in range(NUM_PRISM_BOXES)
    )
    inertia = THING_MASS / 6 * 0.042**2
    return (
        f'<body name="thing{number}" gravcomp="1"><freejoint name="thing{number}"/>'
        f'<inertial pos="0 0 0" mass="{THING_MASS}" diaginertia="{inertia:.8f} {inertia:.8f} {inertia:.8f}"/>'
        f'<geom class="look" name="thing{number}_look" type="box" size="0.02 0.02 0.02" material="matte"/>{boxes}'
        "</body>"
    )


def _holder_xml(number: int) -> str:
    """A body whose origin is the middle of its underside: a plate, or a bin with four walls."""
    walls = "".join(
        f'<geom class="solid" name="holder{number}_wall{k}" size="0.01 0.01 0.01" material="matte"/>'
        for k in range(4)
    )
    # A plate of 7 cm radius.
    flat, tall = HOLDER_MASS / 4 * 0.07**2, HOLDER_MASS / 2 * 0.07**2
    return (
        f'<body name="holder{number}" gravcomp="1"><freejoint name="holder{number}"/>'
        f'<inertial pos="0 0 0.006" mass="{HOLDER_MASS}" diaginertia="{flat:.8f} {flat:.8f} {tall:.8f}"/>'
        f'<geom class="solid" name="holder{number}_floor" size="0.05 0.05 0.003" material="matte"/>{walls}'
        f'<geom class="look" name="holder{number}_well" type="cylinder" size="0.045 0.0005" material="matte"/></body>'
    )


def _cabinet_xml() -> str:
    depth, half, height = CABINET_DEPTH / 2, CABINET_HALF_WIDTH, CABINET_HEIGHT
    shell = (
        # top, back, sides
        (depth, half, _WALL, -depth, 0.0, height - _WALL),
        (_WALL, half, height / 2, -CABINET_DEPTH + _WALL, 0.0, height / 2),
        (depth, _WALL, height / 2, -depth, half - _WALL, height / 2),
        (depth, _WALL, height / 2, -depth, -half + _WALL, height / 2),
    )
    fixed = "".join(
        f'<geom class="fixed" name="cabinet{k}" size="{a} {b} {c}" pos="{x} {y} {z}" material="matte"/>'
        for k, (a, b, c, x, y, z) in enumerate(shell)
    )
    inner, wall, length = DRAWER_HALF_WIDTH, DRAWER_WALL, CABINET_DEPTH - 0.012
    middle, rise = -length / 2, (wall - DRAWER_FLOOR) / 2
    box = (
        # floor, back, sides, face
        (length / 2, inner, 0.003, middle, 0.0, DRAWER_FLOOR - 0.003),
        (_WALL, inner, rise, -length + _WALL, 0.0, DRAWER_FLOOR + rise),
        (length / 2, _WALL, rise, middle, inner + _WALL, DRAWER_FLOOR + rise),
        (length / 2, _WALL, rise, middle, -inner - _WALL, DRAWER_FLOOR + rise),
        (_FACE, half - 0.002, height / 2 - 0.004, _FACE, 0.0, height / 2),
    )
    bar = 2 * _FACE + HANDLE_GAP + 0.005
    handle = (
        (0.005, 0.034, 0.006, bar, 0.0, HANDLE_HEIGHT),
        ((bar - 2 * _FACE) / 2, 0.004, 0.005, (bar + 2 * _FACE) / 2, 0.030, HANDLE_HEIGHT),
        ((bar - 2 * _FACE) / 2, 0.004, 0.005, (bar + 2 * _FACE) / 2, -0.030, HANDLE_HEIGHT),
    )
    moving = "".join(
        f'<geom class="fixed" name="{name}{k}" size="{a} {b} {c}" pos="{x} {y} {z}" material="matte"/>'
        for name, parts in (("drawer", box), ("handle", handle))
        for k, (a, b, c, x, y, z) in enumerate(parts)
    )
    return (
        f'<body name="cabinet">{fixed}<body name="drawer"><inertial pos="0 0 0.03" mass="0.3" '
        'diaginertia="0.001 0.001 0.001"/><joint name="drawer" type="slide" axis="1 0 0" '
        f'range="0 {DRAWER_TRAVEL}" damping="4" frictionloss="0.6"/>{moving}</body></body>'
    )
