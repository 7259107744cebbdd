"""Whole runs of a micro model: what a step computes, what a run leaves behind, how it stops and goes on."""

import json
import math
import os
import signal
import statistics
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import batch_of, build_micro, random_batch, random_sample
from tests.training_runs import micro_config, numbers, three_stages, write_records

from egem.core.config import load_json
from egem.core.errors import CheckpointError, ConfigError, RecordError, TrainingError
from egem.models.gem import GEM
from egem.training import loop, run
from egem.training.checkpoints import checkpoint_folders, find_latest
from egem.training.config import StageConfig, TrainConfig, num_steps
from egem.training.distributed import World
from egem.training.duration import measure_step_seconds
from egem.training.loop import train
from egem.training.metrics import read_metrics
from egem.training.model_options import apply_model_options
from egem.training.optimizer import freeze
from egem.training.probes import Probe, held_out_losses
from egem.training.signals import Stopped
from egem.training.step import Clock, accumulate_gradient, count_targets, draw_seed
from egem.training.stored import load_run

JOINT = StageConfig(
    name="joint",
    learning_rates={"backbone": 1e-3, "connector": 1e-3, "depth_head": 1e-3},
    steps=4,
    batch_size=4,
    depth_weight=0.3,
)


def gradients_of(model, batches, *, stage=JOINT, seeds=None):
    freeze(model, stage)
    losses = accumulate_gradient(
        model,
        batches,
        stage=stage,
        seeds=range(len(batches)) if seeds is None else seeds,
        device=torch.device("cpu"),
        dtype=torch.float32,
        world=World(),
        clock=Clock(),
    )
    return losses, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data and checkpoint for all runs of this file."""
    place = tmp_path_factory.mktemp("runs")
    micro_config(place)
    return place


@pytest.fixture(scope="module")
def finished(folder):
    """A run of three stages, 3 + 3 + 4 steps."""
    config = micro_config(folder, run=folder / "finished")
    train(config)
    return config


# One step


def test_micro_batches_are_one_big_batch():
    """Uneven token counts and sizes; the language loss needs no random draws, so both are computable."""
    samples = [
        random_sample(seed=n, num_turns=1 + 2 * n, image_sizes=((32, 16 * (1 + n)),)) for n in range(4)
    ]
    stage = replace(JOINT, depth_weight=0.0)
    model = build_micro()
    whole, expected = gradients_of(model, [batch_of(samples)], stage=stage)
    parts, found = gradients_of(
        model, [batch_of(samples[:1]), batch_of(samples[1:3]), batch_of(samples[3:])], stage=stage
    )
    assert parts.language == pytest.approx(whole.language, rel=1e-6)
    assert parts.total == pytest.approx(whole.total, rel=1e-6)
    assert (parts.num_tokens, parts.num_samples) == (whole.num_tokens, whole.num_samples)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)


def test_what_stands_in_where_nothing_is_read_is_no_sample():
    batch, idle = random_batch(2), replace(random_batch(1, seed=9), record_ids=())
    losses, _ = gradients_of(build_micro(), [batch, idle], stage=JOINT)
    assert losses.num_samples == 2
    assert losses.num_tokens == int((batch.segment_ids > 0).sum())


def test_losses_are_normalised_over_the_whole_step():
    """Against autograd of the formula, written out over all micro-batches at once, draws included."""
    batches = [
        random_batch(2, seed=0),
        random_batch(1, seed=7, depth_sizes=[None]),
        random_batch(3, seed=9, image_sizes=((32, 48),), depth_sizes=[(32, 48)]),
    ]
    model = build_micro()
    losses, found = gradients_of(model, batches, seeds=[5, 6, 7])
    model.zero_grad()
    parts = [
        model(batch, generator=torch.Generator().manual_seed(seed))
        for batch, seed in zip(batches, [5, 6, 7], strict=True)
    ]
    num_tokens = sum(int(part.language_count) for part in parts)
    num_maps = sum(float(part.depth_count) for part in parts)
    assert num_maps == 5
    language = sum(part.language_sum for part in parts) / num_tokens
    depth = sum(part.depth_sum for part in parts) / num_maps
    (language + 0.3 * depth).backward()
    language, depth = language.detach(), depth.detach()
    assert losses.language == pytest.approx(float(language), rel=1e-6)
    assert losses.depth == pytest.approx(float(depth), rel=1e-6)
    assert losses.total == pytest.approx(float(language + 0.3 * depth), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-5, atol=1e-6)


def test_a_step_without_any_depth_map_trains_language_alone():
    losses, found = gradients_of(build_micro(), [random_batch(2, depth_sizes=[None])])
    assert losses.depth is None
    assert losses.total == pytest.approx(losses.language)
    assert all(gradient.isfinite().all() for gradient in found.values())


@pytest.mark.parametrize("codec", ["pixel", "dc-ae"])
def test_counts_are_the_models(codec):
    model = build_micro(codec)
    channels = 1 if codec == "pixel" else 3
    for depth_sizes in ([(32, 32)], [None], [(16, 32)]):
        batch = random_batch(3, depth_sizes=depth_sizes, channels=channels)
        losses = model(batch, generator=torch.Generator().manual_seed(0))
        assert count_targets(model, batch) == (int(losses.language_count), int(losses.depth_count), 0)


def test_draws_depend_on_seed_stage_step_and_place_alone():
    assert draw_seed(0, "joint", 3, 1) == draw_seed(0, "joint", 3, 1)
    places = {
        (s, st, n, i) for s in (0, 1) for st in ("joint", "connector") for n in range(9) for i in range(4)
    }
    assert len({draw_seed(*place) for place in places}) == len(places)
    assert all(0 <= draw_seed(*place) < 2**63 for place in places)


def test_language_is_not_computed_in_the_first_two_stages(finished):
    for row in read_metrics(finished.run):
        assert ("loss/language" in row) == (row["stage"] == "joint")
        assert "loss/depth" in row


# What a run leaves behind


def test_every_step_is_recorded_once(finished):
    rows = read_metrics(finished.run)
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert [(row["stage"], row["stage_step"]) for row in rows] == [
        *(("connector", n) for n in (1, 2, 3)),
        *(("depth_head", n) for n in (1, 2, 3)),
        *(("joint", n) for n in (1, 2, 3, 4)),
    ]
    last = rows[-1]
    assert last["loss/total"] == pytest.approx(last["loss/language"] + 0.1 * last["loss/depth"])
    for name in ("optimizer/gradient_norm", "optimizer/learning_rate/backbone", "data/epoch", "data/tokens"):
        assert math.isfinite(last[name])
    shares = [value for name, value in last.items() if name.startswith("time/share_")]
    assert sum(shares) == pytest.approx(1)
    assert {"time/share_loader", "time/share_forward", "time/share_backward", "time/share_optimizer"} <= set(
        last
    )


def test_a_run_folder_holds_what_the_design_says(finished):
    names = {path.name for path in finished.run.iterdir()}
    assert {"config.json", "metrics.jsonl", "checkpoints", "last", "model", "model-joint"} <= names
    assert not names & {"model-initial", "model-connector", "model-depth_head"}
    assert [folder.name for folder in checkpoint_folders(finished.run)] == ["step-8", "step-10"]
    assert (finished.run / "last").resolve().name == "step-10"
    assert load_run(finished.run) == finished


def test_the_trainable_report_of_each_stage_is_stored(finished):
    for stage in finished.stages:
        report = json.loads((finished.run / f"trainable-{stage.name}.json").read_text())
        prefixes = {name.split(".")[0] for name in report["parameters"]}
        assert prefixes == set(stage.learning_rates)
        assert report["learning_rates"] == stage.learning_rates


def test_the_model_is_a_checkpoint_folder_that_has_learned(finished):
    trained, start = GEM.from_pretrained(finished.run / "model"), GEM.from_pretrained(finished.checkpoint)
    for module in ("backbone", "connector", "depth_head"):
        pairs = zip(getattr(trained, module).parameters(), getattr(start, module).parameters(), strict=True)
        assert any(not torch.equal(one, other) for one, other in pairs)
    (tensors,) = (finished.run / "last").glob("*.safetensors")
    stored = load_file(tensors)
    for name, parameter in trained.named_parameters():
        assert torch.equal(parameter, stored[f"model.{name}"])


def test_the_same_run_again_has_the_same_numbers(finished, folder):
    again = replace(finished, run=folder / "again", workers=1, checkpoint_every=100)
    train(again)
    assert numbers(again.run) == numbers(finished.run)


def test_another_seed_has_other_numbers(folder):
    stages = (replace(JOINT, steps=1),)
    curves = []
    for seed in (0, 1):
        config = micro_config(folder, run=folder / f"seed{seed}", stages=stages, seed=seed)
        train(config)
        curves.append(numbers(config.run)[0])
    assert curves[0]["loss/depth"] != curves[1]["loss/depth"]
    assert curves[0]["loss/language"] != curves[1]["loss/language"]


def test_bfloat16_and_epochs(folder):
    stages = (replace(JOINT, steps=None, epochs=0.5, accumulation=2, batch_size=3),)
    config = micro_config(folder, run=folder / "bfloat16", stages=stages, dtype="bfloat16")
    train(config)
    rows = read_metrics(config.run)
    assert len(rows) == num_steps(stages[0], 24) == 2
    assert rows[-1]["data/epoch"] == 0.5
    assert rows[-1]["data/samples"] == 6
    weights = GEM.from_pretrained(config.run / "model").parameters()
    assert {parameter.dtype for parameter in weights} == {torch.float32}


# Going on


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_the_run_goes_on_bit_for_bit(finished, folder, number):
    def send(model, preparer, step, place):
        if step == 5:
            os.kill(os.getpid(), number)
        return {}

    config = replace(finished, run=folder / number.name, checkpoint_every=100)
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped:
        train(config, probes=[Probe(name="signal", every=1, run=send)])
    assert str(stopped.value) == (
        f"stopped by {number.name} after step 5, everything is saved; "
        f"go on with: egem train --resume {config.run}"
    )
    assert signal.getsignal(number) == before
    assert find_latest(config.run).name == "step-5"
    assert len(read_metrics(config.run)) == 5
    train(load_run(config.run), resume=True)
    assert numbers(config.run) == numbers(finished.run)


def test_resuming_a_finished_run_changes_nothing(finished):
    before = {path: path.read_bytes() for path in finished.run.rglob("*") if path.is_file()}
    assert train(finished, resume=True) == finished.run
    assert {path: path.read_bytes() for path in finished.run.rglob("*") if path.is_file()} == before


def test_resuming_what_has_not_begun_begins_it(folder):
    config = micro_config(folder, run=folder / "begun", stages=(replace(JOINT, steps=1),))
    train(config, resume=True)
    assert len(read_metrics(config.run)) == 1


def test_remains_of_a_start_with_another_model_are_not_used(folder, monkeypatch):
    config = micro_config(folder, run=folder / "remains", stages=(replace(JOINT, steps=1),))

    def die(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_json", die)
        with pytest.raises(KeyboardInterrupt):
            train(config, model=build_micro(seed=5))
    assert (config.run / "model").exists()
    train(config)
    fresh = replace(config, run=folder / "fresh")
    train(fresh)
    assert numbers(config.run) == numbers(fresh.run)


def test_maps_may_be_drawn_larger_than_the_checkpoint_s(folder, tmp_path):
    config = replace(micro_config(folder), run=tmp_path / "run")
    kept = run.load_model(config).config.depth
    larger = run.load_model(replace(config, depth_long_side=2 * kept.long_side)).config.depth
    assert larger == replace(kept, long_side=2 * kept.long_side)
    with pytest.raises(ConfigError, match="less than its multiple"):
        run.load_model(replace(config, depth_long_side=1))


@pytest.mark.parametrize(("dtype", "kept"), [("float32", set()), ("bfloat16", {"backbone"})])
def test_stored_half_precision_is_trained_in_float32(folder, tmp_path, dtype, kept):
    """What no stage trains stays as it is stored, where that is what is computed in."""
    GEM.from_pretrained(folder / "checkpoint", dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    config = replace(micro_config(folder), run=tmp_path / "run", checkpoint=tmp_path / "half", dtype=dtype)
    config = replace(config, stages=config.stages[:2])  # connector, then depth head with it
    model = run.load_model(config)
    apply_model_options(model, config, World())
    dtypes = {name: {p.dtype for p in module.parameters()} for name, module in model.named_children()}
    assert {name for name, kinds in dtypes.items() if kinds == {torch.bfloat16}} == kept
    assert all(kinds == {torch.float32} for name, kinds in dtypes.items() if name not in kept)


def test_a_run_is_not_overwritten(finished):
    with pytest.raises(ConfigError) as error:
        train(finished)
    assert str(error.value) == (
        f"{finished.run} holds a run already; go on with it (egem train --resume {finished.run}), "
        "or choose another run folder."
    )


def test_resuming_with_other_data_is_refused(finished, folder, tmp_path):
    other = write_records(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match=r"not the data that .* was trained on so far"):
        train(replace(finished, data=(other,)), resume=True)


def test_a_shard_changed_in_place_ends_the_run_and_is_not_resumed_on(folder, tmp_path):
    shard = write_records(tmp_path / "data", num_groups=4) / "shard-00000.parquet"
    whole = bytearray(shard.read_bytes())
    changed = whole.copy()
    changed[len(whole) // 2] ^= 1

    def change(model, preparer, step, place):
        if step == 2:
            shard.write_bytes(changed)
        return {}

    stages = (replace(JOINT, steps=3),)
    config = micro_config(folder, run=tmp_path / "run", data=(shard.parent,), stages=stages)
    config = replace(config, checkpoint_every=1)
    probe = Probe(name="change", every=1, run=change)
    with pytest.raises(RecordError, match=r"shard-00000.parquet is not the file that was written"):
        train(config, probes=[probe])
    assert find_latest(config.run).name == "step-1"
    with pytest.raises(RecordError, match=r"shard-00000.parquet is not the file that was written"):
        train(config, resume=True)
    shard.write_bytes(whole)
    train(config, resume=True)
    assert len(read_metrics(config.run)) == 3


def test_two_trainers_do_not_share_a_run_folder(folder):
    config = micro_config(folder, run=folder / "shared", stages=(replace(JOINT, steps=1),))
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # holds the lock until told to let go
        with run.claim_run(config.run, World()):
            os.write(ready[1], b"x")
            os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    try:
        with pytest.raises(ConfigError) as error:
            train(config)
    finally:
        os.write(done[1], b"x")
        os.waitpid(child, 0)
    assert str(error.value) == (
        f"another process is training in {config.run}; wait for it, stop it, or choose another run folder."
    )
    train(config)


# Stopping


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_step_is_never_applied(folder, monkeypatch, value):
    config = micro_config(
        folder, run=folder / f"broken-{value}", stages=(replace(JOINT, accumulation=2),), checkpoint_every=1
    )
    original, calls = GEM.depth_loss, []

    def broken(self, *arguments, **options):
        calls.append(1)
        total, count = original(self, *arguments, **options)
        return (total * value if len(calls) == 6 else total), count

    monkeypatch.setattr(GEM, "depth_loss", broken)
    with pytest.raises(TrainingError) as error:
        train(config)
    path = config.run / "non-finite.json"
    assert "step 3 (stage joint): not finite: loss total" in str(error.value)
    assert f"its records are listed in {path}" in str(error.value)
    report = json.loads(path.read_text())
    assert report["step"] == 3
    assert len(report["record_ids"]) == 2
    assert all(ids for ids in report["record_ids"])
    assert report["non_finite_gradients"]
    assert len(read_metrics(config.run)) == 2
    # The weights of step 2 are the newest that exist; a resumed run takes the step again.
    assert find_latest(config.run).name == "step-2"
    monkeypatch.setattr(GEM, "depth_loss", original)
    train(config, resume=True)
    assert len(read_metrics(config.run)) == 4


def test_a_gradient_can_be_broken_while_the_loss_is_not(folder, monkeypatch):
    config = micro_config(folder, run=folder / "gradient", stages=(replace(JOINT, steps=2),))
    model = GEM.from_pretrained(config.checkpoint)
    model.connector.layers[0].weight.register_hook(lambda gradient: gradient * math.nan)
    before = model.connector.layers[0].weight.detach().clone()
    with pytest.raises(TrainingError, match="gradient norm nan"):
        train(config, model=model)
    assert torch.equal(model.connector.layers[0].weight, before)
    report = json.loads((config.run / "non-finite.json").read_text())
    assert report["non_finite_gradients"] == ["connector.layers.0.weight"]


# Probes and durations


def test_probes_leave_no_trace(finished, folder):
    seen = []

    def nosy(model, preparer, step, place):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        torch.rand(7)
        (place / f"{step}.txt").write_text("looked")
        seen.append(step)
        return {"number": step / 2}

    config = replace(finished, run=folder / "probed")
    probes = [
        Probe(name="nosy", every=4, run=nosy),
        Probe(name="joint_only", every=1, run=lambda *_: {"x": 1.0}, stages=("joint",)),
        held_out_losses(config.data, every=5, num_groups=5, batch_size=2),
    ]
    train(config, probes=probes)
    rows = numbers(config.run)
    assert seen == [3, 4, 6, 8, 10]
    assert [row["step"] for row in rows if "nosy/number" in row] == seen
    assert [row["step"] for row in rows if "joint_only/x" in row] == [7, 8, 9, 10]
    assert [row["step"] for row in rows if "held_out/language" in row] == [3, 5, 6, 10]
    assert (config.run / "probes" / "nosy" / "8.txt").exists()
    ours = ("nosy/", "joint_only/", "held_out/")
    plain = [{k: v for k, v in row.items() if not k.startswith(ours)} for row in rows]
    assert plain == numbers(finished.run)


def test_held_out_losses_see_only_the_model(folder):
    model = build_micro()
    probe = held_out_losses((folder / "data",), every=1, num_groups=7, batch_size=3)
    preparer = loop.Preparer.from_checkpoint(folder / "checkpoint")
    first = probe.run(model.eval(), preparer, 1, folder)
    assert first == probe.run(model, preparer, 9, folder)
    assert set(first) == {"language", "depth"}
    assert probe.run(build_micro(seed=1).eval(), preparer, 1, folder) != first
    one_by_one = held_out_losses((folder / "data",), every=1, num_groups=6, batch_size=1)
    assert one_by_one.run(model, preparer, 1, folder)["language"] == pytest.approx(
        first["language"], rel=1e-5
    )


def test_a_probe_must_come_round():
    with pytest.raises(ConfigError, match="probe 'p': every 0 must be at least 1"):
        Probe(name="p", every=0, run=lambda *_: {})


def test_minutes_become_steps_before_training(folder, monkeypatch):
    monkeypatch.setattr(statistics, "median", lambda seconds: 0.5)
    stages = (
        replace(three_stages()[0], steps=None, max_minutes=1.6 / 60),
        replace(JOINT, steps=None, max_minutes=0.001),
    )
    config = micro_config(folder, run=folder / "minutes", stages=stages)
    train(config)
    stored = load_json(TrainConfig, config.run / "config.json")
    assert [(stage.steps, stage.max_minutes) for stage in stored.stages] == [(3, None), (1, None)]
    rows = numbers(config.run)
    assert len(rows) == 4
    # Measuring leaves no trace: the same steps without it give the same numbers.
    plain = replace(stored, run=folder / "steps")
    train(plain)
    assert numbers(plain.run) == rows
    assert train(config, resume=True) == config.run


def test_step_seconds_can_be_measured_alone(folder):
    config = micro_config(folder, run=folder / "never", stages=(JOINT,))
    seconds = measure_step_seconds(config)
    assert set(seconds) == {"joint"}
    assert 0 < seconds["joint"] < 60
    assert not config.run.exists()
