"""Rooms for tests: made of boxes by hand, or a furnished L-shaped one in ScanNet's layout, by ray casting."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from egem.data_engine.room_scene import Room, RoomObject, RoomView
from egem.records import ImageFile, Intrinsics
from sources.rooms import write_ply

HEIGHT, WIDTH, FOCAL = 72, 96, 60.0
FLOOR_M2 = 26.0
THINGS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "sofa": ((0.5, 2.6, 0.4), (0.9, 2.0, 0.8)),
    "lamp": ((0.3, 4.7, 0.8), (0.3, 0.3, 1.6)),
    "bookshelf": ((2.4, 4.8, 1.0), (1.2, 0.35, 2.0)),
    "plant": ((3.7, 4.6, 0.5), (0.4, 0.4, 1.0)),
    "fridge": ((5.6, 2.6, 0.9), (0.7, 0.7, 1.8)),
    "chair 1": ((4.2, 2.7, 0.45), (0.45, 0.45, 0.9)),
    "chair 2": ((2.0, 3.3, 0.45), (0.45, 0.45, 0.9)),
    "trash can": ((0.3, 0.4, 0.25), (0.3, 0.3, 0.5)),
    "desk": ((2.6, 0.5, 0.38), (1.4, 0.7, 0.76)),
    "heater": ((5.7, 0.4, 0.3), (0.2, 0.6, 0.6)),
}
"""Label (and number) -> centre and edges; all along the axes, as ScanNet's boxes are."""
YAWS = np.radians(np.arange(0, 360, 24.0))
"""Where the frames look, from (3, 2.1, 1.5)."""


def box(
    index: int,
    name: str,
    center: Sequence[float],
    lengths: Sequence[float] = (0.4, 0.4, 0.4),
    *,
    turn: float = 0.0,
    category: str | None = None,
) -> RoomObject:
    """A thing, turned about the upright axis by some radians."""
    c, s = np.cos(turn), np.sin(turn)
    full = (*center, 0.0)[:3]
    return RoomObject(
        index=index,
        name=name,
        category=category or name,
        center=np.array(full, float),
        axes=np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]]),
        lengths=np.array(lengths, float),
    )


def png(height: int = 20, width: int = 30) -> bytes:
    """A small image."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def room(
    objects: Sequence[RoomObject],
    frames: Sequence[Mapping[int, int]] | None = None,
    *,
    id: str = "hand/1",
    points: np.ndarray | None = None,
) -> Room:
    """A room of these things; each frame shows some pixels of each (by default one shows all clearly)."""
    shown = [{thing.index: 100 for thing in objects}] if frames is None else frames
    views = tuple(
        RoomView(
            name=str(number),
            image=ImageFile(data=png()),
            depth=None,
            size=(20, 30),
            seconds=float(number),
            intrinsics=Intrinsics(fx=20.0, fy=20.0, cx=15.0, cy=10.0),
            world_from_camera=np.eye(4),
            pixels=dict(pixels),
        )
        for number, pixels in enumerate(shown)
    )
    return Room(id=id, source="hand", licence="none", objects=tuple(objects), views=views, points=points)


def l_shape(step: float = 0.04) -> np.ndarray:
    """Points of the floor of 6 x 5 m without a corner of 2 x 2 m."""
    x, y = np.meshgrid(np.arange(0, 6 + 1e-9, step), np.arange(0, 5 + 1e-9, step))
    inside = ~((x > 4) & (y > 3))
    return np.stack([x[inside], y[inside], np.zeros(inside.sum())], axis=1)


def _pose(yaw: float) -> np.ndarray:
    forward = np.array([np.cos(yaw) * np.cos(0.2), np.sin(yaw) * np.cos(0.2), -np.sin(0.2)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = (3.0, 2.1, 1.5)
    return pose


def seen(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth of a frame, and 1 + the place in `THINGS` of what each pixel shows (0: floor, or nothing)."""
    pose = _pose(float(YAWS[number]))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    local = np.stack([(columns - WIDTH / 2) / FOCAL, (rows - HEIGHT / 2) / FOCAL, np.ones_like(rows)], axis=2)
    rays, origin = local @ pose[:3, :3].T, pose[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.where(rays[..., 2] < 0, -origin[2] / rays[..., 2], np.inf)
        owner = np.zeros(depth.shape, int)
        for index, (center, edges) in enumerate(THINGS.values(), 1):
            low, high = np.array(center) - np.array(edges) / 2, np.array(center) + np.array(edges) / 2
            first, second = (low - origin) / rays, (high - origin) / rays
            enter, leave = np.minimum(first, second).max(axis=2), np.maximum(first, second).min(axis=2)
            hit = (enter < leave) & (enter > 0) & (enter < depth)
            depth[hit], owner[hit] = enter[hit], index
    return np.where(np.isfinite(depth) & (depth < 12), depth, 0.0), owner


def scannet(folder: Path) -> Path:
    """The furnished room as ScanNet publishes scans: 15 frames, mesh, segments, aggregation."""
    name = "scene0707_00"
    scene = folder / "scans" / name
    for part in ("color", "depth", "pose", "intrinsic"):
        (scene / part).mkdir(parents=True)
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    floor = l_shape()
    vertices, segments, groups = [floor], [np.zeros(len(floor), int)], []
    for number, (label, (center, edges)) in enumerate(THINGS.items()):
        vertices.append(np.array(center) + corners * np.array(edges))
        segments.append(np.full(8, number + 1))
        label = label.rstrip(" 12")
        groups.append({"id": number, "objectId": number, "label": label, "segments": [number + 1]})
    groups.append({"id": 90, "objectId": 90, "label": "floor", "segments": [0]})
    write_ply(scene / f"{name}_vh_clean_2.ply", np.concatenate(vertices))
    (scene / f"{name}_vh_clean_2.0.010000.segs.json").write_text(
        json.dumps({"segIndices": np.concatenate(segments).tolist()})
    )
    (scene / f"{name}.aggregation.json").write_text(json.dumps({"segGroups": groups}))
    (scene / f"{name}.txt").write_text(f"colorWidth = {WIDTH}\ncolorHeight = {HEIGHT}\n")
    camera = np.eye(4)
    camera[0, 0] = camera[1, 1] = FOCAL
    camera[0, 2], camera[1, 2] = WIDTH / 2, HEIGHT / 2
    for kind in ("color", "depth"):
        np.savetxt(scene / "intrinsic" / f"intrinsic_{kind}.txt", camera)
    colors = np.random.default_rng(0).integers(30, 220, (len(THINGS) + 1, 3)).astype(np.uint8)
    for number in range(len(YAWS)):
        depth, owner = seen(number)
        Image.fromarray(colors[owner]).save(scene / "color" / f"{number}.jpg")
        Image.fromarray(np.round(depth * 1000).astype(np.uint16)).save(scene / "depth" / f"{number}.png")
        np.savetxt(scene / "pose" / f"{number}.txt", _pose(float(YAWS[number])))
    return folder
