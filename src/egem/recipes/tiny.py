"""Recipes of the tiny preset: minutes on two processor cores, everything from scratch."""

from pathlib import Path

from egem.training.config import StageConfig, TrainConfig


def tiny() -> TrainConfig:
    """The three stages on records of the tabletop world, after a warm-up that stands in for pre-training.

    The paper starts from a backbone that already sees. This one starts from random weights, so a first stage
    trains everything on images with few questions; the three stages of the paper follow. The depth weight is
    0.5 instead of the paper's 0.1 because the backbone still has most to learn from depth.
    """
    everything = {"backbone": 1e-3, "connector": 1e-3, "depth_head": 1e-3}
    return TrainConfig(
        run=Path("runs/tiny"),
        data=(Path("data/tabletop"),),
        preset="tiny",
        stages=(
            StageConfig(
                name="warm_up",
                learning_rates=everything,
                steps=1200,
                batch_size=32,
                max_turns=2,
                language_weight=0.1,
                depth_weight=1.0,
                min_learning_rate_ratio=0.2,
            ),
            StageConfig(
                name="connector",
                learning_rates={"connector": 1e-3},
                steps=20,
                batch_size=16,
                max_turns=1,
                language_weight=0.0,
                depth_weight=1.0,
            ),
            StageConfig(
                name="depth_head",
                learning_rates={"connector": 1e-3, "depth_head": 1e-3},
                steps=100,
                batch_size=16,
                max_turns=1,
                language_weight=0.0,
                depth_weight=1.0,
            ),
            StageConfig(
                name="joint",
                learning_rates=everything,
                steps=800,
                batch_size=16,
                language_weight=1.0,
                depth_weight=0.5,
            ),
        ),
        weight_decay=0.01,
        betas=(0.9, 0.95),
        dtype="bfloat16",
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
        stages=(
            StageConfig(
                name="connector",
                learning_rates={"connector": 1e-3},
                steps=20,
                batch_size=9,
                language_weight=0.0,
                depth_weight=1.0,
            ),
            StageConfig(
                name="depth_head",
                learning_rates={"connector": 1e-3, "depth_head": 1e-3},
                steps=100,
                batch_size=9,
                language_weight=0.0,
                depth_weight=1.0,
            ),
            StageConfig(
                name="joint",
                learning_rates={"backbone": 1e-3, "connector": 1e-3, "depth_head": 1e-3},
                steps=1500,
                batch_size=9,
                language_weight=1.0,
                depth_weight=1.0,
            ),
        ),
        betas=(0.9, 0.95),
        max_bad_fraction=0.0,
    )
