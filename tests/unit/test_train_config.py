import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from egem.core.config import from_dict, save_json, to_dict
from egem.core.errors import ConfigError
from egem.training.config import (
    StageConfig,
    TrainConfig,
    learning_rate_factor,
    num_steps,
    warmup_steps,
)
from egem.training.stored import check_same_run, load_run


def stage(**fields):
    return StageConfig(**{"name": "joint", "learning_rates": {"backbone": 1e-4}, "steps": 10, **fields})


def config(**fields):
    return TrainConfig(**{"run": Path("runs/a"), "data": (Path("data"),), "stages": (stage(),), **fields})


def test_round_trips_through_json(tmp_path):
    original = config(
        run=tmp_path,
        stages=(
            stage(name="connector", steps=None, epochs=1.5, language_weight=0.0),
            stage(learning_rates={"backbone": 1e-5, "backbone.qwen.model.visual": 0.0}, warmup_steps=3),
        ),
        trackers=("wandb",),
        checkpoint=Path("weights"),
        betas=(0.9, 0.95),
    )
    assert from_dict(TrainConfig, to_dict(original)) == original
    save_json(original, tmp_path / "config.json")
    assert load_run(tmp_path) == original


def test_a_moved_run_folder_is_where_it_is_now(tmp_path):
    save_json(config(run=Path("elsewhere")), tmp_path / "config.json")
    assert load_run(tmp_path).run == tmp_path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "Joint stage"}, "stage name 'Joint stage' must be lower-case letters"),
        ({"epochs": 1.0}, "stage 'joint': give exactly one of steps, epochs and max_minutes, not 2."),
        ({"steps": None}, "stage 'joint': give exactly one of steps, epochs and max_minutes, not 0."),
        ({"steps": 0}, "stage 'joint': steps 0 must be above 0."),
        ({"steps": None, "max_minutes": -1.0}, "stage 'joint': max_minutes -1.0 must be above 0."),
        ({"batch_size": 0}, "stage 'joint': batch_size 0 must be above 0."),
        ({"accumulation": 0}, "stage 'joint': accumulation 0 must be above 0."),
        ({"max_turns": 0}, "stage 'joint': max_turns 0 must be above 0."),
        ({"depth_weight": -0.1}, "stage 'joint': depth_weight -0.1 must not be negative."),
        ({"language_weight": 0.0, "depth_weight": 0.0}, "depth_weight and action_weight are all 0"),
        ({"warmup_ratio": 1.5}, "stage 'joint': warmup_ratio 1.5 must lie in 0..1."),
        ({"warmup_steps": -1}, "stage 'joint': warmup_steps -1 must not be negative."),
        ({"learning_rates": {}}, "learning_rates trains nothing; name a module"),
        ({"learning_rates": {"backbone": 0.0}}, "learning_rates trains nothing; name a module"),
        (
            {"learning_rates": {"backbone": math.nan}},
            "learning rate nan of 'backbone' must be a finite number",
        ),
    ],
)
def test_stages_that_make_no_sense(fields, message):
    with pytest.raises(ConfigError) as error:
        stage(**fields)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep": 1}, "keep 1: at least 2 checkpoints must be kept, because a crash may tear the newest."),
        ({"data": ()}, "no data; give at least one folder of record shards."),
        ({"stages": ()}, "no stages; give at least one."),
        ({"stages": (stage(), stage())}, "stage names ['joint', 'joint'] must differ from each other."),
        ({"preset": None}, "no model to start from; give a preset, a checkpoint folder, or both."),
        ({"checkpoint_every": 0}, "checkpoint_every 0 must be at least 1."),
        ({"log_every": 0}, "log_every 0 must be at least 1."),
        ({"workers": -1}, "workers -1 must not be negative."),
        ({"clip_norm": 0.0}, "clip_norm 0.0 must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay -0.1 must not be negative."),
        ({"betas": (0.9, 1.0)}, "betas (0.9, 1.0) must lie in 0..1."),
        ({"max_bad_fraction": 2.0}, "max_bad_fraction 2.0 must lie in 0..1."),
    ],
)
def test_configurations_that_make_no_sense(fields, message):
    with pytest.raises(ConfigError) as error:
        config(**fields)
    assert message in str(error.value)


def test_schedule_is_torchs_linear_warmup_then_cosine():
    steps, peak = 40, 3e-4
    schedule = stage(steps=steps, warmup_ratio=0.2, min_learning_rate_ratio=0.1)
    warmup = warmup_steps(schedule, steps)
    assert warmup == 8
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    # Torch's linear phase starts at 1 / warmup, as ours, and its cosine begins one step after the peak.
    reference = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, 1.0, warmup - 1),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup, eta_min=0.1 * peak),
        ],
        milestones=[warmup],
    )
    for step in range(steps):
        assert peak * learning_rate_factor(schedule, step, steps) == pytest.approx(
            reference.get_last_lr()[0], rel=1e-9
        )
        optimizer.step()
        reference.step()


def test_schedule_without_warmup_starts_at_the_peak():
    schedule = stage(warmup_steps=0)
    assert learning_rate_factor(schedule, 0, 10) == 1.0
    assert learning_rate_factor(schedule, 9, 10) < 0.1


def test_steps_of_an_epoch():
    one = stage(steps=None, epochs=1.0, batch_size=4, accumulation=2)
    assert num_steps(one, 80) == 10
    assert num_steps(one, 81) == 11
    assert num_steps(one, 81, world_size=2) == 6
    assert num_steps(stage(steps=7), 81) == 7
    with pytest.raises(ConfigError, match="max_minutes must be turned into steps first"):
        num_steps(stage(steps=None, max_minutes=1.0), 80)


def test_resuming_with_other_settings():
    stored = config(run=Path("here"))
    moved = replace(stored, run=Path("there"), workers=4, log_every=1, keep=5, trackers=())
    assert check_same_run(moved, stored) == moved
    with pytest.raises(ConfigError) as error:
        check_same_run(replace(stored, seed=1), stored)
    assert str(error.value) == (
        "here: 'seed' is 1 now but was 0 when the run started; resume with what it was, or start a new run folder."
    )
    with pytest.raises(ConfigError, match="'stages' is"):
        check_same_run(replace(stored, stages=(stage(steps=11),)), stored)


def test_resuming_a_run_whose_minutes_were_measured():
    stored = config(stages=(stage(steps=123),))
    given = config(stages=(stage(steps=None, max_minutes=2.0),))
    assert check_same_run(given, stored) == stored
