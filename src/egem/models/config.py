"""What a GEM or GEM-VLA checkpoint is besides its weights."""

from dataclasses import dataclass
from typing import Literal

from egem.core.errors import ConfigError
from egem.data.depth import DepthPolicy


@dataclass(frozen=True, kw_only=True)
class GEMConfig:
    """Written as config.json at the top of a checkpoint folder.

    Sizes are not repeated here: they stand in the configuration files of `backbone/`, `depth_head/` and
    `depth_codec/`, each in its library's own format.
    """

    version: int = 1
    """Of this file's meaning."""
    preset: str
    """Which preset the sizes are those of; "custom" if they are no preset's."""
    depth: DepthPolicy
    """How depth maps are encoded for the codec, and at which size."""
    codec: Literal["pixel", "dc-ae"]
    objective: Literal["flow", "regression"] = "flow"
    """`regression`: the same network says the latents at once, from no noise; a control, not the method."""
    condition_dropout: float = 0.1
    """Probability that a map is trained with the null condition, connector(zeros)."""
    guidance: float = 5.0
    """Default strength of classifier-free guidance; 1 leaves the null condition out, at half the cost."""
    sampling_steps: int = 30
    """Default number of Euler steps."""
    time_shift: float = 1.0
    """Flow shift of the noise levels in training and sampling; 1, as released, leaves them uniform."""


@dataclass(frozen=True, kw_only=True)
class ActionExpertConfig:
    """Written as action_expert/config.json: the expert's sizes, what it sees of the backbone, and its flow."""

    version: int = 1
    """Of this file's meaning."""
    action_dim: int
    """Numbers in an action."""
    state_dim: int
    """Numbers in the proprioceptive state."""
    horizon: int
    """Actions in a chunk."""
    hidden_size: int
    num_heads: int
    """Of queries, in self-attention and towards the backbone."""
    num_kv_heads: int
    """Of the expert's own keys and values, each of which serves equally many heads of queries."""
    intermediate_size: int
    """Of the SwiGLU layers."""
    num_registers: int = 4
    """Learnt tokens beside the actions, whose output is thrown away."""
    norm_eps: float = 1e-5
    conditioning: Literal["keys_values", "hidden_states"]
    """Attend to the backbone's own keys and values (the paper), or to projected hidden states (the released code)."""
    layers: tuple[int, ...]
    """What block i attends to, one entry a block. `keys_values`: the attention of this layer of the backbone.
    `hidden_states`: the residual stream that enters this layer; see `key_values.HiddenStateTap`."""
    condition_size: int
    """Width of the backbone's hidden states."""
    condition_heads: int
    """The backbone's heads of keys and values."""
    condition_head_dim: int
    state: Literal["token", "modulation"] = "token"
    """How the state comes in: as the first token of the sequence, or beside the time in every block's modulation."""
    time_input: Literal["noise_level", "data_level"] = "noise_level"
    """What is embedded: t, or 1 - t as in the released expert. The flow runs from t = 1 to 0 in both."""
    time_scale: float = 1000.0
    """Factor in front of the embedded time; 1 in the released expert."""
    time_distribution: Literal["uniform", "logistic-normal", "beta"] = "beta"
    """Of the noise level in training: U(0, 1]; sigmoid of N(0, 1), as released; Beta(1.5, 1), more noise than data,
    as pi0 (Black et al. 2024, arXiv 2410.24164, appendix B)."""
    sampling_steps: int = 10
    """Default number of Euler steps."""

    def __post_init__(self) -> None:
        if min(self.action_dim, self.state_dim, self.horizon, len(self.layers)) < 1 or min(self.layers) < 0:
            raise ConfigError(
                f"action expert of {self.action_dim} action and {self.state_dim} state numbers, horizon "
                f"{self.horizon}, layers {list(self.layers)}: each must be at least 1, layers at least 0."
            )
        own_heads = self.num_heads % self.num_kv_heads == 0 and self.hidden_size % self.num_heads == 0
        theirs = self.conditioning == "hidden_states" or self.num_heads % self.condition_heads == 0
        if not own_heads or not theirs or self.hidden_size % 2:
            raise ConfigError(
                f"action expert: {self.num_heads} heads of queries must be a multiple of {self.num_kv_heads} own and, "
                f"for keys_values, of {self.condition_heads} backbone heads, and divide its even width "
                f"{self.hidden_size}; choose num_heads and num_kv_heads so."
            )
