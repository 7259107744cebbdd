"""3D scenes below a folder: this project's own, or scans as ScanNet, ScanNet++ and ARKitScenes publish them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from egem.core.errors import ConfigError
from egem.data_engine.formats.ply import read_vertices
from egem.data_engine.room_scene import ROOM_FILE, Room, RoomObject, RoomView, load_room
from egem.data_engine.sources import arkitscenes, scannet, scannetpp
from egem.data_engine.sources.conversation import evenly
from egem.data_engine.sources.layout import contents
from egem.data_engine.sources.pictures import read_picture
from egem.data_engine.sources.rooms import RoomFrame, evenly_spaced, scene_of
from egem.data_engine.sources.source import ImportOptions
from egem.media import encode_depth
from egem.records import DepthFile


@dataclass(frozen=True, kw_only=True, slots=True)
class RoomLayout:
    """One way in which 3D scenes lie on disk."""

    patterns: tuple[str, ...]
    """The file that each scene has, as `Path.glob` knows it."""
    read: Callable[[Path, ImportOptions], Room]
    """From that file; takes at most `options.num_frames` views, evenly."""


def find_rooms(path: Path) -> list[tuple[Path, RoomLayout]]:
    """Each scene below a folder with the way to read it, in order of their names.

    Raises:
        ConfigError: there is none; says what was looked for.
    """
    found = {}
    for layout in LAYOUTS.values():
        for pattern in layout.patterns:
            files = [path] if path.is_file() and path.match(pattern) else sorted(path.glob(pattern))
            # ScanNet has a second annotation of the same scene, of the mesh before it was thinned out.
            found |= {file: layout for file in files if "_vh_clean" not in file.name}
    if not found:
        looked = ", ".join(f"{name} ({layout.patterns[0]})" for name, layout in LAYOUTS.items())
        raise ConfigError(f"{path} holds no 3D scene: looked for {looked}; {contents(path)}")
    return sorted(found.items())


def room_of(
    id: str,
    frames: Sequence[RoomFrame],
    points: Float[np.ndarray, "point 3"] | None,
    *,
    source: str,
    licence: str,
    options: ImportOptions,
) -> Room:
    """A scan's frames as one 3D scene: depth on the image's pixels, and what each frame shows of each box.

    Raises:
        RecordError: a file is missing or damaged.
    """
    views = []
    for frame in frames:
        where = f"{source}, {id}, frame {frame.name}"
        scene = scene_of(frame, source=source, licence=licence, where=where, options=options)
        assert scene.depth is not None
        assert scene.mask is not None
        indices, counts = np.unique(scene.mask, return_counts=True)
        views.append(
            RoomView(
                name=frame.name,
                image=read_picture(frame.image, where, options.images).file,
                depth=DepthFile(
                    data=encode_depth(scene.depth, scene.depth_unit_m),
                    unit_m=scene.depth_unit_m,
                    kind=scene.depth_kind,
                    origin=scene.depth_origin,
                ),
                size=(scene.depth.shape[0], scene.depth.shape[1]),
                seconds=None,
                intrinsics=frame.intrinsics,
                world_from_camera=frame.world_from_camera,
                pixels={int(i): int(n) for i, n in zip(indices, counts, strict=True) if i > 0},
            )
        )
    objects = tuple(
        RoomObject(
            index=box.index,
            category=_name(box.label),
            name=_name(box.label),
            center=box.center,
            axes=box.axes,
            lengths=box.lengths,
        )
        for box in (frames[0].boxes if frames else ())
    )
    return Room(
        id=f"{source}/{id}",
        source=source,
        licence=licence,
        objects=objects,
        views=tuple(views),
        points=points,
    )


def _own(file: Path, options: ImportOptions) -> Room:
    room = load_room(file, options.images)
    taken = evenly(len(room.views), options.num_frames) if room.views else []
    return replace(room, views=tuple(room.views[i] for i in taken))


def _scannet(file: Path, options: ImportOptions) -> Room:
    scene = file.name.split(".", 1)[0]
    frames = evenly_spaced(scannet.read_scene(file.parent, scene), options.num_frames)
    points = scannet.read_points(file.parent, scene)
    return room_of(scene, frames, points, source=scannet.NAME, licence=scannet.LICENCE, options=options)


def _scannetpp(file: Path, options: ImportOptions) -> Room:
    folder = file.parent.parent
    frames = evenly_spaced(scannetpp.read_scene(folder), options.num_frames)
    points = _mesh(folder / "scans" / "mesh_aligned_0.05.ply")
    return room_of(
        folder.name, frames, points, source=scannetpp.NAME, licence=scannetpp.LICENCE, options=options
    )


def _arkitscenes(file: Path, options: ImportOptions) -> Room:
    frames = evenly_spaced(arkitscenes.read_video_frames(file), options.num_frames)
    video = file.name.split("_", 1)[0]
    points = _mesh(file.parent / f"{video}_3dod_mesh.ply")
    return room_of(
        video, frames, points, source=arkitscenes.NAME, licence=arkitscenes.LICENCE, options=options
    )


def _mesh(path: Path) -> Float[np.ndarray, "point 3"] | None:
    return read_vertices(path) if path.is_file() else None


def _name(label: str) -> str:
    return " ".join(label.replace("_", " ").split()).lower()


LAYOUTS: dict[str, RoomLayout] = {
    "egem-room": RoomLayout(patterns=(ROOM_FILE, f"*/{ROOM_FILE}"), read=_own),
    "scannet": RoomLayout(patterns=scannet.PATTERNS, read=_scannet),
    "scannetpp": RoomLayout(patterns=scannetpp.PATTERNS, read=_scannetpp),
    "arkitscenes": RoomLayout(patterns=arkitscenes.PATTERNS, read=_arkitscenes),
}
"""Name -> how it lies on disk."""
