"""A depth map with colours as a point cloud file that every 3D viewer opens."""

import numpy as np
from jaxtyping import Float, UInt8

from egem.core.errors import RecordError
from egem.records import Intrinsics

DEFAULT_FIELD_OF_VIEW = 60.0
"""Degrees over the longer side, for images that came without intrinsics."""


def ply(
    image: UInt8[np.ndarray, "height width 3"],
    depth: Float[np.ndarray, "depth_height depth_width"],
    intrinsics: Intrinsics,
) -> bytes:
    """A binary little-endian PLY file: one coloured vertex for each reading, in the camera frame.

    Camera frame: x right, y down, z forward, in the depth's unit. A pixel's centre lies half a pixel from its
    top left corner, where the intrinsics' origin is.

    Args:
        image: colours, the same size as the depth map.
        depth: along the optical axis; 0 = no reading, no vertex.
        intrinsics: in pixels of this image.

    Raises:
        RecordError: image and depth differ in size, or there is no reading.
    """
    if image.shape[:2] != depth.shape:
        sizes = f"image {image.shape[:2]} and depth {depth.shape}"
        raise RecordError(f"{sizes} differ in size; resize one of them.")
    rows, columns = np.nonzero((depth > 0) & np.isfinite(depth))
    if not rows.size:
        raise RecordError("the depth map has no reading; there is no point to write.")
    # Packed: 15 bytes a vertex, as the header says.
    vertices = np.empty(rows.size, dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    z = depth[rows, columns]
    x = (columns + 0.5 - intrinsics.cx) / intrinsics.fx * z
    y = (rows + 0.5 - intrinsics.cy) / intrinsics.fy * z
    vertices["xyz"] = np.stack([x, y, z], axis=1)
    vertices["rgb"] = image[rows, columns]
    properties = [f"property float {axis}" for axis in "xyz"]
    properties += [f"property uchar {color}" for color in ("red", "green", "blue")]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {rows.size}"]
    return ("\n".join([*header, *properties, "end_header"]) + "\n").encode() + vertices.tobytes()


def assumed_intrinsics(height: int, width: int, field_of_view: float = DEFAULT_FIELD_OF_VIEW) -> Intrinsics:
    """A pinhole camera looking through the image's centre, for images of an unknown camera.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        field_of_view: degrees over the longer side.
    """
    focal = max(height, width) / 2 / float(np.tan(np.radians(field_of_view) / 2))
    return Intrinsics(fx=focal, fy=focal, cx=width / 2, cy=height / 2)
