"""Toy blocks: shapes of one geom or a few."""

from types import MappingProxyType
from typing import Final

import numpy as np

from egem.worlds.tabletop import meshes
from egem.worlds.tabletop.body import Body, Grasp, Part, Rest, Shape, finish

ALL_ROUND: Final = tuple(k * np.pi / 6 for k in range(6))
"""Directions in which fingers may close on a round thing."""


def grasp_height(height: float) -> float:
    """Where fingers take an upright thing: its middle, or 3.5 cm below its top, which the palm must clear."""
    return max(height / 2, height - 0.035)


def varied(
    rng: np.random.Generator, scale: float, lengths: tuple[float, ...], spread: float
) -> tuple[float, ...]:
    """Lengths times a scale, each made up to `spread` (a share) longer or shorter."""
    return tuple(float(scale * length * (1 + rng.uniform(-spread, spread))) for length in lengths)


def _bend(middle: float, radius: float) -> tuple[tuple[float, float], ...]:
    """The lower outer quarter of a circle that stands on the table."""
    angles = np.linspace(0, np.pi / 2, 24).tolist()
    return tuple((middle + radius * float(np.sin(a)), radius - radius * float(np.cos(a))) for a in angles)


def cube(scale: float, rng: np.random.Generator) -> Body:
    """Edge 5 cm in the middle."""
    half = 0.025 * scale
    return finish(
        "cube",
        (Part(kind="box", position=(0.0, 0.0, half), size=(half, half, half)),),
        grasp=Grasp(part="body", point=(0.0, 0.0, half), width=2 * half, angles=(0.0, np.pi / 2)),
        underside=((half * 2**0.5, 0.0),),
        rests=(Rest(relation="on", center=(0.0, 0.0), half=(half, half), z=2 * half),),
    )


def block(scale: float, rng: np.random.Generator) -> Body:
    """A brick, long along y."""
    x, y, z = varied(rng, scale, (0.02, 0.046, 0.019), 0.07)
    return finish(
        "block",
        (Part(kind="box", position=(0.0, 0.0, z), size=(x, y, z)),),
        grasp=Grasp(part="body", point=(0.0, 0.0, z), width=2 * x),
        underside=((float(np.hypot(x, y)), 0.0),),
        rests=(Rest(relation="on", center=(0.0, 0.0), half=(x, y), z=2 * z),),
    )


def cylinder(scale: float, rng: np.random.Generator) -> Body:
    """Upright."""
    radius, half = varied(rng, scale, (0.025, 0.036), 0.07)
    return finish(
        "cylinder",
        (Part(kind="cylinder", position=(0.0, 0.0, half), size=(radius, half, 0.0)),),
        grasp=Grasp(
            part="body", point=(0.0, 0.0, grasp_height(2 * half)), width=2 * radius, angles=ALL_ROUND
        ),
        underside=((radius, 0.0),),
        rests=(Rest(relation="on", center=(0.0, 0.0), half=(radius, radius), z=2 * half, round=True),),
        is_round=True,
    )


def ball(scale: float, rng: np.random.Generator) -> Body:
    """Diameter 5.5 cm in the middle."""
    radius = 0.0275 * scale
    return finish(
        "ball",
        (Part(kind="sphere", position=(0.0, 0.0, radius), size=(radius, 0.0, 0.0)),),
        grasp=Grasp(part="body", point=(0.0, 0.0, radius), width=2 * radius, angles=ALL_ROUND),
        underside=_bend(0.0, radius),
        rolls=True,
        is_round=True,
    )


def cone(scale: float, rng: np.random.Generator) -> Body:
    """Upright."""
    radius, height = meshes.outer_radius("cone", scale), meshes.height("cone", scale)
    # The fingers' lower ends, 7 mm below the grasp, meet it first.
    width = 2 * radius * (1 - (0.5 * height - 0.007) / height) + 0.004
    return finish(
        "cone",
        (Part(kind="mesh", position=(0.0, 0.0, 0.0), mesh="cone", scale=scale),),
        grasp=Grasp(part="body", point=(0.0, 0.0, 0.5 * height), width=width, angles=ALL_ROUND),
        underside=((radius, 0.0),),
        is_round=True,
    )


def ring(scale: float, rng: np.random.Generator) -> Body:
    """Lying flat; the fingers straddle its tube."""
    bend, tube = meshes.RING_RADIUS * scale, meshes.RING_TUBE * scale
    return finish(
        "ring",
        (Part(kind="mesh", position=(0.0, 0.0, tube), mesh="ring", scale=scale),),
        grasp=Grasp(part="body", point=(bend, 0.0, tube), width=2 * tube),
        underside=_bend(bend, tube),
        is_round=True,
    )


def arch(scale: float, rng: np.random.Generator) -> Body:
    """Two pillars and a lintel along y."""
    x, y = 0.018 * scale, 0.048 * scale * rng.uniform(0.95, 1.05)
    pillar, leg, lintel = 0.014 * scale, 0.021 * scale, 0.011 * scale
    top = 2 * leg + 2 * lintel
    return finish(
        "arch",
        (
            Part(kind="box", position=(0.0, y - pillar, leg), size=(x, pillar, leg)),
            Part(kind="box", position=(0.0, pillar - y, leg), size=(x, pillar, leg)),
            Part(kind="box", position=(0.0, 0.0, 2 * leg + lintel), size=(x, y, lintel)),
        ),
        grasp=Grasp(part="body", point=(0.0, 0.0, 2 * leg + lintel), width=2 * x),
        underside=((float(np.hypot(x, y)), 0.0),),
        rests=(Rest(relation="on", center=(0.0, 0.0), half=(x, y), z=top),),
    )


SHAPES: Final = MappingProxyType(
    {
        "cube": Shape(build=cube),
        "block": Shape(build=block),
        "cylinder": Shape(build=cylinder),
        "ball": Shape(build=ball),
        "cone": Shape(build=cone),
        "ring": Shape(build=ring),
        "arch": Shape(build=arch),
    }
)
