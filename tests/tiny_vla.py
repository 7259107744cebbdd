"""Random GEM-VLAs and robot batches, for every test of the robot half."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from tests.tiny import batch_of, build_micro, random_sample

from egem.batch import ActionTargets, Batch, Sample
from egem.models.config import ActionExpertConfig
from egem.models.gem_vla import GEMVLA, add_action_expert

ACTION_DIM, STATE_DIM, HORIZON = 3, 5, 6


def expert_sizes(conditioning: str = "keys_values") -> ActionExpertConfig:
    """For the micro model: 3 layers, width 32, 2 heads of keys and values of width 16."""
    released = conditioning == "hidden_states"
    return ActionExpertConfig(
        action_dim=ACTION_DIM,
        state_dim=STATE_DIM,
        horizon=HORIZON,
        hidden_size=32,
        num_heads=4,
        num_kv_heads=2,
        intermediate_size=40,
        num_registers=2,
        conditioning="hidden_states" if released else "keys_values",
        layers=(0, 1, 3) if released else (0, 2),
        condition_size=32,
        condition_heads=2,
        condition_head_dim=16,
        state="modulation" if released else "token",
    )


def build_micro_vla(conditioning: str = "keys_values", *, seed: int = 0) -> GEMVLA:
    """A micro model whose expert's gates are open, so that everything reaches its output."""
    model = add_action_expert(build_micro(seed=seed), expert_sizes(conditioning), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.action_expert.named_parameters():
            if "adaLN_modulation" in name or "fc2" in name or "norm" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + ("norm" in name))
    return model


def robot_targets(num_samples: int, *, seed: int = 0, num_invalid: int = 0) -> ActionTargets:
    """Random states and chunks; the last `num_invalid` actions of the first sample are padding."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.ones(num_samples, HORIZON, dtype=torch.bool)
    valid[0, HORIZON - num_invalid :] = False
    return ActionTargets(
        state=torch.randn(num_samples, STATE_DIM, generator=generator),
        actions=torch.randn(num_samples, HORIZON, ACTION_DIM, generator=generator),
        valid=valid,
    )


def robot_samples(num_samples: int, *, num_views: int = 2) -> list[Sample]:
    """Prompts of different lengths with that many camera pictures and a depth map of each."""
    sizes = ((32, 32), (48, 32), (32, 64))[:num_views]
    return [random_sample(seed=n, image_sizes=sizes, num_turns=1 + n) for n in range(num_samples)]


def robot_batch(samples: Sequence[Sample], *, seed: int = 0) -> Batch:
    """Samples one to a row with random chunks."""
    return replace(batch_of(samples), actions=robot_targets(len(samples), seed=seed, num_invalid=2))
