"""A folder on this machine, or one fetched from the Hugging Face hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from egem.core.errors import CheckpointError

BACKBONE_FILES = ("*.json", "*.jinja", "*.txt", "model*.safetensors", "LICENSE")
DEPTH_HEAD_FILES = ("transformer/*", "config.json", "diffusion_pytorch_model*")
DEPTH_CODEC_FILES = ("vae/*", "config.json", "diffusion_pytorch_model*")
OFFICIAL_FILES = (*BACKBONE_FILES, "pytorch_model*.bin", "egem/*")
"""What is fetched for each purpose, as glob patterns in which * also matches /."""

_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def locate(source: str, files: Sequence[str]) -> Path:
    """The local path of what a user named.

    Args:
        source: an existing path, or a hub id `owner/name`, `owner/name@revision`.
        files: patterns of what to fetch in the second case.

    Raises:
        CheckpointError: neither, or the hub cannot be reached, does not have it, or breaks off.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    found = _HUB_ID.fullmatch(source)
    if found is None or source.startswith("."):
        raise CheckpointError(
            f"{source} does not exist, and it is no hub id (owner/name); give a folder or an id."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        folder = snapshot_download(found["name"], revision=found["revision"], allow_patterns=list(files))
    except GatedRepoError as error:
        raise CheckpointError(
            f"{source} is gated on the Hugging Face hub; accept its terms there and log in with `hf auth login`."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise CheckpointError(
            f"{source} is neither a folder here nor on the Hugging Face hub; check the spelling, and log in "
            "with `hf auth login` if it is private."
        ) from error
    except Exception as error:
        # The client's network errors have no base class in common.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"{source} is no folder here and could not be fetched from the Hugging Face hub: {reason[0]} "
            "Repeat the command (what was fetched is kept), or download it elsewhere and give the folder."
        ) from error
    return Path(folder)
