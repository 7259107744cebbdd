"""Batched text generation with a cache of keys and values.

Prompts are right-padded: then the first pass needs no attention mask at all, and each later token only has to
be kept from looking at the padding. Results equal those of one prompt at a time.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from egem.batch import IGNORE_LABEL, Batch, Sample
from egem.core.errors import ConfigError
from egem.data.collate import collate
from egem.models.backbone import Backbone


class KeyValueCache:
    """Keys and values of all layers in tensors of their final length, written in place.

    Transformers' `DynamicCache` copies everything at every step; this does not.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.length = 0
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *unused: object, **also_unused: object
    ) -> tuple[Tensor, Tensor]:
        """Append to a layer and return all of it; `length` moves once all layers are written."""
        if layer_idx not in self._keys:
            shape = (*keys.shape[:2], self.capacity, keys.shape[3])
            self._keys[layer_idx] = keys.new_empty(shape)
            self._values[layer_idx] = values.new_empty(shape)
        stop = self.length + keys.shape[2]
        self._keys[layer_idx][:, :, self.length : stop] = keys
        self._values[layer_idx][:, :, self.length : stop] = values
        return self._keys[layer_idx][:, :, :stop], self._values[layer_idx][:, :, :stop]


def prompt_batch(samples: Sequence[Sample], device: torch.device | str) -> Batch:
    """Samples as one right-padded batch without labels and depth."""
    if not samples:
        raise ConfigError("no prompts given; at least one sample is needed.")
    prompts = [
        replace(sample, labels=torch.full_like(sample.labels, IGNORE_LABEL), depth_maps=(), action=None)
        for sample in samples
    ]
    return collate(prompts, pad_id=0, depth_placeholder=None).to(device)


def generate(
    backbone: Backbone,
    batch: Batch,
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    temperature: float,
    top_p: float,
    generator: torch.Generator | None,
) -> list[list[int]]:
    """Continue every row of a batch; see `GEM.generate_text`."""
    if temperature < 0 or not 0 < top_p <= 1:
        raise ConfigError(
            f"temperature {temperature}, top_p {top_p}; use temperature >= 0 and 0 < top_p <= 1."
        )
    num_prompts, prompt_length = batch.input_ids.shape
    device = batch.input_ids.device
    real = batch.segment_ids.to(device) > 0
    lengths = real.sum(dim=1)
    rows = torch.arange(num_prompts, device=device)
    cache = KeyValueCache(prompt_length + max_new_tokens)
    embeddings, deepstack, image_positions = backbone.embed(
        batch.input_ids, batch.pixel_values(), batch.image_grid
    )
    hidden = backbone.run_layers(
        embeddings,
        batch.position_ids,
        attention_mask=None,
        deepstack=deepstack,
        image_positions=image_positions,
        cache=cache,
    )
    cache.length = prompt_length
    last = hidden[rows, lengths - 1]
    next_position = batch.position_ids.masked_fill(~real, -1).amax(dim=(0, 2)) + 1
    visible = torch.ones(num_prompts, 1, 1, cache.capacity, dtype=torch.bool, device=device)
    visible[:, 0, 0, :prompt_length] = real
    embed_tokens = backbone.qwen.model.language_model.embed_tokens
    stop = torch.tensor(stop_ids, device=device)
    finished = torch.zeros(num_prompts, dtype=torch.bool, device=device)
    columns = []
    for step in range(max_new_tokens):
        tokens = _choose(backbone.logits(last).float(), temperature, top_p, generator)
        columns.append(tokens)
        finished = finished | torch.isin(tokens, stop)
        if bool(finished.all()) or step + 1 == max_new_tokens:
            break
        hidden = backbone.run_layers(
            embed_tokens(tokens)[:, None],
            (next_position + step)[None, :, None].expand(3, -1, -1),
            attention_mask=visible[..., : cache.length + 1],
            deepstack=[],
            image_positions=None,
            cache=cache,
        )
        cache.length += 1
        last = hidden[:, 0]
    return (
        [_until_stop(row, set(stop_ids)) for row in torch.stack(columns, dim=1).tolist()]
        if columns
        else [[] for _ in range(num_prompts)]
    )


def _choose(
    logits: Float[Tensor, "prompt vocabulary"],
    temperature: float,
    top_p: float,
    generator: torch.Generator | None,
) -> Int[Tensor, "prompt"]:
    if temperature == 0.0:
        return logits.argmax(dim=-1)
    probabilities, ids = torch.softmax(logits / temperature, dim=-1).sort(
        dim=-1, descending=True, stable=True
    )
    cumulative = probabilities.cumsum(dim=-1)
    kept = probabilities * (cumulative - probabilities < top_p)
    # Inverse transform sampling with one number per prompt: the same draw on every device.
    uniform = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64).to(logits.device)
    cumulative = kept.double().cumsum(dim=-1)
    place = (cumulative <= uniform * cumulative[:, -1:]).sum(dim=-1, keepdim=True)
    return ids.gather(1, place.clamp(max=ids.shape[1] - 1))[:, 0]


def _until_stop(tokens: list[int], stop_ids: set[int]) -> list[int]:
    for index, token in enumerate(tokens):
        if token in stop_ids:
            return tokens[:index]
    return tokens
