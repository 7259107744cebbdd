"""Household things made of several geoms: what holds other things, has a handle, or opens."""

from types import MappingProxyType
from typing import Final

import numpy as np

from egem.worlds.tabletop import meshes
from egem.worlds.tabletop.body import Body, Grasp, Joint, Part, Rest, Shape, finish, moved
from egem.worlds.tabletop.primitives import varied

_UPRIGHT: Final = (2**-0.5, 2**-0.5, 0.0, 0.0)
"""Turns a bend lying in the plane z = 0 up into the plane y = 0."""


def mug(scale: float, rng: np.random.Generator) -> Body:
    """With a handle at +x."""
    radius, height = meshes.outer_radius("mug", scale), meshes.height("mug", scale)
    middle, reach = 0.52 * height, radius - 0.001 * scale
    return finish(
        "mug",
        (
            Part(kind="mesh", position=(0.0, 0.0, 0.0), mesh="mug", scale=scale),
            Part(
                kind="mesh",
                position=(reach, 0.0, middle),
                quaternion=_UPRIGHT,
                mesh="mug_handle",
                scale=scale,
            ),
        ),
        grasp=Grasp(
            part="handle",
            point=(reach + meshes.HANDLE_RADIUS * scale, 0.0, middle),
            width=2 * meshes.HANDLE_TUBE * scale,
            angles=(np.pi / 2,),
        ),
        rests=(_hollow("mug", scale),),
        is_container=True,
    )


def bowl(scale: float, rng: np.random.Generator) -> Body:
    """Round, taken by its rim."""
    radius, height = meshes.outer_radius("bowl", scale), meshes.height("bowl", scale)
    return finish(
        "bowl",
        (Part(kind="mesh", position=(0.0, 0.0, 0.0), mesh="bowl", scale=scale),),
        grasp=Grasp(
            part="rim",
            point=(radius - 0.002 * scale, 0.0, height - 0.004),
            width=0.005 * scale,
            angles=(0.0,),
        ),
        rests=(_hollow("bowl", scale),),
        is_container=True,
        can_stand=False,
        is_round=True,
    )


def plate(scale: float, rng: np.random.Generator) -> Body:
    """Flat, with a raised rim."""
    radius, height = meshes.outer_radius("plate", scale), meshes.height("plate", scale)
    floor = meshes.inner_profile("plate", scale)[1].tolist()
    return finish(
        "plate",
        (Part(kind="mesh", position=(0.0, 0.0, 0.0), mesh="plate", scale=scale),),
        grasp=Grasp(part="rim", point=(radius - 0.002 * scale, 0.0, height - 0.002), width=0.006 * scale),
        rests=(
            Rest(relation="on", center=(0.0, 0.0), half=(floor[0], floor[0]), z=floor[1], round=True, room=2),
        ),
        can_stand=False,
        is_round=True,
    )


def tray(scale: float, rng: np.random.Generator) -> Body:
    """A rectangle with a low rim, long along y."""
    x, y = varied(rng, scale, (0.072, 0.105), 0.05)
    wall, floor, height = 0.004, 0.005, 0.024 * scale
    return finish(
        "tray",
        (
            Part(kind="box", position=(0.0, 0.0, floor / 2), size=(x, y, floor / 2)),
            *_walls(x, y, wall, floor, height),
        ),
        grasp=Grasp(part="rim", point=(x - wall, 0.0, height - 0.003), width=2 * wall),
        rests=(
            Rest(
                relation="on",
                center=(0.0, 0.0),
                half=(x - 2 * wall, y - 2 * wall),
                z=floor,
                room=3,
                has_rim=True,
            ),
        ),
        can_stand=False,
    )


def box(scale: float, rng: np.random.Generator) -> Body:
    """With a lid hinged at its back: shut, or turned up."""
    x, y = varied(rng, scale, (0.056, 0.070), 0.05)
    wall, floor, height, lid = 0.004, 0.006, 0.074 * scale, 0.005
    is_open = bool(rng.random() < 0.65)
    hinge = (-x, 0.0, height)
    joint = Joint(angle=-rng.uniform(1.75, 2.05) if is_open else 0.0, hinge=hinge)
    knob = np.array([[0.55 * x, 0.0, height + 2 * lid + 0.012]])
    grip = moved(knob, joint)[0].tolist()
    inside = Rest(
        relation="inside",
        center=(0.0, 0.0),
        half=(x - 2 * wall, y - 2 * wall),
        z=floor,
        room=2,
        has_rim=True,
    )
    return finish(
        "box",
        (
            Part(kind="box", position=(0.0, 0.0, floor / 2), size=(x, y, floor / 2), tone="dark"),
            *_walls(x, y, wall, floor, height),
            Part(
                kind="box",
                position=(0.0, 0.0, height + lid),
                size=(x + 0.002, y + 0.002, lid),
                tone="light",
                moving=True,
            ),
            Part(
                kind="sphere",
                position=(0.55 * x, 0.0, height + 2 * lid + 0.009),
                size=(0.011, 0.0, 0.0),
                tone="contrast",
                moving=True,
            ),
        ),
        grasp=Grasp(part="knob", point=(grip[0], grip[1], grip[2]), width=0.022, angles=(np.pi / 2,)),
        joint=joint,
        rests=(inside,) if is_open else (),
        is_container=True,
        is_open=is_open,
        can_stand=False,
    )


def drawer(scale: float, rng: np.random.Generator) -> Body:
    """A cabinet with one drawer that slides out at +x by its handle: shut, or more than a third open."""
    x, y, z = 0.062 * scale, 0.074 * scale, 0.043 * scale
    is_open = bool(rng.random() < 0.5)
    return _build_drawer(x, y, z, slide=2 * x * rng.uniform(0.45, 0.8) if is_open else 0.0)


def slid(body: Body, slide: float) -> Body:
    """The same drawer opened to another degree.

    Args:
        body: a drawer.
        slide: how far it is to be out, metres.
    """
    x, y, z = body.parts[0].size[0], body.parts[0].size[1], body.parts[2].position[2]
    return _build_drawer(x, y, z, slide=slide)


def _build_drawer(x: float, y: float, z: float, *, slide: float) -> Body:
    """From half depth, width and height of the cabinet, and how far the drawer is out (metres)."""
    wall, front, gap = 0.005, 0.006, 0.0015
    low, inner = 2 * wall + gap, y - 2 * wall - gap
    height = 2 * z - 2 * wall - gap
    back = 2 * wall + gap - x
    sides = 0.72 * height
    middle, length = (x + back) / 2, (x - back) / 2
    # Near the top, or the palm of a gripper that comes from above would meet the cabinet.
    handle_z, handle_x = 2 * z - 0.030, x + 0.036
    joint = Joint(slide=slide)
    cabinet = (
        Part(kind="box", position=(0.0, 0.0, wall), size=(x, y, wall)),
        Part(kind="box", position=(0.0, 0.0, 2 * z - wall), size=(x, y, wall)),
        Part(kind="box", position=(0.0, y - wall, z), size=(x, wall, z - 2 * wall)),
        Part(kind="box", position=(0.0, wall - y, z), size=(x, wall, z - 2 * wall)),
        Part(kind="box", position=(wall - x, 0.0, z), size=(wall, y - 2 * wall, z - 2 * wall), tone="dark"),
    )
    sliding = (
        # The front closes the cabinet's opening from outside.
        Part(
            kind="box",
            position=(x + front, 0.0, z),
            size=(front, y - 0.003, z - 0.003),
            tone="light",
            moving=True,
        ),
        Part(
            kind="box",
            position=(middle, 0.0, low + wall),
            size=(length, inner, wall),
            tone="light",
            moving=True,
        ),
        *(
            Part(
                kind="box",
                position=(middle, sign * (inner - wall), low + 2 * wall + sides / 2),
                size=(length, wall, sides / 2),
                tone="light",
                moving=True,
            )
            for sign in (1, -1)
        ),
        Part(
            kind="box",
            position=(back + wall, 0.0, low + 2 * wall + sides / 2),
            size=(wall, inner - 2 * wall, sides / 2),
            tone="light",
            moving=True,
        ),
        Part(
            kind="box",
            position=(handle_x, 0.0, handle_z),
            size=(0.004, 0.030, 0.006),
            tone="contrast",
            moving=True,
        ),
        *(
            Part(
                kind="box",
                position=((x + 2 * front + handle_x) / 2, sign * 0.024, handle_z),
                size=((handle_x - x - 2 * front) / 2, 0.004, 0.004),
                tone="contrast",
                moving=True,
            )
            for sign in (1, -1)
        ),
    )
    rests = [Rest(relation="on", center=(0.0, 0.0), half=(x, y), z=2 * z, room=2)]
    reach = slide - 0.004
    if reach > 0.03:
        rests.append(
            Rest(
                relation="inside",
                center=(x + reach / 2, 0.0),
                half=(reach / 2, inner - 2 * wall - 0.002),
                z=low + 2 * wall,
                has_rim=True,
            )
        )
    return finish(
        "drawer",
        (*cabinet, *sliding),
        grasp=Grasp(part="handle", point=(handle_x + slide, 0.0, handle_z), width=0.008),
        joint=joint,
        rests=tuple(rests),
        is_container=True,
        is_open=slide > 0,
        can_stand=False,
    )


def bottle(scale: float, rng: np.random.Generator) -> Body:
    """With a neck and a cap."""
    height = meshes.height("bottle", scale)
    return finish(
        "bottle",
        (Part(kind="mesh", position=(0.0, 0.0, 0.0), mesh="bottle", scale=scale),),
        grasp=Grasp(
            part="neck",
            point=(0.0, 0.0, 0.82 * height),
            width=0.024 * scale,
            angles=tuple(k * np.pi / 6 for k in range(6)),
        ),
        is_round=True,
    )


def pan(scale: float, rng: np.random.Generator) -> Body:
    """With a straight handle at +x."""
    radius, height = meshes.outer_radius("pan", scale), meshes.height("pan", scale)
    half, z = 0.045 * scale, height - 0.006
    return finish(
        "pan",
        (
            Part(kind="mesh", position=(0.0, 0.0, 0.0), mesh="pan", scale=scale),
            Part(
                kind="box",
                position=(radius - 0.003 + half, 0.0, z),
                size=(half, 0.009 * scale, 0.005),
                tone="contrast",
            ),
        ),
        grasp=Grasp(
            part="handle",
            point=(radius + 1.3 * half, 0.0, z),
            width=0.018 * scale,
            angles=(np.pi / 2,),
        ),
        rests=(_hollow("pan", scale),),
        is_container=True,
        can_stand=False,
    )


def _hollow(name: str, scale: float) -> Rest:
    floor = meshes.inner_profile(name, scale)[1].tolist()
    return Rest(
        relation="inside",
        center=(0.0, 0.0),
        half=(floor[0], floor[0]),
        z=floor[1],
        round=True,
        profile=name,
        scale=scale,
        has_rim=True,
    )


def _walls(x: float, y: float, wall: float, floor: float, height: float) -> tuple[Part, ...]:
    half, z = (height - floor) / 2, (height + floor) / 2
    return (
        *(Part(kind="box", position=(s * (x - wall), 0.0, z), size=(wall, y, half)) for s in (1, -1)),
        *(
            Part(kind="box", position=(0.0, s * (y - wall), z), size=(x - 2 * wall, wall, half))
            for s in (1, -1)
        ),
    )


SHAPES: Final = MappingProxyType(
    {
        "mug": Shape(build=mug),
        "bowl": Shape(build=bowl, is_big=True),
        "plate": Shape(build=plate, is_big=True),
        "tray": Shape(build=tray, is_big=True),
        "box": Shape(build=box, is_big=True),
        "drawer": Shape(build=drawer, is_big=True),
        "bottle": Shape(build=bottle),
        "pan": Shape(build=pan, is_big=True),
    }
)
