"""The connector against the released one's layers, the depth head against a direct call of diffusers' Sana."""

import pytest
import torch
from diffusers import SanaTransformer2DModel
from diffusers.models.normalization import RMSNorm
from tests import tiny
from torch import nn

from egem.models.connector import Connector
from egem.models.flow_matching import Draws


def test_released_connector_weights_load_by_renaming() -> None:
    """`diffusion_connector` is Sequential(Linear, GELU(tanh), Linear, RMSNorm): parameters 0, 2 and 3."""
    torch.manual_seed(0)
    released = nn.Sequential(
        nn.Linear(32, 24),
        nn.GELU(approximate="tanh"),
        nn.Linear(24, 24),
        RMSNorm(24, eps=1e-5, elementwise_affine=True),
    )
    nn.init.normal_(released[3].weight)
    connector = Connector(hidden_size=32, context_size=24)
    connector.load_state_dict({f"layers.{key}": value for key, value in released.state_dict().items()})
    tokens = torch.randn(2, 5, 32)
    torch.testing.assert_close(connector(tokens), released(tokens))


def test_connector_formula() -> None:
    connector = Connector(hidden_size=8, context_size=6)
    weights = {key.removeprefix("layers."): value for key, value in connector.state_dict().items()}
    tokens = torch.randn(3, 8)
    inner = tokens @ weights["0.weight"].T + weights["0.bias"]
    inner = 0.5 * inner * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
    outer = inner @ weights["2.weight"].T + weights["2.bias"]
    expected = weights["3.weight"] * outer / (outer.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(connector(tokens), expected, rtol=1e-5, atol=1e-6)


def test_null_condition_is_not_zero() -> None:
    assert Connector(hidden_size=8, context_size=6)(torch.zeros(8)).abs().sum() > 0.1


@pytest.fixture(scope="module")
def model() -> tiny.GEM:
    torch.set_num_threads(1)
    return tiny.build_micro()


def test_depth_head_equals_diffusers(model: tiny.GEM) -> None:
    """Timestep 1000 * t, the context in place of the text, padding masked."""
    original = SanaTransformer2DModel(**tiny.micro_preset().depth_head)
    original.load_state_dict(model.depth_head.sana.state_dict())
    latents, context = torch.randn(2, 16, 3, 4), torch.randn(2, 5, 24)
    time = torch.tensor([0.3, 1.0])
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    expected = original(
        hidden_states=latents,
        encoder_hidden_states=context,
        encoder_attention_mask=mask,
        timestep=torch.tensor([300.0, 1000.0]),
    ).sample
    torch.testing.assert_close(model.depth_head(latents, time, context, mask), expected, rtol=1e-5, atol=1e-5)
    changed = context.clone()
    changed[1, 2:] = 9.0
    torch.testing.assert_close(model.depth_head(latents, time, changed, mask), expected, rtol=1e-5, atol=1e-5)


def test_depth_loss_of_a_batch_equals_the_steps_written_out(model: tiny.GEM) -> None:
    """From image tokens to the loss, one map at a time with diffusers' model and no padding."""
    model.train()
    samples = [
        tiny.random_sample(seed=0, image_sizes=((32, 32), (48, 32)), depth_sizes=((32, 32), (32, 32))),
        tiny.random_sample(seed=1, image_sizes=((32, 64),), depth_sizes=((32, 32),)),
    ]
    batch = tiny.batch_of(samples)
    generator = torch.Generator().manual_seed(0)
    draws = Draws(
        time=torch.tensor([0.2, 0.9, 0.5]),
        noise=torch.randn(3, 16, 8, 8, generator=generator),
        drop=torch.tensor([False, False, True]),
    )
    losses = model(batch, language=False, draws=[draws])
    original = SanaTransformer2DModel(**tiny.micro_preset().depth_head)
    original.load_state_dict(model.depth_head.sana.state_dict())
    expected, index = 0.0, 0
    for sample in samples:
        hidden = model.backbone(tiny.batch_of([sample]))[0]
        tokens = hidden[sample.input_ids == tiny.IMAGE_PAD]
        per_image = tokens.split((sample.image_grid.prod(dim=1) // 4).tolist())
        for depth_map in sample.depth_maps:
            condition = per_image[depth_map.image_index] * (0.0 if draws.drop[index] else 1.0)
            data = torch.nn.functional.pixel_unshuffle((depth_map.pixels + 0.13) * 3.7, 4)[None]
            valid = torch.nn.functional.pixel_unshuffle(depth_map.valid[None].float(), 4)[None] > 0
            noise, time = draws.noise[index : index + 1], draws.time[index]
            velocity = original(
                hidden_states=(1 - time) * data + time * noise,
                encoder_hidden_states=model.connector(condition)[None],
                timestep=time[None] * 1000,
            ).sample
            expected += (velocity - (noise - data)).square()[valid].mean().item()
            index += 1
    assert losses.depth_sum.item() == pytest.approx(expected, rel=1e-5)
    assert losses.depth_count.item() == 3
