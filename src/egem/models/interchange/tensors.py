"""Weight files as tables of tensors that are read when they are needed."""

import json
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from egem.core.errors import CheckpointError
from egem.models.pretrained import disk_errors_of_safetensors
from egem.models.strict import require_exact

SHARD_BYTES = 5 * 10**9
"""Largest weight file written: so much memory is needed, whatever the model's size."""

_ITEM_BYTES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Of the number formats that safetensors knows."""

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """A tensor in a file."""

    shape: Shape
    num_bytes: int
    load: Callable[[], Tensor]
    """Reads it, in the number format it is stored in."""


TensorTable = dict[str, StoredTensor]


def read_safetensors(path: Path) -> TensorTable:
    """The tensors of one safetensors file.

    Raises:
        CheckpointError: no such file, torn, or in an unknown number format.
    """
    table: TensorTable = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dictionary)
                entry = file.get_slice(name)
                shape, kind = tuple(entry.get_shape()), entry.get_dtype()
                if kind not in _ITEM_BYTES:
                    raise CheckpointError(f"{path}: {name} is stored as {kind}, which cannot be read here.")
                table[name] = StoredTensor(
                    shape=shape, num_bytes=prod(shape) * _ITEM_BYTES[kind], load=partial(_load, path, name)
                )
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; copy or download it again.") from error
    return table


def read_torch_file(path: Path) -> TensorTable:
    """The tensors of a file that `torch.save` wrote from a state dict; code in it is refused, never run.

    Raises:
        CheckpointError: torn, not a flat state dict, or holds more than tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as plain tensors: {reason} Give the weights as safetensors."
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not a state dict.")
    others = sorted(str(name) for name, value in state.items() if not isinstance(value, Tensor))
    if others:
        raise CheckpointError(
            f"{path} is not a flat state dict: {', '.join(others[:5])} is no tensor; save the model's "
            "state_dict() alone."
        )
    return {str(name): in_memory(value) for name, value in state.items()}


def in_memory(tensor: Tensor) -> StoredTensor:
    """A table's entry for a tensor that is there already."""
    return StoredTensor(
        shape=tuple(tensor.shape),
        num_bytes=tensor.numel() * tensor.element_size(),
        load=partial(_copy, tensor),
    )


def read_folder(folder: Path, stem: str) -> TensorTable:
    """All weights of a transformers or diffusers folder: one safetensors file, or shards with their index.

    Args:
        folder: where the files are.
        stem: "model" for transformers, "diffusion_pytorch_model" for diffusers. If there is no file without
            a variant (such as "fp16") in its name but one with, that is taken.

    Raises:
        CheckpointError: there are none, several variants, or index and shards disagree.
    """
    for name in (f"{stem}.safetensors", f"{stem}.safetensors.index.json"):
        if (folder / name).is_file():
            return _read(folder / name)
    variants = [
        *(path for path in folder.glob(f"{stem}.*.safetensors") if "-of-" not in path.name),
        *folder.glob(f"{stem}.safetensors.index.*.json"),
    ]
    if len(variants) == 1:
        return _read(variants[0])
    if variants:
        names = ", ".join(sorted(path.name for path in variants))
        raise CheckpointError(f"{folder} holds several variants of its weights ({names}); leave only one.")
    raise CheckpointError(
        f"{folder} holds neither {stem}.safetensors nor {stem}.safetensors.index.json; "
        "download the weights as safetensors."
    )


def read_state_dict(source: Path) -> TensorTable:
    """A state dict from a file (.safetensors, else a torch file) or from a folder in transformers' layout.

    Raises:
        CheckpointError: see `read_folder` and `read_torch_file`.
    """
    if source.is_file():
        return _read(source)
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (source / name).is_file():
            return _read(source / name)
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
        if (source / name).is_file():
            return _read(source / name)
    return read_folder(source, "model")


def write_folder(folder: Path, stem: str, tensors: TensorTable, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write weights as transformers and diffusers do: one file, or shards with an index.

    Args:
        folder: exists.
        stem: see `read_folder`.
        tensors: are read shard by shard.
        shard_bytes: largest file, unless a single tensor is larger.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    shards = list(_shards(tensors, shard_bytes))
    if len(shards) == 1:
        write_file(folder / f"{stem}.safetensors", shards[0])
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / name, shard)
        weight_map |= dict.fromkeys(shard, name)
    total = sum(tensor.num_bytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_file(path: Path, tensors: TensorTable) -> None:
    """Write one safetensors file.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    with disk_errors_of_safetensors():
        loaded = {name: tensor.load() for name, tensor in tensors.items()}
        save_file(loaded, path, metadata={"format": "pt"})


def require_shapes(
    where: Path | str, found: Mapping[str, StoredTensor], expected: Mapping[str, Shape]
) -> None:
    """Every tensor accounted for.

    Raises:
        CheckpointError: tensors are missing, unknown or mis-shaped; the message names them.
    """
    require_exact(
        where,
        missing=expected.keys() - found.keys(),
        extra=found.keys() - expected.keys(),
        mismatched=[
            f"{name} is {found[name].shape}, not {shape}"
            for name, shape in expected.items()
            if name in found and found[name].shape != shape
        ],
    )


def _load(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def _copy(tensor: Tensor) -> Tensor:
    # Tensors of one storage cannot be written to one safetensors file.
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _read(path: Path) -> TensorTable:
    if path.suffix == ".json":
        return _read_index(path)
    return read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path)


def _read_index(path: Path) -> TensorTable:
    try:
        weight_map = json.loads(path.read_text())["weight_map"]
        names = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not an index of weights ({error!r}); copy it again.") from None
    absent = [name for name in names if not (path.parent / name).is_file()]
    if absent:
        raise CheckpointError(
            f"{path.parent} lacks {', '.join(absent[:5])}, {len(absent)} of {len(names)} weight files; "
            "the download is not complete."
        )
    table: TensorTable = {}
    for name in names:
        shard = _read(path.parent / name)
        listed = {tensor for tensor, file in weight_map.items() if file == name}
        if shard.keys() != listed:
            odd = sorted(shard.keys() ^ listed)[0]
            raise CheckpointError(f"{path} and {name} disagree about {odd}; they belong to different models.")
        table |= shard
    return table


def _shards(tensors: TensorTable, shard_bytes: int) -> Iterator[TensorTable]:
    shard: TensorTable = {}
    used = 0
    for name, tensor in tensors.items():
        if shard and used + tensor.num_bytes > shard_bytes:
            yield shard
            shard, used = {}, 0
        shard[name] = tensor
        used += tensor.num_bytes
    yield shard
