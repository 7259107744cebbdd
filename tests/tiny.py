"""Random checkpoints in the real on-disk formats, and random samples and batches, for every test.

`micro_preset` is smaller than the shipped `tiny` preset: a checkpoint is written in well under a second.
Nothing here uses `egem.data`'s own preparation: `positions` is a second implementation of Qwen's rule.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from egem.batch import IGNORE_LABEL, Batch, DepthMap, DepthTargets, Sample
from egem.data.depth import DepthPolicy
from egem.models.config import GEMConfig
from egem.models.gem import GEM
from egem.models.presets import PRESETS, Preset, build
from egem.models.tokenizer import VOCABULARY_SIZE, special_id

IMAGE_PAD = special_id("<|image_pad|>")
VISION_START = special_id("<|vision_start|>")
VISION_END = special_id("<|vision_end|>")
IM_END = special_id("<|im_end|>")
PATCH, MERGE = 8, 2
PATCH_DIM = 3 * PATCH**2


def micro_preset(codec: Literal["pixel", "dc-ae"] = "pixel") -> Preset:
    """The `tiny` preset's tokenizer and image format with about 0.2 M parameters.

    Args:
        codec: "pixel" with `log` depth (1 channel, factor 8), or "dc-ae": a random autoencoder of
            factor 4 with `spectral` depth (3 channels, 4 latent channels).
    """
    tiny = PRESETS["tiny"]
    text = tiny.backbone["text_config"] | {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rope_parameters": tiny.backbone["text_config"]["rope_parameters"] | {"mrope_section": [4, 2, 2]},
    }
    vision = tiny.backbone["vision_config"] | {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 32,
        "deepstack_visual_indexes": [0, 1],
    }
    head = tiny.depth_head | {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 16,
        "cross_attention_dim": 32,
        "caption_channels": 24,
    }
    preset = replace(
        tiny,
        backbone=tiny.backbone | {"text_config": text, "vision_config": vision},
        depth_head=head,
        config=replace(tiny.config, depth=replace(tiny.config.depth, long_side=32), sampling_steps=2),
    )
    if codec == "pixel":
        return preset
    return replace(
        preset,
        config=GEMConfig(
            preset="tiny",
            depth=DepthPolicy(encoding="spectral", long_side=32, multiple=4),
            codec="dc-ae",
            guidance=2.0,
            sampling_steps=2,
        ),
        depth_head=head | {"in_channels": 4, "out_channels": 4},
        depth_codec={
            "in_channels": 3,
            "latent_channels": 4,
            "attention_head_dim": 2,
            "encoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
            "decoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
            "encoder_block_out_channels": (4, 8, 8),
            "decoder_block_out_channels": (4, 8, 8),
            "encoder_layers_per_block": (1, 1, 1),
            "decoder_layers_per_block": (1, 1, 1),
            "encoder_qkv_multiscales": ((), (), (5,)),
            "decoder_qkv_multiscales": ((), (), (5,)),
            "downsample_block_type": "conv",
            "upsample_block_type": "interpolate",
            "decoder_norm_types": "rms_norm",
            "decoder_act_fns": "silu",
            "scaling_factor": 0.5,
        },
    )


def build_micro(codec: Literal["pixel", "dc-ae"] = "pixel", *, seed: int = 0) -> GEM:
    """A micro model in training mode."""
    return build(micro_preset(codec), seed=seed)


def write_checkpoint(folder: Path, codec: Literal["pixel", "dc-ae"] = "pixel", *, seed: int = 0) -> Path:
    """Write a complete micro checkpoint folder, tokenizer and processor files included."""
    build_micro(codec, seed=seed).save_pretrained(folder)
    return folder


def positions(input_ids: Tensor, image_grid: Tensor) -> Tensor:
    """Qwen3-VL's positions (3, token): text counts on; an image's tokens share the time and span its grid."""
    result = torch.zeros(3, len(input_ids), dtype=torch.long)
    grids = iter(image_grid.tolist())
    token, next_position = 0, 0
    while token < len(input_ids):
        if input_ids[token] != IMAGE_PAD:
            result[:, token] = next_position
            token, next_position = token + 1, next_position + 1
            continue
        _, rows, columns = next(grids)
        rows, columns = rows // MERGE, columns // MERGE
        for row in range(rows):
            for column in range(columns):
                place = (next_position, next_position + row, next_position + column)
                result[:, token] = torch.tensor(place)
                token += 1
        next_position += max(rows, columns)
    return result


def random_sample(
    *,
    seed: int = 0,
    image_sizes: Sequence[tuple[int, int]] = ((32, 32),),
    depth_sizes: Sequence[tuple[int, int] | None] | None = None,
    num_turns: int = 2,
    prompt_only: bool = False,
    channels: int = 1,
) -> Sample:
    """Random ids, patches and depth.

    Args:
        seed: of everything.
        image_sizes: (height, width) in pixels, multiples of 16.
        depth_sizes: (height, width) of each image's depth map or None; None altogether: 32 x 32 each.
        num_turns: of 3 to 6 question tokens and 2 to 4 supervised answer tokens.
        prompt_only: end with a question instead of an answer, nothing supervised.
        channels: of the depth maps.
    """
    generator = torch.Generator().manual_seed(seed)

    def words(low: int, high: int) -> list[int]:
        count = int(torch.randint(low, high + 1, (), generator=generator))
        return torch.randint(0, VOCABULARY_SIZE - 20, (count,), generator=generator).tolist()

    grid = torch.tensor([[1, height // PATCH, width // PATCH] for height, width in image_sizes])
    grid = grid.view(-1, 3).long()
    ids: list[int] = []
    labels: list[int] = []
    for _, rows, columns in grid.tolist():
        ids += [VISION_START, *[IMAGE_PAD] * (rows * columns // MERGE**2), VISION_END]
    labels += [IGNORE_LABEL] * len(ids)
    for turn in range(num_turns):
        question = words(3, 6)
        answer = [] if prompt_only and turn == num_turns - 1 else [*words(1, 3), IM_END]
        ids += question + answer
        labels += [IGNORE_LABEL] * len(question) + ([IGNORE_LABEL] * len(answer) if prompt_only else answer)
    input_ids = torch.tensor(ids)
    if depth_sizes is None:
        depth_sizes = [(32, 32)] * len(image_sizes)
    maps = tuple(
        DepthMap(
            image_index=index,
            pixels=torch.rand(channels, *size, generator=generator) * 2 - 1,
            valid=torch.rand(size, generator=generator) < 0.8,
        )
        for index, size in enumerate(depth_sizes)
        if size is not None
    )
    return Sample(
        record_ids=(f"random/{seed}",),
        input_ids=input_ids,
        labels=torch.tensor(labels),
        position_ids=positions(input_ids, grid),
        patches=torch.randn(int(grid.prod(dim=1).sum()), PATCH_DIM, generator=generator),
        image_grid=grid,
        depth_maps=() if prompt_only else maps,
    )


def batch_of(samples: Sequence[Sample], *, channels: int = 1) -> Batch:
    """Right-padded, depth grouped by size in order of appearance; a placeholder map where there is none."""
    longest = max(len(sample.input_ids) for sample in samples)

    def padded(values: Tensor, fill: int) -> Tensor:
        return torch.nn.functional.pad(values, (0, longest - values.shape[-1]), value=fill)

    groups: dict[tuple[int, ...], list[tuple[DepthMap, int]]] = {}
    first_image = 0
    for sample in samples:
        for depth_map in sample.depth_maps:
            place = first_image + depth_map.image_index
            groups.setdefault(tuple(depth_map.valid.shape), []).append((depth_map, place))
        first_image += len(sample.image_grid)
    depth = tuple(
        DepthTargets(
            pixels=torch.stack([m.pixels for m, _ in maps]),
            valid=torch.stack([m.valid for m, _ in maps]),
            image_index=torch.tensor([place for _, place in maps]),
            weight=torch.ones(len(maps)),
        )
        for maps in groups.values()
    )
    placeholder = DepthTargets(
        pixels=torch.zeros(1, channels, 32, 32),
        valid=torch.zeros(1, 32, 32, dtype=torch.bool),
        image_index=torch.zeros(1, dtype=torch.long),
        weight=torch.zeros(1),
    )
    return Batch(
        record_ids=tuple(id for sample in samples for id in sample.record_ids),
        input_ids=torch.stack([padded(s.input_ids, 0) for s in samples]),
        labels=torch.stack([padded(s.labels, IGNORE_LABEL) for s in samples]),
        position_ids=torch.stack([padded(s.position_ids, 0) for s in samples], dim=1),
        segment_ids=torch.stack([padded(torch.ones_like(s.input_ids), 0) for s in samples]),
        patches=torch.cat([s.patches for s in samples]),
        image_grid=torch.cat([s.image_grid for s in samples]),
        depth=depth or (placeholder,),
    )


def random_batch(
    num_samples: int = 2,
    *,
    seed: int = 0,
    image_sizes: Sequence[tuple[int, int]] = ((32, 32),),
    depth_sizes: Sequence[tuple[int, int] | None] | None = None,
    channels: int = 1,
) -> Batch:
    """`batch_of` that many `random_sample`s of consecutive seeds."""
    samples = [
        random_sample(seed=seed + n, image_sizes=image_sizes, depth_sizes=depth_sizes, channels=channels)
        for n in range(num_samples)
    ]
    return batch_of(samples, channels=channels)
