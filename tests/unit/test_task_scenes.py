"""The tasks as a world to ask about: what views say agrees with the simulator, and no policy is scored in them."""

import numpy as np
import pytest

from egem.core.errors import ConfigError
from egem.data_engine import ask
from egem.environments.environment import DEMONSTRATION_SEED, EnvironmentOptions
from egem.environments.tabletop.environment import TabletopEnvironment
from egem.environments.tabletop.scenes import scenes
from egem.environments.tabletop.tasks import TASKS

NUM = 2 * len(TASKS)


@pytest.fixture(scope="module")
def drawn():
    return list(scenes(0, NUM, size=(96, 96)))


def test_every_task_is_seen_by_both_cameras(drawn):
    assert [scene.camera.name for scene in drawn] == ["front", "wrist"] * len(TASKS)
    assert len({scene.id for scene in drawn}) == NUM
    assert len({scene.meta["scene"] for scene in drawn}) == len(TASKS)


def test_masks_and_depth_lie_on_the_things_that_are_named(drawn):
    num_seen = 0
    for scene in drawn:
        points, valid = world_points(scene)
        for thing in scene.objects:
            seen = (scene.mask == thing.index) & valid
            if seen.sum() < 12:
                continue
            local = (points[seen] - thing.center) @ thing.pose[:3, :3]
            assert (np.abs(local) < thing.extent / 2 + 0.004).all(axis=1).mean() > 0.95, (
                scene.id,
                thing.name,
            )
            # Its colour, in light and shadow.
            red, green, blue = np.median(scene.image[seen], axis=0)
            if thing.color == "red":
                assert red > 1.5 * max(green, blue)
            if thing.color == "green":
                assert green > 1.2 * max(red, blue)
            num_seen += 1
    assert num_seen > 3 * len(TASKS)


def world_points(scene):
    columns, rows = np.meshgrid(np.arange(96) + 0.5, np.arange(96) + 0.5)
    k = scene.camera.intrinsics
    local = np.stack([(columns - k.cx) / k.fx, (rows - k.cy) / k.fy, np.ones_like(rows)], -1)
    pose = scene.camera.world_from_camera
    return (local * scene.depth[..., None]) @ pose[:3, :3].T + pose[:3, 3], scene.depth > 0


def test_a_thing_in_a_bin_is_said_to_be_inside(drawn):
    inside = [
        (thing, scene)
        for scene in drawn
        for thing in scene.objects
        if thing.inside is not None and scene.camera.name == "front"
    ]
    assert inside
    for thing, scene in inside:
        host = next(o for o in scene.objects if o.index == thing.inside)
        assert host.shape == "bin"
        assert host.is_container


def test_the_robot_is_no_thing(drawn):
    wrist = [scene for scene in drawn if scene.camera.name == "wrist"]
    assert all(scene.robot_mask.any() for scene in wrist)
    assert not any((scene.robot_mask & (scene.mask > 0)).any() for scene in drawn)


def test_a_view_depends_on_its_number_alone(drawn):
    (alone,) = scenes(0, 1, size=(96, 96), start=7)
    assert alone.id == drawn[7].id
    np.testing.assert_array_equal(alone.image, drawn[7].image)
    np.testing.assert_array_equal(alone.mask, drawn[7].mask)


def test_scenes_are_apart_from_those_that_policies_see(drawn):
    environment = TabletopEnvironment(EnvironmentOptions(size=(96, 96)))
    task = next(iter(TASKS))
    others = [{t.name for t in drawn[0].objects}]
    for seed in (0, DEMONSTRATION_SEED):
        environment.begin(task, seed)
        others.append({t.name for t in environment.scene("front", "x/front").objects})
    environment.close()
    assert others[0] != others[1]
    assert others[0] != others[2]
    held_out = next(scenes(0, 1, size=(96, 96), split="held_out"))
    assert not np.array_equal(held_out.image, drawn[0].image)


def test_questions_can_be_asked(drawn):
    skills = (
        "layout",
        "point_at_object",
        "object_at_point",
        "is_there",
        "box_of_object",
        "color_of",
        "task_subject",
    )
    found = {
        record.skill
        for number, scene in enumerate(drawn)
        for record in ask(scene, np.random.default_rng(number), num_questions=12, skills=skills)
    }
    assert found == set(skills)


def test_what_an_instruction_names_first_is_pointed_at(drawn):
    found = 0
    for number, scene in enumerate(drawn):
        for record in ask(scene, np.random.default_rng(number), num_questions=1, skills=("task_subject",)):
            thing = next(o for o in scene.objects if o.index == scene.task.subject)
            assert thing.name == record.meta["subject"]
            assert thing.name in scene.task.instruction
            assert scene.task.instruction in record.messages[0].content
            (x, y), *_ = record.answer.points
            assert scene.mask[int(y * 0.096), int(x * 0.096)] == thing.index
            found += 1
    assert found >= len(TASKS)
    drawers = [scene for scene in drawn if scene.task.instruction.endswith("drawer open")]
    assert all(scene.task.subject is None for scene in drawers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "new_cameras"}, "unknown split 'new_cameras'"),
        ({"cameras": ("side",)}, "unknown camera 'side'"),
        ({"cameras": ()}, "no camera given"),
        ({"seed": 100}, "seeds go to 99"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        scenes(**{"seed": 0, "num": 1, **options})
