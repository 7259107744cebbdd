"""The first ten steps of the tiny preset in three stages, against a stored curve.

If a change is meant to move the curve, renew it and say why in the commit:
    RENEW_GOLDEN=1 .venv/bin/python -m pytest tests/golden/test_loss_curve.py
"""

import json
import os
from pathlib import Path

import pytest
from tests.training_runs import assert_close, micro_config, numbers

from egem.training.loop import train

CURVE = Path(__file__).with_name("loss_curve.json")
TOLERANCE = 1e-4
"""Relative; the same machine repeats the numbers exactly, other processors and library versions round otherwise."""
KEPT = (
    "step",
    "stage",
    "loss/total",
    "loss/language",
    "loss/depth",
    "optimizer/gradient_norm",
    "data/tokens",
)


def test_the_curve_has_not_moved(tmp_path):
    config = micro_config(tmp_path, preset="tiny", checkpoint=None)
    train(config)
    curve = [{name: row[name] for name in KEPT if name in row} for row in numbers(config.run)]
    if os.environ.get("RENEW_GOLDEN"):
        CURVE.write_text("[\n" + ",\n".join(json.dumps(row) for row in curve) + "\n]\n")
        pytest.skip(f"renewed {CURVE}")
    stored = json.loads(CURVE.read_text())
    assert len(stored) == 10
    assert_close(curve, stored, rel=TOLERANCE)
