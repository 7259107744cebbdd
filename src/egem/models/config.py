"""What a GEM checkpoint is besides its weights."""

from dataclasses import dataclass
from typing import Literal

from egem.data.depth import DepthPolicy


@dataclass(frozen=True, kw_only=True)
class GEMConfig:
    """Written as config.json at the top of a checkpoint folder.

    Sizes are not repeated here: they stand in the configuration files of `backbone/`, `depth_head/` and
    `depth_codec/`, each in its library's own format.
    """

    version: int = 1
    """Of this file's meaning."""
    preset: str
    """Which preset the sizes are those of; "custom" if they are no preset's."""
    depth: DepthPolicy
    """How depth maps are encoded for the codec, and at which size."""
    codec: Literal["pixel", "dc-ae"]
    condition_dropout: float = 0.1
    """Probability that a map is trained with the null condition, connector(zeros)."""
    guidance: float = 5.0
    """Default strength of classifier-free guidance; 1 leaves the null condition out, at half the cost."""
    sampling_steps: int = 30
    """Default number of Euler steps."""
    time_shift: float = 1.0
    """Flow shift of the noise levels in training and sampling; 1, as released, leaves them uniform."""
