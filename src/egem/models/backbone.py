"""Transformers' Qwen3-VL, called so that nothing is computed that is not needed.

Enters: a `Batch`. Leaves: hidden states after the final RMSNorm, from which logits are taken only where a
label stands, and the image tokens of each image, which are the depth head's condition. Padding is dropped
before the first layer and every sequence attends to itself alone, however the batch is laid out.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextAttention, Qwen3VLTextRMSNorm

from egem.batch import IGNORE_LABEL, Batch, to_device
from egem.models.attention import TextAttention, TextRMSNorm
from egem.models.blocks import Checkpointing, run_block
from egem.models.cross_entropy import linear_cross_entropy
from egem.models.key_values import HiddenStateTap, KeyValueTap
from egem.models.segments import Segments, real_tokens, segments_of
from egem.models.swap import swap_class
from egem.models.vision import VisionTower


class Backbone(nn.Module):
    """A plain `Qwen3VLForConditionalGeneration` under the name `qwen`, run by our own forward pass.

    Equal to transformers' forward on the same tokens (see tests/parity/test_backbone.py), but without a loop
    over images, without boolean indexing inside layers, and without logits nobody asked for.
    """

    def __init__(self, qwen: Qwen3VLForConditionalGeneration):
        super().__init__()
        self.qwen = qwen
        self.checkpointing: Checkpointing = "none"
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

    def forward(
        self,
        batch: Batch,
        *,
        keys_values: KeyValueTap | None = None,
        hidden_states: HiddenStateTap | None = None,
    ) -> Float[Tensor, "sample token hidden"]:
        """Hidden states after the final RMSNorm, 0 at padding.

        Args:
            batch: in any layout.
            keys_values: keeps keys and values of its layers for all real tokens, one sequence after another in a
                single row.
            hidden_states: likewise the residual stream at its depths.
        """
        shape, device = batch.input_ids.shape, batch.input_ids.device
        ids, positions = batch.input_ids.flatten(), batch.position_ids.flatten(1)
        real = real_tokens(batch.segment_ids.cpu())
        if real is not None:
            real = to_device(real, device)
            ids, positions = ids[real], positions[:, real]
        embeddings, deepstack, image_positions = self.embed(ids[None], batch.pixel_values(), batch.image_grid)
        hidden = self.run_layers(
            embeddings,
            positions[:, None],
            segments=segments_of(batch.segment_ids.cpu(), device),
            deepstack=deepstack,
            image_positions=image_positions,
            cache=keys_values,
            hidden_states=hidden_states,
        )[0]
        if real is not None:
            hidden = hidden.new_zeros(shape.numel(), hidden.shape[-1]).index_copy(0, real, hidden)
        return hidden.view(*shape, -1)

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
        tokens, deepstack = self._vision(patches, image_grid, checkpointing=self.checkpointing)
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
        deepstack: list[Tensor],
        image_positions: Int[Tensor, "image_token"] | None,
        segments: Segments | None = None,
        attention_mask: Bool[Tensor, "sample 1 token key"] | None = None,
        cache: Any = None,
        hidden_states: HiddenStateTap | None = None,
    ) -> Float[Tensor, "sample token hidden"]:
        """The text model's layers and final norm.

        Args:
            embeddings: input of the first layer.
            position_ids: time, height and width of each token.
            deepstack: added to the image tokens after the first layers, one per layer.
            image_positions: rows of the flattened (sample, token) that are image tokens.
            segments: sequences that are packed into the one row there is then; no mask with them.
            attention_mask: True where a token may look; None means all earlier tokens.
            cache: keys and values, updated by each layer as transformers' caches are; with segments only a
                `KeyValueTap`.
            hidden_states: told the residual stream before each layer and after the last.
        """
        model = self.qwen.model.language_model
        rotary = model.rotary_emb(embeddings, position_ids)
        hidden = embeddings
        for index, layer in enumerate(model.layers):
            if hidden_states is not None:
                hidden_states.keep(index, hidden)
            hidden = run_block(
                self.checkpointing,
                layer,
                hidden,
                position_embeddings=rotary,
                attention_mask=attention_mask,
                past_key_values=cache,
                segments=segments,
            )
            if index < len(deepstack):
                assert image_positions is not None
                flat = hidden.flatten(0, 1)
                flat = flat.index_add(0, image_positions, deepstack[index].to(flat.dtype))
                hidden = flat.view_as(hidden)
        if hidden_states is not None:
            hidden_states.keep(len(model.layers), hidden)
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
        places, targets = supervised_targets(batch)
        count = hidden.new_full((), len(targets), dtype=torch.long)
        states = hidden.flatten(0, 1)[to_device(places, hidden.device)]
        total = linear_cross_entropy(states, self.qwen.lm_head.weight, to_device(targets, hidden.device))
        return total, count

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
        places = to_device(mask.flatten().nonzero()[:, 0], hidden.device)
        padded = flat.new_zeros(len(counts) * longest, flat.shape[-1]).index_copy(0, places, flat)
        return padded.view(len(counts), longest, -1), to_device(mask, hidden.device)

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


def supervised_targets(batch: Batch) -> tuple[Int[Tensor, "target"], Int[Tensor, "target"]]:
    """Rows of the flattened (sample, token) that predict a supervised token, and that token; on the CPU.

    The first token of a segment is predicted by nothing.
    """
    labels, segment_ids = batch.labels.cpu(), batch.segment_ids.cpu()
    supervised = torch.zeros_like(labels, dtype=torch.bool)
    supervised[:, :-1] = (labels[:, 1:] != IGNORE_LABEL) & (segment_ids[:, 1:] == segment_ids[:, :-1])
    places = supervised.flatten().nonzero()[:, 0]
    return places, labels.flatten()[places + 1]
