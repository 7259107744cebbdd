"""Attention and normalisation as fast as plain torch allows on a CPU; on other devices, fused kernels.

Torch's fused CPU attention has a slow backward pass in bfloat16 (2 to 10 times the explicit products at the
sizes of small models, measured on AVX512-BF16), but in float32 it is the faster way for all but long causal sequences
(`benchmarks/attention.py`). Where it is not, short sequences are attended by two matrix products and a softmax on the
CPU, causal ones in chunks of queries that skip the future.

Packed sequences never look at each other and cost nothing where they could not: on a GPU in half precision
one call of a variable-length kernel (FlashAttention's if installed, else torch's own), elsewhere a call each.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLTextAttention,
    Qwen3VLTextRMSNorm,
    apply_rotary_pos_emb,
)

from egem.models.blocks import uncompiled
from egem.models.segments import Segments

_MAX_LENGTH = 1024
"""Longer sequences go to the fused kernel, which does not keep a square of attention weights."""
_CHUNK = 128
_MAX_FUSED_CAUSAL = 256
"""With a backward pass in float32, chunks that skip the future are faster than the fused kernel beyond this length."""


def attend(
    query: Float[Tensor, "batch head token head_dim"],
    key: Float[Tensor, "batch head key head_dim"],
    value: Float[Tensor, "batch head key head_dim"],
    *,
    scale: float,
    causal: bool = False,
    mask: Tensor | None = None,
) -> Float[Tensor, "batch head token head_dim"]:
    """Scaled dot-product attention.

    Args:
        query: as many heads as key and value.
        key: what is looked at.
        value: what is taken from there.
        scale: of the products of query and key.
        causal: token n sees keys 0 to n; no mask may be given then.
        mask: True or 0 where a query may look, False or very negative where not; broadcast over heads.
    """
    if query.device.type == "cpu":
        query, key, value = lowered(query), lowered(key), lowered(value)
    if _is_fused(query, key, causal):
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, scale=scale
        )
    return attend_explicitly(query, key, value, scale=scale, causal=causal, mask=mask)


def attend_explicitly(
    query: Float[Tensor, "batch head token head_dim"],
    key: Float[Tensor, "batch head key head_dim"],
    value: Float[Tensor, "batch head key head_dim"],
    *,
    scale: float,
    causal: bool = False,
    mask: Tensor | None = None,
) -> Float[Tensor, "batch head token head_dim"]:
    """`attend` by two matrix products and a softmax; see there."""
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, float("-inf"))
    query, key = query * scale, key.transpose(2, 3)
    if not causal:
        scores = torch.matmul(query, key)
        if mask is not None:
            scores = scores + mask.to(scores.dtype)
        return torch.matmul(scores.softmax(dim=-1), value)
    num_tokens = query.shape[2]
    future = query.new_full((num_tokens, num_tokens), float("-inf")).triu(1)
    chunks = []
    for start in range(0, num_tokens, _CHUNK):
        stop = min(start + _CHUNK, num_tokens)
        scores = torch.matmul(query[:, :, start:stop], key[..., :stop])
        weights = scores.add_(future[start:stop, :stop]).softmax(dim=-1)
        chunks.append(torch.matmul(weights, value[:, :, :stop]))
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=2)


def _is_fused(query: Tensor, key: Tensor, causal: bool) -> bool:
    """Whether torch's fused kernel is the fastest way."""
    num_keys = key.shape[2]
    if query.device.type != "cpu" or num_keys > _MAX_LENGTH:
        return True
    if query.dtype != torch.float32:
        return False
    return not causal or num_keys <= _MAX_FUSED_CAUSAL or not torch.is_grad_enabled()


@uncompiled
def attend_segments(
    query: Float[Tensor, "head token head_dim"],
    key: Float[Tensor, "key_head token head_dim"],
    value: Float[Tensor, "key_head token head_dim"],
    segments: Segments,
    *,
    scale: float,
    causal: bool,
) -> Float[Tensor, "token head head_dim"]:
    """Scaled dot-product attention within each of several sequences.

    Args:
        query: of all sequences, one after another.
        key: as many heads as the query, or fewer, each of which serves equally many heads of the query.
        value: as the key.
        segments: where the sequences lie.
        scale: of the products of query and key.
        causal: a token sees only itself and earlier ones.
    """
    query, key, value = lowered(query), lowered(key), lowered(value)
    kernel = variable_length_kernel(query.device.type, query.dtype)
    if kernel is not None:
        return kernel(query, key, value, segments, scale, causal)
    groups = len(query) // len(key)
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=0), value.repeat_interleave(groups, dim=0)
    parts = zip(*(states[None].split(segments.lengths, dim=2) for states in (query, key, value)), strict=True)
    attended = [attend(q, k, v, scale=scale, causal=causal)[0].transpose(0, 1) for q, k, v in parts]
    return attended[0] if len(attended) == 1 else torch.cat(attended)


Kernel = Callable[[Tensor, Tensor, Tensor, Segments, float, bool], Tensor]
"""As `attend_segments`, for heads first in and tokens first out."""


@functools.cache
def variable_length_kernel(device_type: str, dtype: torch.dtype) -> Kernel | None:
    """The fused kernel for packed sequences, or None where there is none (CPU, float32).

    Args:
        device_type: `meta` stands for a GPU: memory is planned there.
        dtype: of query, key and value.
    """
    if device_type not in ("cuda", "meta") or dtype not in (torch.float16, torch.bfloat16):
        return None
    if device_type == "cuda" and importlib.util.find_spec("flash_attn") is not None:
        return _flash_attention
    return _torch_attention


def _flash_attention(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float, causal: bool
) -> Tensor:
    run = importlib.import_module("flash_attn").flash_attn_varlen_func
    ends, longest = segments.boundaries, segments.longest
    query, key, value = (states.transpose(0, 1) for states in (query, key, value))
    return run(query, key, value, ends, ends, longest, longest, softmax_scale=scale, causal=causal)


def _torch_attention(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float, causal: bool
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    ends, longest = segments.boundaries, segments.longest
    window = (-1, 0) if causal else (-1, -1)  # how far back and ahead; -1 is without limit
    query, key, value = (states.transpose(0, 1) for states in (query, key, value))
    attended = varlen_attn(
        query,
        key,
        value,
        ends,
        ends,
        longest,
        longest,
        scale=scale,
        window_size=window,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(attended, Tensor)
    return attended


def lowered(tensor: Tensor) -> Tensor:
    """In autocast's precision where it is on, as autocast itself does for the operations it knows."""
    device_type = tensor.device.type
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return tensor
    return tensor.to(torch.get_autocast_dtype(device_type))


class TextAttention(Qwen3VLTextAttention):
    """Transformers' attention within each packed sequence, and with `attend` on the CPU."""

    def forward(
        self,
        hidden_states: Float[Tensor, "sample token hidden"],
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        past_key_values: Any = None,
        *,
        segments: Segments | None = None,
        **others: Any,
    ) -> tuple[Float[Tensor, "sample token hidden"], Tensor | None]:
        """As the base class.

        Args:
            hidden_states: of one row if there are segments.
            position_embeddings: cosine and sine.
            attention_mask: what may be looked at; None means all earlier tokens.
            past_key_values: a cache; with segments it may only look on, as `KeyValueTap` does.
            segments: the sequences in the row, which then need no mask.
            others: what transformers passes for other kernels.
        """
        on_cpu = hidden_states.device.type == "cpu" and self.config._attn_implementation == "sdpa"
        if segments is None and not on_cpu:
            return super().forward(
                hidden_states, position_embeddings, attention_mask, past_key_values, **others
            )
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_norm(self.q_proj(hidden_states).view(shape)).transpose(1, 2)
        key = self.k_norm(self.k_proj(hidden_states).view(shape)).transpose(1, 2)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if segments is not None:
            if past_key_values is not None:
                past_key_values.update(key, value, self.layer_idx)
            attended = attend_segments(query[0], key[0], value[0], segments, scale=self.scaling, causal=True)
            return self.o_proj(attended.reshape(*hidden_states.shape[:-1], -1)), None
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        groups = self.num_key_value_groups
        if query.shape[2] == 1:
            # One new token: the query heads that share a key head stand in for several tokens.
            query = query.reshape(len(query), key.shape[1], groups, self.head_dim)
        elif groups > 1:
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        causal = attention_mask is None and hidden_states.shape[1] > 1
        attended = attend(query, key, value, scale=self.scaling, causal=causal, mask=attention_mask)
        if hidden_states.shape[1] == 1:
            attended = attended.reshape(len(attended), -1, 1, self.head_dim)
        return self.o_proj(attended.transpose(1, 2).reshape(*hidden_states.shape[:-1], -1)), None


class TextRMSNorm(Qwen3VLTextRMSNorm):
    """Transformers' norm through torch's own `rms_norm`: same formula, a backward pass several times faster."""

    def forward(self, hidden_states: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        """Normalise in float32, then multiply by the weight."""
        normed = functional.rms_norm(
            hidden_states.float(), self.weight.shape, self.weight.float(), self.variance_epsilon
        )
        # Not torch.result_type: torch.compile would cut the block here.
        return normed.to(torch.promote_types(hidden_states.dtype, self.weight.dtype))


class CrossAttentionProcessor:
    """Sana's cross-attention through `attend`; the computation of diffusers' SanaAttnProcessor2_0."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "map token hidden"],
        encoder_hidden_states: Float[Tensor, "map context_token hidden"] | None = None,
        attention_mask: Float[Tensor, "map 1 context_token"] | None = None,
    ) -> Float[Tensor, "map token hidden"]:
        """Latent tokens look at the context's real tokens.

        Args:
            attn: the module whose weights are used.
            hidden_states: latent tokens.
            encoder_hidden_states: the context.
            attention_mask: 0 at real tokens, very negative at padding.
        """
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.to_q(hidden_states)
        key, value = attn.to_k(context), attn.to_v(context)  # pyright: ignore[reportOptionalCall]
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        query, key, value = (
            states.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for states in (query, key, value)
        )
        value = value.to(key.dtype)  # the norm may have raised the precision of the other two
        mask = None if attention_mask is None else attention_mask[:, None].to(query.dtype)
        attended = attend(query, key, value, scale=query.shape[-1] ** -0.5, mask=mask)
        attended = attended.transpose(1, 2).flatten(2)
        linear, dropout = attn.to_out  # pyright: ignore[reportGeneralTypeIssues]
        return dropout(linear(attended))
