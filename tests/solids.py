"""Solid geometry written a second time, from each part's definition: what is inside what."""

import numpy as np

from egem.worlds.tabletop import meshes
from egem.worlds.tabletop.body import Body, Joint, Part


def _frame(part: Part) -> np.ndarray:
    w, x, y, z = part.quaternion
    q = np.array([x, y, z])
    # Rodrigues by columns: v + 2 q x (q x v + w v)
    return np.stack([v + 2 * np.cross(q, np.cross(q, v) + w * v) for v in np.eye(3)], axis=1)


def _fixed(points: np.ndarray, joint: Joint) -> np.ndarray:
    """From the object's frame back into the moving frame."""
    hinge = np.array(joint.hinge)
    c, s = np.cos(-joint.angle), np.sin(-joint.angle)
    back = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return (points - [joint.slide, 0, 0] - hinge) @ back.T + hinge


def _inside_outline(radius: np.ndarray, height: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """Even-odd rule on the half plane (radius, height); the axis closes the outline."""
    inside = np.zeros(len(radius), bool)
    for (r0, z0), (r1, z1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        crosses = (z0 > height) != (z1 > height)
        with np.errstate(divide="ignore", invalid="ignore"):
            at = r0 + (height - z0) / (z1 - z0) * (r1 - r0)
        inside ^= crosses & (radius < at)
    return inside


def is_inside(points: np.ndarray, body: Body, shrink: float) -> np.ndarray:
    """Which points (object's frame) are deeper than `shrink` inside the body's matter."""
    result = np.zeros(len(points), bool)
    for part in body.parts:
        local = _fixed(points, body.joint) if part.moving else points
        local = (local - part.position) @ _frame(part)
        radius = np.hypot(local[:, 0], local[:, 1])
        a, b, _ = part.size
        if part.kind == "box":
            result |= (np.abs(local) < np.array(part.size) - shrink).all(axis=1)
        elif part.kind == "sphere":
            result |= np.linalg.norm(local, axis=1) < a - shrink
        elif part.kind == "cylinder":
            result |= (radius < a - shrink) & (np.abs(local[:, 2]) < b - shrink)
        elif part.mesh in ("ring", "mug_handle"):
            bend, tube = (
                (meshes.RING_RADIUS, meshes.RING_TUBE)
                if part.mesh == "ring"
                else (meshes.HANDLE_RADIUS, meshes.HANDLE_TUBE)
            )
            near = np.hypot(radius - bend * part.scale, local[:, 2]) < tube * part.scale - shrink
            result |= near & ((part.mesh == "ring") | (local[:, 0] > 0))
        else:
            outline = np.array(meshes.PROFILES[part.mesh]) * part.scale
            deep = np.ones(len(points), bool)
            for dr, dz in ((0, 0), (shrink, 0), (-shrink, 0), (0, shrink), (0, -shrink)):
                deep &= _inside_outline(np.abs(radius + dr), local[:, 2] + dz, outline)
            result |= deep
    return result


def surface(body: Body, rng: np.random.Generator, num: int = 300) -> np.ndarray:
    """Points on the body's geoms, object's frame: `num` from each part."""
    found = []
    for part in body.parts:
        a, b, _ = part.size
        if part.kind == "box":
            local = rng.uniform(-1, 1, (num, 3))
            axis = rng.integers(3, size=num)
            local[np.arange(num), axis] = np.sign(local[np.arange(num), axis])
            corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
            local = np.concatenate([local, corners]) * part.size
        elif part.kind == "sphere":
            local = rng.normal(size=(num, 3))
            local *= a / np.linalg.norm(local, axis=1, keepdims=True)
        elif part.kind == "cylinder":
            angle, up = rng.uniform(0, 2 * np.pi, num), rng.uniform(-b, b, num)
            cap = rng.random(num) < 0.5
            reach = np.where(cap, a * np.sqrt(rng.random(num)), a)
            local = np.stack(
                [reach * np.cos(angle), reach * np.sin(angle), np.where(cap, b * np.sign(up), up)], axis=1
            )
        else:
            vertices, _, faces = meshes.build(part.mesh, part.scale)
            corners = vertices[faces[rng.integers(len(faces), size=num)]]
            share = rng.dirichlet(np.ones(3), num)
            local = np.concatenate([(corners * share[..., None]).sum(axis=1), vertices])
        local = local @ _frame(part).T + part.position
        if part.moving:
            # The inverse of `_fixed`, by the same rule with the joint turned round.
            hinge = np.array(body.joint.hinge)
            c, s = np.cos(body.joint.angle), np.sin(body.joint.angle)
            turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
            local = (local - hinge) @ turn.T + hinge + [body.joint.slide, 0, 0]
        found.append(local)
    return np.concatenate(found)


def to_world(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    return points @ pose[:3, :3].T + pose[:3, 3]


def to_object(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    return (points - pose[:3, 3]) @ pose[:3, :3]
