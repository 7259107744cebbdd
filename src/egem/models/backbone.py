"""Transformers' Qwen3-VL, called so that nothing is computed that is not needed.

Enters: a `Batch`. Leaves: hidden states after the final RMSNorm, from which logits are taken only where a
label stands, and the image tokens of each image, which are the depth head's condition.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextAttention, Qwen3VLTextRMSNorm

from egem.batch import IGNORE_LABEL, Batch
from egem.models.attention import TextAttention, TextRMSNorm
from egem.models.swap import swap_class
from egem.models.vision import VisionTower

_MAX_LOGITS = 2**26
"""Logits held at once (256 MB in float32); more are computed in chunks and again in the backward pass."""


class Backbone(nn.Module):
    """A plain `Qwen3VLForConditionalGeneration` under the name `qwen`, run by our own forward pass.

    Equal to transformers' forward on the same tokens (see tests/parity/test_backbone.py), but without a loop
    over images, without boolean indexing inside layers, and without logits nobody asked for.
    """

    def __init__(self, qwen: Qwen3VLForConditionalGeneration):
        super().__init__()
        self.qwen = qwen
        self._vision = VisionTower(qwen.model.visual)
        for module in qwen.model.language_model.modules():
            if type(module) is Qwen3VLTextAttention:
                swap_class(module, TextAttention)
            elif type(module) is Qwen3VLTextRMSNorm:
                swap_class(module, TextRMSNorm)

    @property
    def config(self) -> Qwen3VLConfig:
        """Transformers' configuration."""
        return self.qwen.config

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return self.config.text_config.hidden_size  # pyright: ignore

    def forward(self, batch: Batch) -> Float[Tensor, "sample token hidden"]:
        """Hidden states after the final RMSNorm; those at padding mean nothing."""
        embeddings, deepstack, positions = self.embed(batch.input_ids, batch.patches, batch.image_grid)
        return self.run_layers(
            embeddings,
            batch.position_ids,
            attention_mask=segment_mask(batch.segment_ids),
            deepstack=deepstack,
            image_positions=positions,
        )

    def embed(
        self,
        input_ids: Int[Tensor, "sample token"],
        patches: Float[Tensor, "patch patch_dim"],
        image_grid: Int[Tensor, "image 3"],
    ) -> tuple[Float[Tensor, "sample token hidden"], list[Tensor], Int[Tensor, "image_token"]]:
        """Text embeddings with the images' tokens in place, deepstack features, and where those belong.

        The vision tower always runs: a batch without images sends an empty patch through it with weight 0, so
        that every rank of a sharded model executes the same modules.
        """
        embeddings = self.qwen.model.language_model.embed_tokens(input_ids)
        weight = 1.0
        if len(image_grid) == 0:
            merge = self.merge_size
            image_grid = torch.tensor([[1, merge, merge]])
            patches = patches.new_zeros(merge**2, self.patch_dim)
            positions = torch.zeros(1, dtype=torch.long, device=input_ids.device)
            weight = 0.0
        else:
            positions = self.image_token_positions(input_ids, image_grid)
        tokens, deepstack = self._vision(patches, image_grid)
        if weight == 0.0:
            return (
                embeddings + weight * tokens.sum(),
                [weight * features for features in deepstack],
                positions,
            )
        flat = embeddings.flatten(0, 1)
        flat = flat.index_copy(0, positions, tokens.to(flat.dtype))
        return flat.view_as(embeddings), deepstack, positions

    def run_layers(
        self,
        embeddings: Float[Tensor, "sample token hidden"],
        position_ids: Int[Tensor, "3 sample token"],
        *,
        attention_mask: Bool[Tensor, "sample 1 token key"] | None,
        deepstack: list[Tensor],
        image_positions: Int[Tensor, "image_token"] | None,
        cache: Any = None,
    ) -> Float[Tensor, "sample token hidden"]:
        """The text model's layers and final norm.

        Args:
            embeddings: input of the first layer.
            position_ids: time, height and width of each token.
            attention_mask: True where a token may look; None means all earlier tokens.
            deepstack: added to the image tokens after the first layers, one per layer.
            image_positions: rows of the flattened (sample, token) that are image tokens.
            cache: keys and values, updated by each layer as transformers' caches are.
        """
        model = self.qwen.model.language_model
        rotary = model.rotary_emb(embeddings, position_ids)
        hidden = embeddings
        for index, layer in enumerate(model.layers):
            hidden = layer(
                hidden, position_embeddings=rotary, attention_mask=attention_mask, past_key_values=cache
            )
            if index < len(deepstack):
                flat = hidden.flatten(0, 1)
                flat = flat.index_add(0, image_positions, deepstack[index].to(flat.dtype))
                hidden = flat.view_as(hidden)
        return model.norm(hidden)

    def logits(self, hidden: Float[Tensor, "*token hidden"]) -> Float[Tensor, "*token vocabulary"]:
        """Scores of the next token."""
        return self.qwen.lm_head(hidden)

    def language_loss(
        self, hidden: Float[Tensor, "sample token hidden"], batch: Batch
    ) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Cross entropy summed over supervised tokens, and their number.

        The label at t + 1 is predicted at t; logits exist only there.
        """
        labels = batch.labels[:, 1:]
        # The first token of a packed segment is predicted by nothing.
        same_segment = batch.segment_ids[:, 1:] == batch.segment_ids[:, :-1]
        supervised = (labels != IGNORE_LABEL) & same_segment
        states, targets = hidden[:, :-1][supervised], labels[supervised]
        count = supervised.sum()
        size = max(1, _MAX_LOGITS // self.qwen.lm_head.out_features)
        if len(targets) <= size:
            return self._cross_entropy(states, targets), count
        total = hidden.new_zeros((), dtype=torch.float32)
        for states_chunk, targets_chunk in zip(states.split(size), targets.split(size), strict=True):
            loss = checkpoint(self._cross_entropy, states_chunk, targets_chunk, use_reentrant=False)
            total = total + loss  # pyright: ignore[reportOperatorIssue]
        return total, count

    def _cross_entropy(self, states: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(self.logits(states).float(), targets, reduction="sum")

    def image_tokens(
        self, hidden: Float[Tensor, "sample token hidden"], batch: Batch
    ) -> tuple[Float[Tensor, "image max_token hidden"], Bool[Tensor, "image max_token"]]:
        """Hidden states at the tokens of each image, right-padded with zeros, and which of them are real.

        A batch without images gives one row of one zero token, for the placeholder depth map to point at.
        """
        counts = self.image_token_counts(batch.image_grid)
        if not counts:
            tokens = hidden.new_zeros(1, 1, hidden.shape[-1]) + 0.0 * hidden.sum()
            return tokens, torch.ones(1, 1, dtype=torch.bool, device=hidden.device)
        flat = hidden.flatten(0, 1)[self.image_token_positions(batch.input_ids, batch.image_grid)]
        longest = max(counts)
        if min(counts) == longest:
            mask = torch.ones(len(counts), longest, dtype=torch.bool, device=hidden.device)
            return flat.view(len(counts), longest, -1), mask
        mask = torch.arange(longest)[None] < torch.tensor(counts)[:, None]
        places = mask.flatten().nonzero()[:, 0].to(hidden.device)
        padded = flat.new_zeros(len(counts) * longest, flat.shape[-1]).index_copy(0, places, flat)
        return padded.view(len(counts), longest, -1), mask.to(hidden.device)

    def image_token_counts(self, image_grid: Int[Tensor, "image 3"]) -> list[int]:
        """Number of tokens of each image."""
        return (image_grid.prod(dim=1) // self.merge_size**2).tolist()

    def image_token_positions(
        self, input_ids: Int[Tensor, "sample token"], image_grid: Int[Tensor, "image 3"]
    ) -> Int[Tensor, "image_token"]:
        """Rows of the flattened (sample, token) that hold image tokens, in order.

        Their number is read from the grid on the CPU, so an accelerator need not be waited for.
        """
        total = sum(self.image_token_counts(image_grid))
        is_image = (input_ids == self.config.image_token_id).flatten()
        if is_image.device.type == "cpu":
            return is_image.nonzero()[:, 0]
        return torch.argsort(is_image, descending=True, stable=True)[:total]

    @property
    def merge_size(self) -> int:
        """Patches per image token along each side."""
        return self.config.vision_config.spatial_merge_size  # pyright: ignore

    @property
    def patch_size(self) -> int:
        """Pixels along each side of a patch."""
        return self.config.vision_config.patch_size  # pyright: ignore

    @property
    def patch_dim(self) -> int:
        """Values of one flattened patch."""
        return self.qwen.model.visual.patch_embed.proj.weight[0].numel()


def segment_mask(segment_ids: Int[Tensor, "sample token"]) -> Bool[Tensor, "sample 1 token token"] | None:
    """True where a token may look: at itself and at earlier tokens of its own segment.

    None, which stands for plain causal attention and is much cheaper, when no row holds two segments:
    padding is on the right, where no real token looks.
    """
    first = segment_ids[:, :1]
    if bool(((segment_ids == first) | (segment_ids == 0)).all()):
        return None
    num_tokens = segment_ids.shape[1]
    causal = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=segment_ids.device).tril()
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    return same & causal
