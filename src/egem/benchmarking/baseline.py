"""The straightforward loop: what a first implementation of the joint step does with the same libraries.

One sample at a time through transformers' own forward (all logits, its own cross entropy) with the stock image
processor, chat template and Conv3d patch embedding, then its image through the stock Sana; gradients are
accumulated to the batch. Autocast, the optimizer and the turns of each sample are those of our step.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from egem.batch import IGNORE_LABEL
from egem.data.depth import encode, target_size
from egem.media import decode_depth
from egem.models.connector import Connector
from egem.models.flow_matching import TIME_SCALE
from egem.models.presets import Preset, build_codec
from egem.records import Record

DEPTH_WEIGHT = 0.5


class Baseline:
    """Untouched library classes of a preset's sizes with random weights, and their optimizer."""

    def __init__(self, preset: Preset, processor: Path, device: torch.device):
        with device:
            self.codec = build_codec(preset.depth_codec)
            self.qwen = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**preset.backbone)).train()
            self.sana = SanaTransformer2DModel(**preset.depth_head).train()
            self.connector = Connector(
                hidden_size=preset.backbone["text_config"]["hidden_size"],
                context_size=preset.depth_head["caption_channels"],
            )
        self.policy, self.device = preset.config.depth, device
        self.tokenizer: Any = AutoTokenizer.from_pretrained(processor)
        self.processor: Any = Qwen2VLImageProcessorPil.from_pretrained(processor)
        modules = (self.qwen, self.sana, self.connector)
        self.parameters = [parameter for module in modules for parameter in module.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4)

    def step(self, groups: Sequence[Sequence[Record]], dtype: torch.dtype) -> int:
        """One optimizer step on groups of records about one image each; returns how many tokens it saw."""
        tokens = 0
        for records in groups:
            loss, length = self._loss(records, dtype)
            (loss / len(groups)).backward()
            tokens += length
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return tokens

    def _loss(self, records: Sequence[Record], dtype: torch.dtype) -> tuple[Tensor, int]:
        image, depth = records[0].images[0].data, records[0].depths[0]
        assert image is not None
        assert depth is not None
        vision = self.processor(images=[Image.open(io.BytesIO(image)).convert("RGB")], return_tensors="pt")
        grid = vision["image_grid_thw"]
        ids = self._ids(records, int(grid.prod()) // self.processor.merge_size**2)
        labels = supervised_spans(ids[0], self.tokenizer)[None]
        height, width = (int(side) * self.processor.patch_size for side in grid[0, 1:])
        size = target_size(height, width, self.policy)
        encoded = encode(decode_depth(depth), size, self.policy, image_size=(height, width))
        latents = self.codec.encode(torch.from_numpy(encoded.pixels)[None].to(self.device))
        ids = ids.to(self.device)
        is_image = ids == self.qwen.config.image_token_id
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            out = self.qwen(
                input_ids=ids,
                labels=labels.to(self.device),
                pixel_values=vision["pixel_values"].to(self.device),
                image_grid_thw=grid.to(self.device),
                mm_token_type_ids=is_image.int(),
                output_hidden_states=True,
            )
            condition = self.connector(out.hidden_states[-1][is_image][None])
            time, noise = torch.rand(1, device=self.device), torch.randn_like(latents)
            velocity = self.sana(
                hidden_states=(1 - time) * latents + time * noise,
                encoder_hidden_states=condition,
                timestep=TIME_SCALE * time,
            ).sample
        flow = (velocity.float() - (noise - latents)).square().mean()
        return out.loss + DEPTH_WEIGHT * flow, ids.shape[1]

    def _ids(self, records: Sequence[Record], num_image_tokens: int) -> Tensor:
        messages = [{"role": m.role, "content": m.content} for record in records for m in record.messages]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False)
        pads = "<|vision_start|>" + "<|image_pad|>" * num_image_tokens + "<|vision_end|>"
        text = text.replace("<image>", pads, 1).replace("<image>", "").replace("user\n\n", "user\n")
        return self.tokenizer(text, return_tensors="pt").input_ids


def supervised_spans(ids: Tensor, tokenizer: Any) -> Tensor:
    """Labels by scanning for the assistant's header, as first implementations do."""
    labels = torch.full_like(ids, IGNORE_LABEL)
    header = tokenizer("<|im_start|>assistant\n").input_ids
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    values, place = ids.tolist(), 0
    while place < len(values):
        if values[place : place + len(header)] == header:
            place += len(header)
            while place < len(values):
                labels[place] = values[place]
                if values[place] == end:
                    break
                place += 1
        place += 1
    return labels
