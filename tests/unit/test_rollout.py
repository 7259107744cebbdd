"""Rollouts: counted, resumed, recorded, replayed; simulators that die are no failures of a policy."""

import json
import multiprocessing
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest
from tests.processes import locked_elsewhere

from egem.annotators.objects import SentenceRules
from egem.annotators.planning import PlanTools, plan_records
from egem.annotators.tracks import OpticalFlow
from egem.core.errors import CheckpointError, ConfigError, RecordError, SimulatorError
from egem.data_engine.episodes.lerobot import LeRobotDataset
from egem.data_engine.sources.source import ImportOptions
from egem.environments import ENVIRONMENTS
from egem.environments.tabletop.environment import INFO, TabletopEnvironment
from egem.episodes import project
from egem.policy import DepthGuess, Explains, Observation, PolicyInfo
from egem.report.panels import colorize
from egem.rollout.episode import Job, Noise, disturbed
from egem.rollout.renamed import renamed
from egem.rollout.run import RolloutConfig, noise_seed, rollout
from egem.rollout.summary import summarise
from egem.video import read_frames


class Still:
    """A policy that opens the gripper and keeps still; may do something else first."""

    info = PolicyInfo(
        name="still", cameras=("front",), state_dim=7, action_space=INFO.action_space, horizon=100
    )

    def __init__(self, before=lambda: None, value=0.0):
        self.before, self.value, self.seeds = before, value, []

    def act(self, observations, *, previous=None, committed=None, seed=None):
        self.before()
        self.seeds.append(seed)
        return [np.full((100, 7), self.value, np.float32) for _ in observations]


def entries(folder):
    return [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    """Two tasks, recorded and filmed."""
    folder = tmp_path_factory.mktemp("rollout")
    config = RolloutConfig(
        tasks=("lift", "open_drawer"),
        episodes=1,
        out=folder / "out",
        record=folder / "demos",
        workers=0,
        size=(32, 32),
    )
    return folder, config, rollout(config, "expert")


def test_demonstrations_become_a_dataset_with_depth_and_subtasks(demonstrations):
    folder, _, summary = demonstrations
    assert summary.overall.successes == 2
    dataset = LeRobotDataset(folder / "demos")
    episode = dataset.episode(0)
    played = entries(folder / "out")[0]
    assert played["seed"] >= 1_000_000  # no scene of an evaluation
    assert episode.num_steps == played["steps"]
    assert episode.instruction == played["instruction"]
    assert episode.action_space == INFO.action_space
    assert episode.states is not None
    assert episode.states.shape[1] == len(INFO.state_names)
    assert [s.text.split()[0] for s in episode.subtasks] == ["reach", "grasp", "lift"]
    depth = episode.cameras["front"].depth
    assert depth is not None
    assert 0.3 < depth.read([0])[0].min() < 2
    frames, _ = read_frames(next((folder / "out" / "films").glob("lift-*.mp4")), num=3)
    assert len(frames) == 3
    assert not (folder / "out" / "parts").exists()


def test_recordings_know_their_cameras_and_where_the_gripper_is(demonstrations):
    folder, config, _ = demonstrations
    episode = LeRobotDataset(folder / "demos").episode(0)
    front, wrist = episode.cameras["front"], episode.cameras["wrist"]
    seen = np.flatnonzero(np.isfinite(front.track).all(axis=1))
    assert seen[0] > 0  # the arm comes into the picture
    assert len(seen) > 10
    for step in seen[2:].tolist():
        # A finger or what they hold is drawn there, two centimetres from the point between them.
        column, row = (front.track[step] * config.size[::-1]).astype(int)
        _, _, far = project(front, episode.effector[step], step)[0]
        (depth,) = front.depth.read([step])
        around = depth[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
        assert np.abs(around - far).min() < 0.05
    assert np.ptp(wrist.track, axis=0).max() < 1e-3  # it moves with the hand
    assert np.ptp(wrist.camera_from_base, axis=0).max() > 0.05
    tools = PlanTools(namer=SentenceRules(), detector=None, tracker=OpticalFlow())
    for camera in ("front", "wrist"):
        options = ImportOptions(num_questions=100, camera=camera)
        records, _ = plan_records(episode, "lerobot", "demos", 0, tools, options)
        assert {"gripper_path", "drawn_path"} <= {record.skill for record in records}
        assert all(record.intrinsics for record in records if record.skill == "gripper_path")


WANTED = np.array([0.04, 0.0, -0.01, 0.0, 0.0, 0.2, -0.5], np.float32)


def disturbed_often(noise, wanted=WANTED, space=INFO.action_space):
    rng, limits = np.random.default_rng(0), np.array(INFO.action_high)
    return np.stack([disturbed(wanted, noise, limits, space, rng) for _ in range(4000)])


def test_noise_of_limits_is_the_same_everywhere_but_never_of_the_gripper():
    moved = disturbed_often(Noise(share=0.5))
    assert moved.mean(0) == pytest.approx(WANTED, abs=5e-3)
    assert moved.std(0) == pytest.approx([0.02, 0.02, 0.02, 0.125, 0.125, 0.125, 0], rel=0.05)


def test_noise_of_moves_is_a_share_of_them():
    moved = disturbed_often(Noise(share=0.5, of="moves"))
    assert moved.mean(0) == pytest.approx(WANTED, abs=5e-3)
    # As much in every direction of space, turns only about the axis that is being turned.
    assert moved.std(0) == pytest.approx([0.02, 0.02, 0.02, 0, 0, 0.1, 0], rel=0.05)
    still = np.array([0, 0, 0, 0, 0, 0, 1.0], np.float32)
    assert (disturbed_often(Noise(share=0.5, of="moves"), still) == still).all()
    places = replace(INFO.action_space, control="end_effector_absolute")
    with pytest.raises(ConfigError, match="how to change, not where to be"):
        disturbed_often(Noise(share=0.5, of="moves"), WANTED, places)


def test_an_expert_with_noise_of_moves_arrives(tmp_path):
    config = RolloutConfig(
        tasks=("lift",),
        episodes=2,
        out=tmp_path,
        workers=0,
        films=0,
        size=(16, 16),
        noise=0.4,
        noise_of="moves",
    )
    assert rollout(config, "expert").overall.successes == 2
    with pytest.raises(CheckpointError, match="noise_of was 'moves', now it is 'limits'"):
        rollout(replace(config, noise_of="limits"), "expert")


def test_recorded_actions_replayed_do_what_they_did(demonstrations):
    folder, config, _ = demonstrations
    replayed = RolloutConfig(
        replay=folder / "demos", out=folder / "replay", workers=0, films=0, size=config.size
    )
    assert rollout(replayed, "replay").overall.successes == 2
    recorded, again = entries(folder / "out"), entries(folder / "replay")
    assert {e["id"]: e["steps"] for e in again} == {e["id"]: e["steps"] for e in recorded}
    with pytest.raises(ConfigError, match="exists already"):
        rollout(config, "expert")
    (folder / "demos" / "meta" / "rollout.json").rename(folder / "notes.json")
    with pytest.raises(ConfigError, match="only datasets that"):
        rollout(RolloutConfig(replay=folder / "demos", out=folder / "r", workers=0), "replay")
    (folder / "notes.json").rename(folder / "demos" / "meta" / "rollout.json")


def test_a_policy_sees_pictures_of_the_size_it_was_trained_on(tmp_path):
    policy = Still()
    policy.info = replace(policy.info, picture_sizes=((16, 24),) * len(policy.info.cameras))
    seen = []
    act = policy.act
    policy.act = lambda observations, **more: (
        seen.extend(image.shape for o in observations for image in o.images.values())
        or act(observations, **more)
    )
    config = RolloutConfig(tasks=("lift",), episodes=1, out=tmp_path / "own", workers=0, films=0)
    rollout(config, "still", policy)
    assert set(seen) == {(16, 24, 3)}
    seen.clear()
    rollout(replace(config, out=tmp_path / "said", size=(24, 16)), "still", policy)
    assert set(seen) == {(24, 16, 3)}


def test_two_rollouts_into_one_folder_are_refused(tmp_path):
    config = RolloutConfig(tasks=("lift",), episodes=1, out=tmp_path / "out", workers=0, films=0)
    with (
        locked_elsewhere(config.out / ".lock"),
        pytest.raises(ConfigError, match=r"another rollout plays into .*out; wait for it, or choose"),
    ):
        rollout(config, "still", Still())


def test_a_stopped_rollout_goes_on_and_refuses_results_of_something_else(tmp_path):
    policy = Still()
    config = RolloutConfig(tasks=("lift",), episodes=1, out=tmp_path, workers=0, films=0, size=(16, 16))
    rollout(config, "still", policy)
    first = (tmp_path / "episodes.jsonl").read_text()
    (tmp_path / "episodes.jsonl").write_text(first + '{"id": "lift/1", "ta')  # killed while writing
    longer = RolloutConfig(tasks=("lift",), episodes=2, out=tmp_path, workers=0, films=0, size=(16, 16))
    summary = rollout(longer, "still", policy)
    assert (tmp_path / "episodes.jsonl").read_text().startswith(first)
    assert summary.overall.failures == {"reach": 2}
    assert policy.seeds == [noise_seed(Job(task="lift", seed=s, actor="policy"), 0) for s in (0, 1)]
    with pytest.raises(CheckpointError, match="actor was 'still', now it is 'expert'"):
        rollout(config, "expert")
    policy.info = replace(policy.info, fingerprint="c0ffee")
    with pytest.raises(CheckpointError, match="policy was 'still', now it is 'still c0ffee'"):
        rollout(config, "still", policy)


def test_a_simulator_that_dies_here_is_opened_anew(tmp_path, monkeypatch):
    opened = []

    def open_one(options):
        environment = TabletopEnvironment(options)
        opened.append(environment)
        if len(opened) == 1:
            monkeypatch.setattr(environment, "step", dies)
        return environment

    def dies(action):
        raise SimulatorError("the renderer is gone")

    entry = replace(ENVIRONMENTS["tabletop"], open=open_one)
    monkeypatch.setattr("egem.rollout.run.ENVIRONMENTS", {"tabletop": entry})
    config = RolloutConfig(tasks=("lift",), episodes=2, out=tmp_path, workers=0, films=0, size=(16, 16))
    summary = rollout(config, "still", Still())
    assert (summary.overall.episodes, summary.overall.crashes, len(opened)) == (1, 1, 2)


def test_a_policy_without_a_success_is_scored_though_there_is_nothing_to_record(tmp_path):
    config = RolloutConfig(
        tasks=("lift",),
        episodes=1,
        out=tmp_path / "out",
        record=tmp_path / "demos",
        workers=0,
        films=0,
        size=(16, 16),
    )
    with pytest.raises(RecordError, match="no episode succeeded"):
        rollout(config, "still", Still())
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["overall"]["successes"] == 0
    with pytest.raises(ConfigError, match="--record with --replay"):
        rollout(replace(config, replay=tmp_path), "replay")


def test_a_dead_simulator_is_a_crash_and_not_finite_actions_are_a_failure(tmp_path):
    config = RolloutConfig(
        tasks=("open_drawer",), episodes=2, out=tmp_path / "a", workers=1, films=0, size=(16, 16)
    )
    done = []

    def kill_once():
        if not done:
            (child,) = multiprocessing.active_children()
            done.append(child.pid)
            os.kill(child.pid, signal.SIGKILL)

    summary = rollout(config, "still", Still(before=kill_once))
    assert (summary.overall.episodes, summary.overall.crashes) == (1, 1)
    assert entries(tmp_path / "a")[0]["status"] == "crash"
    again = rollout(config, "still", Still(value=np.nan))  # only what crashed is played
    assert (again.overall.episodes, again.overall.crashes) == (2, 0)
    assert again.overall.failures == {"reach": 1, "other": 1}
    assert "7 finite numbers" in (tmp_path / "a" / "summary.md").read_text()


class Seeing(Still):
    """Also draws the front camera's depth: half a metre everywhere."""

    def explain(self, observation, question):
        raise NotImplementedError

    def draw_depth(self, observation):
        return {"front": DepthGuess(values=np.full((8, 8), 0.5, np.float32), kind="metric")}


def test_films_show_the_depth_that_the_checkpoint_draws(tmp_path):
    config = RolloutConfig(tasks=("lift",), episodes=1, out=tmp_path, workers=1, films=1, size=(32, 32))
    rollout(config, "still", Seeing())
    (film,) = (tmp_path / "films").iterdir()
    (first, last), _ = read_frames(film, num=2)
    assert first.shape == (266, 240 * (2 * len(INFO.cameras) + 1), 3)
    place = 240 * (2 * list(INFO.cameras).index("front") + 2)  # right of the camera's RGB and simulated depth
    assert first[60:230, place + 10 : place + 230].min() > 240  # the policy has not looked yet
    color = colorize(np.full((1, 1), 0.5, np.float32), (0.0, 1.5))[0, 0].astype(int)
    np.testing.assert_allclose(last[60:230, place + 10 : place + 230].mean((0, 1)), color, atol=6)


def test_summary_counts_as_an_independent_formula_does():
    made = [
        {
            "id": f"t/{k}",
            "task": "t",
            "status": "success" if k < 17 else "failure",
            "steps": k,
            "stage": "grasp",
        }
        for k in range(20)
    ] + [{"id": "t/99", "task": "t", "status": "crash", "steps": 0, "detail": "gone"}]
    found = summarise(made, actor="p", info=INFO, rate=None).overall
    expected = binomtest(17, 20).proportion_ci(0.95, "wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.mean, found.crashes, found.failures, found.steps) == (0.85, 1, {"grasp": 3}, 8.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"env": "tabeltop"}, "Did you mean 'tabletop'"),
        ({"tasks": ("pik",)}, "unknown task"),
        ({"episodes": 0}, "at least one episode"),
        ({"noise": 0.1}, "--noise is for the expert"),
        ({"scenery": "wild"}, "unknown scenery"),
    ],
)
def test_wrong_options_are_named(tmp_path, changes, words):
    config = RolloutConfig(**{"out": tmp_path, "workers": 0, "size": (16, 16), **changes})
    with pytest.raises(ConfigError, match=words):
        rollout(config, "still", Still())


def test_cameras_of_another_name(tmp_path):
    class Sees(Still):
        info = replace(Still.info, cameras=("image_0", "wrist"))

        def act(self, observations, **_):
            return [np.full((1, 7), seen.images["image_0"][0, 0, 0], np.float32) for seen in observations]

    images = {name: np.full((1, 1, 3), value, np.uint8) for name, value in (("front", 7), ("wrist", 8))}
    seen = Observation(images=images, state=np.zeros(7, np.float32), instruction="go")
    policy = renamed(Sees(), ("image_0=front",))
    assert policy.info.cameras == ("front", "wrist")
    assert policy.act([seen])[0][0, 0] == 7
    assert not isinstance(policy, Explains)

    class Draws(Sees):
        def explain(self, observation, question):
            return f"{question} {observation.images['image_0'][0, 0, 0]}"

        def draw_depth(self, observation):
            assert set(observation.images) == {"image_0", "wrist"}
            return {"image_0": DepthGuess(values=np.ones((1, 1)), kind="metric")}

    explaining = renamed(Draws(), ("image_0=front",))
    assert isinstance(explaining, Explains)
    assert explaining.explain(seen, "what?") == "what? 7"
    assert list(explaining.draw_depth(seen)) == ["front"]

    def refused(actor, *pairs):
        config = RolloutConfig(out=tmp_path / "out", workers=0, size=(32, 32), rename=pairs)
        with pytest.raises(ConfigError) as error:
            rollout(config, actor, Sees() if actor == "p" else None)
        return str(error.value)

    assert "camera side is missing" in refused("p", "image_0=side")
    assert "looks at image_0, wrist" in refused("p", "front=image_0")
    assert "write POLICY=ENVIRONMENT" in refused("p", "front")
    assert "for a policy's cameras" in refused("expert", "image_0=front")
