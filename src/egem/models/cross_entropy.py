"""Cross entropy of a linear layer's outputs without ever holding all of them.

With 151,936 words and 16,384 tokens the logits alone are 10 GB in float32, and autograd keeps them for the
backward pass. Here a few hundred tokens at a time go from hidden states to their part of the gradient, so
logits are computed once and freed at once.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from egem.models.attention import lowered

MAX_LOGITS = 2**27
"""Logits of one chunk: 512 MB in float32."""


def linear_cross_entropy(
    states: Float[Tensor, "token hidden"],
    weight: Float[Tensor, "vocabulary hidden"],
    targets: Int[Tensor, "token"],
    *,
    max_logits: int = MAX_LOGITS,
) -> Float[Tensor, ""]:
    """`cross_entropy(states @ weight.T, targets, reduction="sum")` in float32; gradients once only.

    Products run in autocast's precision where it is on; softmax and sums in float32.

    Args:
        states: of the tokens to score.
        weight: of the output layer.
        targets: the right words.
        max_logits: to hold at once.
    """
    chunk = max(1, max_logits // len(weight))
    if not torch.is_grad_enabled():
        # A function of autograd is told what its inputs are, not that nobody will ask for gradients.
        states, weight = states.detach(), weight.detach()
    return _LinearCrossEntropy.apply(states, weight, targets, chunk)  # pyright: ignore[reportReturnType]


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradient for an incoming gradient of 1 is computed beside the loss, and scaled in the backward pass."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        need_states, need_weight = ctx.needs_input_grad[:2]
        low_states, low_weight = lowered(states), lowered(weight)
        total = states.new_zeros((), dtype=torch.float32)
        grad_states = torch.zeros_like(states) if need_states else None
        # Float32 whatever the weight is: many chunks are added up.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        for start in range(0, len(targets), chunk):
            part, right = low_states[start : start + chunk], targets[start : start + chunk, None]
            logits = torch.mm(part, low_weight.T).float()
            # In place from here on: a second tensor of this size would double the peak.
            largest = logits.amax(dim=-1, keepdim=True)
            right_logits = logits.gather(1, right) - largest
            weights = logits.sub_(largest).exp_()
            norm = weights.sum(dim=-1, keepdim=True)
            total += (norm.log() - right_logits).sum()
            if not (need_states or need_weight):
                continue
            # The gradient of the logits: probabilities, minus 1 at the right word.
            gradient = weights.div_(norm)
            gradient = gradient.scatter_add_(1, right, gradient.new_full((), -1.0).expand_as(right))
            gradient = gradient.to(part.dtype)
            if grad_states is not None:
                grad_states[start : start + chunk] = torch.mm(gradient, low_weight)
            if grad_weight is not None:
                grad_weight += torch.mm(gradient.T, part)
        ctx.gradients = grad_states, None if grad_weight is None else grad_weight.to(weight.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # pyright: ignore
        # Scaled in place and let go, because the weight's is as large as the weight.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the gradient of linear_cross_entropy can be asked for once only.")
        grad_states, grad_weight = (None if g is None else g.mul_(grad_total) for g in gradients)
        return grad_states, grad_weight, None, None
