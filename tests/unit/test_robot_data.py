"""Windows of episodes: where they end, other rates, and what is refused before anything runs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import expm

from egem.core.errors import ConfigError, RecordError
from egem.data.action_conversion import converted_actions, converted_space
from egem.data.actions import chunk_of
from egem.data.augment import Augmentation, augment
from egem.data.robot_data import EpisodeOptions, RobotData, slower_actions
from egem.environments import libero, simpler
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


# Published sets in simulators


BRIDGE = replace(SPACE, rotation="euler_xyz", gripper_open=1.0, gripper_closed=0.0)


def test_bridge_actions_become_those_of_the_simulated_widowx():
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1.2, 1.2, (20, 7)).astype(np.float32)
    actions[:, 6] = rng.integers(0, 2, 20)
    made = Made(episode(0, steps=20, action_space=BRIDGE, actions=actions, fps=5.0))
    options = EpisodeOptions(
        convert_rotation="axis_angle", convert_gripper_open=1.0, convert_gripper_closed=-1.0
    )
    data = RobotData([made], options)
    assert data.action_space.differences(simpler.ACTION_SPACE) == ()
    found = data.episode(0).actions
    np.testing.assert_array_equal(found[:, :3], actions[:, :3])
    np.testing.assert_array_equal(found[:, 6], np.where(actions[:, 6] == 1, 1.0, -1.0))
    for (roll, pitch, yaw), vector in zip(actions[:, 3:6], found[:, 3:6], strict=True):
        turns = [_turn(axis, angle) for axis, angle in enumerate((roll, pitch, yaw))]
        x, y, z = vector.astype(np.float64)
        turned = expm(np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]))
        np.testing.assert_allclose(turned, turns[2] @ turns[1] @ turns[0], atol=1e-6)
    np.testing.assert_allclose(converted_actions(found, data.action_space, BRIDGE), actions, atol=1e-5)
    assert data.normalization().action.max[6] == 1.0
    plain = RobotData([made], EpisodeOptions())
    assert data.fingerprint != plain.fingerprint
    np.testing.assert_array_equal(plain.episode(0).actions, actions)


def _turn(axis: int, angle: float) -> np.ndarray:
    """By an angle about x, y or z."""
    first, second = [place for place in range(3) if place != axis]
    matrix, sign = np.eye(3), -1.0 if axis == 1 else 1.0
    matrix[[first, second], [first, second]] = np.cos(angle)
    matrix[second, first], matrix[first, second] = sign * np.sin(angle), -sign * np.sin(angle)
    return matrix


def test_what_cannot_be_converted_is_refused():
    joints = replace(SPACE, control="joint_position", rotation=None)
    for space, asked, text in (
        (joints, {"rotation": "axis_angle"}, "has joint_position actions of 7 numbers"),
        (SPACE, {"rotation": "rotation_6d"}, "converted are euler_xyz and axis_angle"),
        (
            replace(SPACE, gripper_open=None),
            {"gripper_open": 1.0, "gripper_closed": 0.0},
            "declare gripper_open",
        ),
    ):
        with pytest.raises(ConfigError, match=text):
            converted_space(space, **asked, name="data/made")
    assert "belong together" in refused([Made(episode(0))], convert_gripper_open=1.0)


def test_names_and_rate_of_a_state_can_be_declared():
    words = ("x", "y", "z", "roll", "pitch", "yaw", "gripper", "gripper")
    names = ("x", "y", "z", "rotation_x", "rotation_y", "rotation_z", "finger_left", "finger_right")
    made = Made(episode(0, state_names=words, fps=10.0))
    told = {"state_dim": 8, "state_names": names, "action_space": libero.ACTION_SPACE}
    wanted = told | {"control_hz": libero.CONTROL_HZ}
    assert len(differences(RobotData([made], EpisodeOptions()).info("p"), **wanted)) == 2
    declared = RobotData([made], EpisodeOptions(state_names=names, rate=20.0))
    assert differences(declared.info("p"), **wanted) == ()
    assert RobotData([made], EpisodeOptions(horizon=8, rate=20.0, control_hz=10.0)).stride == 2
    assert RobotData([Made(episode(0, state_names=("state",)))], EpisodeOptions()).state_names == ()
    assert "state_names has 2 names" in refused([made], state_names=("x", "y"))
