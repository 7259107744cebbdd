"""The layout of the released GEM-2B: one state dict with everything, in transformers' folder layout.

| released name | here |
|---|---|
| `model.*`, `lm_head.weight` (absent if tied) | `backbone/`, same names |
| `diffusion_connector.{0,2,3}.*` | `connector.safetensors`, `layers.{0,2,3}.*` |
| `sana.*` | `depth_head/` |
| `vae.*` | `depth_codec/` |

Only names differ. Time (the network sees 1000 times the noise level), velocity (noise minus data) and null
condition (the connector's output for zeros) are the released ones already, so no value is touched and
`write_official` gives back what `read_official` took, bit for bit.

The released config.json describes the backbone alone. `egem/`, which the released code ignores, keeps the
rest of ours beside it; without it the sizes are those of SANA1.5 1.6B and DC-AE f32c32.
"""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from egem.core.config import load_json, save_json
from egem.core.errors import CheckpointError, ConfigError
from egem.core.files import new_folder
from egem.models.config import GEMConfig
from egem.models.gem import GEM
from egem.models.interchange import hub
from egem.models.interchange.checkpoint import read_checkpoint, write_checkpoint
from egem.models.interchange.huggingface import read_backbone, read_diffusers, without_tied_head
from egem.models.interchange.parts import Part, Parts, backbone_skeleton, is_tied, read_json
from egem.models.interchange.plausibility import Findings, examine
from egem.models.interchange.tensors import TensorTable, read_state_dict, write_folder
from egem.models.presets import PRESETS

logger = logging.getLogger(__name__)

RELEASED_CLASS, OUR_CLASS = "GEMForConditionalGeneration", "Qwen3VLForConditionalGeneration"
"""In config.json's `architectures`: transformers and vLLM choose their class by it."""

SIZES = "egem"
"""Folder beside the released files with our configuration and the depth parts' sizes."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Released names that begin with `released` belong to `part`, where they begin with `ours` instead."""

    released: str
    part: str
    ours: str


SECTIONS = (
    Section(released="model.", part="backbone", ours="model."),
    Section(released="lm_head.", part="backbone", ours="lm_head."),
    Section(released="diffusion_connector.", part="connector", ours="layers."),
    Section(released="sana.", part="depth_head", ours=""),
    Section(released="vae.", part="depth_codec", ours=""),
)


def import_official(
    source: str,
    out: Path,
    *,
    backbone: str | None = None,
    depth_head: str | None = None,
    codec: str | None = None,
) -> tuple[GEM, Findings]:
    """Write a checkpoint folder from a released state dict.

    Args:
        source: a folder or hub id with config.json and tokenizer beside the weights, or a weight file alone.
        out: folder to write.
        backbone: Qwen3-VL whose config.json, tokenizer and processor to use instead of those beside the
            weights; its weights too where the source has no `model.*`.
        depth_head: Sana whose sizes to use, and to compare `sana.*` with; its weights where there is none.
        codec: AutoencoderDC whose sizes to use; its weights where the source has no `vae.*`.

    Returns:
        The model on the meta device, and what is to be said about the depth head's weights.

    Raises:
        CheckpointError: a tensor is missing, unknown or mis-shaped, or a part is not to be found.
        ConfigError: `out` exists and is not empty.
    """
    with new_folder(out) as temporary:
        path = hub.locate(source, hub.OFFICIAL_FILES)
        parts, reference = read_official(path, backbone=backbone, depth_head=depth_head, codec=codec)
        model = write_checkpoint(parts, temporary, _stored_config(path))
        findings = examine(parts.depth_head.tensors, reference)
    return model, findings


def read_official(
    path: Path, *, backbone: str | None, depth_head: str | None, codec: str | None
) -> tuple[Parts, TensorTable | None]:
    """Take a released state dict apart; see `import_official`.

    Returns:
        The parts, and the tensors of `depth_head` to compare with, where both have some.
    """
    tables = _split(path, read_state_dict(path))
    beside = path if path.is_dir() else path.parent
    qwen = _backbone(path, beside, tables["backbone"], backbone)
    sana, reference = _depth_head(path, beside, tables["depth_head"], depth_head)
    vae = _depth_codec(path, beside, tables["depth_codec"], codec)
    if not tables["connector"]:
        raise CheckpointError(
            f"{path} has no diffusion_connector.* tensors; it is not a GEM state dict. For a new connector "
            "use `egem init`."
        )
    connector = Part(where=f"{path} (diffusion_connector.*)", config={}, tensors=tables["connector"])
    return Parts(backbone=qwen, connector=connector, depth_head=sana, depth_codec=vae), reference


def export_official(checkpoint: Path, out: Path) -> None:
    """Write a checkpoint as a folder that the released code loads.

    Raises:
        CheckpointError: the checkpoint is not whole.
        ConfigError: `out` exists, or the released code has no place for what the checkpoint does.
    """
    with new_folder(out) as temporary:
        parts, model = read_checkpoint(checkpoint)
        _require_released_conventions(checkpoint, model.config)
        config = dict(parts.backbone.config) | {"architectures": [RELEASED_CLASS]}
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name, content in parts.backbone.files.items():
            (temporary / name).write_bytes(content)
        sizes = temporary / SIZES
        sizes.mkdir()
        save_json(model.config, sizes / "config.json")
        for name, part in (("depth_head", parts.depth_head), ("depth_codec", parts.depth_codec)):
            (sizes / f"{name}.json").write_text(json.dumps(part.config, indent=2) + "\n")
        write_folder(temporary, "model", _join(parts))


def _split(path: Path, state: TensorTable) -> dict[str, TensorTable]:
    tables: dict[str, TensorTable] = {section.part: {} for section in SECTIONS}
    unknown = []
    for name, tensor in state.items():
        section = next((section for section in SECTIONS if name.startswith(section.released)), None)
        if section is None:
            unknown.append(name)
        else:
            tables[section.part][section.ours + name.removeprefix(section.released)] = tensor
    if unknown:
        known = ", ".join(f"{section.released}*" for section in SECTIONS)
        raise CheckpointError(
            f"{path}: {len(unknown)} tensors are no part of a GEM, such as {sorted(unknown)[0]}; known are {known}."
        )
    return tables


def _join(parts: Parts) -> TensorTable:
    tables = {
        "backbone": parts.backbone.tensors,
        "connector": parts.connector.tensors,
        "depth_head": parts.depth_head.tensors,
        "depth_codec": parts.depth_codec.tensors,
    }
    return {
        section.released + name.removeprefix(section.ours): tensor
        for section in SECTIONS
        for name, tensor in tables[section.part].items()
        if name.startswith(section.ours)
    }


def _backbone(path: Path, beside: Path, tensors: TensorTable, given: str | None) -> Part:
    if given is not None:
        part = read_backbone(hub.locate(given, hub.BACKBONE_FILES), weights=not tensors)
    elif (beside / "config.json").is_file():
        part = read_backbone(beside, weights=False)
    else:
        raise CheckpointError(
            f"there is no config.json beside {path}; name the Qwen3-VL it was trained from with --backbone."
        )
    if tensors:
        tied = is_tied(backbone_skeleton(part))
        where = f"{path} (model.*, lm_head.*)"
        part = replace(part, where=where, tensors=without_tied_head(tensors, tied=tied, where=where))
    elif given is None:
        raise CheckpointError(f"{path} has no model.* tensors; name a Qwen3-VL with --backbone.")
    return replace(part, config=part.config | {"architectures": [OUR_CLASS]})


def _depth_head(
    path: Path, beside: Path, tensors: TensorTable, given: str | None
) -> tuple[Part, TensorTable | None]:
    where = f"{path} (sana.*)"
    if given is not None:
        part = read_diffusers(hub.locate(given, hub.DEPTH_HEAD_FILES), "transformer")
        return (replace(part, where=where, tensors=tensors), part.tensors) if tensors else (part, None)
    if not tensors:
        raise CheckpointError(f"{path} has no sana.* tensors; name a Sana with --depth-head.")
    stored = beside / SIZES / "depth_head.json"
    config = (
        read_json(stored, "the sizes of sana.*")
        if stored.is_file()
        else {"_class_name": "SanaTransformer2DModel", **PRESETS["gem-2b"].depth_head}
    )
    return Part(where=where, config=config, tensors=tensors), None


def _depth_codec(path: Path, beside: Path, tensors: TensorTable, given: str | None) -> Part:
    where = f"{path} (vae.*)"
    if given is not None:
        part = read_diffusers(hub.locate(given, hub.DEPTH_CODEC_FILES), "vae", weights=not tensors)
        return replace(part, where=where, tensors=tensors) if tensors else part
    if not tensors:
        raise CheckpointError(f"{path} has no vae.* tensors; name an AutoencoderDC with --codec.")
    stored = beside / SIZES / "depth_codec.json"
    released = PRESETS["gem-2b"].depth_codec
    assert isinstance(released, dict)
    config = (
        read_json(stored, "the sizes of vae.*")
        if stored.is_file()
        else {"_class_name": "AutoencoderDC", **released}
    )
    return Part(where=where, config=config, tensors=tensors)


def _stored_config(path: Path) -> GEMConfig | None:
    """Ours, if `write_official` left it there."""
    stored = (path if path.is_dir() else path.parent) / SIZES / "config.json"
    return load_json(GEMConfig, stored) if stored.is_file() else None


def _require_released_conventions(checkpoint: Path, config: GEMConfig) -> None:
    """The released code has these built in, so a checkpoint that does otherwise would draw something else."""
    released = PRESETS["gem-2b"].config
    fixed = (
        ("codec", config.codec, released.codec),
        ("objective", config.objective, released.objective),
        ("depth encoding", config.depth.encoding, released.depth.encoding),
        ("time_shift", config.time_shift, released.time_shift),
    )
    for name, value, expected in fixed:
        if value != expected:
            raise ConfigError(
                f"{checkpoint}: {name} is '{value}', but the released code only knows '{expected}'; "
                "--format qwen3-vl exports the backbone alone."
            )
    free = (
        ("guidance", config.guidance, released.guidance),
        ("sampling_steps", config.sampling_steps, released.sampling_steps),
        ("depth.long_side", config.depth.long_side, released.depth.long_side),
        ("depth.multiple", config.depth.multiple, released.depth.multiple),
    )
    for name, value, expected in free:
        if value != expected:
            logger.warning(
                "%s: %s is %s; the released code takes %s unless it is told.",
                checkpoint,
                name,
                value,
                expected,
            )
