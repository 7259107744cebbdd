"""Recipes of the paper's sizes, from a checkpoint that already holds Qwen3-VL and SANA1.5 weights.

Stage lengths, trainables, depth weight and schedule are those of arXiv 2605.28548; the learning
rates that its text states are not in any public copy, so the released script's 1e-5 is used for the backbone
and a larger one for the new connector.
"""

from dataclasses import replace
from pathlib import Path

from egem.training.config import StageConfig, TrainConfig


def gem_2b() -> TrainConfig:
    """Qwen3-VL-2B with SANA1.5 1.6B: 500 steps connector, 4,000 steps depth head, then one epoch of all.

    For 8 GPUs of 80 GB (`torchrun --nproc-per-node 8 -m egem -- train gem-2b`): 256 samples a step, packed.
    """
    return _gem("gem-2b")


def gem_8b() -> TrainConfig:
    """Qwen3-VL-8B with SANA1.5 1.6B, in the same stages and on the same 8 GPUs of 80 GB.

    Half of that is whole gradients, kept until all rows of a step are through: a stage's `accumulate_whole` false saves
    36 GB of each GPU, for communication after every row.
    """
    return replace(_gem("gem-8b"), activation_checkpointing="full")


def gem_2b_24gb() -> TrainConfig:
    """gem-2b on one GPU of 24 GB: adapters on the backbone, depth head trained by adapters of its own.

    Weights that no stage trains stay in bfloat16 (where the checkpoint has them so), gradients and AdamW's states exist
    for adapters and connector alone, and latents are required beside the data (`egem data annotate latents`), so that
    the codec never comes onto the GPU.
    """
    recipe = _gem("gem-2b")
    stages = tuple(
        replace(stage, batch_size=16, row_tokens=4096, learning_rates=_adapter_rates(stage))
        for stage in recipe.stages
    )
    return replace(
        recipe,
        run=Path("runs/gem-2b-24gb"),
        stages=stages,
        lora_rank=16,
        lora_modules=("backbone", "depth_head"),
        activation_checkpointing="full",
        latents="required",
        workers=4,
    )


def _adapter_rates(stage: StageConfig) -> dict[str, float]:
    """Adapters are small and start from nothing: ten times the rate of whole weights."""
    return {module: rate if module == "connector" else 1e-4 for module, rate in stage.learning_rates.items()}


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
                batch_size=32,
                row_tokens=8192,
                language_weight=0.0,
                depth_weight=1.0,
            ),
            StageConfig(
                name="depth_head",
                learning_rates={"connector": 1e-4, "depth_head": 2e-5},
                steps=4000,
                batch_size=32,
                row_tokens=8192,
                language_weight=0.0,
                depth_weight=1.0,
            ),
            StageConfig(
                name="joint",
                learning_rates={"backbone": 1e-5, "connector": 1e-5, "depth_head": 1e-5},
                epochs=1.0,
                batch_size=32,
                row_tokens=8192,
                language_weight=1.0,
                depth_weight=0.1,
            ),
        ),
        dtype="bfloat16",
        activation_checkpointing="selective",
        workers=8,
    )
