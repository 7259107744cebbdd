"""Chunks compared with recorded ones: nothing wrong is 0, the mean action is as wrong as actions spread."""

import re
from dataclasses import replace

import numpy as np
import pytest

from egem.__main__ import main
from egem.core.errors import ConfigError
from egem.data_engine.episodes.lerobot_writer import write_lerobot
from egem.policy import PolicyInfo
from egem.rollout.open_loop import errors, open_loop, table
from robot_episodes import SPACE, episode

HORIZON = 4
INFO = PolicyInfo(
    name="known",
    cameras=("wrist", "front"),
    state_dim=8,
    action_space=SPACE,
    horizon=HORIZON,
    control_hz=10.0,
    picture_sizes=((48, 64), (48, 64)),
)


class Knows:
    """Looks the recorded actions up by the state."""

    def __init__(self, episodes, info=INFO):
        self.info = info
        self.asked = []
        self.chunks = {
            each.states[step].tobytes(): each.actions[step : step + HORIZON]
            for each in episodes
            for step in range(len(each.states))
        }

    def act(self, observations, *, previous=None, committed=None, seed=None):
        self.asked += observations
        return [self.chunks[observation.state.tobytes()] for observation in observations]


class SaysAlways:
    """One chunk for everything."""

    info = INFO

    def __init__(self, chunk):
        self.chunk = chunk

    def act(self, observations, *, previous=None, committed=None, seed=None):
        return [self.chunk for _ in observations]


@pytest.fixture(scope="module")
def episodes():
    # Too short for a chunk: left out.
    return [episode(0, steps=12), episode(1, steps=3), episode(2, steps=9)]


@pytest.fixture(scope="module")
def dataset(episodes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("open-loop") / "held-out"
    write_lerobot(episodes, folder)
    return folder


def test_who_knows_makes_no_error(episodes, dataset):
    policy = Knows(episodes)
    found = open_loop(policy, dataset)
    # Every step that a whole chunk follows, once, in order.
    assert len(policy.asked) == 9 + 6
    states = [each.states[: len(each.states) - HORIZON + 1] for each in (episodes[0], episodes[2])]
    assert np.array_equal(np.stack([o.state for o in policy.asked]), np.concatenate(states))
    assert list(policy.asked[0].images) == ["wrist", "front"]
    assert [e.first for e in found] == [e.end for e in found] == [0.0] * 7
    assert all(e.first_spread > 0.3 and e.end_spread > 0.3 for e in found)
    assert "| number 7 | 0.0000 | " in table(found)


def test_who_says_the_mean_is_as_wrong_as_actions_spread(episodes, dataset):
    done = np.stack(
        [e.actions[s : s + HORIZON] for e in (episodes[0], episodes[2]) for s in range(len(e.actions) - 3)]
    )
    for error in open_loop(SaysAlways(done.mean(0)), dataset):
        assert error.first == pytest.approx(error.first_spread, rel=1e-5)
        assert error.end == pytest.approx(error.end_spread, rel=1e-5)


def test_changes_add_up_and_places_do_not():
    done = np.zeros((2, 3, 7))
    done[1, :, 0] = 1.0
    wrong = done + np.array([0.5, 0, 0, 0, 0, 0, 0.25])
    moved = errors(wrong, done, SPACE)
    assert (moved[0].first, moved[0].end, moved[0].end_spread) == (0.5, 1.5, 1.5)
    assert (moved[6].first, moved[6].end) == (0.25, 0.25)
    places = replace(SPACE, control="end_effector_absolute")
    assert errors(wrong, done, places)[0].end == 0.5


def test_few_windows_are_the_same_ones_each_time(episodes, dataset):
    first, again, other = (Knows(episodes) for _ in range(3))
    open_loop(first, dataset, num_windows=5)
    open_loop(again, dataset, num_windows=5)
    open_loop(other, dataset, num_windows=5, seed=1)
    states = [np.stack([o.state for o in policy.asked]) for policy in (first, again, other)]
    assert len(states[0]) == 5
    assert np.array_equal(states[0], states[1])
    assert not np.array_equal(states[0], states[2])


def test_what_does_not_fit_is_refused(episodes, dataset):
    other = replace(INFO, action_space=replace(SPACE, gripper_open=1.0, gripper_closed=-1.0))
    with pytest.raises(ConfigError, match="gripper"):
        open_loop(Knows(episodes, other), dataset)
    with pytest.raises(ConfigError, match="the policy wants 3"):
        open_loop(Knows(episodes, replace(INFO, state_dim=3)), dataset)
    with pytest.raises(ConfigError, match=r"no camera top|camera top is missing"):
        open_loop(Knows(episodes, replace(INFO, cameras=("top",), picture_sizes=())), dataset)
    with pytest.raises(ConfigError, match=re.escape("--windows 0: at least one is needed.")):
        open_loop(Knows(episodes), dataset, num_windows=0)


def test_experts_have_no_chunks_to_compare(dataset, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["rollout", "expert", "--open-loop", str(dataset)])
    assert ended.value.code == 2
    assert "--open-loop is for a policy" in capsys.readouterr().err


def test_what_would_be_played_means_nothing_to_a_comparison(dataset, capsys):
    for words, named in (
        (["checkpoint", "--open-loop", str(dataset), "--tasks", "lift", "--films", "0"], "tasks, films"),
        (["checkpoint", "--windows", "9"], "--windows is for --open-loop"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["rollout", *words])
        assert ended.value.code == 2
        assert named in capsys.readouterr().err
