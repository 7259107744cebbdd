"""A policy from a LeRobot dataset: trained, gone on with bit for bit, asked for actions; what is refused."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tests.tiny import write_checkpoint
from tests.training_runs import numbers, write_records

from egem.core.errors import CheckpointError, ConfigError, EgemError, ProtocolError, RecordError
from egem.data.actions import EpisodeWindows
from egem.data.augment import Augmentation
from egem.data.normalization import Normalization
from egem.data.prepare import Preparer
from egem.data.robot_data import EpisodeOptions, RobotData
from egem.data_engine.episodes.frames import ArrayFrames
from egem.data_engine.episodes.lerobot import LeRobotDataset
from egem.data_engine.episodes.lerobot_writer import write_lerobot
from egem.episodes import CameraStream, Episode
from egem.models.gem_vla import GEMVLA
from egem.models.vla_policy import CheckpointPolicy
from egem.policy import Observation, Policy
from egem.policy_messages import from_metadata, to_metadata
from egem.training.config import StageConfig, TrainConfig
from egem.training.data import EpisodeData, open_data
from egem.training.loop import train
from egem.training.metrics import read_metrics
from egem.training.probes import Probe
from egem.training.signals import Stopped
from egem.training.stored import load_run
from robot_episodes import SPACE, episode

HORIZON = 4
POLICY_STAGE = StageConfig(
    name="policy",
    learning_rates={"action_expert": 1e-3, "backbone": 1e-3, "depth_head": 1e-3},
    steps=3,
    batch_size=2,
    language_weight=0.0,
    action_weight=1.0,
)
TOGETHER = replace(POLICY_STAGE, name="together", steps=2, language_weight=0.5, language_batch_size=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("vla")
    write_lerobot((episode(seed, steps=8) for seed in range(3)), root / "demos")
    write_records(root / "records", num_groups=4)
    write_checkpoint(root / "checkpoint")
    return root


def config_of(folder: Path, **changes) -> TrainConfig:
    config = TrainConfig(
        run=folder / "run",
        data=(folder / "demos",),
        episodes=EpisodeOptions(horizon=HORIZON),
        language_data=(folder / "records",),
        checkpoint=folder / "checkpoint",
        stages=(POLICY_STAGE, TOGETHER),
        checkpoint_every=100,
        trackers=(),
    )
    return replace(config, **changes)


@pytest.fixture(scope="module")
def finished(folder) -> TrainConfig:
    config = config_of(folder)
    train(config)
    return config


def test_losses_of_each_stage(finished):
    rows = read_metrics(finished.run)
    assert [row["stage"] for row in rows] == ["policy"] * 3 + ["together"] * 2
    for row in rows:
        parts = row["loss/action"] + 0.1 * row["loss/depth"]
        assert row["loss/total"] == pytest.approx(parts + 0.5 * row.get("loss/language", 0.0), rel=1e-5)
    assert "loss/language" not in rows[0]
    assert "loss/language" in rows[-1]
    assert rows[0]["data/samples"] == 2
    assert rows[-1]["data/samples"] == 5
    # A velocity of noise minus data, both of about unit size, predicted as 0 at first.
    assert 0.5 < rows[0]["loss/action"] < 4


def test_it_goes_on_bit_for_bit_in_the_middle_of_an_epoch(finished, folder):
    def send(model, preparer, step, place):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    config = replace(finished, run=folder / "stopped")
    with pytest.raises(Stopped):
        train(config, probes=[Probe(name="signal", every=1, run=send)])
    train(load_run(config.run), resume=True)
    assert numbers(config.run) == numbers(finished.run)
    weights = [GEMVLA.from_pretrained(each.run / "model").state_dict() for each in (config, finished)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_what_a_window_holds(finished):
    source = windows(finished)
    data = source.data
    last = data.window(1, 6)
    sample = source.sample(last, np.random.default_rng(0))
    made = episode(1, steps=8)
    assert sample.image_grid.shape == (2, 3)
    assert sample.action is not None
    assert sample.action.valid.tolist() == [True, True, False, False]
    given = source.normalization.denormalize_actions(sample.action.actions.numpy())
    np.testing.assert_allclose(given[:2], made.actions[6:8], atol=1e-5)
    np.testing.assert_allclose(given[2:], made.actions[[7, 7]], atol=1e-5)
    np.testing.assert_allclose(
        sample.action.state.numpy(), source.normalization.normalize_state(made.states[6]), atol=1e-5
    )
    # Depth belongs to the camera that has it, the first; the wrist camera has none.
    assert [depth.image_index for depth in sample.depth_maps] == [0]
    text = source.preparer.tokenizer.decode(sample.input_ids.tolist())
    assert made.instruction in text
    changed = replace(source, augmentation=Augmentation(min_crop=0.8))
    one, same, other = (changed.sample(last, np.random.default_rng(seed)).patches for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_checkpoint_is_a_policy(finished):
    policy = CheckpointPolicy.from_checkpoint(finished.run / "model", num_steps=2)
    assert isinstance(policy, Policy)
    info = policy.info
    assert (info.cameras, info.horizon, info.control_hz) == (("front", "wrist"), HORIZON, 10.0)
    assert info.action_space.differences(SPACE) == ()
    seen = observations()
    first = policy.act(seen, seed=3)
    assert [chunk.shape for chunk in first] == [(HORIZON, 7)] * 2
    assert all(chunk.dtype == np.float32 and np.isfinite(chunk).all() for chunk in first)
    assert all((a == b).all() for a, b in zip(first, policy.act(seen, seed=3), strict=True))
    kept = first[1][1:3]
    continued = policy.act(seen, previous=[None, kept], seed=4)
    np.testing.assert_allclose(continued[1][:2], kept, atol=1e-5)
    guided = policy.act(seen, previous=[None, kept], committed=[0, 1], seed=4)
    np.testing.assert_allclose(guided[1][0], kept[0], atol=1e-5)
    assert not np.allclose(guided[1][1], kept[1], atol=1e-5)
    with pytest.raises(ConfigError, match="one for each previous chunk"):
        policy.act(seen, committed=[0, 1])


def observations() -> list[Observation]:
    made = episode(0, steps=8)
    return [
        Observation(
            images={name: stream.frames.read([step])[0] for name, stream in made.cameras.items()},
            state=made.states[step],
            instruction=made.instruction,
        )
        for step in (0, 5)
    ]


def windows(config: TrainConfig) -> EpisodeWindows:
    model = config.run / "model"
    return EpisodeWindows(
        data=RobotData([LeRobotDataset(path) for path in config.data], config.episodes),
        preparer=Preparer.from_checkpoint(model),
        normalization=Normalization.load(model / "policy"),
    )


# What is refused


def test_states_and_actions_of_another_name_are_found_when_named(folder, tmp_path):
    renamed = tmp_path / "openpi"
    shutil.copytree(folder / "demos", renamed)
    names = {"observation.state": "state", "action": "actions"}
    info = json.loads((renamed / "meta" / "info.json").read_text())
    info["features"] = {names.get(key, key): value for key, value in info["features"].items()}
    (renamed / "meta" / "info.json").write_text(json.dumps(info))
    for file in (renamed / "data").rglob("*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.rename_columns([names.get(key, key) for key in table.column_names]), file)
    config = config_of(folder, data=(renamed,))

    def opened(**options) -> RobotData:
        found = open_data(replace(config, episodes=EpisodeOptions(horizon=HORIZON, **options)))
        assert isinstance(found, EpisodeData)
        return found.robot

    with pytest.raises(ConfigError, match=r"'observation.state'; .* --episodes.state-key. It has .*state"):
        opened()
    with pytest.raises(ConfigError, match=r"'action'; .* --episodes.action-key"):
        opened(state_key="state")
    found, made = opened(state_key="state", action_key="actions").episode(1), episode(1, steps=8)
    np.testing.assert_array_equal(found.states, made.states)
    np.testing.assert_array_equal(found.actions, made.actions)


def test_a_policy_refuses_what_it_was_not_trained_for(finished):
    policy = CheckpointPolicy.from_checkpoint(finished.run / "model")
    seen = observations()[0]

    def refused(**changes) -> str:
        with pytest.raises(ConfigError) as error:
            policy.act([replace(seen, **changes)])
        return str(error.value)

    assert refused(images={"front": seen.images["front"]}) == (
        "observation 0 has no picture of camera wrist; it has front. Give the cameras that the policy was trained with."
    )
    assert refused(state=np.full(8, np.nan, np.float32)).startswith(
        "observation 0: the state is not finite (number 0 is nan)"
    )
    assert "a state of shape (7,), the policy wants (8,)" in refused(state=np.zeros(7, np.float32))
    assert "has no instruction" in refused(instruction=" ")


def test_what_a_new_expert_looks_at_can_be_chosen(finished, folder, tmp_path):
    config = config_of(folder, run=tmp_path / "run", expert_conditioning="hidden_states")
    train(replace(config, stages=(replace(POLICY_STAGE, steps=1),)))
    found = GEMVLA.from_pretrained(config.run / "model").action_expert.config
    default = GEMVLA.from_pretrained(finished.run / "model").action_expert.config
    assert (found.conditioning, default.conditioning) == ("hidden_states", "keys_values")
    assert found.layers == tuple(layer + 1 for layer in default.layers)
    assert np.isfinite(read_metrics(config.run)[0]["loss/action"])
    with pytest.raises(
        ConfigError, match="expert that looks at keys_values, expert_conditioning is 'hidden_states'"
    ):
        train(replace(config, run=tmp_path / "other", checkpoint=finished.run / "model"))
    with pytest.raises(ConfigError, match="is for training a policy"):
        replace(
            config,
            episodes=None,
            stages=(StageConfig(name="a", learning_rates={"connector": 1e-3}, steps=1),),
        )


def test_a_checkpoint_without_normalization_is_refused(finished, folder):
    copy = folder / "copy"
    shutil.copytree((finished.run / "model").resolve(), copy)
    (copy / "policy" / "normalization.json").unlink()
    with pytest.raises(CheckpointError) as error:
        CheckpointPolicy.from_checkpoint(copy)
    assert str(error.value) == (
        f"{copy} has no policy/normalization.json: without it nobody knows what the model's numbers mean to the robot. "
        "Copy it from the model folder of the run that trained it, or train from the data again."
    )


def test_a_policy_is_only_trained_further_on_its_own_robot(finished, folder):
    turned = replace(SPACE, gripper_open=1.0, gripper_closed=-1.0)
    write_lerobot(iter([episode(0, steps=8, action_space=turned)]), folder / "turned")
    further = replace(finished, run=folder / "further", checkpoint=finished.run / "model")
    with pytest.raises(ConfigError, match="action gripper_open is -1 here, 1 there"):
        train(replace(further, data=(folder / "turned",)))
    with pytest.raises(
        ConfigError, match=r"gives chunks of 4 actions, horizon is 5; set episodes.horizon to 4"
    ):
        train(replace(further, episodes=EpisodeOptions(horizon=5)))
    assert not further.run.exists()


def test_a_policy_wants_pictures_of_its_training_datas_size(finished, folder):
    policy = CheckpointPolicy.from_checkpoint(finished.run / "model")
    data = RobotData([LeRobotDataset(folder / "demos")], finished.episodes)
    (height, width), *_ = policy.info.picture_sizes
    assert policy.info.picture_sizes == data.info("data").picture_sizes
    assert len(policy.info.picture_sizes) == len(policy.info.cameras)
    told = to_metadata(policy.info)
    assert from_metadata(told, "here") == policy.info
    with pytest.raises(ProtocolError, match=r"picture_sizes has 5 sizes for the \d cameras"):
        from_metadata({**told, "picture_sizes": [[height, width]] * 5}, "there")
    images = {
        name: np.zeros((*size, 3), np.uint8)
        for name, size in zip(policy.info.cameras, policy.info.picture_sizes, strict=True)
    }
    first = policy.info.cameras[0]
    state = np.zeros(policy.info.state_dim, np.float32)
    policy.act([Observation(images=images, state=state, instruction="go")])
    larger = images | {first: np.zeros((height + 8, width, 3), np.uint8)}
    with pytest.raises(
        ConfigError,
        match=rf"camera '{first}' gave {height + 8} x {width} pixels .* trained on {height} x {width}; resize",
    ):
        policy.act([Observation(images=larger, state=state, instruction="go")])


def test_sizes_of_mixed_sets_are_left_open(folder, tmp_path):
    write_lerobot([resized(episode(9, steps=8), 2)], tmp_path / "large")
    sets = [LeRobotDataset(folder / "demos"), LeRobotDataset(tmp_path / "large")]
    options = EpisodeOptions(horizon=HORIZON)
    assert RobotData(sets, options).info("both").picture_sizes == ()
    (size, *_), (twice, *_) = (RobotData([one], options).info("one").picture_sizes for one in sets)
    assert twice == (2 * size[0], 2 * size[1])


def test_a_policy_trained_further_wants_the_pictures_it_saw_last(finished, folder, tmp_path):
    before = CheckpointPolicy.from_checkpoint(finished.run / "model")
    write_lerobot([resized(episode(9, steps=8), 2)], tmp_path / "large")
    stage = replace(POLICY_STAGE, steps=1, depth_weight=0.0, learning_rates={"action_expert": 1e-3})
    further = config_of(
        folder,
        run=tmp_path / "further",
        data=(tmp_path / "large",),
        language_data=(),
        checkpoint=finished.run / "model",
        stages=(stage,),
    )
    train(further)
    after = CheckpointPolicy.from_checkpoint(further.run / "model")
    assert after.info.picture_sizes == tuple((2 * h, 2 * w) for h, w in before.info.picture_sizes)
    assert after.normalization == before.normalization


def resized(original: Episode, factor: int) -> Episode:
    """The episode with pictures so many times as large, and without depth."""

    def larger(stream: CameraStream) -> CameraStream:
        pixels = np.stack(stream.frames.read(range(len(stream.frames))))
        return CameraStream(frames=ArrayFrames(pixels=pixels.repeat(factor, 1).repeat(factor, 2)))

    return replace(original, cameras={name: larger(stream) for name, stream in original.cameras.items()})


def test_a_corrupted_video_is_named(finished, folder):
    copy = folder / "torn"
    shutil.copytree(folder / "demos", copy)
    (video,) = copy.glob("videos/observation.images.wrist/**/*.mp4")
    video.write_bytes(video.read_bytes()[:200])
    source = windows(replace(finished, data=(copy,)))
    with pytest.raises(RecordError, match=f"video {video} cannot be read"):
        source.sample(0, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"episodes": None}, "action_weight 1.0 needs robot episodes"),
        ({"language_data": ()}, "language_weight 0.5 with robot episodes needs records"),
    ],
)
def test_weights_need_data_of_their_kind(folder, changes, named):
    with pytest.raises(ConfigError, match=named):
        config_of(folder, **changes)


def test_records_are_no_robot_data(folder):
    with pytest.raises(EgemError, match="is no LeRobot dataset"):
        train(config_of(folder, run=folder / "none", data=(folder / "records",)))


def test_a_stored_run_reads_back(finished):
    stored = json.loads((finished.run / "config.json").read_text())
    assert stored["episodes"]["horizon"] == HORIZON
    assert load_run(finished.run) == finished


def test_an_idle_batch_counts_nothing(finished):
    sample = windows(finished).idle()
    assert sample.action is not None
    assert not sample.action.valid.any()
