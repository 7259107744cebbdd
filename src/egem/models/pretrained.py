"""The checkpoint folder: all that serving needs, in safetensors and JSON only.

```
config.json            GEMConfig
backbone/              a plain Qwen3-VL checkpoint with tokenizer and processor files
connector.safetensors
depth_head/            diffusers' SanaTransformer2DModel
depth_codec/           diffusers' AutoencoderDC, or the pixel codec's config.json
action_expert/         GEM-VLA only: ActionExpertConfig and model.safetensors
policy/                GEM-VLA only: what a robot needs besides weights
```
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen3VLForConditionalGeneration

from egem.core.config import load_json, save_json
from egem.core.errors import CheckpointError, ConfigError
from egem.core.files import new_folder
from egem.models.action_expert import ActionExpert
from egem.models.backbone import Backbone
from egem.models.config import ActionExpertConfig, GEMConfig
from egem.models.connector import Connector
from egem.models.depth_codec import DCAECodec, load_codec
from egem.models.depth_head import DepthHead
from egem.models.gem import GEM
from egem.models.gem_vla import GEMVLA
from egem.models.lora import adapters_merged
from egem.models.strict import load_strictly, quiet, require_exact

EXPERT, POLICY = "action_expert", "policy"
_MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors.index.json")


def save(model: GEM, folder: Path) -> None:
    """Write a checkpoint folder, which appears whole or not at all.

    Raises:
        ConfigError: the folder exists and is not empty.
        EgemError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    with new_folder(folder) as temporary, disk_errors_of_safetensors(), quiet(), adapters_merged(model):
        save_json(model.config, temporary / "config.json")
        backbone = temporary / "backbone"
        model.backbone.qwen.save_pretrained(backbone)
        for name, content in model.processor_files.items():
            (backbone / name).write_bytes(content)
        _save_module(model.connector, temporary / "connector.safetensors")
        model.depth_head.sana.save_pretrained(temporary / "depth_head")
        (temporary / "depth_codec").mkdir()
        model.depth_codec.save(temporary / "depth_codec")
        for part in ("depth_head", "depth_codec"):
            _forget_origin(temporary / part / "config.json")
        if isinstance(model, GEMVLA):
            (temporary / EXPERT).mkdir()
            save_json(model.action_expert.config, temporary / EXPERT / "config.json")
            _save_module(model.action_expert, temporary / EXPERT / "model.safetensors")
            (temporary / POLICY).mkdir()
            for name, content in model.policy_files.items():
                (temporary / POLICY / name).write_bytes(content)


def load(folder: Path, *, dtype: torch.dtype | None = None, preset: str | None = None) -> GEM:
    """Read a checkpoint folder completely, on the CPU, in evaluation mode.

    Args:
        folder: what `save` wrote.
        dtype: of the parameters; None keeps what is stored. The codec keeps its own.
        preset: what the caller needs it to be; None takes any.

    Raises:
        CheckpointError: something is missing, does not fit, or is of another preset.
    """
    config = read_config(folder)
    if preset is not None and config.preset != preset:
        raise CheckpointError(
            f"{folder} is a checkpoint of preset '{config.preset}', but '{preset}' is needed; "
            f"choose a checkpoint of '{preset}' or a recipe of '{config.preset}'."
        )
    qwen = load_strictly(Qwen3VLForConditionalGeneration, folder / "backbone", dtype=dtype)
    sana = load_strictly(SanaTransformer2DModel, folder / "depth_head", dtype=dtype)
    codec = load_codec(folder / "depth_codec")
    if isinstance(codec, DCAECodec) != (config.codec == "dc-ae"):
        raise CheckpointError(
            f"{folder}: config.json says codec '{config.codec}', depth_codec/ holds another."
        )
    backbone = Backbone(qwen)
    connector = Connector(hidden_size=backbone.hidden_size, context_size=sana.config["caption_channels"])
    _load_module(connector, folder / "connector.safetensors", dtype)
    files = {
        path.name: path.read_bytes()
        for path in sorted((folder / "backbone").iterdir())
        if path.is_file() and path.suffix != ".safetensors" and path.name not in _MODEL_FILES
    }
    try:
        model = GEM(
            config,
            backbone=backbone,
            connector=connector,
            depth_head=DepthHead(sana),
            depth_codec=codec,
            processor_files=files,
        )
        if (folder / EXPERT).exists():
            model = GEMVLA(model, _load_expert(folder / EXPERT, dtype), policy_files=_policy_files(folder))
    except ConfigError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return model.eval()


def load_vla(folder: Path, *, dtype: torch.dtype | None = None) -> GEMVLA:
    """`load` of a checkpoint with an action expert.

    Raises:
        CheckpointError: it has none, or something is missing or does not fit.
    """
    if not (folder / EXPERT).exists():
        raise CheckpointError(
            f"{folder} holds no {EXPERT}/: it is no GEM-VLA checkpoint. Train one on robot episodes first."
        )
    model = load(folder, dtype=dtype)
    assert isinstance(model, GEMVLA)
    return model


@contextmanager
def disk_errors_of_safetensors() -> Iterator[None]:
    """Safetensors reports a full disk in words of its own; give it the class that names it."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _forget_origin(path: Path) -> None:
    """Diffusers notes the folder that a model was read from; a checkpoint should not tell."""
    values = json.loads(path.read_text())
    if values.pop("_name_or_path", None) is not None:
        path.write_text(json.dumps(values, indent=2) + "\n")


def read_config(folder: Path) -> GEMConfig:
    """The checkpoint's config.json.

    Raises:
        CheckpointError: the folder is no GEM checkpoint.
    """
    try:
        return load_json(GEMConfig, folder / "config.json")
    except ConfigError as error:
        raise CheckpointError(f"{folder} is not a GEM checkpoint: {error}") from error


def _policy_files(folder: Path) -> dict[str, bytes]:
    paths = sorted((folder / POLICY).iterdir()) if (folder / POLICY).is_dir() else []
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def _load_expert(folder: Path, dtype: torch.dtype | None) -> ActionExpert:
    config = load_json(ActionExpertConfig, folder / "config.json")
    with torch.device("meta"):
        expert = ActionExpert(config)
    _load_module(expert, folder / "model.safetensors", dtype)
    return expert


def _save_module(module: nn.Module, path: Path) -> None:
    weights = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    save_file(weights, path, metadata={"format": "pt"})


def _load_module(module: nn.Module, path: Path, dtype: torch.dtype | None) -> None:
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}; the checkpoint is incomplete or torn."
        ) from error
    expected = module.state_dict()
    require_exact(
        path,
        missing=expected.keys() - stored.keys(),
        extra=stored.keys() - expected.keys(),
        mismatched=[
            f"{name} is {tuple(stored[name].shape)}, not {tuple(value.shape)}"
            for name, value in expected.items()
            if name in stored and stored[name].shape != value.shape
        ],
    )
    module.load_state_dict(stored, assign=True)
    if dtype is not None:
        module.to(dtype)
