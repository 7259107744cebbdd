"""What scans of rooms share: boxes in one world, frames with depth and pose, and questions about single frames.

A frame becomes a scene (`egem.scene`) whose instance mask is the source's own where it has one. Else a pixel belongs to
the one box that its measured point lies in; in two boxes at once it belongs to none, and what lies within `FLOOR_M` of
a box's lower face is the floor. Annotated is never everything, and a box has no front: so only `ROOM_SKILLS` are asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from egem.core.errors import ConfigError, RecordError
from egem.data_engine.ask import ask
from egem.data_engine.sources.pictures import read_picture
from egem.data_engine.sources.source import ImportOptions
from egem.media import decode_depth, decode_image
from egem.records import DepthFile, Intrinsics, Record
from egem.scene import Camera, Scene, SceneObject

ROOM_SKILLS = (
    "point_at_object",
    "box_of_object",
    "object_at_point",
    "nearer_point",
    "extreme_point",
    "order_points",
    "point_depth",
    "depth_difference",
    "points_apart",
    "nearer_object",
    "extreme_object",
    "camera_distance",
    "object_distance",
    "nearest_neighbour",
    "camera_side",
    "camera_order",
)
MARGIN_M = 0.02
"""Boxes are taken this much larger: depth is not exact."""
FLOOR_M = 0.04
STRUCTURE = frozenset(
    {"wall", "floor", "ceiling", "object", "objects", "split", "remove", "unknown"}
    | {"otherfurniture", "otherstructure", "otherprop"}
)
"""Labels that are no things to ask about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoomBox:
    """An annotated thing."""

    index: int
    """Its value in the source's instance masks (>= 1)."""
    label: str
    center: Float[np.ndarray, "3"]
    """Metres, in the room's world (z up)."""
    axes: Float[np.ndarray, "3 3"]
    """Rows: its edges' directions, of length 1."""
    lengths: Float[np.ndarray, "3"]
    """Whole edges, metres."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoomFrame:
    """One view of a room."""

    room: str
    name: str
    image: Path
    depth: Path
    """16-bit PNG of millimetres."""
    intrinsics: Intrinsics
    """Of the image as stored."""
    depth_intrinsics: Intrinsics | None
    """Of the depth map; None where it is the image's camera at another resolution."""
    world_from_camera: Float[np.ndarray, "4 4"]
    mask: Path | None = None
    """Instance values, of the image's or the depth's size."""
    boxes: tuple[RoomBox, ...]


def frame_records(
    frame: RoomFrame, *, source: str, licence: str, where: str, options: ImportOptions
) -> list[Record]:
    """Questions about one frame; what is asked depends on the frame and `options.seed` alone.

    Raises:
        ConfigError: a skill is wanted that rooms cannot answer.
        RecordError: a file is missing or damaged.
    """
    skills = options.skills or ROOM_SKILLS
    unfit = [name for name in skills if name not in ROOM_SKILLS]
    if unfit:
        raise ConfigError(
            f"skill '{unfit[0]}' needs more than scans of rooms tell; choose of {', '.join(ROOM_SKILLS)}."
        )
    scene = scene_of(frame, source=source, licence=licence, where=where, options=options)
    rng = np.random.default_rng([options.seed, *frame.room.encode(), *frame.name.encode()])
    image = read_picture(frame.image, where, options.images).file
    return ask(scene, rng, num_questions=options.num_questions, skills=skills, image=image)


def scene_of(frame: RoomFrame, *, source: str, licence: str, where: str, options: ImportOptions) -> Scene:
    """A frame with depth on the image's pixels, instance mask, camera and boxes.

    Raises:
        RecordError: a file is missing or damaged.
    """
    picture = read_picture(frame.image, where, options.images)
    image = decode_image(picture.file, where=where)
    unit = options.depth_unit_m or 0.001
    measured = decode_depth(DepthFile(path=str(frame.depth), unit_m=unit), where=where)
    depth = _onto_image(measured, frame, image.shape[0], image.shape[1])
    if options.depth_max_m is not None:
        depth = np.where(depth <= options.depth_max_m, depth, np.float32(0))
    things = [box for box in frame.boxes if box.label.lower() not in STRUCTURE]
    mask = (
        _box_mask(depth, frame, things)
        if frame.mask is None
        else _read_mask(frame, things, image.shape[:2], where)
    )
    return Scene(
        id=f"{source}/{frame.room}/{frame.name}",
        source=source,
        image=image,
        depth=depth,
        depth_unit_m=unit,
        mask=mask,
        camera=Camera(name="scan", intrinsics=frame.intrinsics, world_from_camera=frame.world_from_camera),
        objects=tuple(_object(box) for box in things),
        meta={"licence": licence, "room": frame.room, "frame": frame.name, "seed": options.seed},
    )


def evenly_spaced(frames: Sequence[RoomFrame], num: int) -> list[RoomFrame]:
    """At most `num` frames of a room, from the first to the last."""
    from egem.data_engine.sources.conversation import evenly

    return [frames[i] for i in evenly(len(frames), num)] if frames else []


def _onto_image(
    measured: Float[np.ndarray, "rows columns"], frame: RoomFrame, height: int, width: int
) -> Float[np.ndarray, "height width"]:
    """The depth reading that each pixel's ray meets, both cameras standing in the same place."""
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    own, other = frame.intrinsics, frame.depth_intrinsics
    if other is None:
        columns, rows = columns * measured.shape[1] / width, rows * measured.shape[0] / height
    else:
        columns = (columns - own.cx) / own.fx * other.fx + other.cx
        rows = (rows - own.cy) / own.fy * other.fy + other.cy
    x, y = np.floor(columns).astype(int), np.floor(rows).astype(int)
    inside = ((y >= 0) & (y < measured.shape[0]))[:, None] & ((x >= 0) & (x < measured.shape[1]))[None]
    picked = measured[np.clip(y, 0, measured.shape[0] - 1)[:, None], np.clip(x, 0, measured.shape[1] - 1)]
    return np.where(inside, picked, np.float32(0)).astype(np.float32)


def _box_mask(
    depth: Float[np.ndarray, "height width"], frame: RoomFrame, boxes: Sequence[RoomBox]
) -> Int[np.ndarray, "height width"]:
    rows, columns = np.nonzero(depth > 0)
    metres = depth[rows, columns].astype(np.float64)
    camera = frame.intrinsics
    local = np.stack(
        [
            (columns + 0.5 - camera.cx) / camera.fx * metres,
            (rows + 0.5 - camera.cy) / camera.fy * metres,
            metres,
        ],
        axis=1,
    )
    points = local @ frame.world_from_camera[:3, :3].T + frame.world_from_camera[:3, 3]
    owner, owners = np.zeros(len(points), np.int32), np.zeros(len(points), np.int32)
    for box in boxes:
        reach = float(np.linalg.norm(box.lengths)) / 2 + MARGIN_M
        near = np.flatnonzero((np.abs(points - box.center) <= reach).all(axis=1))
        offset = (points[near] - box.center) @ box.axes.T
        low = points[near, 2] < box.center[2] - _half_height(box) + FLOOR_M
        inside = near[(np.abs(offset) <= box.lengths / 2 + MARGIN_M).all(axis=1) & ~low]
        owner[inside] = box.index
        owners[inside] += 1
    mask = np.zeros(depth.shape, np.int32)
    mask[rows, columns] = np.where(owners == 1, owner, 0)
    return mask


def _half_height(box: RoomBox) -> float:
    return float(np.abs(box.axes[:, 2]) @ box.lengths) / 2


def _read_mask(
    frame: RoomFrame, boxes: Sequence[RoomBox], size: tuple[int, ...], where: str
) -> Int[np.ndarray, "height width"]:
    from PIL import Image

    assert frame.mask is not None
    try:
        with Image.open(frame.mask) as image:
            values = np.asarray(image.resize((size[1], size[0]), Image.Resampling.NEAREST)).astype(np.int32)
    except (OSError, SyntaxError, ValueError) as error:
        raise RecordError(f"{where}: mask {frame.mask} cannot be read: {error}; copy it again.") from error
    return np.where(np.isin(values, [box.index for box in boxes]), values, 0).astype(np.int32)


def _object(box: RoomBox) -> SceneObject:
    """The box's most upright edge becomes the object's z."""
    up = int(np.abs(box.axes[:, 2]).argmax())
    order = [(up + 1) % 3, (up + 2) % 3, up]
    name = " ".join(box.label.replace("_", " ").split()).lower()
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = box.axes[order].T, box.center
    return SceneObject(
        index=box.index,
        name=name,
        shape=name,
        color="",
        size="",
        material="",
        pose=pose,
        extent=box.lengths[order],
        center=box.center,
        is_graspable=False,
    )
