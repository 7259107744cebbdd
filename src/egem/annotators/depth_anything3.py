"""Depth Anything 3, through its authors' package `depth-anything-3`.

The package's own `inference(images)` takes the list as views of one scene, which lets unrelated images change each
other's depth (its issue 133). Here every image is a scene of its own with one view: the tensor is
(image, 1, 3, height, width).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8

from egem.annotators.checkpoints import checkpoint_name, licence_of, unreadable
from egem.annotators.depth import DepthEstimate, DepthOutput, by_size, to_estimate
from egem.core.errors import ConfigError, RecordError
from egem.device import device_of

logger = logging.getLogger(__name__)

RESOLUTION: Final = 504
"""Pixels of the longer side that the network sees, the package's default."""

CANONICAL_FOCAL: Final = 300.0
"""metres = focal length (pixels the network sees) * output / 300 for the METRIC models (the package's README)."""

SKY_THRESHOLD: Final = 0.3
"""The package's: above it a pixel is sky, which has no depth."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is known of a published checkpoint."""

    output: DepthOutput
    licence: str
    needs_focal: bool = False


VARIANTS: Final[dict[str, Variant]] = {
    "da3-small": Variant(output="relative", licence="apache-2.0"),
    "da3-base": Variant(output="relative", licence="apache-2.0"),
    "da3-large": Variant(output="relative", licence="cc-by-nc-4.0"),
    "da3-giant": Variant(output="relative", licence="cc-by-nc-4.0"),
    "da3mono-large": Variant(output="relative", licence="apache-2.0"),
    "da3metric-large": Variant(output="metric", licence="apache-2.0", needs_focal=True),
    "da3nested-giant-large": Variant(output="metric", licence="cc-by-nc-4.0"),
}
"""The package's `model_name` -> what its numbers are and what its licence allows."""


@dataclass(frozen=True, kw_only=True)
class DepthAnything3Depth:
    """One of `VARIANTS`."""

    network: Any
    variant: Variant
    origin: str
    licence: str
    device: Any

    @classmethod
    def from_pretrained(cls, checkpoint: str, *, device: str = "auto") -> "DepthAnything3Depth":
        """Load a checkpoint.

        Args:
            checkpoint: folder, or name on the hub ("depth-anything/DA3METRIC-LARGE").
            device: see `egem.device.device_of`.

        Raises:
            ConfigError: the package is not installed, or does not name its model as known here.
            CheckpointError: the checkpoint cannot be loaded.
        """
        try:
            from depth_anything_3.api import DepthAnything3  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError(
                f"{checkpoint} needs the package depth-anything-3 ({error}); run pip install 'egem[depth-anything-3]', "
                "or give a depth model of transformers."
            ) from error
        place = device_of(device)
        try:
            network = DepthAnything3.from_pretrained(checkpoint).to(place).eval()
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise unreadable(checkpoint, "depth model", error) from error
        variant = VARIANTS.get(network.model_name)
        if variant is None:
            raise ConfigError(
                f"{checkpoint} is a '{network.model_name}', which is none of {', '.join(VARIANTS)}; what its numbers "
                "mean is not known."
            )
        stated = licence_of(checkpoint)
        return cls(
            network=network,
            variant=variant,
            origin=f"depth-anything-3/{checkpoint_name(checkpoint)}",
            licence=variant.licence if stated == "unknown" else stated,
            device=place,
        )

    def estimate(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], focals: Sequence[float | None]
    ) -> list[DepthEstimate]:
        """See `DepthEstimator`.

        Raises:
            RecordError: a METRIC model, and an image's focal length is not known.
        """
        import torch

        if self.variant.needs_focal and None in focals:
            raise RecordError(
                f"{self.origin} needs the focal length of each image to give metres; the records have no intrinsics. "
                "State one with --focal, or take a model that needs none."
            )
        found: dict[int, DepthEstimate] = {}
        for indices in by_size(images):
            height, width = images[indices[0]].shape[:2]
            batch = [images[i] for i in indices]
            pixels = self.network.input_processor(batch, None, None, RESOLUTION, "upper_bound_resize")[0]
            # Half precision is for GPUs: on a CPU it is slower and worse.
            use_half = self.device.type == "cuda"
            with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=use_half):
                output = self.network.model(pixels.to(self.device).float()[:, None])
            seen = output["depth"][:, 0].float()
            sky = output["sky"][:, 0].float() if "sky" in output else None
            maps = _resized(seen, sky, (height, width)).cpu().numpy()
            for index, values in zip(indices, maps, strict=True):
                focal = focals[index]
                if self.variant.needs_focal and focal is not None:
                    values = values * (focal * seen.shape[-1] / width / CANONICAL_FOCAL)
                found[index] = to_estimate(values, self.variant.output)
        return [found[i] for i in range(len(images))]


def _resized(depth: Any, sky: Any | None, size: tuple[int, int]) -> Any:
    """Depth at the image's size, 0 in the sky."""
    from torch.nn.functional import interpolate

    large = interpolate(depth[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    if sky is None:
        return large
    return large * (interpolate(sky[:, None], size=size, mode="nearest")[:, 0] < SKY_THRESHOLD)
