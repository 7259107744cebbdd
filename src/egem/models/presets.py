"""The three sizes of GEM, and of an action expert for each: the same classes, other numbers."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from egem.core.errors import ConfigError, unknown_name
from egem.data.depth import DepthPolicy
from egem.models.action_expert import even_layers
from egem.models.backbone import Backbone
from egem.models.config import ActionExpertConfig, GEMConfig
from egem.models.connector import Connector
from egem.models.depth_codec import DCAECodec, DepthCodec, PixelCodec, PixelCodecConfig
from egem.models.depth_head import DepthHead, initialize_depth_head
from egem.models.gem import GEM
from egem.models.tokenizer import VOCABULARY_SIZE, processor_files, special_id


@dataclass(frozen=True, kw_only=True)
class ExpertSizes:
    """What of an action expert does not depend on the robot; see `ActionExpertConfig`."""

    hidden_size: int
    num_blocks: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    num_registers: int


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything that decides a model's sizes."""

    config: GEMConfig
    backbone: dict[str, Any]
    """Arguments of transformers' Qwen3VLConfig."""
    depth_head: dict[str, Any]
    """Arguments of diffusers' SanaTransformer2DModel."""
    depth_codec: PixelCodecConfig | dict[str, Any]
    """`PixelCodec`, or the arguments of diffusers' AutoencoderDC."""
    action_expert: ExpertSizes
    """Of an expert for GEM-VLA."""
    stop_ids: tuple[int, ...]
    """Tokens that end an answer."""
    has_processor_files: bool = False
    """Whether tokenizer and processor files ship with the package (the others' come from the hub)."""


def _qwen(
    *,
    hidden_size: int,
    intermediate_size: int,
    num_layers: int,
    num_heads: int,
    tied: bool,
    vision: dict[str, Any],
) -> dict[str, Any]:
    """What Qwen/Qwen3-VL-{2B,8B}-Instruct's config.json say."""
    return {
        "text_config": {
            "vocab_size": 151936,
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": num_heads,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262144,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5_000_000.0,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
            "bos_token_id": 151643,
            "eos_token_id": 151645,
            "tie_word_embeddings": tied,
        },
        "vision_config": {
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_heads": 16,
            "num_position_embeddings": 2304,
            "out_hidden_size": hidden_size,
            **vision,
        },
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "tie_word_embeddings": tied,
    }


_SANA_1_5 = {
    "in_channels": 32,
    "out_channels": 32,
    "num_attention_heads": 70,
    "attention_head_dim": 32,
    "num_layers": 20,
    "num_cross_attention_heads": 20,
    "cross_attention_head_dim": 112,
    "cross_attention_dim": 2240,
    "caption_channels": 2304,
    "mlp_ratio": 2.5,
    "patch_size": 1,
    "sample_size": 32,
    "qk_norm": "rms_norm_across_heads",
}
"""Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers, transformer."""

_DC_AE_F32C32 = {
    "latent_channels": 32,
    "attention_head_dim": 32,
    "encoder_block_types": ("ResBlock", "ResBlock", "ResBlock", *("EfficientViTBlock",) * 3),
    "decoder_block_types": ("ResBlock", "ResBlock", "ResBlock", *("EfficientViTBlock",) * 3),
    "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "downsample_block_type": "conv",
    "upsample_block_type": "interpolate",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
    "scaling_factor": 0.41407,
}
"""The f32c32 autoencoder of the Sana family, vae."""

_RDT2 = ExpertSizes(
    hidden_size=1024, num_blocks=14, num_heads=8, num_kv_heads=4, intermediate_size=2816, num_registers=4
)
"""The released GEM-VLA's expert, 490 M parameters."""

_RELEASED_DEPTH = DepthPolicy(encoding="spectral", long_side=448, multiple=32)

TINY = Preset(
    config=GEMConfig(
        preset="tiny",
        depth=DepthPolicy(encoding="log", near_m=0.05, far_m=10.0, long_side=24, multiple=4),
        codec="pixel",
        guidance=1.0,
        sampling_steps=4,
        time_shift=40.0,
    ),
    backbone={
        "text_config": {
            "vocab_size": VOCABULARY_SIZE,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            # 0.02 is meant for widths in the thousands; a narrow model then barely listens to its first layers.
            "initializer_range": 0.1,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "eos_token_id": special_id("<|im_end|>"),
            "tie_word_embeddings": True,
        },
        "vision_config": {
            "depth": 6,
            "initializer_range": 0.1,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 3,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 1,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [1, 3],
            "out_hidden_size": 128,
        },
        "image_token_id": special_id("<|image_pad|>"),
        "video_token_id": special_id("<|video_pad|>"),
        "vision_start_token_id": special_id("<|vision_start|>"),
        "vision_end_token_id": special_id("<|vision_end|>"),
        "tie_word_embeddings": True,
    },
    depth_head={
        "in_channels": 16,
        "out_channels": 16,
        "num_attention_heads": 4,
        "attention_head_dim": 32,
        "num_layers": 4,
        "num_cross_attention_heads": 4,
        "cross_attention_head_dim": 32,
        "cross_attention_dim": 128,
        "caption_channels": 128,
        "mlp_ratio": 2.5,
        "patch_size": 1,
        "sample_size": 6,
        # Trained from scratch, the head cannot wait for its convolutions to tell where a latent lies.
        "interpolation_scale": 1.0,
        "qk_norm": "rms_norm_across_heads",
    },
    depth_codec=PixelCodecConfig(channels=1, factor=4, scale=3.7, shift=-0.13),
    action_expert=ExpertSizes(
        hidden_size=128, num_blocks=4, num_heads=4, num_kv_heads=2, intermediate_size=384, num_registers=2
    ),
    stop_ids=(special_id("<|im_end|>"), special_id("<|endoftext|>")),
    has_processor_files=True,
)

PRESETS: dict[str, Preset] = {
    "tiny": TINY,
    "gem-2b": Preset(
        config=GEMConfig(preset="gem-2b", depth=_RELEASED_DEPTH, codec="dc-ae"),
        backbone=_qwen(
            hidden_size=2048,
            intermediate_size=6144,
            num_layers=28,
            num_heads=16,
            tied=True,
            vision={
                "depth": 24,
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "deepstack_visual_indexes": [5, 11, 17],
            },
        ),
        depth_head=_SANA_1_5,
        depth_codec=_DC_AE_F32C32,
        action_expert=_RDT2,
        stop_ids=(151645, 151643),
    ),
    "gem-8b": Preset(
        config=GEMConfig(preset="gem-8b", depth=_RELEASED_DEPTH, codec="dc-ae"),
        backbone=_qwen(
            hidden_size=4096,
            intermediate_size=12288,
            num_layers=36,
            num_heads=32,
            tied=False,
            vision={
                "depth": 27,
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "deepstack_visual_indexes": [8, 16, 24],
            },
        ),
        depth_head=_SANA_1_5,
        depth_codec=_DC_AE_F32C32,
        action_expert=_RDT2,
        stop_ids=(151645, 151643),
    ),
}


def build(preset: str | Preset, *, seed: int = 0, device: torch.device | str = "cpu") -> GEM:
    """A model of a preset's sizes with random weights.

    Args:
        preset: a name in `PRESETS`, or sizes of one's own.
        seed: of the weights; torch's global generator is left as it was.
        device: "meta" builds without memory, to count parameters.

    Raises:
        ConfigError: no preset has that name.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise unknown_name("preset", preset, PRESETS)
        preset = PRESETS[preset]
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        qwen = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**preset.backbone))
        qwen.generation_config = GenerationConfig(
            eos_token_id=list(preset.stop_ids), pad_token_id=preset.stop_ids[-1], do_sample=False
        )
        sana = SanaTransformer2DModel(**preset.depth_head)
        initialize_depth_head(sana)
        backbone = Backbone(qwen.eval())
        return GEM(
            preset.config,
            backbone=backbone,
            connector=Connector(
                hidden_size=backbone.hidden_size, context_size=preset.depth_head["caption_channels"]
            ),
            depth_head=DepthHead(sana),
            depth_codec=build_codec(preset.depth_codec),
            processor_files=processor_files() if preset.has_processor_files else {},
        ).train()


def expert_config(
    gem: GEM,
    *,
    action_dim: int,
    state_dim: int,
    horizon: int,
    conditioning: Literal["keys_values", "hidden_states"] = "keys_values",
) -> ActionExpertConfig:
    """A new action expert for a model, of its preset's size.

    Blocks are spread evenly over the backbone (`even_layers`): they look at the attention of those layers, or at what
    those layers put out.

    Args:
        gem: what it is to look at.
        action_dim: numbers in an action.
        state_dim: numbers in the proprioceptive state.
        horizon: actions in a chunk.
        conditioning: see `ActionExpertConfig`.

    Raises:
        ConfigError: the model is of no preset.
    """
    if gem.config.preset not in PRESETS:
        raise ConfigError(
            f"the model's preset is '{gem.config.preset}', which has no size for an action expert; give an "
            f"ActionExpertConfig, or take a model of {', '.join(PRESETS)}."
        )
    sizes, text = PRESETS[gem.config.preset].action_expert, gem.backbone.config.text_config
    layers = even_layers(sizes.num_blocks, text.num_hidden_layers)  # pyright: ignore
    return ActionExpertConfig(
        action_dim=action_dim,
        state_dim=state_dim,
        horizon=horizon,
        hidden_size=sizes.hidden_size,
        num_heads=sizes.num_heads,
        num_kv_heads=sizes.num_kv_heads,
        intermediate_size=sizes.intermediate_size,
        num_registers=sizes.num_registers,
        conditioning=conditioning,
        layers=layers if conditioning == "keys_values" else tuple(layer + 1 for layer in layers),
        condition_size=text.hidden_size,  # pyright: ignore
        condition_heads=text.num_key_value_heads,  # pyright: ignore
        condition_head_dim=text.head_dim,  # pyright: ignore
    )


def build_codec(sizes: PixelCodecConfig | dict[str, Any]) -> DepthCodec:
    """The codec of a preset's `depth_codec`, with random weights if it has any."""
    if isinstance(sizes, PixelCodecConfig):
        return PixelCodec(sizes)
    return DCAECodec(AutoencoderDC(**sizes))
