"""ARKitScenes (apple/ARKitScenes, the 3dod part): frames of rooms with depth, poses and oriented boxes.

    <video>/<video>_3dod_annotation.json   {"data": [{"uid", "label", "segments": {"obbAligned":
                                               {"centroid": [3], "axesLengths": [3], "normalizedAxes": [9]}}}]}
    <video>/<video>_frames/lowres_wide/<video>_<time>.png, lowres_depth/<video>_<time>.png (mm)
                           lowres_wide_intrinsics/<video>_<time>.pincam ("width height fx fy cx cy")
                           lowres_wide.traj ("time rx ry rz tx ty tz": camera from world, turning vector in radians)
`normalizedAxes` are the edges' directions one after the other. A frame takes the pose nearest in time, within
`MAX_GAP_S`; frames without one are left out.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from egem.core.errors import RecordError
from egem.data_engine.formats.json_rows import read_json_object
from egem.data_engine.sources.layout import contents, find_files, folder_of
from egem.data_engine.sources.rooms import RoomBox, RoomFrame, evenly_spaced, frame_records
from egem.data_engine.sources.source import ImportOptions, Place, Row, file_rows
from egem.records import Intrinsics, Record

NAME = "arkitscenes"
LICENCE = "ARKitScenes licence (Apple; non-commercial)"
PATTERNS = ("*_3dod_annotation.json", "*/*_3dod_annotation.json", "*/*/*_3dod_annotation.json")
MAX_GAP_S = 0.02


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """A row for each frame taken: `--num-frames` of each video.

    Raises:
        ConfigError: the folder holds no *_3dod_annotation.json.
    """
    files = find_files(path, PATTERNS, source=NAME, split=options.split)

    def read(file: Path) -> Iterator[RoomFrame]:
        return iter(evenly_spaced(read_video_frames(file), options.num_frames))

    load = partial(_records, options=options)
    yield from file_rows(files, read, load, root=folder_of(path), source=NAME, licence=LICENCE)


def _records(frame: RoomFrame, place: Place, options: ImportOptions) -> list[Record]:
    where = f"{place.file.parent}, frame {frame.name}"
    records = frame_records(frame, source=NAME, licence=LICENCE, where=where, options=options)
    split = {"split": place.split} if place.split else {}
    return [replace(record, meta={**record.meta, **split}) for record in records]


def read_video_frames(annotation: Path) -> list[RoomFrame]:
    """All frames of a video that have a pose, in their order.

    Raises:
        RecordError: a file is missing or damaged.
    """
    video = annotation.name.split("_", 1)[0]
    folder = annotation.parent / f"{video}_frames"
    images = sorted((folder / "lowres_wide").glob("*.png"), key=_time)
    if not images:
        raise RecordError(f"{folder}: no frames lowres_wide/*.png; {contents(annotation.parent)}")
    boxes = _boxes(annotation)
    times, poses = _trajectory(folder / "lowres_wide.traj")
    frames = []
    for image in images:
        nearest = int(np.abs(times - _time(image)).argmin())
        if abs(times[nearest] - _time(image)) <= MAX_GAP_S:
            frames.append(
                RoomFrame(
                    room=video,
                    name=image.stem,
                    image=image,
                    depth=folder / "lowres_depth" / image.name,
                    intrinsics=_pinhole(folder / "lowres_wide_intrinsics" / f"{image.stem}.pincam"),
                    depth_intrinsics=None,
                    world_from_camera=poses[nearest],
                    boxes=boxes,
                )
            )
    return frames


def _boxes(path: Path) -> tuple[RoomBox, ...]:
    found = []
    things = read_json_object(path).get("data")
    for index, thing in enumerate(things if isinstance(things, list) else (), 1):
        try:
            box = thing["segments"]["obbAligned"]
            center, lengths = np.array(box["centroid"], np.float64), np.array(box["axesLengths"], np.float64)
            axes = np.array(box["normalizedAxes"], np.float64).reshape(3, 3)
            label = str(thing["label"])
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(
                f"{path}, thing {index}: no 'obbAligned' box as ARKitScenes has it ({error!r})."
            ) from None
        if not np.allclose(axes @ axes.T, np.eye(3), atol=1e-3):
            raise RecordError(f"{path}, thing {index}: its axes are not at right angles.")
        found.append(RoomBox(index=index, label=label, center=center, axes=axes, lengths=lengths))
    if not found:
        raise RecordError(f"{path}: no list 'data' of things.")
    return tuple(found)


def _trajectory(path: Path) -> tuple[Float[np.ndarray, "pose"], Float[np.ndarray, "pose 4 4"]]:
    """Times, and world from camera."""
    try:
        table = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} cannot be read as a trajectory: {error}.") from None
    if table.shape[1] != 7:
        raise RecordError(f"{path}: lines of 7 numbers expected, got {table.shape[1]}.")
    rotations = np.stack([_rotation(vector) for vector in table[:, 1:4]])
    poses = np.tile(np.eye(4), (len(table), 1, 1))
    poses[:, :3, :3] = rotations.transpose(0, 2, 1)
    poses[:, :3, 3] = -np.einsum("nji,nj->ni", rotations, table[:, 4:7])
    return table[:, 0], poses


def _rotation(vector: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """Rodrigues' formula: a turn by the vector's length about its direction."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _pinhole(path: Path) -> Intrinsics:
    try:
        _, _, fx, fy, cx, cy = (float(value) for value in path.read_text().split())
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} cannot be read as 'width height fx fy cx cy': {error}.") from None
    return Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy)


def _time(path: Path) -> float:
    try:
        return float(path.stem.rsplit("_", 1)[-1])
    except ValueError:
        raise RecordError(
            f"{path}: a frame's name must end in its time, as 41069021_305.377.png does."
        ) from None
