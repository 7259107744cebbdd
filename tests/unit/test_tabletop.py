"""Views of the tabletop world: the same bytes from the same seed, depth and masks that agree with the objects."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from egem.core.errors import ConfigError
from egem.scene import Scene
from egem.worlds.tabletop import CAMERAS, SPLITS, TabletopWorld, scenes
from egem.worlds.tabletop.cameras import NEW, SEEN
from egem.worlds.tabletop.scenes import WORLDS_PER_SEED

SIZE = (72, 88)


@pytest.fixture(scope="module")
def world() -> Iterator[TabletopWorld]:
    with TabletopWorld(SIZE) as opened:
        yield opened


def look(world: TabletopWorld, seed: int, split: str = "train") -> list[Scene]:
    world.reset(seed, split)
    return [world.view(camera) for camera in CAMERAS]


def digest(scene: Scene) -> str:
    assert scene.depth is not None
    assert scene.mask is not None
    content = hashlib.sha256()
    for array in (scene.image, scene.depth, scene.mask, scene.robot_mask):
        content.update(np.ascontiguousarray(array).tobytes())
    content.update(json.dumps(scene.meta, sort_keys=True).encode())
    content.update(" ".join(o.name for o in scene.objects).encode())
    return content.hexdigest()


def points_in_world(scene: Scene) -> np.ndarray:
    """Every pixel's surface point, by the pinhole model written out."""
    assert scene.depth is not None
    assert scene.camera is not None
    height, width = scene.depth.shape
    k = scene.camera.intrinsics
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    z = scene.depth.astype(float)
    local = np.stack([(columns - k.cx) / k.fx * z, (rows - k.cy) / k.fy * z, z], axis=-1)
    pose = scene.camera.world_from_camera
    return local @ pose[:3, :3].T + pose[:3, 3]


def test_same_seed_same_bytes_whatever_came_before(world: TabletopWorld) -> None:
    wanted = [digest(scene) for scene in look(world, 5)]
    look(world, 6, "new_objects")
    with TabletopWorld(SIZE) as other:
        look(other, 11, "new_cameras")
        look(other, 12)
        assert [digest(scene) for scene in look(other, 5)] == wanted
    assert [digest(scene) for scene in look(world, 5)] == wanted
    assert len(set(wanted)) == 3


def test_same_seed_same_bytes_in_another_process(world: TabletopWorld) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests/unit')\n"
        "from test_tabletop import *\n"
        f"w = TabletopWorld({SIZE}); print(*[digest(s) for s in look(w, 5)]); w.close()"
    )
    root = str(__import__("pathlib").Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.split() == [digest(scene) for scene in look(world, 5)], done.stderr


def test_scene_of_a_number_does_not_depend_on_the_range() -> None:
    options = {"size": (48, 48), "split": "held_out"}
    whole = list(scenes(3, 7, size=(48, 48), split="held_out"))
    part = list(scenes(3, 2, start=4, **options))
    assert [digest(s) for s in part] == [digest(s) for s in whole[4:6]]
    assert whole[4].id == f"tabletop/held_out/{3 * WORLDS_PER_SEED + 1}/side"
    assert len({s.id for s in whole}) == 7


def test_splits_and_seeds_do_not_share_worlds(world: TabletopWorld) -> None:
    pictures = {digest(look(world, 9, split)[0]) for split in SPLITS}
    assert len(pictures) == len(SPLITS)


@pytest.mark.parametrize("split", SPLITS)
def test_objects_pixels_lie_in_their_boxes(world: TabletopWorld, split: str) -> None:
    seen = 0
    for seed in range(8):
        for scene in look(world, seed, split):
            assert scene.mask is not None
            assert scene.robot_mask is not None
            points = points_in_world(scene)
            assert set(np.unique(scene.mask)) <= {0} | {o.index for o in scene.objects}
            assert not (scene.robot_mask & (scene.mask > 0)).any()
            for thing in scene.objects:
                here = points[scene.mask == thing.index]
                assert scene.meta["visible_pixels"][str(thing.index)] == len(here)
                local = (here - thing.center) @ thing.pose[:3, :3]
                assert (np.abs(local) <= thing.extent / 2 + 0.002).all(), (scene.id, thing.name)
                seen += len(here) > 0
    assert seen > 60


def test_table_pixels_have_the_depth_of_the_plane(world: TabletopWorld) -> None:
    for seed in range(6):
        for scene in look(world, seed):
            assert scene.depth is not None
            assert scene.camera is not None
            assert scene.mask is not None
            assert scene.robot_mask is not None
            assert scene.support is not None
            k, pose = scene.camera.intrinsics, scene.camera.world_from_camera
            columns, rows = np.meshgrid(np.arange(SIZE[1]) + 0.5, np.arange(SIZE[0]) + 0.5)
            rays = np.stack([(columns - k.cx) / k.fx, (rows - k.cy) / k.fy, np.ones(SIZE)], axis=-1)
            rays = rays @ pose[:3, :3].T
            z = -pose[2, 3] / rays[..., 2]
            hit = pose[:3, 3] + z[..., None] * rays
            low, high = scene.support
            table = (z > 0) & ((hit[..., :2] > low + 0.01) & (hit[..., :2] < high - 0.01)).all(axis=-1)
            table &= (scene.mask == 0) & ~scene.robot_mask
            np.testing.assert_allclose(scene.depth[table], z[table], rtol=1e-4)


def test_every_pixel_has_a_plausible_depth(world: TabletopWorld) -> None:
    for seed in range(6):
        for scene in look(world, seed, SPLITS[seed % 4]):
            assert scene.depth is not None
            assert scene.depth.dtype == np.float32
            assert scene.depth.min() > 0.03
            assert scene.depth.max() < 5.5


def test_the_tip_is_between_the_fingers(world: TabletopWorld) -> None:
    # With the gripper low over the table, robot pixels of the wrist view surround the tip's projection.
    for seed in range(6):
        front = look(world, seed)[0]
        assert front.camera is not None
        assert front.robot_mask is not None
        tip = np.array(front.meta["robot"]["tip"])
        column, row, _ = front.camera.project(tip[None])[0]
        rows, columns = np.nonzero(front.robot_mask)
        if 0 <= row < SIZE[0] and 0 <= column < SIZE[1] and len(rows):
            assert np.hypot(rows + 0.5 - row, columns + 0.5 - column).min() < 12


def test_cameras_keep_to_their_split(world: TabletopWorld) -> None:
    def numbers(split: str) -> list[tuple[str, float, float, float]]:
        found = []
        for seed in range(8):
            world.reset(seed, split)
            for name in ("front", "side"):
                scene = world.view(name)
                assert scene.camera is not None
                forward = scene.camera.world_from_camera[:3, 2]
                elevation = np.degrees(np.arcsin(-forward[2]))
                azimuth = np.degrees(np.abs(np.arctan2(-forward[1], -forward[0])))
                found.append((name, scene.meta["fovy"], elevation, azimuth))
        return found

    def within(value: float, ranges: tuple[tuple[float, float], ...]) -> bool:
        return any(low - 1e-6 <= value <= high + 1e-6 for low, high in ranges)

    for split, own, other in (("train", SEEN, NEW), ("new_cameras", NEW, SEEN)):
        drawn = numbers(split)
        for name, fovy, elevation, azimuth in drawn:
            assert within(fovy, own.fovy)
            assert not within(fovy, other.fovy)
            assert within(elevation, own.elevation)
            assert within(azimuth, getattr(own, name))
            assert not within(azimuth, getattr(other, name))
        assert np.std([fovy for _, fovy, _, _ in drawn]) > 5
        assert np.std([elevation for _, _, elevation, _ in drawn]) > 8


def test_the_mean_depth_map_is_a_poor_guess() -> None:
    def maps(split: str, num: int) -> np.ndarray:
        drawn = scenes(1, num, size=(32, 32), split=split, cameras=("front",))
        return np.stack([scene.depth for scene in drawn if scene.depth is not None]).astype(float)

    mean = maps("train", 40).mean(axis=0).ravel()
    errors = []
    for truth in maps("held_out", 40):
        y = truth.ravel()
        design = np.stack([mean, np.ones_like(mean)], axis=1)
        fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
        errors.append(np.mean(np.abs(fitted - y) / y))
    assert np.mean(errors) > 0.12


def test_scene_is_complete(world: TabletopWorld) -> None:
    for scene in look(world, 3):
        assert scene.image.shape == (*SIZE, 3)
        assert scene.image.std() > 10
        assert scene.source == "tabletop"
        assert scene.depth_kind == "metric"
        assert scene.depth_origin == "simulator"
        assert 3 <= len(scene.objects) <= 8
        assert [o.index for o in scene.objects] == list(range(1, len(scene.objects) + 1))
        assert len({o.name for o in scene.objects}) == len(scene.objects)
        assert all(isinstance(o.reachable, bool) and o.grasp_point is not None for o in scene.objects)
        assert json.loads(json.dumps(scene.meta)) == scene.meta


def test_bad_requests(world: TabletopWorld) -> None:
    with pytest.raises(ConfigError, match=r"unknown split 'trian'\. Did you mean 'train'\?"):
        world.reset(0, "trian")
    with pytest.raises(ConfigError, match=r"unknown camera 'frnt'\. Did you mean 'front'\?"):
        world.view("frnt")
    with pytest.raises(ConfigError, match="unknown camera 'top'"):
        scenes(0, 1, cameras=("top",))
    with pytest.raises(ConfigError, match="no camera given"):
        scenes(0, 1, cameras=())
    with pytest.raises(ConfigError, match="must not be negative"):
        scenes(-1, 1)
    with pytest.raises(ConfigError, match="use two seeds"):
        scenes(0, 2, start=10**10)
