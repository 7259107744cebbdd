"""Random weights are told from trained ones."""

import pytest
import torch
from diffusers import SanaTransformer2DModel
from tests import hf_folders
from torch import nn

from egem.core.errors import CheckpointError
from egem.models.depth_head import initialize_depth_head
from egem.models.interchange.plausibility import FRESH_SHARE, Findings, examine
from egem.models.interchange.tensors import TensorTable, in_memory


def table(module: nn.Module) -> TensorTable:
    return {name: in_memory(value) for name, value in module.state_dict().items()}


def sana(seed: int) -> SanaTransformer2DModel:
    torch.manual_seed(seed)
    return SanaTransformer2DModel(
        **hf_folders.sana_sizes()
        | {"cross_attention_dim": 96, "cross_attention_head_dim": 48, "attention_head_dim": 48}
    )


def reinitialized(seed: int) -> SanaTransformer2DModel:
    """What transformers does to a model inside a model that it loads."""
    model = sana(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=0.02)
    return model


def trained(seed: int) -> SanaTransformer2DModel:
    model = sana(seed)
    hf_folders.scramble(model, seed=seed)
    return model


def with_our_start(seed: int) -> SanaTransformer2DModel:
    model = sana(seed)
    initialize_depth_head(model)
    return model


@pytest.mark.parametrize("start", [sana, reinitialized, with_our_start])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_weights_are_named(start, dtype: torch.dtype) -> None:
    found = examine(table(start(0).to(dtype)))
    assert found.fresh_share > 0.9
    assert ["random initial values" in line for line in found.warnings()] == [True]


def test_trained_weights_pass() -> None:
    found = examine(table(trained(0)))
    assert found.num_matrices > 20
    assert found.fresh_share < FRESH_SHARE / 2
    assert found.warnings() == []


def test_a_reference() -> None:
    start = trained(0)
    assert examine(table(start), table(start)).identical
    further = trained(0)
    with torch.no_grad():
        for weight in further.parameters():
            weight += 0.2 * weight.square().mean().sqrt() * torch.randn(weight.shape)
    found = examine(table(further), table(start))
    assert not found.identical
    assert found.cosine == pytest.approx(1 / 1.04**0.5, abs=0.01)
    assert found.warnings() == []
    assert "cosine 0.98" in found.summary()
    found = examine(table(trained(1)), table(start))
    assert found.cosine is not None
    assert abs(found.cosine) < 0.5
    assert "did not start from --depth-head" in found.warnings()[0]


def test_a_reference_of_another_size() -> None:
    other = SanaTransformer2DModel(**hf_folders.sana_sizes() | {"num_layers": 1})
    with pytest.raises(CheckpointError, match="other tensors"):
        examine(table(trained(0)), table(other))


def test_not_a_number() -> None:
    model = trained(0)
    with torch.no_grad():
        model.proj_out.bias[0] = float("nan")
    found: Findings = examine(table(model))
    assert found.non_finite == ("proj_out.bias",)
    assert "NaN" in found.warnings()[0]
