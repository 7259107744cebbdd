"""What annotators ask of a checkpoint besides its weights: a name, a licence, a clear refusal."""

import logging
import re
from pathlib import Path

from egem.core.errors import CheckpointError

logger = logging.getLogger(__name__)

UNKNOWN_LICENCE = "unknown"
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---", re.DOTALL)


def checkpoint_name(checkpoint: str) -> str:
    """The last part of a folder's path or of a name on the hub: `Depth-Anything-V2-Small-hf`."""
    return Path(str(checkpoint).rstrip("/")).name


def licence_of(checkpoint: str) -> str:
    """The licence a checkpoint's own README states, or "unknown".

    Args:
        checkpoint: folder, or name on the Hugging Face hub.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        readme = folder / "README.md"
        text = readme.read_text(errors="replace") if readme.is_file() else ""
    else:
        text = _readme_of_hub(checkpoint)
    found = _FRONT_MATTER.search(text)
    fields = dict(
        line.split(":", 1) for line in (found.group(1).splitlines() if found else ()) if ":" in line
    )
    licence = fields.get("license", "").strip().strip("'\"")
    if licence == "other":
        licence = fields.get("license_name", licence).strip().strip("'\"")
    if not licence:
        logger.warning(
            "%s states no licence in a README.md; it is recorded as '%s'", checkpoint, UNKNOWN_LICENCE
        )
    return licence or UNKNOWN_LICENCE


def _readme_of_hub(name: str) -> str:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, "README.md")).read_text(errors="replace")
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError):
        return ""


def unreadable(checkpoint: str, what: str, error: Exception) -> CheckpointError:
    """The error of a checkpoint that its library refuses."""
    if isinstance(error, ImportError) and "torchvision" in str(error):
        return CheckpointError(
            f"{what} {checkpoint} needs torchvision for its pictures; install the build of torchvision that "
            "belongs to your torch (pip install torchvision)."
        )
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(
        f"{what} {checkpoint} cannot be loaded ({first}); give a folder in transformers' format or a name on the "
        "Hugging Face hub."
    )
