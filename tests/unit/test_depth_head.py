import pytest
import torch
from tests import tiny

from egem.models.depth_head import DepthHead


@pytest.fixture(scope="module")
def head() -> DepthHead:
    torch.set_num_threads(1)
    return tiny.build_micro().depth_head


def test_a_fresh_head_predicts_little_but_passes_gradients_to_its_context(head: DepthHead) -> None:
    """The first stage trains the connector against a frozen head: its gradient must not be zero."""
    context = torch.randn(2, 5, 24, requires_grad=True)
    velocity = head(torch.randn(2, 16, 4, 4), torch.tensor([0.2, 0.8]), context, torch.ones(2, 5).bool())
    assert velocity.std() < 0.5
    velocity.square().mean().backward()
    assert context.grad is not None
    assert context.grad.abs().max() > 0


def test_any_latent_size_works(head: DepthHead) -> None:
    for height, width in ((1, 1), (3, 7), (20, 2)):
        out = head(
            torch.randn(1, 16, height, width), torch.ones(1), torch.randn(1, 2, 24), torch.ones(1, 2).bool()
        )
        assert out.shape == (1, 16, height, width)


def test_guidance_of_one_leaves_the_null_condition_out(head: DepthHead) -> None:
    noise, context, mask = torch.randn(2, 16, 2, 2), torch.randn(2, 3, 24), torch.ones(2, 3).bool()
    calls = []
    hook = head.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    for null in (torch.zeros(1, 1, 24), torch.full((1, 1, 24), 50.0)):
        head.sample(noise, context, mask, null, num_steps=2, guidance=1.0)
    head.sample(noise, context, mask, torch.zeros(1, 1, 24), num_steps=2, guidance=3.0)
    hook.remove()
    assert calls == [2, 2, 2, 2, 4, 4]


def test_guided_sample_written_out(head: DepthHead) -> None:
    noise, context, mask = (
        torch.randn(1, 16, 2, 2),
        torch.randn(1, 3, 24),
        torch.tensor([[True, True, False]]),
    )
    null = torch.randn(1, 1, 24)
    state = noise
    with torch.no_grad():
        for time in (1.0, 0.5):
            level = torch.tensor([time])
            with_context = head(state, level, context, mask)
            without = head(state, level, null, torch.ones(1, 1).bool())
            state = state - 0.5 * (without + 4.0 * (with_context - without))
    drawn = head.sample(noise, context, mask, null, num_steps=2, guidance=4.0)
    torch.testing.assert_close(drawn, state, rtol=1e-4, atol=1e-5)
