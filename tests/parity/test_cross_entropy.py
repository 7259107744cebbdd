"""The chunked cross entropy against torch's, and what it needs of memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from egem.models.cross_entropy import linear_cross_entropy


def inputs(num_tokens: int = 37) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(num_tokens, 16, generator=generator)
    weight = torch.randn(101, 16, generator=generator)
    targets = torch.randint(0, 101, (num_tokens,), generator=generator)
    return states.requires_grad_(), weight.requires_grad_(), targets


@pytest.mark.parametrize("max_logits", [1, 101 * 5, 2**20])
def test_equal_to_torch(max_logits: int) -> None:
    states, weight, targets = inputs()
    ours = linear_cross_entropy(states, weight, targets, max_logits=max_logits)
    theirs = cross_entropy(states @ weight.T, targets, reduction="sum")
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-5)
    gradients = [torch.autograd.grad(0.7 * loss, (states, weight)) for loss in (ours, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


def test_numerical_gradient() -> None:
    """Float64 throughout but for the sum, which is float32: hence the wide step."""
    states, weight, targets = (
        tensor.double().detach() if tensor.is_floating_point() else tensor for tensor in inputs(5)
    )
    states.requires_grad_()
    linear_cross_entropy(states, weight, targets).backward()
    step = torch.zeros_like(states)
    step[2, 3] = 1e-2
    with torch.no_grad():
        losses = [cross_entropy((states + d) @ weight.T, targets, reduction="sum") for d in (step, -step)]
    assert states.grad is not None
    assert states.grad[2, 3].item() == pytest.approx(float(losses[0] - losses[1]) / 2e-2, rel=1e-3)


def test_a_frozen_output_layer_gets_no_gradient() -> None:
    states, weight, targets = inputs()
    weight.requires_grad_(False)
    linear_cross_entropy(states, weight, targets).backward()
    assert states.grad is not None
    assert weight.grad is None


def test_no_token() -> None:
    states, weight, targets = inputs(0)
    loss = linear_cross_entropy(states, weight, targets)
    loss.backward()
    assert loss.item() == 0
    assert weight.grad is not None
    assert not weight.grad.any()


def test_bfloat16_under_autocast() -> None:
    states, weight, targets = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_cross_entropy(states, weight, targets)
        theirs = cross_entropy(torch.nn.functional.linear(states, weight).float(), targets, reduction="sum")
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-4)
    gradients = [torch.autograd.grad(loss, (states, weight)) for loss in (ours, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=2e-2, atol=2e-2)


def test_only_one_backward_pass() -> None:
    states, weight, targets = inputs()
    loss = linear_cross_entropy(states, weight, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once only"):
        loss.backward()


BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "loss_memory.py"


def test_memory_at_the_real_vocabulary() -> None:
    """4,096 tokens: their logits would be 2.5 GB, and autograd needs them three times.

    What is needed does not grow with the tokens: `benchmarks/loss_memory.py` shows it for 16,384.
    """
    done = subprocess.run(
        [sys.executable, BENCHMARK, "--tokens", "4096"], capture_output=True, text=True, check=True
    )
    assert 0.3 < json.loads(done.stdout)["chunked_gb"] < 1.2
