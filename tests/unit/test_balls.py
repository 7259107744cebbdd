"""The world of balls: pictures, depth and masks agree with the geometry they claim; splits keep their distance."""

import numpy as np
import pytest

from egem.core.errors import ConfigError
from egem.data_engine import ask
from egem.data_engine.skills import SKILLS
from egem.recipes.render import RenderConfig, draw_and_ask
from egem.recipes.worlds import WORLDS
from egem.worlds.balls import COLORS, SPLITS, scenes


def points_of(scene):
    """World position of what each pixel shows, from its depth."""
    height, width = scene.depth.shape
    k = scene.camera.intrinsics
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    local = np.stack([(columns - k.cx) / k.fx, (rows - k.cy) / k.fy, np.ones_like(columns)], -1)
    local = local * scene.depth[..., None]
    return local @ scene.camera.world_from_camera[:3, :3].T + scene.camera.world_from_camera[:3, 3]


def test_depth_and_mask_say_where_things_are():
    for scene in scenes(3, 12):
        points = points_of(scene)
        on_table = (scene.mask == 0) & (points[..., 1] < 1.999)
        assert np.abs(points[on_table][:, 2]).max() < 1e-5
        assert np.abs(points[(scene.mask == 0) & ~on_table][:, 1] - 2).max() < 1e-5
        for thing in scene.objects:
            seen = points[scene.mask == thing.index]
            if len(seen):
                away = np.linalg.norm(seen - thing.center, axis=1)
                np.testing.assert_allclose(away, thing.extent[0] / 2, atol=1e-5)
                # The surface towards the camera, not the far one.
                origin = scene.camera.world_from_camera[:3, 3]
                outwards = (seen - thing.center) * (origin - seen)
                assert (outwards.sum(-1) > -1e-5).all()


def test_camera_axes_are_right_down_forward():
    scene = next(scenes(0, 1))
    rotation = scene.camera.world_from_camera[:3, :3]
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert rotation[2, 1] < 0 > rotation[2, 2]


def test_a_ball_has_its_colour_where_the_mask_has_it():
    for scene in scenes(5, 12):
        for thing in scene.objects:
            seen = scene.image[scene.mask == thing.index].astype(float)
            if len(seen) < 12:
                continue
            hue = np.median(seen, axis=0)
            likeness = {
                name: hue @ color / np.linalg.norm(hue) / np.linalg.norm(color)
                for name, color in COLORS.items()
            }
            assert max(likeness, key=lambda name: likeness[name]) == thing.color


def test_a_view_depends_on_its_number_alone():
    whole = list(scenes(9, 6, size=(48, 40)))
    (alone,) = scenes(9, 1, size=(48, 40), start=4)
    assert alone.image.shape == (48, 40, 3)
    assert alone.id == whole[4].id
    np.testing.assert_array_equal(alone.image, whole[4].image)
    np.testing.assert_array_equal(alone.depth, whole[4].depth)
    other = next(scenes(9, 1, size=(48, 40), split="held_out", start=4))
    assert not np.array_equal(other.depth, alone.depth)


def test_splits_differ_in_what_they_say():
    def ranges(split):
        drawn = list(scenes(1, 60, split=split, size=(16, 16)))
        radii = np.array([thing.extent[0] / 2 for scene in drawn for thing in scene.objects])
        return radii, np.array([scene.camera.world_from_camera[2, 3] for scene in drawn])

    radii, heights = ranges("train")
    assert 0.04 <= radii.min() < radii.max() <= 0.11
    assert 0.25 <= heights.min() < heights.max() <= 0.45
    assert not np.any((ranges("new_objects")[0] > 0.04) & (ranges("new_objects")[0] < 0.11))
    assert not np.any((ranges("new_cameras")[1] > 0.25) & (ranges("new_cameras")[1] < 0.45))


def test_balls_do_not_touch():
    for scene in scenes(2, 40, size=(16, 16)):
        assert len({thing.name for thing in scene.objects}) == len(scene.objects)
        for i, a in enumerate(scene.objects):
            for b in scene.objects[i + 1 :]:
                gap = np.linalg.norm(a.center - b.center) - (a.extent[0] + b.extent[0]) / 2
                assert gap > 0.01


def test_the_mean_depth_map_is_a_poor_guess():
    depth = np.stack([scene.depth for scene in scenes(4, 100)])
    assert (np.abs(depth - depth.mean(0)) / depth).mean() > 0.2


def test_every_skill_asks_or_refuses_and_none_fails():
    for number, scene in enumerate(scenes(6, 6)):
        records = ask(scene, np.random.default_rng(number), num_questions=60, skills=tuple(SKILLS))
        assert {record.source for record in records} == {"balls"}
        assert {"nearer_object", "camera_side", "layout"} & {record.skill for record in records}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "unknown split 'test'"),
        ({"cameras": ("side",)}, "unknown camera 'side'"),
        ({"cameras": ()}, "no camera given"),
        ({"start": -1}, "must not be negative"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        scenes(0, 1, **options)


def test_worlds_are_rendered_by_name():
    assert all(set(world.splits) <= set(SPLITS) for world in WORLDS.values())
    records = draw_and_ask(RenderConfig(world="balls", num=2, size=(64, 64), questions=3), 0, 2)
    assert {record.source for record in records} == {"balls"}
