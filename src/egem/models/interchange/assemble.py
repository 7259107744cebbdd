"""A new checkpoint from pre-trained parts."""

from pathlib import Path

from egem.core.files import new_folder
from egem.models.gem import GEM
from egem.models.interchange.checkpoint import write_checkpoint
from egem.models.interchange.huggingface import read_parts


def assemble(out: Path, *, backbone: str, depth_head: str, codec: str, seed: int) -> GEM:
    """Write a checkpoint folder from a Qwen3-VL, a Sana and an AutoencoderDC, with a new connector.

    Args:
        out: folder to write.
        backbone: see `read_parts`, also for the others.
        depth_head: Sana.
        codec: AutoencoderDC.
        seed: of the connector.

    Returns:
        The model on the meta device: its configuration and shapes.

    Raises:
        CheckpointError: a part cannot be had, is of another kind, or does not fit the others.
        ConfigError: `out` exists and is not empty.
    """
    # The folder is claimed first, so that nobody downloads for an hour to learn that it is taken.
    with new_folder(out) as temporary:
        return write_checkpoint(read_parts(backbone, depth_head, codec, seed=seed), temporary)
