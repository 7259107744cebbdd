"""Block scenes computed in numpy: for texts to train a tokenizer on, and for tests of skills.

Every object is a cuboid, whatever its name; depth and masks are exact (rays against boxes), colours are
flat. What skills see is complete: boxes, poses, holders, grasp points, reach, a task with a path.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from egem.data_engine.ask import ask
from egem.data_engine.skills.counting import COLORS, SHAPES
from egem.records import IMAGE_MARK, Intrinsics
from egem.scene import Camera, Scene, SceneObject, Task

MATERIALS = ("matte", "glossy", "striped", "checkered", "wooden")
GRASP_PARTS = {
    "mug": "handle",
    "bowl": "rim",
    "plate": "rim",
    "tray": "rim",
    "box": "knob",
    "drawer": "handle",
}
CONTAINERS = ("bowl", "box", "drawer", "pan")
WIDE = ("bowl", "plate", "tray", "box", "drawer", "pan")
SMALL = (*SHAPES, "bottle")
TABLE = np.array([[-0.3, -0.4], [0.3, 0.4]])
FAR_M = 3.0


def block_scene(seed: int, *, size: tuple[int, int] = (72, 96)) -> Scene:
    """One view of cuboids on a table.

    Args:
        seed: equal seeds give equal scenes.
        size: height and width in pixels.
    """
    rng = np.random.default_rng(seed)
    camera = _camera(rng, size)
    objects = _objects(rng)
    depth, mask = _cast(camera, objects, size)
    shades = np.array(
        [[40 + 37 * i % 200, 60 + 91 * i % 190, 50 + 53 * i % 200] for i in range(len(objects) + 1)]
    )
    shades[0] = 128
    shade = 1.0 - 0.25 * np.clip(depth / FAR_M, 0, 1)
    image = (shades[mask] * shade[..., None]).astype(np.uint8)
    return Scene(
        id=f"blocks/{seed}",
        source="blocks",
        image=image,
        depth=depth,
        depth_origin="simulator",
        depth_unit_m=0.0005,
        mask=mask,
        camera=camera,
        objects=objects,
        robot_mask=_corner(size),
        task=_task(rng, objects),
        support=TABLE,
        meta={"seed": seed},
    )


def question_corpus(seed: int, num: int = 2000) -> Iterator[str]:
    """Questions and answers as texts, over all skills, phrasings and names: to train a tokenizer on.

    Args:
        seed: equal seeds give equal texts.
        num: how many texts; a question and its answer are two.
    """
    made, number = 0, 0
    while True:
        scene = block_scene(seed * 1_000_003 + number, size=(48, 64))
        number += 1
        for record in ask(scene, np.random.default_rng([seed, number]), num_questions=40):
            for message in record.messages:
                if made >= num:
                    return
                made += 1
                yield message.content.removeprefix(f"{IMAGE_MARK}\n")


def _corner(size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """Where the robot is seen: a strip at the top left, so that reach can be asked about."""
    mask = np.zeros(size, bool)
    mask[: size[0] // 6, : size[1] // 6] = True
    return mask


def _camera(rng: np.random.Generator, size: tuple[int, int]) -> Camera:
    height, width = size
    azimuth, elevation = rng.uniform(-np.pi, np.pi), rng.uniform(0.4, 1.0)
    direction = np.array(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    )
    target = np.array([*rng.uniform(-0.05, 0.05, 2), 0.03])
    forward = -direction
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right = right / np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = target + rng.uniform(0.7, 1.2) * direction
    focal = float(width * rng.uniform(0.95, 1.2))
    return Camera(
        name="front",
        intrinsics=Intrinsics(fx=focal, fy=focal, cx=width / 2, cy=height / 2),
        world_from_camera=pose,
    )


def _objects(rng: np.random.Generator) -> tuple[SceneObject, ...]:
    num = int(rng.integers(3, 8))
    palette = [COLORS[int(i)] for i in rng.permutation(len(COLORS))[: max(3, num - 1)]]
    objects: list[SceneObject] = []
    names: set[str] = set()
    for _ in range(200):
        if len(objects) == num:
            break
        # Alternate, so that most scenes have something to put things in or on.
        shapes = WIDE if len(objects) % 3 == 0 else SMALL
        shape, color = shapes[int(rng.integers(len(shapes)))], palette[int(rng.integers(len(palette)))]
        size = ("small", "medium", "large")[int(rng.integers(3))]
        factor = {"small": 0.8, "medium": 1.0, "large": 1.3}[size]
        name = f"{color} {shape}"
        if name in names:
            material = MATERIALS[int(rng.integers(len(MATERIALS)))]
            name = f"{size} {name}" if rng.random() < 0.5 else f"{material} {name}"
        if name in names:
            continue
        thing = _placed(rng, len(objects) + 1, name, shape, color, size, factor, objects)
        if thing is not None:
            names.add(name)
            objects.append(thing)
    return tuple(objects)


def _placed(rng, index, name, shape, color, size, factor, others) -> SceneObject | None:
    wide = shape in WIDE
    extent = (
        np.array([0.13, 0.15, 0.04] if wide else [0.05, 0.05, rng.uniform(0.05, 0.17)])
        * factor
        * rng.uniform(0.9, 1.1, 3)
    )
    yaw = rng.uniform(-np.pi, np.pi)
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    inside = on = None
    free = [o for o in others if o.shape in WIDE and not any(o.index in (p.on, p.inside) for p in others)]
    if not wide and free and rng.random() < 0.4:
        holder = free[int(rng.integers(len(free)))]
        top = holder.center[2] + holder.extent[2] / 2
        position = np.array([*holder.center[:2], top])
        inside, on = (holder.index, None) if holder.is_container else (None, holder.index)
    else:
        position = np.array([*rng.uniform(TABLE[0] + 0.08, TABLE[1] - 0.08), 0.0])
        radius = float(np.hypot(*extent[:2])) / 2
        for other in others:
            gap = np.linalg.norm(other.center[:2] - position[:2]) - float(np.hypot(*other.extent[:2])) / 2
            if gap < radius + 0.01:
                return None
    pose[:3, 3] = position
    center = position + np.array([0.0, 0.0, extent[2] / 2])
    return SceneObject(
        index=index,
        name=name,
        shape=shape,
        color=color,
        size=size,
        material=MATERIALS[int(rng.integers(len(MATERIALS)))],
        pose=pose,
        extent=extent,
        center=center,
        is_container=shape in CONTAINERS,
        grasp_part=GRASP_PARTS.get(shape),
        grasp_point=center + pose[:3, 0] * extent[0] / 2 + np.array([0.0, 0.0, extent[2] / 2]),
        inside=inside,
        on=on,
        reachable=bool(rng.integers(2)),
    )


def _task(rng: np.random.Generator, objects: tuple[SceneObject, ...]) -> Task | None:
    targets = [o for o in objects if o.shape in WIDE]
    things = [o for o in objects if o.shape not in WIDE and o.on is None and o.inside is None]
    if not targets or not things:
        return None
    thing, target = things[int(rng.integers(len(things)))], targets[int(rng.integers(len(targets)))]
    a, b = f"the {thing.name}", f"the {target.name}"
    preposition = "in" if target.is_container else "on"
    steps = (f"reach for {a}", f"grasp {a}", f"lift {a}", f"move {a} over {b}", f"release {a}")
    lift = np.array([0.0, 0.0, 0.12])
    start = np.array([*rng.uniform(TABLE[0], TABLE[1]), 0.15])
    return Task(
        instruction=f"put {a} {preposition} {b}",
        done=False,
        subtasks=steps,
        next_subtask=steps[int(rng.integers(len(steps)))],
        path=np.stack([start, thing.center, thing.center + lift, target.center + lift, target.center]),
    )


def _cast(
    camera: Camera, objects: tuple[SceneObject, ...], size: tuple[int, int]
) -> tuple[Float[np.ndarray, "height width"], np.ndarray]:
    """Depth (along the line of sight's forward component) and instance mask of cuboids on a plane."""
    height, width = size
    rows, columns = np.mgrid[:height, :width] + 0.5
    lens = camera.intrinsics
    local = np.stack([(columns - lens.cx) / lens.fx, (rows - lens.cy) / lens.fy, np.ones(size)], axis=-1)
    rays = local @ camera.world_from_camera[:3, :3].T
    origin = camera.world_from_camera[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.where(rays[..., 2] < -1e-6, -origin[2] / rays[..., 2], FAR_M)
        depth = np.minimum(depth, FAR_M)
        mask = np.zeros(size, np.int32)
        for thing in objects:
            rotation = thing.pose[:3, :3]
            start, steps = (origin - thing.center) @ rotation, rays @ rotation
            first = (-thing.extent / 2 - start) / steps
            second = (thing.extent / 2 - start) / steps
            enter = np.minimum(first, second).max(axis=-1)
            leave = np.maximum(first, second).min(axis=-1)
            hit = (enter <= leave) & (enter > 0) & (enter < depth)
            depth = np.where(hit, enter, depth)
            mask[hit] = thing.index
    return depth.astype(np.float32), mask
