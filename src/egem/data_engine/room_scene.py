"""A 3D scene: some frames of one room, with cameras, named boxes and perhaps a point cloud; and its files.

    <scene>/room.json     {"format": "egem-room", "version": 1, "id", "source", "licence",
                           "points": "points.ply" or null, "meta": {...},
                           "objects": [{"id", "category", "name", "center": [3], "axes": 3 x 3, "lengths": [3]}],
                           "frames": [{"image": "frames/000.png", "depth": {"path", "unit_m", "kind", "origin"} or null,
                                       "seconds": s or null, "intrinsics": {"fx", "fy", "cx", "cy"},
                                       "world_from_camera": 4 x 4, "size": [height, width], "pixels": {"<id>": n}}]}
    <scene>/frames/...    the images as they are, depth as 16-bit PNG of the image's size
    <scene>/points.ply    x, y, z of the scan, in the same world

World: metres, z up. Paths are relative to the scene's folder. `axes` are the directions of a box's edges, a row
each; `pixels` says how much of a frame each object covers, which is all that questions need of instance masks.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from egem.core.errors import RecordError
from egem.core.files import new_folder
from egem.data_engine.formats.json_rows import read_json_object
from egem.data_engine.formats.ply import read_vertices
from egem.data_engine.sources.pictures import read_picture
from egem.records import DepthFile, ImageFile, Intrinsics

FORMAT, VERSION = "egem-room", 1
ROOM_FILE = "room.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class RoomObject:
    """A thing with its box, turned as it stands."""

    index: int
    """Its id in the scene (>= 1)."""
    category: str
    """What is counted: "chair"."""
    name: str
    """What it is called, without an article; the category where nothing more is known."""
    center: Float[np.ndarray, "3"]
    axes: Float[np.ndarray, "3 3"]
    """Rows: its edges' directions, of length 1."""
    lengths: Float[np.ndarray, "3"]
    """Whole edges, metres."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoomView:
    """One frame."""

    name: str
    image: ImageFile
    depth: DepthFile | None
    size: tuple[int, int]
    """Height and width in pixels."""
    seconds: float | None
    intrinsics: Intrinsics
    world_from_camera: Float[np.ndarray, "4 4"]
    pixels: dict[int, int]
    """Object's index -> how many pixels show it; objects without one are not seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """What questions about a 3D scene are asked of."""

    id: str
    source: str
    licence: str
    objects: tuple[RoomObject, ...]
    views: tuple[RoomView, ...]
    """In the order in which they were taken."""
    points: Float[np.ndarray, "point 3"] | None = None
    """Of the scanned surfaces, metres; None where the room was not scanned as a whole."""
    meta: dict[str, Any] = field(default_factory=dict)
    """JSON values to be kept in the records."""


def save_room(room: Room, folder: Path) -> None:
    """Write a scene to a new folder, which appears whole or not at all.

    Raises:
        ConfigError: the folder exists and is not empty.
        RecordError: an image or depth map has no bytes (only a path).
    """
    with new_folder(folder) as new:
        (new / "frames").mkdir()
        frames = []
        for number, view in enumerate(room.views):
            if view.image.data is None or (view.depth is not None and view.depth.data is None):
                raise RecordError(
                    f"room '{room.id}', frame '{view.name}': it is known by path; read its bytes."
                )
            image = f"frames/{number:03d}.{_ending(view.image.data)}"
            (new / image).write_bytes(view.image.data)
            depth = None
            if view.depth is not None and view.depth.data is not None:
                depth = {"path": f"frames/{number:03d}.depth.png", "unit_m": view.depth.unit_m}
                depth |= {"kind": view.depth.kind, "origin": view.depth.origin}
                (new / depth["path"]).write_bytes(view.depth.data)
            frames.append(
                {
                    "name": view.name,
                    "image": image,
                    "depth": depth,
                    "seconds": view.seconds,
                    "intrinsics": asdict(view.intrinsics),
                    "world_from_camera": view.world_from_camera.tolist(),
                    "size": list(view.size),
                    "pixels": {str(index): count for index, count in view.pixels.items()},
                }
            )
        if room.points is not None:
            (new / "points.ply").write_bytes(_ply(room.points))
        content = {
            "format": FORMAT,
            "version": VERSION,
            "id": room.id,
            "source": room.source,
            "licence": room.licence,
            "meta": room.meta,
            "points": None if room.points is None else "points.ply",
            "objects": [_object_row(thing) for thing in room.objects],
            "frames": frames,
        }
        (new / ROOM_FILE).write_text(json.dumps(content, indent=1) + "\n")


def load_room(path: Path, images: Literal["bytes", "path"] = "bytes") -> Room:
    """Read what `save_room` wrote, or another program in the same form.

    Args:
        path: the scene's `room.json`.
        images: whether views hold the images' bytes or absolute paths.

    Raises:
        RecordError: not of this form or version, a file is missing, or a box is none.
    """
    content = read_json_object(path)
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        found = f"'{content.get('format')}' version {content.get('version')}"
        raise RecordError(f"{path} holds {found}; '{FORMAT}' version {VERSION} is read here.")
    try:
        objects = tuple(_object(row, f"{path}, object {i}") for i, row in enumerate(content["objects"]))
        views = tuple(
            _view(row, path.parent, images, f"{path}, frame {i}") for i, row in enumerate(content["frames"])
        )
        room = Room(
            id=str(content["id"]),
            source=str(content["source"]),
            licence=str(content["licence"]),
            objects=objects,
            views=views,
            points=None if content.get("points") is None else read_vertices(path.parent / content["points"]),
            meta=dict(content.get("meta") or {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(
            f"{path} is not as '{FORMAT}' is written ({error!r}); see docs/generate.md."
        ) from None
    if len({thing.index for thing in room.objects}) < len(room.objects):
        raise RecordError(f"{path}: two objects have the same id.")
    return room


def _object_row(thing: RoomObject) -> dict[str, Any]:
    return {
        "id": thing.index,
        "category": thing.category,
        "name": thing.name,
        "center": thing.center.tolist(),
        "axes": thing.axes.tolist(),
        "lengths": thing.lengths.tolist(),
    }


def _object(row: dict[str, Any], where: str) -> RoomObject:
    axes = np.array(row["axes"], np.float64).reshape(3, 3)
    lengths = np.array(row["lengths"], np.float64).reshape(3)
    if not np.allclose(axes @ axes.T, np.eye(3), atol=1e-3) or not (lengths > 0).all():
        raise RecordError(f"{where}: a box needs three axes at right angles, and lengths above 0.")
    category = str(row["category"])
    return RoomObject(
        index=int(row["id"]),
        category=category,
        name=str(row.get("name") or category),
        center=np.array(row["center"], np.float64).reshape(3),
        axes=axes,
        lengths=lengths,
    )


def _view(row: dict[str, Any], root: Path, images: Literal["bytes", "path"], where: str) -> RoomView:
    depth, pose = row.get("depth"), np.array(row["world_from_camera"], np.float64).reshape(4, 4)
    if not np.isfinite(pose).all():
        raise RecordError(f"{where}: its pose is not finite; leave such frames out.")
    picture = read_picture(root / row["image"], where, images)
    if [picture.height, picture.width] != list(row["size"]):
        raise RecordError(
            f"{where}: size {row['size']}, but {row['image']} has {[picture.height, picture.width]}."
        )
    return RoomView(
        name=str(row.get("name") or Path(row["image"]).stem),
        image=picture.file,
        depth=None if depth is None else _depth(depth, root, images, where),
        size=(picture.height, picture.width),
        seconds=None if row.get("seconds") is None else float(row["seconds"]),
        intrinsics=Intrinsics(**{key: float(row["intrinsics"][key]) for key in ("fx", "fy", "cx", "cy")}),
        world_from_camera=pose,
        pixels={int(index): int(count) for index, count in row["pixels"].items()},
    )


def _depth(row: dict[str, Any], root: Path, images: Literal["bytes", "path"], where: str) -> DepthFile:
    file = read_picture(root / row["path"], where, images).file
    return DepthFile(
        data=file.data,
        path=file.path,
        unit_m=float(row["unit_m"]),
        kind=row["kind"],
        origin=str(row["origin"]),
    )


def _ending(data: bytes) -> str:
    return "png" if data.startswith(b"\x89PNG") else "jpg"


def _ply(points: Float[np.ndarray, "point 3"]) -> bytes:
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n"
    head += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    return head.encode() + np.ascontiguousarray(points, "<f4").tobytes()
