"""The tabletop environment: scenes from seeds, physics, success, experts, pictures; and who is refused at its door."""

from dataclasses import replace

import numpy as np
import pytest

from egem.core.errors import ConfigError, ProtocolError
from egem.environments.environment import EnvironmentOptions, check_policy
from egem.environments.experts.motions import Motions
from egem.environments.experts.tabletop import SCRIPTS
from egem.environments.tabletop import goals
from egem.environments.tabletop.environment import INFO, TabletopEnvironment
from egem.environments.tabletop.goals import Goal, History
from egem.environments.tabletop.tasks import TASKS, draw_task
from egem.policy import PolicyInfo
from egem.worlds.tabletop.catalog import COLORS


@pytest.fixture(scope="module")
def environment():
    opened = TabletopEnvironment(EnvironmentOptions(size=(64, 64)))
    yield opened
    opened.close()


def solve(environment, task, seed, steps=None):
    """Play the expert; returns the last progress and the actions."""
    most = environment.begin(task, seed)
    actions, expert, progress = [], environment.expert(seed), None
    for _ in range(steps or most):
        actions.append(next(expert).action)
        progress = environment.step(actions[-1])
        if progress.over:
            break
    return progress, actions


@pytest.mark.parametrize("task", TASKS)
def test_expert_solves_every_task_and_keeping_still_does_not(environment, task):
    environment.begin(task, 5)
    assert not any(environment.step(np.array([0, 0, 0, 0, 0, 0, 1.0])).success for _ in range(4))
    progress, actions = solve(environment, task, 5)
    assert progress.success, environment.failure()
    assert len(actions) <= TASKS[task].max_steps / 2 + 5


def test_there_is_a_script_for_every_task():
    assert set(SCRIPTS) == set(TASKS)
    assert len(TASKS) >= 10


def test_a_scene_and_what_actions_do_in_it_depend_on_task_and_seed_alone(environment):
    first = environment.reset("place_in", 3).observation
    _, actions = solve(environment, "place_in", 3, steps=25)
    after = environment.state().copy()
    environment.reset("close_drawer", 1)
    again = environment.reset("place_in", 3).observation
    assert again.instruction == first.instruction
    for name in INFO.cameras:
        np.testing.assert_array_equal(again.images[name], first.images[name])
        np.testing.assert_array_equal(again.depths[name], first.depths[name])
    for action in actions:
        environment.step(action)
    np.testing.assert_array_equal(environment.state(), after)


def test_what_is_grasped_stays_grasped(environment):
    solve(environment, "lift", 8)
    before = environment._simulator.state()
    for _ in range(20):
        environment.step(np.array([0, 0, 0, 0, 0, 0, -1.0]))
    state = environment._simulator.state()
    assert state.held == before.held is not None
    assert abs(state.things[state.held, 2] - before.things[state.held, 2]) < 0.01


def test_names_are_unique_and_instructions_name_what_they_are_about():
    for task in TASKS:
        for seed in range(8):
            layout, goal, text = draw_task(TASKS[task], np.random.default_rng(seed))
            names = [thing.name for thing in (*layout.things, *layout.holders)]
            assert len(set(names)) == len(names)
            assert "{" not in text
            if task != "sort_by_color":
                assert all(layout.things[i].name in text for i in goal.subjects)
        assert len(TASKS[task].phrasings) >= 3


def test_depth_is_metres_along_the_axis_and_calibration_finds_things(environment):
    environment.begin("lift", 2)
    seen, camera = environment.observe(), environment.calibrations()["front"]
    base_from_camera = np.linalg.inv(camera.camera_from_base)
    # The table's plane is z = 0: the ray through a pixel near the lower edge meets it at a depth known beforehand.
    ray = base_from_camera[:3, :3] @ np.linalg.inv(camera.intrinsics) @ (32.5, 60.5, 1.0)
    expected = -base_from_camera[2, 3] / ray[2]
    assert seen.depths["front"][60, 32] == pytest.approx(expected, abs=2e-3)
    state, thing = environment._simulator.state(), environment._layout.things[0]
    top = state.things[0] + (0.55, 0.0, thing.half[2])  # the base stands at x = -0.55
    local = camera.camera_from_base[:3, :3] @ top + camera.camera_from_base[:3, 3]
    column, row, _ = camera.intrinsics @ local / local[2]
    color = seen.images["front"][int(row), int(column)] / 255
    nearest = min(COLORS, key=lambda name: np.linalg.norm(color / color.max() - np.array(COLORS[name])))
    assert nearest == thing.color


def test_success_has_its_stated_conditions(environment):
    """Each success is taken away by the one thing that its definition forbids."""
    for task, spoil in (
        ("place_on", lambda s, h: (replace(s, touched=frozenset({0})), h)),
        ("place_on", lambda s, h: (replace(s, things=s.things + np.array([0.075, 0, 0])), h)),
        ("place_in", lambda s, h: (replace(s, speeds=s.speeds + 0.05), h)),
        ("push_to_side", lambda s, h: (s, replace(h, highest=h.highest + 0.03))),
        ("lift", lambda s, h: (replace(s, held=None), h)),
    ):
        assert solve(environment, task, 11)[0].success
        state, history = environment._simulator.state(), environment._history
        goal, layout, done = environment._goal, environment._layout, TASKS[task].done
        if task == "push_to_side":
            state = replace(state, speeds=0 * state.speeds)
        assert done(state, history, layout, goal)
        assert not done(*spoil(state, history), layout, goal), task


def test_both_things_have_to_be_sorted(environment):
    assert solve(environment, "sort_by_color", 4)[0].success
    state, layout, goal = environment._simulator.state(), environment._layout, environment._goal
    swapped = Goal(subjects=goal.subjects, holders=goal.holders[::-1])
    history = History(first=state, near=set(), held=set(), highest=state.things[:, 2])
    assert goals.in_place(state, history, layout, goal)
    assert not goals.in_place(state, history, layout, swapped)


def test_failures_say_where_they_ended(environment):
    environment.begin("place_on", 6)
    environment.step(np.zeros(7))
    assert environment.failure().stage == "reach"
    wrong = next(i for i in range(len(environment._layout.things)) if i not in environment._goal.subjects)
    motions = Motions(environment._simulator, environment._layout, np.random.default_rng(0))
    for move in motions.pick(wrong):
        environment.step(move.action)
    failure = environment.failure()
    assert failure.stage == "wrong object"
    assert environment._layout.things[wrong].name in failure.detail
    solve(environment, "place_on", 6, steps=34)
    assert environment.failure().stage == "transport"


@pytest.mark.parametrize("action", [np.zeros(6), np.array([0, 0, np.nan, 0, 0, 0, 0]), np.full(7, np.inf)])
def test_actions_that_cannot_be_carried_out_are_refused(environment, action):
    environment.begin("lift", 0)
    with pytest.raises(ProtocolError, match="7 finite numbers"):
        environment.step(action)


def test_unknown_task_names_the_nearest(environment):
    with pytest.raises(ConfigError, match="Did you mean 'stack'"):
        environment.reset("stak", 0)


FITTING = PolicyInfo(
    name="p", cameras=("wrist",), state_dim=7, action_space=INFO.action_space, horizon=8, control_hz=10.05
)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (replace(FITTING, cameras=("wrist", "top")), "camera top is missing, there are front, wrist"),
        (replace(FITTING, state_dim=8), "the state has 7 numbers, the policy wants 8"),
        (replace(FITTING, state_names=("a",) * 7), "the state is .x, y, z, .*, the policy wants .a, a"),
        (replace(FITTING, action_space=replace(INFO.action_space, dim=8)), "dim is 8 here, 7 there"),
        (
            replace(FITTING, action_space=replace(INFO.action_space, gripper_open=-1.0, gripper_closed=1.0)),
            "gripper_open is -1 here, 1 there",
        ),
        (replace(FITTING, control_hz=5.0), "10 actions a second, the policy was trained at 5"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_before_anything_runs(policy, words):
    check_policy(FITTING, INFO)
    with pytest.raises(ConfigError, match=words):
        check_policy(policy, INFO)
