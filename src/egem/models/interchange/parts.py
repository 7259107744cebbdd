"""What every layout is taken apart into: a backbone, a connector, a depth head, a depth codec."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from torch import nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from egem.core.config import from_dict
from egem.core.errors import CheckpointError, ConfigError
from egem.data.depth import DepthPolicy
from egem.models.backbone import Backbone
from egem.models.config import GEMConfig
from egem.models.connector import Connector
from egem.models.depth_codec import DCAECodec, DepthCodec, PixelCodec, PixelCodecConfig
from egem.models.depth_head import DepthHead
from egem.models.gem import GEM
from egem.models.interchange.tensors import Shape, TensorTable, require_shapes
from egem.models.presets import PRESETS, build

CUSTOM = "custom"
"""Stands in `GEMConfig.preset` for sizes that are no preset's."""

_LONG_SIDE, _MULTIPLE = 448, 32
"""Of the released GEM-2B's depth maps."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One module as it lies on disk."""

    where: str
    """For messages: the folder or file it came from."""
    config: dict[str, Any]
    """Content of its config.json, in its library's own format."""
    tensors: TensorTable
    files: dict[str, bytes] = field(default_factory=dict)
    """Backbone only: tokenizer, processor and generation files by name."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A whole checkpoint, not yet read into memory."""

    backbone: Part
    connector: Part
    """Its config is empty: both widths are the neighbours'."""
    depth_head: Part
    depth_codec: Part


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A configuration file of another library.

    Args:
        path: the file.
        what: was expected in its folder, for the message.

    Raises:
        CheckpointError: it does not exist or is no JSON object.
    """
    try:
        values = json.loads(path.read_text())
    except OSError:
        raise CheckpointError(
            f"{path.parent} holds no {path.name}; {what} was expected there. Check the path."
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); copy it again.") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is no JSON object; copy it again.")
    return values


def skeleton(parts: Parts, config: GEMConfig | None = None) -> GEM:
    """The model on the meta device, once every stored tensor is known to be one of its own.

    Args:
        parts: all of them.
        config: None derives it from the sizes, see `config_by_sizes`.

    Raises:
        CheckpointError: a part is of another architecture, its tensors are not those its configuration asks
            for (missing, unknown and mis-shaped ones are named), or the parts do not fit together.
    """
    backbone = Backbone(backbone_skeleton(parts.backbone))
    sana = depth_head_skeleton(parts.depth_head)
    codec = depth_codec_skeleton(parts.depth_codec)
    with torch.device("meta"):
        connector = Connector(hidden_size=backbone.hidden_size, context_size=sana.config["caption_channels"])
    require_shapes(parts.backbone.where, parts.backbone.tensors, backbone_shapes(backbone.qwen))
    require_shapes(parts.depth_head.where, parts.depth_head.tensors, shapes(sana))
    autoencoder = shapes(codec.autoencoder) if isinstance(codec, DCAECodec) else {}
    require_shapes(parts.depth_codec.where, parts.depth_codec.tensors, autoencoder)
    require_shapes(parts.connector.where, parts.connector.tensors, shapes(connector))
    try:
        model = GEM(
            config_by_sizes(codec) if config is None else config,
            backbone=backbone,
            connector=connector,
            depth_head=DepthHead(sana),
            depth_codec=codec,
        )
    except ConfigError as error:
        sources = (parts.backbone, parts.depth_head, parts.depth_codec)
        raise CheckpointError(f"{', '.join(part.where for part in sources)}: {error}") from error
    if config is None:
        model.config = config_by_sizes(codec, preset=preset_of(model))
    return model


def backbone_skeleton(part: Part) -> Qwen3VLForConditionalGeneration:
    """Transformers' model on the meta device.

    Raises:
        CheckpointError: not a dense Qwen3-VL, or quantised.
    """
    kind = part.config.get("model_type")
    if kind != "qwen3_vl":
        raise CheckpointError(f"{part.where} is {_article(kind)} model, not a Qwen3-VL.{_why_not(kind)}")
    if "quantization_config" in part.config:
        raise CheckpointError(
            f"{part.where} is quantised, which cannot be trained; use the bfloat16 weights instead."
        )
    return _built(part, lambda: Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_dict(part.config)))


def depth_head_skeleton(part: Part) -> SanaTransformer2DModel:
    """Diffusers' model on the meta device.

    Raises:
        CheckpointError: not a Sana, or one that wants more than time and context.
    """
    require_class(part, "SanaTransformer2DModel", "--depth-head")
    sana = _built(part, lambda: SanaTransformer2DModel.from_config(dict(part.config)))
    if sana.config["guidance_embeds"]:
        raise CheckpointError(
            f"{part.where} is a guidance-distilled Sana (Sprint), which cannot be trained by flow matching; "
            "use SANA1.5 or Sana."
        )
    if sana.config["in_channels"] != (sana.config["out_channels"] or sana.config["in_channels"]):
        raise CheckpointError(
            f"{part.where} gives {sana.config['out_channels']} channels for {sana.config['in_channels']}; "
            "a depth head must give as many as it takes."
        )
    return sana


def depth_codec_skeleton(part: Part) -> DepthCodec:
    """The codec; an autoencoder is on the meta device.

    Raises:
        CheckpointError: not an AutoencoderDC (nor the pixel codec of a GEM checkpoint).
    """
    if "_class_name" not in part.config and "factor" in part.config:
        try:
            return PixelCodec(from_dict(PixelCodecConfig, part.config, part.where))
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
    require_class(part, "AutoencoderDC", "--codec")
    return DCAECodec(_built(part, lambda: AutoencoderDC.from_config(dict(part.config))))


def require_class(part: Part, expected: str, option: str) -> None:
    """A diffusers part must be of this class; `option` names it on the command line.

    Raises:
        CheckpointError: it is of another one.
    """
    kind = part.config.get("_class_name")
    if kind != expected:
        raise CheckpointError(
            f"{part.where} is {_article(kind)} model, not diffusers' {expected}; give {option} one of those."
        )


def shapes(module: nn.Module) -> dict[str, Shape]:
    """Name and shape of every stored tensor of a module."""
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def backbone_shapes(qwen: Qwen3VLForConditionalGeneration) -> dict[str, Shape]:
    """`shapes` without the head of tied embeddings, which is not stored."""
    expected = shapes(qwen)
    if is_tied(qwen):
        del expected["lm_head.weight"]
    return expected


def is_tied(qwen: Qwen3VLForConditionalGeneration) -> bool:
    """Whether the output head is the embedding itself."""
    return qwen.lm_head.weight is qwen.model.language_model.embed_tokens.weight


def config_by_sizes(codec: DepthCodec, preset: str = CUSTOM) -> GEMConfig:
    """The released model's configuration, for a codec with any compression; a preset's where sizes are its.

    Args:
        codec: between encoded depth and latents.
        preset: see `preset_of`.
    """
    if preset in PRESETS:
        return PRESETS[preset].config
    multiple = _MULTIPLE if _MULTIPLE % codec.factor == 0 else codec.factor
    encoding = "spectral" if codec.channels == 3 else "inverse"
    return GEMConfig(
        preset=CUSTOM,
        depth=DepthPolicy(encoding=encoding, long_side=max(_LONG_SIDE, multiple), multiple=multiple),
        codec="pixel" if isinstance(codec, PixelCodec) else "dc-ae",
    )


def preset_of(model: GEM) -> str:
    """The preset with exactly the model's tensors, or `CUSTOM`."""
    for name, preset in PRESETS.items():
        if preset.backbone["text_config"]["hidden_size"] != model.backbone.hidden_size:
            continue  # building one takes a moment
        other = build(preset, device="meta")
        if shapes(other) == shapes(model) and _codec_shapes(other) == _codec_shapes(model):
            return name
    return CUSTOM


def _codec_shapes(model: GEM) -> dict[str, Shape] | PixelCodecConfig:
    codec = model.depth_codec
    return shapes(codec.autoencoder) if isinstance(codec, DCAECodec) else codec.config  # pyright: ignore


def _built(part: Part, make: Callable[[], Any]) -> Any:
    try:
        with torch.device("meta"):
            return make().eval()
    except Exception as error:
        # Each library checks its configuration in its own way.
        raise CheckpointError(
            f"{part.where}: config.json describes no model that can be built: {error}"
        ) from error


def _article(kind: object) -> str:
    return "no known" if kind is None else f"a '{kind}'"


def _why_not(kind: object) -> str:
    reasons = {
        "qwen3_vl_moe": " Mixtures of experts need a loss that balances them, which is not implemented.",
        "qwen3_5": " Its linear-attention layers carry a recurrent state, which packed sequences would mix up.",
        "qwen3_5_moe": " Its linear-attention layers carry a recurrent state, which packed sequences would mix up.",
    }
    return reasons.get(str(kind), "") + " Use a dense Qwen3-VL: 2B, 4B, 8B or 32B, Instruct or Thinking."
