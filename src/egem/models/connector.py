"""The bridge from the backbone's visual tokens to what the depth head attends to."""

from diffusers.models.normalization import RMSNorm
from jaxtyping import Float
from torch import Tensor, nn


class Connector(nn.Module):
    """Linear, GELU (tanh), Linear, RMSNorm.

    Layer indices and hyper-parameters are those of the released GEM (`diffusion_connector.{0,2,3}`), so that
    its weights load by renaming alone. The null condition is the connector's output for zeros, which is not
    zero: biases and the norm's weight see to that.
    """

    def __init__(self, *, hidden_size: int, context_size: int):
        super().__init__()
        self.hidden_size = hidden_size
        self.context_size = context_size
        self.layers = nn.Sequential(
            nn.Linear(hidden_size, context_size),
            nn.GELU(approximate="tanh"),
            nn.Linear(context_size, context_size),
            RMSNorm(context_size, eps=1e-5, elementwise_affine=True),
        )

    def forward(self, tokens: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch context"]:
        """Map hidden states at image tokens to the depth head's context."""
        return self.layers(tokens)
