"""What skills ask, against answers worked out another way; what they refuse; that no answer can be guessed."""

import importlib
import pkgutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from egem.blind import blind_scores
from egem.data_engine import SKILLS, ask, skills
from egem.data_engine.skills import DEFAULT_SKILLS, free_space, point_depth, trajectory, viewpoint
from egem.data_engine.skills.containment import on_table
from egem.data_engine.symbolic import block_scene, question_corpus
from egem.data_engine.view import View
from egem.media import decode_region
from egem.records import Intrinsics, Record, validate
from egem.scene import Camera, Scene, SceneObject
from egem.scoring import score

NUM_SCENES = 180


@pytest.fixture(scope="module")
def groups() -> list[tuple[Scene, list[Record]]]:
    scenes = [block_scene(seed) for seed in range(NUM_SCENES)]
    return [(scene, ask(scene, np.random.default_rng(i), num_questions=20)) for i, scene in enumerate(scenes)]


@pytest.fixture(scope="module")
def by_skill(groups: list[tuple[Scene, list[Record]]]) -> dict[str, list[tuple[Scene, Record]]]:
    found: dict[str, list[tuple[Scene, Record]]] = {name: [] for name in DEFAULT_SKILLS}
    for scene, records in groups:
        for record in records:
            found[record.skill].append((scene, record))
    return found


def thing(scene: Scene, name: str) -> SceneObject:
    return next(o for o in scene.objects if o.name == name)


def local(scene: Scene, point: np.ndarray) -> np.ndarray:
    """A world point in the camera's frame, by inverting the pose as a whole."""
    assert scene.camera is not None
    return (np.linalg.inv(scene.camera.world_from_camera) @ np.append(point, 1.0))[:3]


def mentioned(scene: Scene, record: Record) -> list[SceneObject]:
    """Objects that a question names, in the order of their first mention."""
    text = record.messages[0].content.lower()
    places = {}
    for o in sorted(scene.objects, key=lambda o: -len(o.name)):
        if f"the {o.name}" in text:
            places[o.name] = text.index(f"the {o.name}")
            text = text.replace(f"the {o.name}", "#" * (4 + len(o.name)))
    return [thing(scene, name) for name in sorted(places, key=lambda name: places[name])]


def test_the_table_covers_all_categories() -> None:
    assert len(SKILLS) >= 20
    assert {skill.category for skill in SKILLS.values()} == {"grounding", "spatial", "planning"}


def test_every_skill_asks_and_its_answer_scores_full_marks(by_skill) -> None:
    for name, asked in by_skill.items():
        assert len(asked) >= 4, name
        for _, record in asked[:25]:
            validate(record)
            assert score(record.answer, record.answer.text) == 1.0, (name, record.messages, record.answer)


def test_answer_kinds_cover_the_format(by_skill) -> None:
    kinds = {record.answer.kind for asked in by_skill.values() for _, record in asked}
    assert kinds == {"choice", "number", "point", "box", "trajectory"}


def test_every_skill_has_four_short_phrasings() -> None:
    for module in pkgutil.iter_modules(skills.__path__):
        loaded = importlib.import_module(f"egem.data_engine.skills.{module.name}")
        for name, value in vars(loaded).items():
            if isinstance(value, tuple) and value and all(isinstance(v, str) and "{" in v for v in value):
                assert len(set(value)) >= 4, (module.name, name)
                assert max(len(v.split()) for v in value) <= 18, (module.name, name)


def test_nearer_object_agrees_with_the_depth_map(by_skill) -> None:
    for scene, record in by_skill["nearer_object"]:
        assert scene.depth is not None
        a, b = (np.median(scene.depth[scene.mask == thing(scene, n).index]) for n in record.answer.choices)
        far = any(word in record.messages[0].content.lower() for word in ("farther", "distant"))
        assert record.answer.text == record.answer.choices[int((a < b) == far)]
        assert max(a, b) / min(a, b) > 1.05


def test_points_are_ordered_as_the_depth_map_says(by_skill) -> None:
    for name in ("nearer_point", "extreme_point"):
        for _, record in by_skill[name]:
            far = "farthe" in record.messages[0].content
            depths = record.meta["depths"]
            assert record.answer.text == "ABC"[int(np.argmax(depths) if far else np.argmin(depths))]
    for _, record in by_skill["order_points"]:
        order = np.argsort(record.meta["depths"])
        assert record.answer.text == ", ".join("ABC"[i] for i in order)
        assert record.answer.choices[0] != record.answer.choices[1]


def test_written_points_lead_back_to_the_depth_that_was_read(by_skill) -> None:
    for scene, record in by_skill["point_depth"]:
        assert scene.depth is not None
        x, y = record.meta["points"][0]
        height, width = scene.depth.shape
        depth = scene.depth[int(y * height / 1000), int(x * width / 1000)]
        assert record.answer.number == pytest.approx(depth, abs=1e-3)


def test_distances_are_those_of_the_centres(by_skill) -> None:
    for scene, record in by_skill["camera_distance"]:
        (a,) = mentioned(scene, record)
        assert record.answer.number == pytest.approx(np.linalg.norm(local(scene, a.center)), abs=1e-3)
        assert float(record.answer.text.removesuffix(" m")) == pytest.approx(record.answer.number, abs=0.006)
    for scene, record in by_skill["object_distance"]:
        a, b = mentioned(scene, record)
        apart = np.linalg.norm(local(scene, a.center) - local(scene, b.center))
        assert record.answer.number == pytest.approx(apart, abs=1e-3)


def test_points_apart_agree_with_back_projection(by_skill) -> None:
    for scene, record in by_skill["points_apart"][:20]:
        lens = scene.camera.intrinsics
        height, width = scene.depth.shape
        corners = []
        for (x, y), z in zip(record.meta["points"], record.meta["depths"], strict=True):
            column, row = int(x * width / 1000) + 0.5, int(y * height / 1000) + 0.5
            corners.append([(column - lens.cx) / lens.fx * z, (row - lens.cy) / lens.fy * z, z])
        apart = np.linalg.norm(np.subtract(*corners))
        assert record.answer.number == pytest.approx(apart, abs=2e-3)


def test_left_and_right_are_the_camera_s(by_skill) -> None:
    for scene, record in by_skill["camera_side"]:
        a, b = mentioned(scene, record)
        text = record.messages[0].content.lower()
        if "which side of" in text or text.index("left") < text.index("the "):
            a, b = b, a
        xs = [float(scene.camera.project(o.center[None])[0, 0]) for o in (a, b)]
        assert record.answer.text == ("left" if xs[0] < xs[1] else "right"), text


def test_front_and_behind_follow_depth(by_skill) -> None:
    for scene, record in by_skill["camera_order"]:
        a, b = mentioned(scene, record)
        if "in front of or behind" in record.messages[0].content.lower()[:30]:
            a, b = (b, a) if record.messages[0].content[8:].startswith("In front") else (a, b)
        ground = scene.camera.world_from_camera[:2, 2]
        behind = float((a.center - b.center)[:2] @ ground) > 0
        assert record.answer.text == ("behind" if behind else "in front")


def test_facing_turns_with_the_one_who_looks() -> None:
    scene = simple_scene([("red cube", (0, 0)), ("blue cube", (0.1, 0)), ("green cube", (0.1, 0.1))])
    found = {
        (question.topic, question.answer.text)
        for seed in range(200)
        if (question := viewpoint.facing(View(scene), np.random.default_rng(seed))) is not None
    }
    assert (("red cube", "blue cube", "green cube"), "left") in found
    assert (("green cube", "blue cube", "red cube"), "right") in found
    assert (("red cube", "green cube", "blue cube"), "right") in found
    assert len(found) == len({topic for topic, _ in found})


def test_own_side_is_in_the_object_s_frame() -> None:
    pose = np.eye(4)
    pose[:2, :2] = [[0, -1], [1, 0]]  # its front points along world +y, its left along world -x
    sides = [
        viewpoint.own_side(pose, np.array(o)) for o in ([0.0, 0.2], [0.0, -0.2], [-0.2, 0.0], [0.2, 0.0])
    ]
    assert sides == ["front", "back", "left", "right"]
    assert viewpoint.own_side(pose, np.array([0.1, 0.1])) is None
    assert viewpoint.own_side(pose, np.array([0.0, 0.01])) is None


def test_containment_follows_the_scene(by_skill) -> None:
    for name, field in (("inside", "inside"), ("on", "on")):
        for scene, record in by_skill[name]:
            a, b = mentioned(scene, record)
            holds = b.index == getattr(a, field) or a.index == getattr(b, field)
            assert record.answer.text == ("yes" if holds else "no")
    for scene, record in by_skill["above"] + by_skill["goal_done"]:
        a, b = mentioned(scene, record)
        holds = b.index in (a.inside, a.on) or a.index in (b.inside, b.on)
        assert record.answer.text == ("yes" if holds else "no")
        upper = a if a.center[2] > b.center[2] else b
        if holds and record.skill == "above":
            first = a if " above" in record.messages[0].content else b
            assert first is upper


def test_counts(by_skill) -> None:
    for scene, record in by_skill["count_color"]:
        seen = [o for o in scene.objects if (scene.mask == o.index).any()]
        word = next(w for w in record.messages[0].content.split() if w in skills.counting.COLORS)
        assert record.answer.number == sum(o.color == word for o in seen)
    for scene, record in by_skill["count_all"]:
        assert record.answer.number == len(set(np.unique(scene.mask)) - {0})


def test_boxes_are_tight(by_skill) -> None:
    for scene, record in by_skill["box_of_object"]:
        (a,) = mentioned(scene, record)
        height, width = scene.mask.shape
        rows, columns = np.nonzero(scene.mask == a.index)
        left, top, right, bottom = np.array(record.answer.box) / 1000 * [width, height, width, height]
        assert [left, top, right, bottom] == pytest.approx(
            [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], abs=0.06
        )


def test_pointing_regions_are_the_object(by_skill) -> None:
    for scene, record in by_skill["point_at_object"]:
        (a,) = mentioned(scene, record)
        np.testing.assert_array_equal(decode_region(record.answer.region), scene.mask == a.index)


def test_free_spots_are_empty_table_on_the_right_side(by_skill) -> None:
    ahead = {"left of": (0, -1), "right of": (0, 1), "in front of": (2, -1), "behind": (2, 1)}
    for scene, record in by_skill["free_spot"]:
        (a,) = mentioned(scene, record)
        region = decode_region(record.answer.region)
        assert not (scene.mask[region] > 0).any()
        text = record.messages[0].content
        axis, sign = next(value for side, value in ahead.items() if side in text)
        lens = scene.camera.intrinsics
        rows, columns = np.nonzero(region)
        z = scene.depth[region]
        points = np.stack(
            [(columns + 0.5 - lens.cx) / lens.fx * z, (rows + 0.5 - lens.cy) / lens.fy * z, z], 1
        )
        foot = local(scene, np.array([*a.center[:2], 0.0]))
        assert (sign * (points[:, axis] - foot[axis]) > -0.02).all()


def test_free_table_keeps_clear_of_things_that_are_not_seen() -> None:
    scene = block_scene(3)
    free = free_space.free_table(View(scene))
    hidden = replace(scene, mask=np.zeros_like(scene.mask), depth=plane_depth(scene))
    again = free_space.free_table(View(hidden))
    assert free.any()
    for o in scene.objects:
        column, row, _ = scene.camera.project(np.array([[*o.center[:2], 0.0]]))[0]
        if on_table_object(o) and 0 <= row < 72 and 0 <= column < 96:
            assert not again[int(row), int(column)]


def test_affordance_regions_surround_the_grasp_point(by_skill) -> None:
    for scene, record in by_skill["graspable_part"]:
        (a,) = mentioned(scene, record)
        region = decode_region(record.answer.region)
        assert (scene.mask[region] == a.index).all()
        gap = np.linalg.norm(View(scene).world_points[region] - a.grasp_point, axis=1)
        assert gap.max() <= 0.03 + 0.012 + 1e-6


def test_next_steps_and_paths_come_from_the_task(by_skill) -> None:
    for scene, record in by_skill["next_step"]:
        assert record.answer.text == scene.task.next_subtask
    for scene, record in by_skill["gripper_path"]:
        assert len(record.answer.points) == 8
        for end, point in ((0, scene.task.path[0]), (-1, scene.task.path[-1])):
            column, row, _ = scene.camera.project(point[None])[0]
            expected = np.array([column / scene.depth.shape[1], row / scene.depth.shape[0]]) * 1000
            assert np.abs(expected - record.answer.points[end]).max() < 8


def test_resampling_is_even() -> None:
    path = np.array([[0.0, 0, 0], [1, 0, 0], [1, 3, 0]])
    steps = np.linalg.norm(np.diff(trajectory.resample(path, 9), axis=0), axis=1)
    assert steps == pytest.approx(0.5)


def test_reach_is_asked_only_where_it_differs(by_skill) -> None:
    for scene, record in by_skill["reachable"]:
        (a,) = mentioned(scene, record)
        assert record.answer.text == ("yes" if a.reachable else "no")
        assert {o.reachable for o in scene.objects} == {True, False}


def test_no_skill_is_won_blind(groups) -> None:
    halves = [r for _, g in groups[::2] for r in g], [r for _, g in groups[1::2] for r in g]
    found = blind_scores(*halves)
    for name, blind in found.items():
        answers = [r.answer for r in halves[1] if r.skill == name]
        chance = float(np.mean([1 / len(a.choices) for a in answers])) if answers[0].choices else 0.35
        # Three standard deviations of chance are allowed for the luck of the best of five guessers.
        slack = 0.1 + 3 * np.sqrt(0.25 / len(answers))
        assert blind.mean <= chance + slack, (name, blind.mean, chance, blind.guesser)


def test_options_and_yes_are_balanced(by_skill) -> None:
    for name, asked in by_skill.items():
        choices = [r.answer for _, r in asked if r.answer.kind == "choice" and len(r.answer.choices) == 2]
        if len(choices) >= 40:
            share = np.mean([a.text == a.choices[0] for a in choices])
            assert abs(share - 0.5) < 1.8 / np.sqrt(len(choices)), (name, share, len(choices))


def test_the_nearer_point_is_as_often_the_higher_one(by_skill) -> None:
    higher = []
    for _, record in by_skill["nearer_point"]:
        near, far = np.argsort(record.meta["depths"])
        higher.append(record.meta["points"][near][1] < record.meta["points"][far][1])
    assert abs(np.mean(higher) - 0.5) < 1.8 / np.sqrt(len(higher))


def simple_scene(things: list[tuple[str, tuple[float, float]]], size: float = 0.05) -> Scene:
    """Cubes on a table seen straight from above, drawn by hand."""
    pose = np.diag([1.0, -1.0, -1.0, 1.0])
    pose[:3, 3] = [0.05, 0.05, 1.0]
    camera = Camera(
        name="top", intrinsics=Intrinsics(fx=100.0, fy=100.0, cx=32.0, cy=32.0), world_from_camera=pose
    )
    depth, mask = np.ones((64, 64), np.float32), np.zeros((64, 64), np.int32)
    objects = []
    for index, (name, (x, y)) in enumerate(things, 1):
        center = np.array([x, y, size / 2])
        column, row, _ = camera.project(center[None])[0]
        half = size * 50
        window = np.s_[round(row - half) : round(row + half), round(column - half) : round(column + half)]
        depth[window], mask[window] = 1 - size, index
        objects.append(
            SceneObject(
                index=index,
                name=name,
                shape=name.split()[-1],
                color=name.split()[0],
                size="medium",
                material="matte",
                pose=np.eye(4),
                extent=np.full(3, size),
                center=center,
            )
        )
    return Scene(
        id="simple",
        source="simple",
        image=np.zeros((64, 64, 3), np.uint8),
        depth=depth,
        mask=mask,
        camera=camera,
        objects=tuple(objects),
        support=np.array([[-0.5, -0.5], [0.5, 0.5]]),
    )


def plane_depth(scene: Scene) -> np.ndarray:
    """The bare table's depth."""
    rows, columns = np.mgrid[:72, :96] + 0.5
    lens, pose = scene.camera.intrinsics, scene.camera.world_from_camera
    rays = np.stack([(columns - lens.cx) / lens.fx, (rows - lens.cy) / lens.fy, np.ones((72, 96))], -1)
    down = (rays @ pose[:3, :3].T)[..., 2]
    return np.where(down < 0, -pose[2, 3] / np.minimum(down, -1e-6), 0).astype(np.float32)


def on_table_object(o: SceneObject) -> bool:
    return o.inside is None and o.on is None


def asked_about(scene: Scene, skill: str) -> set[str]:
    return {
        name
        for seed in range(60)
        if (question := SKILLS[skill].ask(View(scene), np.random.default_rng(seed))) is not None
        for name in question.topic
    }


TWO = [("red cube", (0.0, 0.05)), ("blue cube", (0.1, 0.05))]


def test_a_tie_in_depth_is_refused() -> None:
    assert asked_about(simple_scene(TWO), "nearer_object") == set()
    assert asked_about(simple_scene(TWO), "camera_order") == set()
    assert asked_about(simple_scene(TWO), "camera_side") == {"red cube", "blue cube"}


def test_a_tie_in_size_is_refused() -> None:
    scene = simple_scene(TWO)
    assert asked_about(scene, "compared_size") == set()
    larger = replace(scene.objects[0], extent=np.full(3, 0.065))
    assert asked_about(replace(scene, objects=(larger, scene.objects[1])), "compared_size")


def test_hidden_tiny_and_doubled_things_are_not_asked_about() -> None:
    scene = simple_scene(TWO)
    hidden = scene.mask.copy()
    hidden[:, : int(np.nonzero(scene.mask == 1)[1].max())] = 0  # one column of the red cube is left
    assert asked_about(replace(scene, mask=hidden), "point_at_object") == {"blue cube"}
    twins = tuple(replace(o, name="red cube") for o in scene.objects)
    assert not View(replace(scene, objects=twins)).sightings
    assert not View(simple_scene(TWO, size=0.01)).sightings


def test_a_large_thing_that_is_mostly_hidden_is_not_asked_about() -> None:
    scene = simple_scene(TWO, size=0.09)
    left = int(np.nonzero(scene.mask == 1)[1].min())
    seen = scene.mask.copy()
    seen[:, left + 2 :][scene.mask[:, left + 2 :] == 1] = 0
    covered = replace(scene, mask=seen)
    assert int((seen == 1).sum()) >= 16
    assert asked_about(covered, "point_at_object") == {"blue cube"}


def test_a_glimpsed_thing_forbids_counting() -> None:
    scene = simple_scene(TWO)
    assert View(scene).all_or_nothing
    hidden = scene.mask.copy()
    rows, columns = np.nonzero(scene.mask == 1)
    hidden[rows[3:], columns[3:]] = 0
    assert not View(replace(scene, mask=hidden)).all_or_nothing
    assert View(replace(scene, mask=np.where(scene.mask == 1, 0, scene.mask))).all_or_nothing


def test_points_avoid_edges_and_missing_depth() -> None:
    depth = np.ones((40, 40), np.float32)
    depth[:, 20:] = 2.0
    depth[30:] = 0.0
    view = View(Scene(id="a", source="a", image=np.zeros((40, 40, 3), np.uint8), depth=depth))
    columns, rows = view.flat_points.T
    assert len(columns) > 200
    assert not (np.abs(columns - 19.5) < 1).any()
    assert rows.max() < 29


def test_depth_alone_is_enough_for_points_and_relative_depth_gives_no_metres() -> None:
    rng = np.random.default_rng(0)
    depth = (1.0 + np.kron(rng.random((6, 6)), np.ones((12, 12)))).astype(np.float32)
    scene = Scene(id="a", source="a", image=np.zeros((72, 72, 3), np.uint8), depth=depth)
    rounds = [np.random.default_rng(seed) for seed in range(4)]
    metric = {r.skill for rng in rounds for r in ask(scene, rng, num_questions=40)}
    assert metric == {"nearer_point", "extreme_point", "order_points", "point_depth", "depth_difference"}
    relative = [
        r for rng in rounds for r in ask(replace(scene, depth_kind="relative"), rng, num_questions=40)
    ]
    assert {r.skill for r in relative} == {"nearer_point", "extreme_point", "order_points"}
    assert all(r.depths[0].kind == "relative" for r in relative)


def test_clear_margin_of_points() -> None:
    depth = np.ones((40, 40), np.float32)
    depth[:20] = 1.05  # 5 %: a tie
    view = View(Scene(id="a", source="a", image=np.zeros((40, 40, 3), np.uint8), depth=depth))
    assert all(point_depth.nearer_point(view, np.random.default_rng(i)) is None for i in range(20))


def test_the_corpus_covers_skills_and_digits() -> None:
    texts = list(question_corpus(0, 1500))
    assert len(texts) == 1500
    assert texts[:300] == list(question_corpus(0, 300))
    assert texts[:50] != list(question_corpus(1, 50))
    joined = Counter(" ".join(texts))
    assert all(joined[digit] > 50 for digit in "0123456789[],.")
    assert all(
        any(word in text for text in texts) for word in ("reach for", "nearer", "handle", "behind", " m")
    )


def test_symbolic_scenes_are_consistent() -> None:
    scene = block_scene(5)
    assert scene.depth is not None
    points = View(scene).world_points
    for o in scene.objects:
        inside = (points[scene.mask == o.index] - o.center) @ o.pose[:3, :3]
        assert (np.abs(inside) <= o.extent / 2 + 1e-4).all()
    assert np.abs(points[(scene.mask == 0) & (scene.depth < 2.9)][:, 2]).max() < 1e-3
    standing = [s for s in View(scene).with_box if on_table_object(s.object)]
    assert all(on_table(s) for s in standing)
