"""What a configuration changes about a model before it trains: adapters, precision, memory, compiled blocks."""

import torch

from egem.core.errors import ConfigError
from egem.device import compute_dtype, device_of
from egem.models.blocks import Checkpointing, compile_blocks, run_block
from egem.models.gem import GEM
from egem.models.gem_vla import GEMVLA
from egem.models.lora import adapted_modules, add_adapters, is_adapter
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
    _raise_to_float32(model, config)
    checkpoint_activations(model, config.activation_checkpointing)
    if config.compile_blocks:
        compile_blocks(model)


def _raise_to_float32(model: GEM, config: TrainConfig) -> None:
    """Small updates vanish in bfloat16, so a module that any stage trains is in float32, or its adapters alone are.

    Modules that no stage trains stay as they are stored, but only under autocast: else inputs and weights would differ.
    """
    autocast = compute_dtype(config.dtype, device_of(config.device)) != torch.float32
    adapted = adapted_modules(model)
    for child, module in model.named_children():
        trained = {
            name
            for name, _ in module.named_parameters()
            if any(is_trained(f"{child}.{name}", stage, adapted) for stage in config.stages)
        }
        # A module is stored in one precision: a part of it would come back in another when the run is resumed.
        whole = not autocast or any(not is_adapter(name) for name in trained)
        for name, parameter in module.named_parameters():
            if whole or name in trained:
                parameter.data = parameter.data.to(torch.float32)


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
