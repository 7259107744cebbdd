"""Tabletop worlds as 3D scenes: a camera pans over the table, then looks from the side."""

from pathlib import Path

import numpy as np

from egem.core.errors import ConfigError
from egem.core.files import new_folder
from egem.data_engine.room_scene import Room, RoomObject, RoomView, save_room
from egem.media import encode_depth, encode_png
from egem.recipes.render import RenderConfig
from egem.records import DepthFile, ImageFile, Intrinsics
from egem.scene import Scene, SceneObject
from egem.worlds.tabletop import TabletopWorld
from egem.worlds.tabletop.scenes import WORLDS_PER_SEED

PANS = (("front", 8), ("side", 4))
"""Cameras in turn, and how many frames each pans over; a frame is half as wide as the view it is cut from."""
FRAME_SECONDS = 0.5


def tabletop_room(world: TabletopWorld, seed: int, split: str = "train") -> Room:
    """The world of a seed as a 3D scene.

    Frames are cut out of wider views (a camera whose principal point moves), to the right or to the left, as the
    seed decides, so that things come into view one after another. No point cloud: a table is no room.

    Args:
        world: a frame has its height and half its width.
        seed: see `TabletopWorld.reset`.
        split: likewise.

    Raises:
        ConfigError: unknown split.
    """
    world.reset(seed, split)
    rng = np.random.default_rng([seed, *split.encode()])
    views: list[RoomView] = []
    objects: tuple[RoomObject, ...] = ()
    for camera, number in PANS:
        scene = world.view(camera)
        objects = tuple(_object(thing) for thing in scene.objects)
        half = scene.image.shape[1] // 2
        lefts = np.linspace(0, scene.image.shape[1] - half, number).round().astype(int).tolist()
        for left in lefts if rng.integers(2) else reversed(lefts):
            views.append(_cut(scene, camera, left, half, FRAME_SECONDS * len(views)))
    return Room(
        id=f"tabletop-room/{split}/{seed}",
        source="tabletop",
        licence="made by the embedded world; free to use",
        objects=objects,
        views=tuple(views),
        meta={"world": "tabletop", "seed": seed, "split": split},
    )


def export_tabletop_rooms(
    out: Path, num: int, *, seed: int = 0, split: str = "train", size: tuple[int, int] = (96, 96)
) -> None:
    """Write worlds of a seed as 3D scenes, a folder each, for `egem data generate`.

    Args:
        out: folder to write; must not exist or be empty.
        num: how many worlds.
        seed: seeds draw worlds of their own, as they do for `egem data render`.
        split: see `TabletopWorld.reset`.
        size: (height, width) of the frames in pixels.

    Raises:
        ConfigError: `out` exists, an unknown split, or a senseless number.
        RenderError: nothing can draw here.
    """
    if num < 1 or seed < 0 or min(size) < 1:
        raise ConfigError(f"num {num}, seed {seed} and size {size}: at least 1, 0 and 1 are needed.")
    with new_folder(out) as folder, TabletopWorld((size[0], 2 * size[1])) as world:
        for number in range(num):
            room = tabletop_room(world, seed * WORLDS_PER_SEED + number, split)
            save_room(room, folder / f"{number:06d}")


def export_config(config: RenderConfig, out: Path) -> None:
    """`export_tabletop_rooms` with the options of `egem data render`.

    Raises:
        ConfigError: an option is set that only records have; or see `export_tabletop_rooms`.
    """
    default = RenderConfig()
    for name in ("world", "cameras", "questions", "skills", "workers"):
        if getattr(config, name) != getattr(default, name):
            raise ConfigError(f"--{name} means nothing for 3D scenes; leave it out, or render records.")
    export_tabletop_rooms(out, config.num, seed=config.seed, split=config.split, size=config.size)


def _object(thing: SceneObject) -> RoomObject:
    return RoomObject(
        index=thing.index,
        category=thing.shape,
        name=thing.name,
        center=thing.center,
        axes=thing.pose[:3, :3].T,
        lengths=thing.extent,
    )


def _cut(scene: Scene, camera: str, left: int, width: int, seconds: float) -> RoomView:
    assert scene.camera is not None
    assert scene.depth is not None
    assert scene.mask is not None
    columns = slice(left, left + width)
    whole = scene.camera.intrinsics
    indices, counts = np.unique(scene.mask[:, columns], return_counts=True)
    return RoomView(
        name=f"{camera}-{left:04d}",
        image=ImageFile(data=encode_png(np.ascontiguousarray(scene.image[:, columns]))),
        depth=DepthFile(
            data=encode_depth(scene.depth[:, columns], scene.depth_unit_m),
            unit_m=scene.depth_unit_m,
            kind=scene.depth_kind,
            origin=scene.depth_origin,
        ),
        size=(scene.image.shape[0], width),
        seconds=seconds,
        intrinsics=Intrinsics(fx=whole.fx, fy=whole.fy, cx=whole.cx - left, cy=whole.cy),
        world_from_camera=scene.camera.world_from_camera,
        pixels={int(i): int(n) for i, n in zip(indices, counts, strict=True) if i > 0},
    )
