"""What a configuration changes about a model before it trains: adapters, precision, memory, compiled blocks."""

import torch

from egem.core.errors import ConfigError
from egem.models.blocks import Checkpointing, compile_blocks, run_block
from egem.models.gem import GEM
from egem.models.gem_vla import GEMVLA
from egem.models.lora import adapted_modules, add_adapters
from egem.training.config import TrainConfig
from egem.training.distributed import World
from egem.training.optimizer import is_trained


def apply_model_options(model: GEM, config: TrainConfig, world: World) -> None:
    """Apply a run's options to its model, in place; before it is sharded.

    Raises:
        ConfigError: an option needs a package that is not installed, or a single process.
    """
    if world.size > 1 and (config.lora_rank is not None or config.optimizer != "adamw"):
        raise ConfigError(
            f"lora_rank {config.lora_rank} and optimizer {config.optimizer} with {world.size} processes: adapters and "
            "8-bit states are for a single GPU; leave them out, sharding saves the memory that they would."
        )
    if config.lora_rank is not None:
        add_adapters(
            model, config.lora_modules, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed
        )
    adapted = adapted_modules(model)
    for name, parameter in model.named_parameters():
        # Small updates vanish in bfloat16; what is never trained stays as it was stored.
        if any(is_trained(name, stage, adapted) for stage in config.stages):
            parameter.data = parameter.data.to(torch.float32)
    checkpoint_activations(model, config.activation_checkpointing)
    if config.compile_blocks:
        compile_blocks(model)


def checkpoint_activations(model: GEM, mode: Checkpointing) -> None:
    """Keep as much of every transformer block as `mode` says."""
    model.backbone.checkpointing = mode
    if isinstance(model, GEMVLA):
        model.action_expert.checkpointing = mode
    sana = model.depth_head.sana
    if mode == "none":
        sana.disable_gradient_checkpointing()
        return

    def run(block: torch.nn.Module, *inputs: object) -> torch.Tensor:
        return run_block(mode, block, *inputs)

    sana.enable_gradient_checkpointing(run)  # pyright: ignore[reportArgumentType]
