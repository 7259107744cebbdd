"""ScanNet++ (scannetpp/scannetpp): iPhone frames of scanned rooms with depth, poses and oriented boxes.

    data/<scene>/scans/segments_anno.json       {"segGroups": [{"id", "label", "obb": {"centroid", "axesLengths",
                                                    "normalizedAxes"}}]}
    data/<scene>/iphone/rgb/frame_N.jpg, iphone/depth/frame_N.png (mm), as the toolkit extracts them
    data/<scene>/iphone/pose_intrinsic_imu.json {"frame_N": {"aligned_pose": 4 x 4, "intrinsic": 3 x 3}}
`aligned_pose` is world from camera, x right, y down, z forward. Frames without pose or depth are left out.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from egem.core.errors import RecordError
from egem.data_engine.formats.json_rows import read_json_object
from egem.data_engine.sources.layout import contents, find_files, folder_of
from egem.data_engine.sources.rooms import RoomBox, RoomFrame, evenly_spaced, frame_records
from egem.data_engine.sources.source import ImportOptions, Place, Row, file_rows
from egem.records import Intrinsics, Record

NAME = "scannetpp"
LICENCE = "ScanNet++ Terms of Use (non-commercial, not to be passed on)"
PATTERNS = ("scans/segments_anno.json", "*/scans/segments_anno.json", "data/*/scans/segments_anno.json")


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """A row for each frame taken: `--num-frames` of each scene.

    Raises:
        ConfigError: the folder holds no scans/segments_anno.json.
    """
    files = find_files(path, PATTERNS, source=NAME)

    def read(file: Path) -> Iterator[RoomFrame]:
        return iter(evenly_spaced(read_scene(file.parent.parent), options.num_frames))

    load = partial(_records, options=options)
    yield from file_rows(files, read, load, root=folder_of(path), source=NAME, licence=LICENCE)


def _records(frame: RoomFrame, place: Place, options: ImportOptions) -> list[Record]:
    where = f"{place.file.parent.parent}, {frame.name}"
    return frame_records(frame, source=NAME, licence=LICENCE, where=where, options=options)


def read_scene(folder: Path) -> list[RoomFrame]:
    """All frames of a scene that have image, depth and pose, in their order.

    Raises:
        RecordError: a file is missing or damaged.
    """
    phone = folder / "iphone"
    boxes = _boxes(folder / "scans" / "segments_anno.json")
    images = sorted((phone / "rgb").glob("frame_*.jpg"))
    if not images or not (phone / "depth").is_dir():
        raise RecordError(
            f"{phone}: no frames rgb/frame_*.jpg with depth/; {contents(phone)} "
            "Extract rgb.mkv and depth.bin with the ScanNet++ toolkit."
        )
    path = phone / "pose_intrinsic_imu.json"
    cameras = read_json_object(path)
    frames = []
    for image in images:
        camera, depth = cameras.get(image.stem), phone / "depth" / f"{image.stem}.png"
        if not isinstance(camera, dict) or "aligned_pose" not in camera or not depth.is_file():
            continue
        try:
            pose = np.array(camera["aligned_pose"], np.float64).reshape(4, 4)
            matrix = np.array(camera["intrinsic"], np.float64).reshape(3, 3)
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(
                f"{path}, {image.stem}: no 4 x 4 pose and 3 x 3 intrinsics ({error!r})."
            ) from None
        if np.isfinite(pose).all():
            fx, fy, cx, cy = (float(matrix[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
            frames.append(
                RoomFrame(
                    room=folder.name,
                    name=image.stem,
                    image=image,
                    depth=depth,
                    intrinsics=Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy),
                    depth_intrinsics=None,
                    world_from_camera=pose,
                    boxes=boxes,
                )
            )
    return frames


def _boxes(path: Path) -> tuple[RoomBox, ...]:
    groups = read_json_object(path).get("segGroups")
    if not isinstance(groups, list) or not groups:
        raise RecordError(f"{path}: no list 'segGroups' of things.")
    found = []
    for index, group in enumerate(groups, 1):
        try:
            box = group["obb"]
            center, lengths = np.array(box["centroid"], np.float64), np.array(box["axesLengths"], np.float64)
            axes = np.array(box["normalizedAxes"], np.float64).reshape(3, 3)
            label = str(group["label"])
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"{path}, thing {index}: no 'obb' as ScanNet++ has it ({error!r}).") from None
        # Axis after axis, as in the other sets of this annotation tool (3RScan, Matterport3D, ARKitScenes).
        found.append(RoomBox(index=index, label=label, center=center, axes=axes, lengths=lengths))
    return tuple(found)
