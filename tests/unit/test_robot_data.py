"""Windows of episodes: where they end, other rates, and what is refused before anything runs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from egem.core.errors import ConfigError, RecordError
from egem.data.actions import chunk_of
from egem.data.augment import Augmentation, augment
from egem.data.robot_data import EpisodeOptions, RobotData, slower_actions
from egem.episodes import Episode
from egem.matching import differences, require_match
from robot_episodes import FPS, SPACE, STEPS, episode


class Made:
    """Episodes in memory as a dataset."""

    name, fingerprint = "data/made", "made"

    def __init__(self, *episodes: Episode) -> None:
        self.episodes = episodes

    @property
    def lengths(self) -> Sequence[int]:
        return [each.num_steps for each in self.episodes]

    def episode(self, number: int) -> Episode:
        return self.episodes[number]


def refused(sets: Sequence[Made], **options) -> str:
    with pytest.raises(ConfigError) as error:
        RobotData(sets, EpisodeOptions(**options))
    return str(error.value)


def test_every_step_begins_a_window():
    data = RobotData([Made(episode(0), episode(1, steps=20)), Made(episode(2))], EpisodeOptions(horizon=8))
    assert len(data) == STEPS + 20 + STEPS
    places = [data.place(window) for window in range(len(data))]
    assert places[STEPS - 1 : STEPS + 1] == [(0, STEPS - 1), (1, 0)]
    assert places[-1] == (2, STEPS - 1)
    assert [data.window(*place) for place in places] == list(range(len(data)))
    assert data.info("p").control_hz == FPS
    assert data.info("p").cameras == ("front", "wrist")


def test_chunks_are_padded_and_masked_at_the_end():
    actions = np.arange(10, dtype=np.float32)[:, None]
    chunk = chunk_of(actions, 7, 5)
    assert chunk.actions[:, 0].tolist() == [7, 8, 9, 9, 9]
    assert chunk.valid.tolist() == [True, True, True, False, False]
    spread = chunk_of(actions, 3, 4, stride=2)
    assert spread.actions[:, 0].tolist() == [3, 5, 7, 9]
    assert chunk_of(actions, 4, 4, stride=2).actions[:, 0].tolist() == [4, 6, 8, 8]
    assert chunk_of(actions, 4, 4, stride=2).valid.tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        ("end_effector_delta", lambda part: part.sum(0)),
        ("joint_velocity", lambda part: part.mean(0)),
        ("joint_position", lambda part: part[-1]),
    ],
)
def test_a_slower_rate_does_the_same_in_fewer_actions(control, expected):
    actions = np.random.default_rng(0).normal(size=(11, 7)).astype(np.float32)
    found = slower_actions(actions, 3, replace(SPACE, control=control))
    assert found.shape == (9, 7)
    for row in range(9):
        part = actions[row : row + 3]
        np.testing.assert_allclose(found[row, :6], expected(part)[:6], rtol=1e-5, atol=1e-6)
        assert found[row, 6] == part[-1, 6]


def test_the_rate_is_changed_only_if_asked():
    made = Made(episode(0))
    assert RobotData([made], EpisodeOptions(horizon=4)).stride == 1
    slower = RobotData([made], EpisodeOptions(horizon=4, control_hz=5.0))
    assert slower.stride == 2
    assert len(slower) == STEPS - 1
    assert slower.info("p").control_hz == 5.0
    assert "control_hz 4 does not divide it; give one of 10, 5" in refused([made], control_hz=4.0)


def test_short_episodes():
    sets = [Made(episode(0), episode(1, steps=6))]
    assert refused(sets, horizon=8) == (
        "data/made, episode 1: 6 steps, a chunk of 8 actions spans 8; lower horizon, or set short_episodes to "
        "'leave_out' or 'pad'."
    )
    assert RobotData(sets, EpisodeOptions(horizon=8, short_episodes="leave_out")).num_episodes == 1
    assert RobotData(sets, EpisodeOptions(horizon=8, short_episodes="pad")).num_episodes == 2


def test_the_action_space_is_declared_and_agreed_on():
    silent = Made(episode(0, action_space=None))
    assert "data/made does not say what its actions mean; declare it" in refused([silent])
    declared = EpisodeOptions(control="joint_velocity", gripper_dims=(6,))
    assert RobotData([silent], declared).action_space.gripper_dims == (6,)
    text = refused([Made(episode(0))], control="end_effector_delta", rotation="euler_xyz", gripper_dims=(6,))
    assert "rotation is euler_xyz here, axis_angle there" in text
    turned = replace(SPACE, gripper_open=1.0, gripper_closed=-1.0)
    text = refused([Made(episode(0)), Made(episode(1, action_space=turned))])
    assert "action gripper_open is -1 here, 1 there" in text
    assert refused([Made(episode(0))], cameras=("front", "left")).startswith(
        "policy 'of these options' (here) does not fit data/made (there): camera left is missing, there are front, "
        "wrist"
    )


def test_an_episode_unlike_the_first_is_named():
    narrow = episode(1, states=np.zeros((STEPS, 3), np.float32))
    data = RobotData([Made(episode(0), narrow)], EpisodeOptions(horizon=4))
    with pytest.raises(RecordError, match="episode 1: 3 state and 7 action dimensions, 8 and 7 in the first"):
        data.episode(1)
    silent = RobotData([Made(episode(0, instruction=""))], EpisodeOptions(horizon=4))
    with pytest.raises(RecordError, match="has no instruction"):
        silent.episode(0)


def test_policy_and_environment_are_compared():
    info = RobotData([Made(episode(0))], EpisodeOptions(horizon=4)).info("mine")
    assert (
        differences(
            info, cameras=("wrist", "front", "left"), state_dim=8, action_space=SPACE, control_hz=10.05
        )
        == ()
    )
    with pytest.raises(ConfigError) as error:
        require_match(
            info,
            "environment 'e'",
            cameras=("wrist",),
            state_dim=9,
            action_space=replace(SPACE, dim=8),
            control_hz=20.0,
        )
    for part in (
        "policy 'mine' (here) does not fit environment 'e' (there)",
        "camera front is missing, there are wrist",
        "the state has 9 numbers, the policy wants 8",
        "action dim is 7 here, 8 there",
        "20 actions a second, the policy was trained at 10",
    ):
        assert part in str(error.value)


def test_augmentation_is_repeatable_and_crops_depth_alike():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = 200
    depth = np.where(image[..., 0] > 0, 2.0, 1.0).astype(np.float32)
    still = Augmentation(min_crop=0.6, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    for seed in range(5):
        found, cropped = augment(image, depth, still, np.random.default_rng(seed))
        again, _ = augment(image, depth, still, np.random.default_rng(seed))
        assert (found == again).all()
        assert found.shape == image.shape
        assert cropped.shape == depth.shape
        assert set(np.unique(cropped)) <= {1.0, 2.0}
        assert np.mean((found[..., 0] > 100) == (cropped > 1.5)) > 0.97
    changed, _ = augment(image, None, Augmentation(), np.random.default_rng(0))
    assert (changed != image).any()
