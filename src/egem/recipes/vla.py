"""Recipes of GEM-VLA: from a GEM checkpoint and demonstrations of a robot to a policy."""

from dataclasses import replace
from pathlib import Path

from egem.data.augment import Augmentation
from egem.data.robot_data import EpisodeOptions
from egem.recipes.tiny import START
from egem.training.config import StageConfig, TrainConfig


def tiny_vla() -> TrainConfig:
    """A policy for the tabletop robot on two processor cores, from `egem rollout expert --record data/demos`.

    Starts from the shipped checkpoint, or from a trained one (`--checkpoint runs/tiny/model`).
    """
    return TrainConfig(
        run=Path("runs/tiny-vla"),
        data=(Path("data/demos"),),
        episodes=EpisodeOptions(
            horizon=8,
            # At 64 to 96 pixels a crop moves things by whole patches; colours are what instructions name.
            augmentation=Augmentation(min_crop=0.97, brightness=0.15, contrast=0.15, saturation=0.1, hue=0.0),
        ),
        preset="tiny",
        checkpoint=START,
        stages=(
            # Most of a step's time is the vision tower's backward pass, and the start's tower knows this world.
            StageConfig(
                name="expert",
                learning_rates={"action_expert": 1e-3, "backbone.qwen.model.language_model": 5e-4},
                steps=3000,
                batch_size=16,
                action_weight=1.0,
                action_draws=4,
                depth_weight=0.0,
                language_weight=0.0,
                min_learning_rate_ratio=0.3,
            ),
            StageConfig(
                name="policy",
                learning_rates={
                    "action_expert": 5e-4,
                    "backbone": 3e-4,
                    "connector": 3e-4,
                    "depth_head": 3e-4,
                },
                steps=1000,
                batch_size=16,
                action_weight=1.0,
                action_draws=4,
                depth_weight=0.1,
                language_weight=0.0,
                min_learning_rate_ratio=0.02,
            ),
        ),
        weight_decay=0.01,
        betas=(0.9, 0.95),
        dtype="auto",
        workers=1,
        fast_resize=True,
        checkpoint_every=500,
    )


def gem_vla_2b() -> TrainConfig:
    """GEM-VLA of the paper's size: gem-2b with the released expert's sizes, 50,000 steps of 256 windows.

    For 8 GPUs of 80 GB (`torchrun --nproc-per-node 8 -m egem -- train gem-vla-2b`). Steps and batch are the paper's;
    the released script's 1e-5 is used for what is pre-trained, and 1e-4, as for RDT2, for the new expert.
    """
    return TrainConfig(
        run=Path("runs/gem-vla-2b"),
        data=(Path("data/robot"),),
        episodes=EpisodeOptions(horizon=32),
        preset="gem-2b",
        checkpoint=Path("runs/gem-2b/model"),
        stages=(
            StageConfig(
                name="policy",
                learning_rates={
                    "action_expert": 1e-4,
                    "backbone": 1e-5,
                    "connector": 1e-5,
                    "depth_head": 1e-5,
                },
                steps=50_000,
                batch_size=32,
                row_tokens=8192,
                action_weight=1.0,
                depth_weight=0.1,
                language_weight=0.0,
            ),
        ),
        weight_decay=0.01,
        dtype="bfloat16",
        activation_checkpointing="selective",
        workers=8,
        checkpoint_every=1000,
    )


def tiny_vla_without_depth() -> TrainConfig:
    """tiny-vla without the depth loss: what drawing depth is worth to the policy."""
    recipe = tiny_vla()
    stages = tuple(
        replace(
            stage,
            depth_weight=0.0,
            learning_rates={
                name: rate
                for name, rate in stage.learning_rates.items()
                if name not in ("connector", "depth_head")
            },
        )
        for stage in recipe.stages
    )
    return replace(recipe, run=Path("runs/tiny-vla-without-depth"), stages=stages)
