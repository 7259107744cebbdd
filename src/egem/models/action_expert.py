"""The action expert: a diffusion transformer over chunks of actions, which looks at the backbone layer by layer.

A chunk is a short sequence of tokens, one an action, beside a few registers. Each block lets them look at each other,
then at what one layer of the backbone offers (`ActionExpertConfig.layers`); time modulates everything (adaLN-Zero;
Peebles and Xie 2023, arXiv 2212.09748). The blocks are RDT2's, on which GEM-VLA builds, and carry its parameters'
names, so that released weights load by renaming and one change of sign (`egem.models.interchange.expert`).

`keys_values`: queries of the expert look at keys and values that the backbone's attention has computed anyway, heads
grouped as there. Those keys are rotated by their multimodal position, so the queries are rotated too: all by the
position that the next text token would have, whatever the prompt's length. Which action a token is, the learnt
position embeddings say.

`hidden_states`: hidden states are projected to the expert's width and to keys and values, without any rotation.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from egem.models.attention import attend
from egem.models.blocks import Checkpointing, run_block
from egem.models.config import ActionExpertConfig
from egem.models.key_values import KeysValues

Rotation = tuple[Float[Tensor, "sample 1 1 head_dim"], Float[Tensor, "sample 1 1 head_dim"]]
"""Cosine and sine of the position at which all queries of a sample stand."""
Offer = tuple[Float[Tensor, "sample kv_head key head_dim"], Float[Tensor, "sample kv_head key head_dim"]]
"""`KeysValues` of other tokens than those that look at them."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What a batch offers to the expert: computed once, the same in every flow step."""

    layers: tuple[KeysValues | Float[Tensor, "sample token hidden"], ...]
    """For each block keys and values, or hidden states in the expert's width, which it makes into keys and values."""
    mask: Bool[Tensor, "sample token"] | None
    """True at real tokens; None where all are real."""
    rotation: Rotation | None
    """Of queries towards the backbone; None leaves them as they are."""

    def repeated(self, times: int) -> "Condition":
        """Each sample's offer so many times in a row."""

        def again(values: Tensor) -> Tensor:
            return values.repeat_interleave(times, dim=0)

        return Condition(
            layers=tuple(
                (again(each[0]), again(each[1])) if isinstance(each, tuple) else again(each)
                for each in self.layers
            ),
            mask=None if self.mask is None else again(self.mask),
            rotation=None if self.rotation is None else (again(self.rotation[0]), again(self.rotation[1])),
        )


class Attention(nn.Module):
    """Projections of the expert's attention, with RMSNorm on each head's queries and keys.

    Args:
        config: its sizes.
        head_dim: of queries, keys and values.
        own_keys: whether keys and values are projected here.
    """

    def __init__(self, config: ActionExpertConfig, *, head_dim: int, own_keys: bool):
        super().__init__()
        width, inner = config.hidden_size, config.num_heads * head_dim
        self.head_dim = head_dim
        self.num_kv_heads = config.num_kv_heads
        self.wq = nn.Linear(width, inner, bias=False)
        self.wo = nn.Linear(inner, width, bias=False)
        self.norm_q = nn.RMSNorm(head_dim, eps=config.norm_eps)
        if own_keys:
            self.wkv = nn.Linear(width, 2 * config.num_kv_heads * head_dim, bias=False)
            self.norm_k = nn.RMSNorm(head_dim, eps=config.norm_eps)

    def keys_values(self, tokens: Float[Tensor, "sample token hidden"]) -> KeysValues:
        """Project; key and value of a number lie side by side in the projection's output, as released."""
        both = self.wkv(tokens).unflatten(-1, (self.num_kv_heads, self.head_dim, 2)).transpose(1, 2)
        keys, values = both.unbind(-1)
        return self.norm_k(keys), values

    def forward(
        self,
        tokens: Float[Tensor, "sample token hidden"],
        keys_values: Offer,
        mask: Bool[Tensor, "sample key"] | None = None,
        rotation: Rotation | None = None,
    ) -> Float[Tensor, "sample token hidden"]:
        """Look at keys and values."""
        query = self.norm_q(self.wq(tokens).unflatten(-1, (-1, self.head_dim))).transpose(1, 2)
        if rotation is not None:
            cosine, sine = rotation[0].to(query.dtype), rotation[1].to(query.dtype)
            first, second = query.chunk(2, dim=-1)
            query = query * cosine + torch.cat([-second, first], dim=-1) * sine
        keys, values = keys_values[0].to(query.dtype), keys_values[1].to(query.dtype)
        # All tokens see the same keys, so the heads that share a key head stand in for several times the tokens.
        num_samples, num_heads, num_tokens, _ = query.shape
        grouped = query.reshape(num_samples, keys.shape[1], -1, self.head_dim)
        seen = None if mask is None else mask[:, None, None]
        attended = attend(grouped, keys, values, scale=self.head_dim**-0.5, mask=seen)
        attended = attended.reshape(num_samples, num_heads, num_tokens, self.head_dim)
        return self.wo(attended.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """`w2(silu(w1 x) * w3 x)` (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.w1 = nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(inner, width, bias=False)
        self.w3 = nn.Linear(width, inner, bias=False)

    def forward(self, tokens: Float[Tensor, "*token hidden"]) -> Float[Tensor, "*token hidden"]:
        """Each token by itself."""
        return self.w2(functional.silu(self.w1(tokens)) * self.w3(tokens))


class Block(nn.Module):
    """Self-attention, attention to the backbone, SwiGLU; each shifted, scaled and gated by the modulation."""

    def __init__(self, config: ActionExpertConfig):
        super().__init__()
        width, eps = config.hidden_size, config.norm_eps
        head_dim = width // config.num_heads
        projects = config.conditioning == "hidden_states"
        self.attn_norm = nn.RMSNorm(width, eps=eps)
        self.attn = Attention(config, head_dim=head_dim, own_keys=True)
        self.cross_norm = nn.RMSNorm(width, eps=eps)
        if projects:
            self.cond_norm = nn.RMSNorm(width, eps=eps)
        self.cross_attn = Attention(
            config, head_dim=head_dim if projects else config.condition_head_dim, own_keys=projects
        )
        self.ffn_norm = nn.RMSNorm(width, eps=eps)
        self.ffn = SwiGLU(width, config.intermediate_size)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(_modulation_size(config), 9 * width))

    def condition(self, tokens: Float[Tensor, "sample token hidden"]) -> KeysValues:
        """Keys and values of adapted hidden states, for all flow steps."""
        return self._projected(tokens)

    def forward(
        self,
        tokens: Float[Tensor, "sample token hidden"],
        modulation: Float[Tensor, "sample modulation"],
        offered: Offer | Float[Tensor, "sample key hidden"],
        mask: Bool[Tensor, "sample key"] | None,
        rotation: Rotation | None,
    ) -> Float[Tensor, "sample token hidden"]:
        """One block.

        Args:
            tokens: of the chunk.
            modulation: from the time, and from the state if that is no token.
            offered: what the backbone's layer offers, see `Condition`.
            mask: its real tokens.
            rotation: of the queries towards it.
        """
        parts = self.adaLN_modulation(modulation)[:, None].chunk(9, dim=-1)
        attn, cross, ffn = parts[:3], parts[3:6], parts[6:]
        keys_values = offered if isinstance(offered, tuple) else self._projected(offered)
        normed = _modulated(self.attn_norm(tokens), *attn[:2])
        tokens = tokens + attn[2] * self.attn(normed, self.attn.keys_values(normed))
        normed = _modulated(self.cross_norm(tokens), *cross[:2])
        tokens = tokens + cross[2] * self.cross_attn(normed, keys_values, mask, rotation)
        return tokens + ffn[2] * self.ffn(_modulated(self.ffn_norm(tokens), *ffn[:2]))

    def _projected(self, tokens: Float[Tensor, "sample token hidden"]) -> KeysValues:
        # Not `condition`, which FSDP gathers the block's weights for and then frees them: `forward` still needs them.
        return self.cross_attn.keys_values(self.cond_norm(tokens))


class TimeEmbedding(nn.Module):
    """256 cosines and sines of the time, then two layers."""

    _SIZE, _MAX_PERIOD = 256, 10_000.0

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(self._SIZE, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: Float[Tensor, "sample"]) -> Float[Tensor, "sample hidden"]:
        """Embed a time of any scale, in float32 up to the first layer."""
        half = self._SIZE // 2
        exponents = torch.arange(half, device=time.device, dtype=torch.float32) / half
        angles = time.float()[:, None] * torch.exp(-math.log(self._MAX_PERIOD) * exponents)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(waves.to(next(self.mlp.parameters()).dtype))


class FinalLayer(nn.Module):
    """From tokens to velocities of actions."""

    def __init__(self, config: ActionExpertConfig):
        super().__init__()
        width = config.hidden_size
        self.ffn_norm = nn.RMSNorm(width, eps=config.norm_eps)
        self.ffn = nn.ModuleDict(
            {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, config.action_dim)}
        )
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(_modulation_size(config), 2 * width))

    def forward(
        self, tokens: Float[Tensor, "sample token hidden"], modulation: Float[Tensor, "sample modulation"]
    ) -> Float[Tensor, "sample token action_dim"]:
        """Modulate, then two layers."""
        shift, scale = self.adaLN_modulation(modulation)[:, None].chunk(2, dim=-1)
        normed = _modulated(self.ffn_norm(tokens), shift, scale)
        return self.ffn["fc2"](functional.silu(self.ffn["fc1"](normed)))


class ActionExpert(nn.Module):
    """The velocity of a noisy chunk of normalised actions, given state and condition."""

    def __init__(self, config: ActionExpertConfig):
        """Build it with torch's default weights; `initialize_expert` gives starting values for training."""
        super().__init__()
        self.config = config
        self.checkpointing: Checkpointing = "none"
        width = config.hidden_size
        self.act_adaptor = _layers(config.action_dim, width, 3)
        self.state_adaptor = _layers(config.state_dim, width, 3)
        if config.conditioning == "hidden_states":
            self.lang_adaptor = _layers(config.condition_size, width, 2)
        self.t_embedder = TimeEmbedding(width)
        self.register_tokens = nn.Parameter(torch.empty(1, config.num_registers, width))
        self.x_pos_emb = nn.Parameter(torch.empty(1, config.horizon + config.num_registers, width))
        self.state_pos_emb = nn.Parameter(torch.empty(1, 1, width))
        self.blocks = nn.ModuleList(Block(config) for _ in config.layers)
        self.final_layer = FinalLayer(config)

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return self.register_tokens.dtype

    def adapt(self, states: Float[Tensor, "sample token condition"]) -> Float[Tensor, "sample token hidden"]:
        """The backbone's hidden states in the expert's width."""
        return self.lang_adaptor(states.to(self.dtype))

    def precomputed(self, condition: Condition) -> Condition:
        """The same condition with the keys and values of all blocks, which no flow step then computes again."""
        layers = []
        for block, offered in zip(self.blocks, condition.layers, strict=True):
            layers.append(offered if isinstance(offered, tuple) else block.condition(offered))  # pyright: ignore
        return Condition(layers=tuple(layers), mask=condition.mask, rotation=condition.rotation)

    def forward(
        self,
        chunk: Float[Tensor, "sample horizon action_dim"],
        time: Float[Tensor, "sample"],
        state: Float[Tensor, "sample state_dim"],
        condition: Condition,
    ) -> Float[Tensor, "sample horizon action_dim"]:
        """The velocity (noise - data) at `chunk`, which is x_t at noise level `time`; float32.

        Args:
            chunk: noisy actions.
            time: in [0, 1].
            state: proprioception, normalised.
            condition: what the backbone offers.
        """
        config = self.config
        level = time if config.time_input == "noise_level" else 1.0 - time
        modulation = self.t_embedder(config.time_scale * level)
        position = self.state_adaptor(state.to(self.dtype))[:, None] + self.state_pos_emb
        tokens = torch.cat(
            [self.act_adaptor(chunk.to(self.dtype)), self.register_tokens.expand(len(chunk), -1, -1)], dim=1
        )
        tokens = tokens + self.x_pos_emb
        first = 0
        if config.state == "token":
            tokens, first = torch.cat([position, tokens], dim=1), 1
        else:
            modulation = torch.cat([modulation, position[:, 0]], dim=-1)
        for block, offered in zip(self.blocks, condition.layers, strict=True):
            tokens = run_block(
                self.checkpointing, block, tokens, modulation, offered, condition.mask, condition.rotation
            )
        return self.final_layer(tokens[:, first : first + config.horizon], modulation).float()


@torch.no_grad()
def initialize_expert(expert: ActionExpert) -> None:
    """Starting values for training from scratch, drawn from torch's global generator.

    As DiT and RDT2: Xavier-uniform products, N(0, 0.02) for the time's, zeros for every gate and for the last layer,
    so that each block begins as the identity and the first velocity is 0; sines and cosines as positions.
    """
    for module in expert.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for layer in (expert.t_embedder.mlp[0], expert.t_embedder.mlp[2]):
        nn.init.normal_(layer.weight, std=0.02)  # pyright: ignore[reportArgumentType]
    for part in (*expert.blocks, expert.final_layer):
        modulation = part.adaLN_modulation[1]  # pyright: ignore
        nn.init.zeros_(modulation.weight)  # pyright: ignore
    nn.init.zeros_(expert.final_layer.ffn["fc2"].weight)  # pyright: ignore[reportArgumentType]
    nn.init.normal_(expert.register_tokens)
    config = expert.config
    # Two kinds of tokens, each kind told apart by a wave of its own, as in RDT2.
    kinds = _waves(2, config.hidden_size)
    actions = _waves(config.horizon, config.hidden_size) + kinds[0]
    registers = _waves(config.num_registers, config.hidden_size) + kinds[1]
    expert.x_pos_emb.copy_(torch.cat([actions, registers]))
    expert.state_pos_emb.zero_()


def even_layers(num_blocks: int, num_layers: int) -> tuple[int, ...]:
    """The layer map of `keys_values`: blocks spread evenly over the backbone, the last one at its last layer.

    Block i looks at layer `floor((i + 1) num_layers / num_blocks) - 1`: 1, 3, ..., 27 for 14 blocks over 28 layers.
    """
    return tuple(max(0, (i + 1) * num_layers // num_blocks - 1) for i in range(num_blocks))


def _modulation_size(config: ActionExpertConfig) -> int:
    return config.hidden_size * (2 if config.state == "modulation" else 1)


def _modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return tokens * (1 + scale) + shift


def _layers(size: int, width: int, number: int) -> nn.Sequential:
    """Linear layers with SiLU between them."""
    layers: list[nn.Module] = [nn.Linear(size, width)]
    for _ in range(number - 1):
        layers += [nn.SiLU(), nn.Linear(width, width)]
    return nn.Sequential(*layers)


def _waves(length: int, width: int) -> Float[Tensor, "position hidden"]:
    """Sines and cosines of positions (Vaswani et al. 2017); zeros where there is only one."""
    if length < 2:
        return torch.zeros(length, width)
    frequency = 10_000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()
