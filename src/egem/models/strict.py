"""Load weights from a folder completely or not at all."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_logging

from egem.core.errors import CheckpointError

T = TypeVar("T")

_NUM_NAMED = 5


def load_strictly(kind: type[T], folder: Path, *, dtype: torch.dtype | None) -> T:
    """`kind.from_pretrained(folder)` that refuses missing, unknown and mis-shaped tensors.

    Args:
        kind: a transformers or diffusers model class.
        folder: its own on-disk format, in safetensors.
        dtype: of the parameters; None keeps the dtype they are stored in.

    Raises:
        CheckpointError: no such folder, no safetensors in it, or the tensors are not those of the model.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no config.json; a {kind.__name__} was expected there.")
    loader: Any = kind
    try:
        with quiet():
            model, found = loader.from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                torch_dtype=dtype or _stored_dtype(folder),
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be loaded as {kind.__name__}: {error}") from error
    mismatched = [f"{key} is {tuple(a)}, not {tuple(b)}" for key, a, b in found["mismatched_keys"]]
    require_exact(
        folder, missing=found["missing_keys"], extra=found["unexpected_keys"], mismatched=mismatched
    )
    return model


def require_exact(folder: Path | str, *, missing: Any, extra: Any, mismatched: Any) -> None:
    """Raise with the names of tensors that do not fit.

    Raises:
        CheckpointError: any of the three lists has an entry.
    """
    lists = (("missing", missing), ("unknown", extra), ("mis-shaped", mismatched))
    problems = [f"{what}: {_shortened(sorted(names))}" for what, names in lists if names]
    if problems:
        message = f"{folder}: the weights are not those of this model. " + "; ".join(problems)
        raise CheckpointError(f"{message}. Use the checkpoint its config.json was written with.")


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers for what takes a moment."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _stored_dtype(folder: Path) -> torch.dtype:
    """The widest of all tensors, so that none loses digits; diffusers would otherwise convert to float32."""
    kinds: set[torch.dtype] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dictionary)
                entry = file.get_slice(name)
                kinds.add(entry[:0].dtype if entry.get_shape() else file.get_tensor(name).dtype)
    if not kinds:
        raise CheckpointError(f"{folder} holds no .safetensors file; other weight formats are not read.")
    return functools.reduce(torch.promote_types, kinds)


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(names[:_NUM_NAMED]) + more
