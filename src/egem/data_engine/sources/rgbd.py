"""Colour with depth and intrinsics: a manifest of frames, or a folder.

Manifest (JSON with a list "frames", a JSON list, or JSONL), paths relative to it; only the first two are
needed:
    rgb            colour image; or "npz" instead of both: a file with arrays rgb, depth and maybe masks, labels
    depth          16-bit PNG of the same size
    depth_unit_m   metres per count (default 0.001); 1.0 for float arrays of an npz
    depth_kind     "metric" (default) or "relative"
    depth_invalid  a count that means no reading (0 always does); "... clip at 2 m" drops what is beyond
    depth_max_m    readings beyond count as missing
    depth_decode   "sun3d_rot3": counts are stored rotated by three bits
    K              {"fx", "fy", "cx", "cy"} in pixels
    cam2world      4 x 4 pose of the camera (x right, y down, z forward)
    segm           PNG of instance values, and segm_labels {value: name}
    id, licence, source

Folder: color/NAME.png (or rgb/, images/), depth/NAME.png, and intrinsics.json with fx, fy, cx, cy and any of
depth_unit_m, depth_kind, depth_max_m, licence for all frames.
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from egem.core.errors import ConfigError, RecordError
from egem.data_engine.ask import ask
from egem.data_engine.sources.source import ImportOptions, Row, same_size
from egem.media import decode_depth, decode_image
from egem.records import DepthFile, ImageFile, Intrinsics, Record
from egem.scene import Camera, Scene, SceneObject

COLOR_FOLDERS = ("color", "rgb", "images", "image")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")
FLOAT_UNIT_M = 0.0002
"""Unit in which depth that came as floats is stored: 13 m fit into 16 bits."""

_CLIP = re.compile(r"clip at ([\d.]+) ?m")


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """One row a frame of a manifest or folder.

    Raises:
        ConfigError: no such input, or a folder of another layout.
        RecordError: the manifest is not JSON, or has no frames.
    """
    for index, frame in enumerate(_frames(path)):
        root = path if path.is_dir() else path.parent
        name = frame.get("id", f"row {index + 1}") if isinstance(frame, dict) else f"row {index + 1}"
        where = f"{path}, frame '{name}'"
        yield Row(where=where, load=partial(_records, frame, str(name), index, root, where, options))


def scene_of(frame: dict[str, Any], name: str, root: Path, where: str, options: ImportOptions) -> Scene:
    """One frame of a manifest as a scene; its objects have masks only, no 3D boxes.

    Raises:
        RecordError: a file or key is missing or damaged, or sizes differ.
    """
    mask, labels = None, {}
    if "npz" in frame:
        image, depth, mask, labels = _read_npz(root / frame["npz"], where)
        unit = FLOAT_UNIT_M
    else:
        image = decode_image(ImageFile(path=str(_key(frame, "rgb", where))), root=root, where=where)
        unit = float(options.depth_unit_m or frame.get("depth_unit_m", 0.001))
        depth = _read_depth(frame, unit, root, where)
    same_size(image, depth, where)
    if "segm" in frame:
        mask, labels = _read_segments(frame, root, where)
        same_size(image, mask, where)
    limit = options.depth_max_m or _limit(frame)
    if limit is not None:
        depth = np.where(depth <= limit, depth, np.float32(0))
    camera = _camera(frame, where)
    return Scene(
        id=f"rgbd/{name}",
        source="rgbd",
        image=image,
        depth=depth,
        depth_kind=options.depth_kind or frame.get("depth_kind", "metric"),
        depth_origin=frame.get("depth_origin", "sensor"),
        depth_unit_m=unit,
        mask=mask,
        camera=camera,
        objects=tuple(_object(index, label) for index, label in sorted(labels.items())),
        meta={key: frame[key] for key in ("licence", "source") if isinstance(frame.get(key), str)},
    )


def _records(
    frame: Any, name: str, index: int, root: Path, where: str, options: ImportOptions
) -> list[Record]:
    if not isinstance(frame, dict):
        raise RecordError(f"{where}: an object with 'rgb' and 'depth' expected, got {str(frame)[:60]!r}.")
    scene = scene_of(frame, name, root, where, options)
    rng = np.random.default_rng([options.seed, index])
    # The file's own bytes are kept: encoding again costs time and, for JPEG, space.
    image = ImageFile(data=(root / frame["rgb"]).read_bytes()) if "npz" not in frame else None
    found = ask(scene, rng, num_questions=options.num_questions, skills=options.skills or None, image=image)
    if not found:
        share = float((scene.depth > 0).mean()) if scene.depth is not None else 0.0
        raise RecordError(f"{where}: nothing can be asked; {share:.1%} of its pixels have depth.")
    return found


def _frames(path: Path) -> list[Any]:
    if path.is_dir():
        return _folder_frames(path)
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; give a manifest (.json, .jsonl) or a folder.")
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"{path} is not valid JSON ({error}).") from None
    frames = values.get("frames") if isinstance(values, dict) else values
    if not isinstance(frames, list) or not frames:
        raise RecordError(f'{path} holds no frames; give {{"frames": [{{"rgb": ..., "depth": ...}}, ...]}}.')
    return frames


def _folder_frames(folder: Path) -> list[dict[str, Any]]:
    color = next((folder / name for name in COLOR_FOLDERS if (folder / name).is_dir()), None)
    if color is None or not (folder / "depth").is_dir():
        raise ConfigError(f"{folder} needs the folders color/ (or rgb/, images/) and depth/.")
    shared: dict[str, Any] = {}
    intrinsics = folder / "intrinsics.json"
    if intrinsics.is_file():
        try:
            shared = json.loads(intrinsics.read_text())
        except json.JSONDecodeError as error:
            raise RecordError(f"{intrinsics} is not valid JSON ({error}).") from None
        if "fx" in shared:
            shared["K"] = {key: shared.pop(key) for key in ("fx", "fy", "cx", "cy") if key in shared}
    files = sorted(file for file in color.iterdir() if file.suffix.lower() in IMAGE_ENDINGS)
    if not files:
        raise ConfigError(f"{color} holds no PNG or JPEG image.")
    return [
        {
            **shared,
            "id": f"{folder.name}/{file.stem}",
            "rgb": str(file.relative_to(folder)),
            "depth": f"depth/{file.stem}.png",
        }
        for file in files
    ]


def _read_depth(frame: dict[str, Any], unit: float, root: Path, where: str) -> Float[np.ndarray, "h w"]:
    file = DepthFile(path=str(_key(frame, "depth", where)), unit_m=1.0)
    counts = decode_depth(file, root=root, where=where).astype(np.uint16)
    decode = frame.get("depth_decode")
    if decode == "sun3d_rot3":
        counts = (counts >> np.uint16(3)) | (counts << np.uint16(13))
    elif decode is not None:
        raise RecordError(f"{where}: depth_decode '{decode}' is not known; 'sun3d_rot3' is.")
    invalid = frame.get("depth_invalid", 0)
    if isinstance(invalid, int):
        counts = np.where(counts == invalid, np.uint16(0), counts)
    return counts.astype(np.float32) * np.float32(unit)


def _read_npz(
    path: Path, where: str
) -> tuple[
    UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "h w"], Int[np.ndarray, "h w"] | None, dict[int, str]
]:
    """Arrays rgb (uint8), depth (float metres, NaN = none), and masks (object, h, w; 1 = visible) with labels.

    The names of labels are the lines of class_names.txt beside the file.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            image, depth = arrays["rgb"], arrays["depth"].astype(np.float32)
            masks, labels = arrays.get("masks"), arrays.get("labels")
    except (OSError, KeyError, ValueError) as error:
        raise RecordError(f"{where}: {path} cannot be read: {error}.") from error
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or depth.ndim != 2:
        shapes = f"rgb {image.shape} {image.dtype}, depth {depth.shape}"
        raise RecordError(f"{where}: {path}: (h, w, 3) uint8 and (h, w) expected, got {shapes}.")
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
    names = path.parent / "class_names.txt"
    if masks is None or not names.is_file():
        return image, depth, None, {}
    classes = names.read_text().splitlines()
    mask = np.zeros(depth.shape, np.int32)
    for index, visible in enumerate(masks == 1, 1):
        mask[visible] = index
    values = [] if labels is None else labels.tolist()
    known = {i: classes[v] for i, v in enumerate(values, 1) if 0 <= v < len(classes)}
    return image, depth, mask, known


def _read_segments(
    frame: dict[str, Any], root: Path, where: str
) -> tuple[Int[np.ndarray, "h w"], dict[int, str]]:
    path = root / frame["segm"]
    try:
        mask = np.asarray(Image.open(path)).astype(np.int32)
    except OSError as error:
        raise RecordError(f"{where}: the mask {path} cannot be read: {error}.") from error
    labels = frame.get("segm_labels", {})
    if mask.ndim != 2 or not isinstance(labels, dict):
        raise RecordError(f"{where}: {path} needs one channel of instance values and segm_labels.")
    return mask, {int(value): str(name) for value, name in labels.items()}


def _limit(frame: dict[str, Any]) -> float | None:
    if "depth_max_m" in frame:
        return float(frame["depth_max_m"])
    stated = _CLIP.search(str(frame.get("depth_invalid", "")))
    return float(stated.group(1)) if stated else None


def _camera(frame: dict[str, Any], where: str) -> Camera | None:
    values = frame.get("K")
    if values is None:
        return None
    try:
        intrinsics = Intrinsics(**{key: float(values[key]) for key in ("fx", "fy", "cx", "cy")})
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{where}: K needs numbers fx, fy, cx and cy ({error} is wrong).") from None
    pose = np.array(frame.get("cam2world", np.eye(4)), dtype=np.float64)
    if pose.shape != (4, 4):
        raise RecordError(f"{where}: cam2world must be 4 x 4, not {pose.shape}.")
    return Camera(name="sensor", intrinsics=intrinsics, world_from_camera=pose)


def _object(index: int, label: str) -> SceneObject:
    """Something with a mask and a name, and no more."""
    unknown = np.full(3, np.nan)
    name = " ".join(label.replace("_", " ").split())
    return SceneObject(
        index=index,
        name=name,
        shape=name,
        color="",
        size="",
        material="",
        pose=np.eye(4),
        extent=unknown,
        center=unknown,
        is_graspable=False,
    )


def _key(frame: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(frame.get(key), str):
        raise RecordError(f"{where}: '{key}' is missing; known keys: docs/record-format.md.")
    return frame[key]
