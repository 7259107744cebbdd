"""Recipes of the paper's sizes, from a checkpoint that already holds Qwen3-VL and SANA1.5 weights.

Stage lengths, trainables, depth weight and schedule are those of arXiv 2605.28548; the learning
rates that its text states are not in any public copy, so the released script's 1e-5 is used for the backbone
and a larger one for the new connector.
"""

from pathlib import Path

from egem.training.config import StageConfig, TrainConfig


def gem_2b() -> TrainConfig:
    """Qwen3-VL-2B with SANA1.5 1.6B: 500 steps connector, 4,000 steps depth head, then one epoch of all."""
    return _gem("gem-2b")


def gem_8b() -> TrainConfig:
    """Qwen3-VL-8B with SANA1.5 1.6B, in the same stages."""
    return _gem("gem-8b")


def _gem(preset: str) -> TrainConfig:
    return TrainConfig(
        run=Path(f"runs/{preset}"),
        data=(Path("data/gem-4m"),),
        preset=None,
        checkpoint=Path(f"checkpoints/{preset}-init"),
        stages=(
            StageConfig(
                name="connector",
                learning_rates={"connector": 1e-4},
                steps=500,
                language_weight=0.0,
                depth_weight=1.0,
            ),
            StageConfig(
                name="depth_head",
                learning_rates={"connector": 1e-4, "depth_head": 2e-5},
                steps=4000,
                language_weight=0.0,
                depth_weight=1.0,
            ),
            StageConfig(
                name="joint",
                learning_rates={"backbone": 1e-5, "connector": 1e-5, "depth_head": 1e-5},
                epochs=1.0,
                language_weight=1.0,
                depth_weight=0.1,
            ),
        ),
        dtype="bfloat16",
        workers=8,
    )
