"""Recipes of the tiny preset, for two processor cores: the shipped start, the three stages, real frames."""

from dataclasses import replace
from pathlib import Path

import egem
from egem.training.config import StageConfig, TrainConfig

START = Path(egem.__file__).parent / "assets" / "tiny_start"
"""The shipped checkpoint, which stands in for Qwen3-VL and SANA1.5, from which the paper starts.

`tiny_describe`, then `tiny_draw`, then `egem.recipes.tiny_start` made it (docs/reproduction.md): it can describe
pictures of the tabletop world and draw some depth, and was never asked about space.
"""


def tiny() -> TrainConfig:
    """The three stages of the paper on records of the tabletop world, from the shipped start.

    The depth weight is 1 instead of the paper's 0.1, because so small a backbone shares more of its layers between
    drawing and answering, and drawing is what it would forget.
    """
    return TrainConfig(
        run=Path("runs/tiny"),
        data=(Path("data/tabletop"),),
        preset="tiny",
        checkpoint=START,
        stages=(
            # The start's head draws already: faster rates would first undo that.
            *_alignment(head_steps=300, batch_size=12, rate=2e-4),
            StageConfig(
                name="joint",
                # Less than the start was taught with, for what draws: minutes forget faster than they teach.
                learning_rates={
                    "backbone": 5e-4,
                    "backbone.qwen.model.visual": 1e-4,
                    "connector": 3e-4,
                    "depth_head": 3e-4,
                },
                steps=1200,
                # Small batches: so small a head needs steps more than samples (docs/log.md).
                batch_size=8,
                max_turns=6,
                language_weight=1.0,
                depth_weight=1.0,
                min_learning_rate_ratio=0.02,
            ),
        ),
        weight_decay=0.01,
        betas=(0.9, 0.95),
        dtype="auto",
        workers=1,
    )


def tiny_describe() -> TrainConfig:
    """A backbone from random weights that describes pictures: no depth, no distances, no relations.

    On `egem data render --skills caption layout is_there color_of shape_of --questions 7 --out data/described`.
    """
    return TrainConfig(
        run=Path("runs/tiny-describe"),
        data=(Path("data/described"),),
        preset="tiny",
        stages=(
            StageConfig(
                name="describe",
                learning_rates={"backbone": 2e-3},
                steps=2700,
                batch_size=16,
                max_turns=3,
                language_weight=1.0,
                depth_weight=0.0,
                warmup_ratio=0.02,
                min_learning_rate_ratio=0.02,
            ),
        ),
        weight_decay=0.05,
        betas=(0.9, 0.95),
        dtype="auto",
        workers=1,
    )


def tiny_draw() -> TrainConfig:
    """All parts, on the same pictures: describe them and draw their depth."""
    return TrainConfig(
        run=Path("runs/tiny-draw"),
        data=(Path("data/described"),),
        preset="tiny",
        checkpoint=Path("runs/tiny-describe/model"),
        stages=(
            StageConfig(
                name="draw",
                learning_rates={"backbone": 1e-3, "connector": 2e-3, "depth_head": 2e-3},
                steps=1400,
                batch_size=10,
                max_turns=2,
                language_weight=0.3,
                depth_weight=1.0,
                warmup_ratio=0.02,
                min_learning_rate_ratio=0.02,
            ),
        ),
        weight_decay=0.03,
        betas=(0.9, 0.95),
        dtype="auto",
        workers=1,
    )


def tiny_real() -> TrainConfig:
    """Over-fit a few real RGB-D frames on purpose: proves codec, masks, conditioning and sampling on sensors.

    `egem data import rgbd --input MANIFEST --out data/real` makes the records.
    """
    return TrainConfig(
        run=Path("runs/tiny-real"),
        data=(Path("data/real"),),
        preset="tiny",
        checkpoint=START,
        # Cluttered bins need finer maps than the tabletop: 24 pixels could not hold a delta1 of 0.97 of these frames.
        depth_long_side=48,
        stages=(
            *_alignment(head_steps=100, batch_size=9, rate=1e-3),
            StageConfig(
                name="joint",
                learning_rates={"backbone": 1e-3, "connector": 1e-3, "depth_head": 1e-3},
                steps=1200,
                batch_size=9,
                max_turns=2,
                language_weight=0.2,
                depth_weight=1.0,
                min_learning_rate_ratio=0.02,
            ),
        ),
        betas=(0.9, 0.95),
        dtype="auto",
        workers=1,
        max_bad_fraction=0.0,
    )


def _alignment(*, head_steps: int, batch_size: int, rate: float) -> tuple[StageConfig, StageConfig]:
    """Stages 1 and 2: the connector, then the depth head with it, learn from a backbone that stands still."""
    connector = StageConfig(
        name="connector",
        learning_rates={"connector": rate},
        steps=20,
        batch_size=batch_size,
        max_turns=1,
        language_weight=0.0,
        depth_weight=1.0,
    )
    rates = {"connector": rate, "depth_head": 2 * rate}
    return connector, replace(connector, name="depth_head", learning_rates=rates, steps=head_steps)
