"""Keys and values, or inputs, of some of the backbone's layers, for a head that attends to them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

KeysValues = tuple[Float[Tensor, "sample head token head_dim"], Float[Tensor, "sample head token head_dim"]]


class KeyValueTap:
    """Handed to the layers as their cache: keeps keys and values of some, and changes nothing.

    Keys are those after norm and rotation. A layer that is computed again in the backward pass (activation
    checkpointing) writes its slot a second time, so gradients flow as without it.

    Args:
        layers: indices of the layers to keep.
    """

    is_compileable = False
    is_sliding = ()

    def __init__(self, layers: Sequence[int]) -> None:
        self._layers = frozenset(layers)
        self.keys_values: dict[int, KeysValues] = {}

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *unused: object, **also_unused: object
    ) -> tuple[Tensor, Tensor]:
        """Called by each layer; returns what came in."""
        # The second time, in the backward pass, the tensors that the loss was computed from must stay.
        if layer_idx in self._layers and layer_idx not in self.keys_values:
            self.keys_values[layer_idx] = (keys, values)
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Nothing lies before the first token."""
        return 0


class HiddenStateTap:
    """Keeps the residual stream at some depths of the text model.

    Depth i is what enters layer i: 0 is the embeddings with the images' tokens in place, i > 0 the output of layer
    i - 1 with the deepstack features that were added to it, and the number of layers is the last layer's output
    before the final norm. (Transformers' `hidden_states` has meant different things in different releases.)

    Args:
        depths: which to keep.
    """

    def __init__(self, depths: Sequence[int]) -> None:
        self._depths = frozenset(depths)
        self.states: dict[int, Float[Tensor, "sample token hidden"]] = {}

    def keep(self, depth: int, hidden: Float[Tensor, "sample token hidden"]) -> None:
        """Called at each depth."""
        if depth in self._depths:
            self.states[depth] = hidden


def keep_reachable(
    loss: Float[Tensor, ""], hidden: Float[Tensor, "sample token hidden"]
) -> Float[Tensor, ""]:
    """The loss, made to depend on the layers' output by 0 times its sum.

    A sharded layer is gathered for the backward pass when the gradient of its output arrives. A loss on keys
    and values alone sends none, and the pass would find the weights gone.
    """
    return loss + 0.0 * torch.sum(hidden)
