import numpy as np
import pytest

from egem.core.errors import RecordError
from egem.records import Intrinsics
from egem.report.pointcloud import assumed_intrinsics, ply


def read_ply(data: bytes):
    """A reader of its own: header line by line, then the bytes as the header declares them."""
    head, body = data.split(b"end_header\n", 1)
    lines = head.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    count = int(lines[2].removeprefix("element vertex "))
    kinds = {"float": "<f4", "uchar": "u1"}
    fields = [(line.split()[2], kinds[line.split()[1]]) for line in lines[3:]]
    vertices = np.frombuffer(body, np.dtype(fields))
    assert len(vertices) == count
    return vertices


def test_points_lie_where_the_camera_saw_them():
    intrinsics = Intrinsics(fx=50.0, fy=60.0, cx=16.0, cy=12.0)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    depth = rng.uniform(0.5, 2.0, (24, 32)).astype(np.float32)
    depth[3, 4] = 0.0
    depth[5, 6] = np.nan
    vertices = read_ply(ply(image, depth, intrinsics))
    assert len(vertices) == 24 * 32 - 2
    # Project back: every point must fall on the centre of its own pixel, with its own colour.
    columns = vertices["x"] / vertices["z"] * 50.0 + 16.0 - 0.5
    rows = vertices["y"] / vertices["z"] * 60.0 + 12.0 - 0.5
    np.testing.assert_allclose(columns, columns.round(), atol=1e-4)
    place = (rows.round().astype(int), columns.round().astype(int))
    np.testing.assert_allclose(vertices["z"], depth[place])
    colors = np.stack([vertices["red"], vertices["green"], vertices["blue"]], axis=1)
    np.testing.assert_array_equal(colors, image[place])


def test_bad_input():
    camera = assumed_intrinsics(4, 6)
    image = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(RecordError, match=r"image \(4, 6\) and depth \(4, 5\) differ in size"):
        ply(image, np.ones((4, 5), np.float32), camera)
    with pytest.raises(RecordError, match="no reading"):
        ply(image, np.zeros((4, 6), np.float32), camera)


def test_assumed_camera_sees_its_field_of_view():
    camera = assumed_intrinsics(480, 640, 90.0)
    assert camera.fx == pytest.approx(320.0)
    assert (camera.cx, camera.cy) == (320.0, 240.0)
    assert assumed_intrinsics(640, 480).fx == pytest.approx(320 / np.tan(np.radians(30)))
