"""The action expert of the released GEM-VLA: RDT2's state dict, onto a checkpoint and back.

| released | here |
|---|---|
| `model.*` | the same without `model.` |
| `lang_adaptor.*`, `act_adaptor.*`, `state_adaptor.*` | the same |
| `final_layer.ffn.fc2.*` | negated |

The released flow runs the other way: its time is 1 - t, its velocity actions - noise. So the embedding is told to see
1 - t (`time_input`), and the last layer changes its sign, which is exact both ways. Block i looks at the residual
stream that enters layer i (`HiddenStateTap`: index 0 the embeddings, deepstack features included), as on the
transformers release (4.57) that the released code was written for.
"""

from dataclasses import replace
from pathlib import Path

import torch

from egem.core.config import load_json, save_json
from egem.core.errors import CheckpointError, ConfigError
from egem.core.files import new_folder
from egem.models.action_expert import ActionExpert
from egem.models.config import ActionExpertConfig
from egem.models.gem_vla import GEMVLA
from egem.models.interchange.parts import shapes
from egem.models.interchange.tensors import (
    StoredTensor,
    TensorTable,
    read_safetensors,
    read_state_dict,
    require_shapes,
    write_folder,
)
from egem.models.pretrained import EXPERT, load

_PREFIX = "model."
_ADAPTORS = ("lang_adaptor.", "act_adaptor.", "state_adaptor.")
_NEGATED = ("final_layer.ffn.fc2.weight", "final_layer.ffn.fc2.bias")


def import_expert(source: Path, checkpoint: Path, out: Path) -> ActionExpertConfig:
    """Write a GEM-VLA checkpoint: one of ours, with a released expert on it.

    Args:
        source: the expert's folder or weight file (safetensors, or a torch file of plain tensors).
        checkpoint: a checkpoint folder whose backbone the expert was trained on.
        out: folder to write.

    Raises:
        CheckpointError: tensors are missing, unknown or mis-shaped, or the backbone is of another width.
        ConfigError: `out` exists and is not empty.
    """
    table = from_released(source, read_state_dict(source))
    config = released_config(source, table, checkpoint)
    with torch.device("meta"):
        expert = ActionExpert(config)
    require_shapes(source, table, shapes(expert))
    expert.load_state_dict({name: tensor.load() for name, tensor in table.items()}, assign=True)
    gem = load(checkpoint)
    try:
        model = GEMVLA(gem, expert)
    except ConfigError as error:
        raise CheckpointError(f"{source} on {checkpoint}: {error}") from error
    model.save_pretrained(out)
    return config


def export_expert(checkpoint: Path, out: Path) -> None:
    """Write a checkpoint's expert as the released code reads it, in a folder of its own.

    Raises:
        CheckpointError: the checkpoint has no expert.
        ConfigError: `out` exists, or the released code has no place for what the expert does.
    """
    folder = checkpoint / EXPERT
    if not folder.is_dir():
        raise CheckpointError(f"{checkpoint} holds no {EXPERT}/, so there is no expert to export.")
    config = load_json(ActionExpertConfig, folder / "config.json")
    for name, value, expected in (
        ("conditioning", config.conditioning, "hidden_states"),
        ("state", config.state, "modulation"),
        ("time_input", config.time_input, "data_level"),
        ("time_scale", config.time_scale, 1.0),
    ):
        if value != expected:
            raise ConfigError(
                f"{checkpoint}: the action expert's {name} is '{value}', but the released code only knows '{expected}'."
            )
    with new_folder(out) as temporary:
        write_folder(temporary, "model", to_released(read_safetensors(folder / "model.safetensors")))
        save_json(config, temporary / "egem_action_expert.json")


def from_released(where: Path | str, table: TensorTable) -> TensorTable:
    """Our names and signs.

    Raises:
        CheckpointError: a name belongs to no part of an expert.
    """
    renamed: TensorTable = {}
    for name, tensor in table.items():
        if not name.startswith((_PREFIX, *_ADAPTORS)):
            raise CheckpointError(
                f"{where}: {name} is no part of an action expert; give the expert's weights alone."
            )
        renamed[name.removeprefix(_PREFIX)] = tensor
    return _with_signs(renamed)


def to_released(table: TensorTable) -> TensorTable:
    """The inverse of `from_released`, bit for bit."""
    return {
        name if name.startswith(_ADAPTORS) else _PREFIX + name: tensor
        for name, tensor in _with_signs(table).items()
    }


def released_config(where: Path | str, table: TensorTable, checkpoint: Path) -> ActionExpertConfig:
    """Sizes by the tensors' shapes; conventions are the released code's.

    Args:
        where: for messages.
        table: with our names.
        checkpoint: tells the backbone's heads.

    Raises:
        CheckpointError: a tensor that tells a size is missing.
    """
    from transformers import AutoConfig

    text = AutoConfig.from_pretrained(str(checkpoint / "backbone"), local_files_only=True).text_config
    try:
        width, action_dim = table["act_adaptor.0.weight"].shape
        head_dim = table["blocks.0.attn.norm_q.weight"].shape[0]
        registers = table["register_tokens"].shape[1]
        num_blocks = 1 + max(int(name.split(".")[1]) for name in table if name.startswith("blocks."))
        return ActionExpertConfig(
            action_dim=action_dim,
            state_dim=table["state_adaptor.0.weight"].shape[1],
            horizon=table["x_pos_emb"].shape[1] - registers,
            hidden_size=width,
            num_heads=table["blocks.0.attn.wq.weight"].shape[0] // head_dim,
            num_kv_heads=table["blocks.0.attn.wkv.weight"].shape[0] // (2 * head_dim),
            intermediate_size=table["blocks.0.ffn.w1.weight"].shape[0],
            num_registers=registers,
            conditioning="hidden_states",
            layers=tuple(range(num_blocks)),
            condition_size=table["lang_adaptor.0.weight"].shape[1],
            condition_heads=text.num_key_value_heads,
            condition_head_dim=text.head_dim,
            state="modulation",
            time_input="data_level",
            time_scale=1.0,
            time_distribution="logistic-normal",
            sampling_steps=5,
        )
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{where} is not the released action expert: {error!r} is missing or of another rank."
        ) from None


def _with_signs(table: TensorTable) -> TensorTable:
    return {name: _negated(tensor) if name in _NEGATED else tensor for name, tensor in table.items()}


def _negated(tensor: StoredTensor) -> StoredTensor:
    return replace(tensor, load=lambda: -tensor.load())
