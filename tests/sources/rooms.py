"""A room of three turned boxes, seen by ray casting, written in the layouts of ScanNet, ScanNet++ and ARKitScenes."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, FOCAL = 160, 120, 130.0
THINGS = {
    "table": (np.array([0.0, 2.2, 0.4]), np.array([0.9, 0.5, 0.8]), 0.5),
    "chair": (np.array([-1.0, 2.6, 0.45]), np.array([0.4, 0.4, 0.9]), 0.0),
    "lamp": (np.array([1.0, 2.9, 0.7]), np.array([0.3, 0.3, 1.4]), 1.0),
}
"""Label to centre, edges (metres) and turn about the upright axis (radians)."""


def axes(turn: float) -> np.ndarray:
    """Rows: the edges' directions."""
    c, s = np.cos(turn), np.sin(turn)
    return np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])


def pose(number: int) -> np.ndarray:
    """World from camera (x right, y down, z forward): looking along +y, a little down, from another place each time."""
    tilt = 0.15 + 0.02 * number
    forward = np.array([0.0, np.cos(tilt), -np.sin(tilt)])
    right = np.array([1.0, 0.0, 0.0])
    found = np.eye(4)
    found[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    found[:3, 3] = [0.1 * number - 0.1, -0.6, 1.1]
    return found


def view(world_from_camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth along the viewing direction (0 where nothing is met), and 1 + the place of what is met in `THINGS`."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    local = np.stack(
        [(columns + 0.5 - WIDTH / 2) / FOCAL, (rows + 0.5 - HEIGHT / 2) / FOCAL, np.ones_like(rows)], axis=2
    )
    rays = local @ world_from_camera[:3, :3].T
    origin = world_from_camera[:3, 3]
    depth, seen = np.full((HEIGHT, WIDTH), np.inf), np.zeros((HEIGHT, WIDTH), int)
    with np.errstate(divide="ignore"):
        floor = np.where(rays[..., 2] < 0, -origin[2] / rays[..., 2], np.inf)
    depth = np.minimum(depth, np.where(floor < 8, floor, np.inf))
    for number, (center, edges, turn) in enumerate(THINGS.values(), 1):
        start, along = axes(turn) @ (origin - center), rays @ axes(turn).T
        with np.errstate(divide="ignore", invalid="ignore"):
            first, second = (-edges / 2 - start) / along, (edges / 2 - start) / along
        enter, leave = np.minimum(first, second).max(axis=2), np.maximum(first, second).min(axis=2)
        hit = (enter < leave) & (enter > 0) & (enter < depth)
        depth[hit], seen[hit] = enter[hit], number
    return np.where(np.isfinite(depth), depth, 0.0), seen


def save_frame(image: Path, depth: Path, number: int, scale: int = 1) -> np.ndarray:
    """Image and depth of a view; returns what is seen where. The depth is smaller by `scale`."""
    metres, seen = view(pose(number))
    colors = np.array([[90, 90, 90], [200, 60, 50], [60, 200, 50], [50, 60, 200]], np.uint8)
    for path in (image, depth):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colors[seen]).save(image)
    counts = np.round(metres * 1000).astype(np.uint16)
    Image.fromarray(np.ascontiguousarray(counts[scale // 2 :: scale, scale // 2 :: scale])).save(depth)
    return seen


def obb(label: str) -> dict[str, list[float]]:
    center, edges, turn = THINGS[label]
    return {
        "centroid": center.tolist(),
        "axesLengths": edges.tolist(),
        "normalizedAxes": axes(turn).reshape(-1).tolist(),
    }


def write_ply(path: Path, vertices: np.ndarray, form: str = "binary_little_endian") -> None:
    head = (
        f"ply\nformat {form} 1.0\ncomment made by a test\nelement vertex {len(vertices)}\nproperty float x\n"
        "property float y\nproperty float z\nproperty uchar red\nproperty uchar green\nproperty uchar blue\n"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    )
    if form == "ascii":
        body = "".join(f"{x:.9g} {y:.9g} {z:.9g} 1 2 3\n" for x, y, z in vertices).encode() + b"3 0 1 2\n"
    else:
        order = "<" if "little" in form else ">"
        kinds = [("x", f"{order}f4"), ("y", f"{order}f4"), ("z", f"{order}f4"), ("c", "u1", 3)]
        table = np.zeros(len(vertices), kinds)
        for axis, name in enumerate("xyz"):
            table[name] = vertices[:, axis]
        body = table.tobytes() + b"\x03" + np.array([0, 1, 2], f"{order}i4").tobytes()
    path.write_bytes(head.encode() + body)


ALIGNMENT = np.array(
    [[0.0, 1.0, 0.0, 0.5], [-1.0, 0.0, 0.0, 0.2], [0.0, 0.0, 1.0, -0.1], [0.0, 0.0, 0.0, 1.0]]
)
"""Aligned world from the scan's raw world."""


def scannet(folder: Path) -> Path:
    """Three frames, the second without a pose; depth of half the size; no instance images."""
    scene = folder / "scans" / "scene0000_00"
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    vertices, segments, groups = [np.zeros((5, 3))], [np.full(5, 99)], []
    for number, (label, (center, edges, turn)) in enumerate(THINGS.items()):
        vertices.append(center + (corners * edges) @ axes(turn))
        segments.append(np.repeat([2 * number, 2 * number + 1], 4))
        groups.append(
            {"id": number, "objectId": number, "label": label, "segments": [2 * number, 2 * number + 1]}
        )
    groups.append({"id": 3, "objectId": 3, "label": "wall", "segments": [99]})
    raw = np.linalg.inv(ALIGNMENT)
    points = np.concatenate(vertices) @ raw[:3, :3].T + raw[:3, 3]
    scene.mkdir(parents=True)
    write_ply(scene / "scene0000_00_vh_clean_2.ply", points)
    (scene / "scene0000_00_vh_clean_2.0.010000.segs.json").write_text(
        json.dumps({"sceneId": "scene0000_00", "segIndices": np.concatenate(segments).tolist()})
    )
    (scene / "scene0000_00.aggregation.json").write_text(json.dumps({"sceneId": "s", "segGroups": groups}))
    alignment = " ".join(str(v) for v in ALIGNMENT.reshape(-1))
    (scene / "scene0000_00.txt").write_text(
        f"axisAlignment = {alignment} \ncolorHeight = {2 * HEIGHT}\ncolorWidth = {2 * WIDTH}\nsceneType = Office\n"
    )
    (scene / "intrinsic").mkdir()
    for kind, factor in (("color", 2.0), ("depth", 0.5)):
        matrix = np.eye(4)
        matrix[0, 0] = matrix[1, 1] = FOCAL * factor
        matrix[0, 2], matrix[1, 2] = WIDTH / 2 * factor, HEIGHT / 2 * factor
        np.savetxt(scene / "intrinsic" / f"intrinsic_{kind}.txt", matrix)
    (scene / "pose").mkdir()
    for number in range(3):
        save_frame(scene / "color" / f"{number * 10}.jpg", scene / "depth" / f"{number * 10}.png", number, 2)
        matrix = raw @ pose(number) if number != 1 else np.full((4, 4), -np.inf)
        np.savetxt(scene / "pose" / f"{number * 10}.txt", matrix)
    return folder


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    angle = np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))
    skew = np.array(
        [rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]]
    )
    return skew / (2 * np.sin(angle)) * angle


def arkitscenes(folder: Path) -> Path:
    video = "41069021"
    scene = folder / "Training" / video
    frames = scene / f"{video}_frames"
    lines = []
    for number in range(3):
        name = f"{video}_{305.377 + number:.3f}"
        save_frame(frames / "lowres_wide" / f"{name}.png", frames / "lowres_depth" / f"{name}.png", number)
        pincam = frames / "lowres_wide_intrinsics" / f"{name}.pincam"
        pincam.parent.mkdir(exist_ok=True)
        pincam.write_text(f"{WIDTH} {HEIGHT} {FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2}")
        if number != 1:
            camera = np.linalg.inv(pose(number))
            values = [305.3775 + number, *rotation_vector(camera[:3, :3]), *camera[:3, 3]]
            lines.append(" ".join(f"{v:.9f}" for v in values))
    (frames / "lowres_wide.traj").write_text("\n".join(lines) + "\n")
    data = [{"uid": label, "label": label, "segments": {"obbAligned": obb(label)}} for label in THINGS]
    (scene / f"{video}_3dod_annotation.json").write_text(json.dumps({"data": data, "skipped": False}))
    return folder


def scannetpp(folder: Path) -> Path:
    scene = folder / "data" / "036bce3393"
    cameras = {}
    for number in range(3):
        name = f"frame_{number * 10:06d}"
        save_frame(
            scene / "iphone" / "rgb" / f"{name}.jpg", scene / "iphone" / "depth" / f"{name}.png", number, 2
        )
        matrix = [[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]
        if number != 1:
            cameras[name] = {"aligned_pose": pose(number).tolist(), "intrinsic": matrix, "timestamp": 1.0}
    (scene / "scans").mkdir()
    (scene / "iphone" / "pose_intrinsic_imu.json").write_text(json.dumps(cameras))
    groups = [{"id": i, "objectId": i, "label": label, "obb": obb(label)} for i, label in enumerate(THINGS)]
    (scene / "scans" / "segments_anno.json").write_text(json.dumps({"segGroups": groups}))
    return folder


ROOMS = {"scannet": scannet, "arkitscenes": arkitscenes, "scannetpp": scannetpp}
