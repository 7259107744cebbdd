"""ScanNet (ScanNet/ScanNet): frames of scanned rooms with depth, poses and instances.

    scans/<scene>/<scene>.aggregation.json            {"segGroups": [{"objectId", "label", "segments": [int]}]}
                  <scene>_vh_clean_2.0.010000.segs.json  {"segIndices": [int]}, one a vertex
                  <scene>_vh_clean_2.ply, <scene>.txt (axisAlignment, colorWidth, ...)
                  color/N.jpg, depth/N.png (mm), pose/N.txt, intrinsic/intrinsic_{color,depth}.txt: by SensReader
                  instance-filt/N.png                 optional (2d-instance-filt.zip): objectId + 1
A thing's box is that of its vertices along the axes of the aligned scan. Frames without a pose (-inf) are left out.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from egem.core.errors import RecordError
from egem.data_engine.formats.json_rows import read_json_object
from egem.data_engine.formats.ply import read_vertices
from egem.data_engine.sources.layout import contents, find_files, folder_of
from egem.data_engine.sources.pictures import read_picture
from egem.data_engine.sources.rooms import RoomBox, RoomFrame, evenly_spaced, frame_records
from egem.data_engine.sources.source import ImportOptions, Place, Row, file_rows
from egem.records import Intrinsics, Record

NAME = "scannet"
LICENCE = "ScanNet Terms of Use (research only, not to be passed on)"
PATTERNS = ("*.aggregation.json", "*/*.aggregation.json", "scans/*/*.aggregation.json")


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """A row for each frame taken: `--num-frames` of each scene.

    Raises:
        ConfigError: the folder holds no *.aggregation.json.
    """
    files = [f for f in find_files(path, PATTERNS, source=NAME) if "_vh_clean" not in f.name]

    def read(file: Path) -> Iterator[RoomFrame]:
        return iter(evenly_spaced(read_scene(file.parent, file.name.split(".", 1)[0]), options.num_frames))

    load = partial(_records, options=options)
    yield from file_rows(files, read, load, root=folder_of(path), source=NAME, licence=LICENCE)


def _records(frame: RoomFrame, place: Place, options: ImportOptions) -> list[Record]:
    where = f"{place.file.parent}, frame {frame.name}"
    return frame_records(frame, source=NAME, licence=LICENCE, where=where, options=options)


def read_scene(folder: Path, scene: str) -> list[RoomFrame]:
    """All frames of a scene that have a pose, in their order.

    Raises:
        RecordError: a file is missing or damaged.
    """
    facts = _facts(folder / f"{scene}.txt")
    alignment = np.array(facts.get("axisAlignment", np.eye(4).reshape(-1)), np.float64).reshape(4, 4)
    boxes = _boxes(folder, scene, alignment)
    images = sorted(
        (folder / "color").glob("*.jpg"), key=lambda file: int(file.stem) if file.stem.isdigit() else -1
    )
    if not images:
        hint = " Export the .sens file with ScanNet's SensReader." if any(folder.glob("*.sens")) else ""
        raise RecordError(f"{folder}: no frames color/*.jpg; {contents(folder)}{hint}")
    color, depth = (
        _intrinsics(folder / "intrinsic" / f"intrinsic_{kind}.txt") for kind in ("color", "depth")
    )
    first = read_picture(images[0], str(folder), "path")
    width = float(np.ravel(facts.get("colorWidth", first.width))[0])
    color = _scaled(color, first.width / width)
    masks = folder / "instance-filt"
    frames = []
    for image in images:
        pose = _matrix(folder / "pose" / f"{image.stem}.txt")
        if np.isfinite(pose).all():
            frames.append(
                RoomFrame(
                    room=scene,
                    name=image.stem,
                    image=image,
                    depth=folder / "depth" / f"{image.stem}.png",
                    intrinsics=color,
                    depth_intrinsics=depth,
                    world_from_camera=alignment @ pose,
                    mask=masks / f"{image.stem}.png" if masks.is_dir() else None,
                    boxes=boxes,
                )
            )
    return frames


def read_points(folder: Path, scene: str) -> Float[np.ndarray, "point 3"]:
    """The scan's vertices in the aligned world, metres.

    Raises:
        RecordError: a file is missing or damaged.
    """
    facts = _facts(folder / f"{scene}.txt")
    alignment = np.array(facts.get("axisAlignment", np.eye(4).reshape(-1)), np.float64).reshape(4, 4)
    return read_vertices(folder / f"{scene}_vh_clean_2.ply") @ alignment[:3, :3].T + alignment[:3, 3]


def _boxes(folder: Path, scene: str, alignment: Float[np.ndarray, "4 4"]) -> tuple[RoomBox, ...]:
    groups = read_json_object(folder / f"{scene}.aggregation.json").get("segGroups")
    path = folder / f"{scene}_vh_clean_2.0.010000.segs.json"
    segments = np.array(read_json_object(path).get("segIndices"))
    vertices = read_vertices(folder / f"{scene}_vh_clean_2.ply")
    if segments.shape != (len(vertices),) or not isinstance(groups, list):
        raise RecordError(
            f"{path}: {segments.size} segments for {len(vertices)} vertices; the files do not belong together."
        )
    aligned = vertices @ alignment[:3, :3].T + alignment[:3, 3]
    boxes = []
    for group in groups:
        own = aligned[np.isin(segments, group["segments"])]
        if len(own):
            low, high = own.min(axis=0), own.max(axis=0)
            boxes.append(
                RoomBox(
                    index=int(group["objectId"]) + 1,
                    label=str(group["label"]),
                    center=(low + high) / 2,
                    axes=np.eye(3),
                    lengths=high - low,
                )
            )
    return tuple(boxes)


def _facts(path: Path) -> dict[str, list[float]]:
    """`name = numbers` lines; other lines are left."""
    if not path.is_file():
        raise RecordError(f"{path} is missing; it holds the scan's alignment and sizes.")
    found = {}
    for line in path.read_text().splitlines():
        name, _, values = line.partition("=")
        try:
            found[name.strip()] = [float(value) for value in values.split()]
        except ValueError:
            continue
    return found


def _matrix(path: Path) -> Float[np.ndarray, "4 4"]:
    try:
        return np.loadtxt(path, dtype=np.float64).reshape(4, 4)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} cannot be read as a matrix of 4 x 4: {error}.") from None


def _intrinsics(path: Path) -> Intrinsics:
    matrix = _matrix(path)
    fx, fy, cx, cy = (float(matrix[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy)


def _scaled(camera: Intrinsics, factor: float) -> Intrinsics:
    """The camera of a resized image."""
    return Intrinsics(
        fx=camera.fx * factor, fy=camera.fy * factor, cx=camera.cx * factor, cy=camera.cy * factor
    )
