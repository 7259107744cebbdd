"""The arm goes where it is sent, and a task's words, numbers and picture tell the same story."""

from collections import Counter

import numpy as np
import pytest
from tests.solids import is_inside, to_object

from egem.worlds.tabletop.arm import FINGER_TRAVEL, HOME, Kinematics, pointing_down
from egem.worlds.tabletop.grasps import Robot, is_reachable
from egem.worlds.tabletop.tasks import NUM_PATH_POINTS, Situation, draw_situation

NUM_SITUATIONS = 120
LOW = (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973)
HIGH = (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973)


def forward(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The manufacturer's modified Denavit-Hartenberg table, written out: tip and hand orientation."""
    table = [(0, 0.333, 0), (0, 0, -90), (0, 0.316, 90), (0.0825, 0, 90)]
    table += [(-0.0825, 0.384, -90), (0, 0, 90), (0.088, 0, 90)]
    pose = np.eye(4)
    for (a, d, alpha), angle in zip(table, joints, strict=True):
        ca, sa = np.cos(np.radians(alpha)), np.sin(np.radians(alpha))
        c, s = np.cos(angle), np.sin(angle)
        pose = pose @ np.array(
            [[c, -s, 0, a], [s * ca, c * ca, -sa, -d * sa], [s * sa, c * sa, ca, d * ca], [0, 0, 0, 1]]
        )
    c, s = np.cos(-np.pi / 4), np.sin(-np.pi / 4)
    hand = pose @ np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0.107 + 0.1034], [0, 0, 0, 1]])
    return hand[:3, 3], hand[:3, :3]


@pytest.fixture(scope="module")
def kinematics() -> Kinematics:
    return Kinematics()


@pytest.fixture(scope="module")
def situations(kinematics: Kinematics) -> list[tuple[Situation, Robot]]:
    found = []
    for seed in range(NUM_SITUATIONS):
        rng = np.random.default_rng([3, seed])
        robot = Robot(kinematics, (-0.68, 0.03))
        found.append((draw_situation(rng, "train", robot), robot))
    return found


def test_forward_kinematics_are_the_manufacturers(kinematics: Kinematics) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        joints = rng.uniform(LOW, HIGH)
        np.testing.assert_allclose(kinematics.tip(joints), forward(joints)[0], atol=1e-6)
    np.testing.assert_allclose(kinematics.links(HOME)[-1], forward(HOME)[0], atol=1e-6)


def test_inverse_kinematics_arrive_within_the_limits(kinematics: Kinematics) -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        radius, angle = rng.uniform(0.35, 0.68), rng.uniform(-1.2, 1.2)
        point = np.array([radius * np.cos(angle), radius * np.sin(angle), rng.uniform(0.01, 0.25)])
        rotation = pointing_down(angle - np.pi / 2 + rng.uniform(-1.2, 1.2))
        joints = kinematics.solve(point, rotation)
        assert joints is not None
        assert (joints >= np.array(LOW)).all()
        assert (joints <= np.array(HIGH)).all()
        tip, hand = forward(joints)
        np.testing.assert_allclose(tip, point, atol=1.1e-3)
        assert np.degrees(np.arccos(np.clip((np.trace(hand.T @ rotation) - 1) / 2, -1, 1))) < 1.2


def test_what_is_too_far_is_not_reached(kinematics: Kinematics) -> None:
    assert kinematics.solve(np.array([0.95, 0.0, 0.05]), pointing_down(-np.pi / 2)) is None
    robot = Robot(kinematics, (-0.6, 0.0))
    assert robot.can_reach(np.array([0.0, 0.1, 0.03]))
    assert not robot.can_reach(np.array([0.35, 0.3, 0.03]))


def test_reachable_says_both(situations: list) -> None:
    answers = Counter(
        is_reachable(i, situation.things, robot)
        for situation, robot in situations[:40]
        for i in range(len(situation.things))
    )
    assert answers[True] > 60
    assert answers[False] > 15


def test_tasks_are_consistent(situations: list) -> None:
    verbs, moments = Counter(), Counter()
    for situation, _ in situations:
        task = situation.task
        if task is None:
            verbs[None] += 1
            continue
        verbs[task.instruction.split()[0]] += 1
        np.testing.assert_allclose(
            forward(situation.joints)[0] + (-0.68, 0.03, 0), situation.tip, atol=1.2e-3
        )
        if task.done:
            moments["done"] += 1
            assert task.next_subtask is None
            assert task.path.shape == (0, 3)
            continue
        assert task.next_subtask in task.subtasks
        moments[task.subtasks.index(task.next_subtask)] += 1
        assert task.path.shape == (NUM_PATH_POINTS, 3)
        np.testing.assert_allclose(task.path[0], situation.tip, atol=1e-9)
        assert (task.path[:, 2] > 0.005).all()
    assert verbs["put"] > 0.4 * NUM_SITUATIONS
    assert verbs["pick"] > 0
    assert verbs["open"] + verbs["close"] > 0
    assert verbs[None] < 0.05 * NUM_SITUATIONS
    assert all(moments[k] > 2 for k in (0, 1, 2, 3, 4, "done"))


def test_what_is_held_is_between_the_fingers(situations: list) -> None:
    held = 0
    for situation, _ in situations:
        if situation.held is None:
            continue
        held += 1
        thing = situation.things[situation.held]
        np.testing.assert_allclose(thing.world(thing.body.grasp.point), situation.tip, atol=1e-6)
        assert 2 * situation.opening == pytest.approx(thing.body.grasp.width, abs=1e-3)
        assert thing.name in situation.task.instruction
        if (
            situation.task.next_subtask is None
            or situation.task.subtasks.index(situation.task.next_subtask) > 2
        ):
            assert thing.position[2] > 0.08
            assert thing.host is None
    assert held > 20


def test_done_means_it_is_there(situations: list) -> None:
    done = 0
    for situation, _ in situations:
        task = situation.task
        if task is None or not task.done or not task.instruction.startswith("put "):
            continue
        done += 1
        mover = next(t for t in situation.things if task.instruction.startswith(f"put the {t.name} "))
        assert mover.host is not None
        word = "on" if mover.relation == "on" else "in"
        assert task.instruction == f"put the {mover.name} {word} the {situation.things[mover.host].name}"
    assert done > 5


def test_fingers_are_in_nothing(situations: list) -> None:
    """Box fingers with the published stroke, against the solids of all things."""
    rng = np.random.default_rng(0)
    for situation, _ in situations:
        _, hand = forward(situation.joints)
        assert -1e-9 <= situation.opening <= FINGER_TRAVEL
        for sign in (1, -1):
            pad = rng.uniform((-0.010, 0.0, -0.030), (0.010, 0.009, 0.0066), (400, 3))
            pad[:, 1] = sign * (pad[:, 1] + situation.opening)
            points = situation.tip + pad @ hand.T
            assert points[:, 2].min() > -0.0005
            for thing in situation.things:
                deep = is_inside(to_object(points, thing.pose), thing.body, 0.002)
                assert not deep.any(), (situation.task, thing.name)
