"""Parts to and from a checkpoint folder; see `egem.models.pretrained` for its layout."""

import json
from pathlib import Path

from egem.core.config import save_json
from egem.core.errors import CheckpointError
from egem.core.files import new_folder
from egem.data.chat import ChatTokenizer
from egem.data.images import ImagePolicy
from egem.models.config import GEMConfig
from egem.models.gem import GEM
from egem.models.interchange.huggingface import read_backbone, read_diffusers
from egem.models.interchange.parts import Part, Parts, read_json, skeleton
from egem.models.interchange.tensors import read_safetensors, write_file, write_folder
from egem.models.pretrained import read_config

CONNECTOR = "connector.safetensors"


def read_checkpoint(folder: Path) -> tuple[Parts, GEM]:
    """The parts of a checkpoint folder, and its model on the meta device.

    Raises:
        CheckpointError: it is no checkpoint, incomplete, or its tensors are not those of the model.
    """
    config = read_config(folder)
    pixel = config.codec == "pixel"
    codec = (
        Part(
            where=str(folder / "depth_codec"),
            config=read_json(folder / "depth_codec" / "config.json", "a depth codec"),
            tensors={},
        )
        if pixel
        else read_diffusers(folder / "depth_codec", "vae")
    )
    parts = Parts(
        backbone=read_backbone(folder / "backbone"),
        connector=Part(
            where=str(folder / CONNECTOR), config={}, tensors=read_safetensors(folder / CONNECTOR)
        ),
        depth_head=read_diffusers(folder / "depth_head", "transformer"),
        depth_codec=codec,
    )
    return parts, skeleton(parts, config)


def write_checkpoint(parts: Parts, folder: Path, config: GEMConfig | None = None) -> GEM:
    """Check the parts, then write them into an existing, empty folder.

    Args:
        parts: from any layout.
        folder: of `new_folder`, so that nothing half-written stays.
        config: None derives it from the sizes.

    Returns:
        The model on the meta device: its configuration and shapes.

    Raises:
        CheckpointError: the parts are not those of one model; nothing large has been written then.
    """
    model = skeleton(parts, config)
    backbone = folder / "backbone"
    _write_config(parts.backbone, backbone)
    for name, content in parts.backbone.files.items():
        (backbone / name).write_bytes(content)
    _require_processor(parts.backbone.where, backbone, model)
    save_json(model.config, folder / "config.json")
    write_folder(backbone, "model", parts.backbone.tensors)
    write_file(folder / CONNECTOR, parts.connector.tensors)
    for name, part in (("depth_head", parts.depth_head), ("depth_codec", parts.depth_codec)):
        _write_config(part, folder / name)
        if part.tensors:
            write_folder(folder / name, "diffusion_pytorch_model", part.tensors)
    return model


def export_backbone(checkpoint: Path, out: Path) -> None:
    """The backbone alone, as a plain Qwen3-VL folder for transformers, vLLM and others.

    Raises:
        CheckpointError: the checkpoint is not whole.
        ConfigError: `out` exists and is not empty.
    """
    with new_folder(out) as temporary:
        parts, _ = read_checkpoint(checkpoint)
        _write_config(parts.backbone, temporary)
        for name, content in parts.backbone.files.items():
            (temporary / name).write_bytes(content)
        write_folder(temporary, "model", parts.backbone.tensors)


def _write_config(part: Part, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(part.config, indent=2) + "\n")


def _require_processor(where: str, backbone: Path, model: GEM) -> None:
    """Tokenizer, image processor and generation settings must be there and agree with the model."""
    if not (backbone / "generation_config.json").is_file():
        raise CheckpointError(
            f"{where} holds no generation_config.json, which says what ends an answer; copy it from Qwen3-VL."
        )
    try:
        tokenizer, images = ChatTokenizer.from_folder(backbone), ImagePolicy.from_folder(backbone)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(backbone), where)) from error
    qwen, patches = model.backbone.config, model.backbone.qwen.model.visual.patch_embed
    pairs = (
        ("image_token_id", qwen.image_token_id, "tokenizer", tokenizer.image_token_id),
        ("patch_size", patches.patch_size, "image processor", images.patch_size),
        ("spatial_merge_size", model.backbone.merge_size, "image processor", images.merge_size),
        ("temporal_patch_size", patches.temporal_patch_size, "image processor", images.temporal_patch_size),
    )
    for key, value, what, other in pairs:
        if value != other:
            raise CheckpointError(
                f"{where}: config.json says {key} {value}, the {what} {other}; they are of different models."
            )
