"""The first steps of the recipe tiny-vla on drawn episodes, against a stored curve.

If a change is meant to move the curve, renew it and say why in the commit:
    RENEW_GOLDEN=1 .venv/bin/python -m pytest tests/golden/test_vla_loss_curve.py
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.robot_episodes import episode
from tests.training_runs import assert_close, numbers

from egem.data_engine.episodes.lerobot_writer import write_lerobot
from egem.recipes import RECIPES
from egem.training.loop import train

CURVE = Path(__file__).with_name("vla_loss_curve.json")
TOLERANCE = 2e-3
"""Relative; frames go through a video codec, whose releases differ by a level here and there."""
KEPT = ("step", "stage", "loss/total", "loss/depth", "loss/action", "optimizer/gradient_norm", "data/tokens")


def test_the_curve_has_not_moved(tmp_path):
    torch.set_num_threads(1)
    write_lerobot((episode(seed, steps=10) for seed in range(2)), tmp_path / "demos")
    recipe = RECIPES["tiny-vla"]()
    config = replace(
        recipe,
        run=tmp_path / "run",
        data=(tmp_path / "demos",),
        stages=tuple(replace(stage, steps=3, batch_size=3) for stage in recipe.stages),
        dtype="float32",
        workers=0,
        trackers=(),
    )
    train(config)
    curve = [{name: row[name] for name in KEPT if name in row} for row in numbers(config.run)]
    if os.environ.get("RENEW_GOLDEN"):
        CURVE.write_text("[\n" + ",\n".join(json.dumps(row) for row in curve) + "\n]\n")
        pytest.skip(f"renewed {CURVE}")
    stored = json.loads(CURVE.read_text())
    assert len(stored) == 6
    assert_close(curve, stored, rel=TOLERANCE)
