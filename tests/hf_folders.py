"""Tiny random checkpoints in the layouts of transformers and diffusers, written by those libraries alone.

Their sizes fit each other: a backbone 32 wide, a Sana for contexts of 24 and 4 latent channels, and an
autoencoder that compresses 32 times, as the released one does.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderDC, SanaTransformer2DModel
from tests import tiny
from torch import nn
from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from egem.models.tokenizer import processor_files

SMALL_SHARDS = "60KB"


def scramble(module: nn.Module, *, seed: int) -> None:
    """Give every tensor another size, as training does: fresh weights are recognised by theirs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                factor = 0.7 + 0.8 * torch.rand((), generator=generator)
                value.mul_(factor).add_(0.02 * torch.randn(value.shape, generator=generator))


def write_backbone(
    folder: Path,
    *,
    tied: bool = True,
    sharded: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Path:
    """A Qwen3-VL with tokenizer, processor and generation settings."""
    torch.manual_seed(seed)
    sizes = tiny.micro_preset().backbone
    text = sizes["text_config"] | {"tie_word_embeddings": tied}
    qwen = Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(**sizes | {"text_config": text, "tie_word_embeddings": tied})
    )
    scramble(qwen, seed=seed)
    qwen.generation_config = GenerationConfig(eos_token_id=[tiny.IM_END], do_sample=False)
    qwen.to(dtype).save_pretrained(folder, max_shard_size=SMALL_SHARDS if sharded else "5GB")
    for name, content in processor_files().items():
        (folder / name).write_bytes(content)
    return folder


def write_pipeline(
    folder: Path, *, sharded: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Path:
    """A Sana pipeline's `transformer/`, `vae/` and `scheduler/`, without the text encoder."""
    torch.manual_seed(seed)
    size = SMALL_SHARDS if sharded else "5GB"
    sana, vae = SanaTransformer2DModel(**sana_sizes()), AutoencoderDC(**vae_sizes())
    for module, name in ((sana, "transformer"), (vae, "vae")):
        scramble(module, seed=seed + 1)
        module.to(dtype).save_pretrained(folder / name, max_shard_size=size)
    (folder / "scheduler").mkdir()
    scheduler = {"_class_name": "DPMSolverMultistepScheduler", "flow_shift": 3.0, "use_flow_sigmas": True}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "SanaPipeline"}))
    return folder


def sana_sizes() -> dict:
    """Arguments of SanaTransformer2DModel: as SANA1.5, without positions."""
    return tiny.micro_preset("dc-ae").depth_head | {"interpolation_scale": None}


def vae_sizes() -> dict:
    """Arguments of AutoencoderDC: six stages, as f32c32."""
    return {
        "in_channels": 3,
        "latent_channels": 4,
        "attention_head_dim": 2,
        "encoder_block_types": ("ResBlock",) * 5 + ("EfficientViTBlock",),
        "decoder_block_types": ("ResBlock",) * 5 + ("EfficientViTBlock",),
        "encoder_block_out_channels": (4, 4, 8, 8, 8, 8),
        "decoder_block_out_channels": (4, 4, 8, 8, 8, 8),
        "encoder_layers_per_block": (1,) * 6,
        "decoder_layers_per_block": (1,) * 6,
        "encoder_qkv_multiscales": ((),) * 5 + ((5,),),
        "decoder_qkv_multiscales": ((),) * 5 + ((5,),),
        "downsample_block_type": "conv",
        "upsample_block_type": "interpolate",
        "decoder_norm_types": "rms_norm",
        "decoder_act_fns": "silu",
        "scaling_factor": 0.41407,
    }
