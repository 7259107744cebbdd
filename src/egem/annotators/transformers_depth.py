"""Any depth-estimation model of transformers: Depth Anything V2, Depth Pro, ZoeDepth, GLPN, DPT."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

import numpy as np
from jaxtyping import UInt8

from egem.annotators.checkpoints import checkpoint_name, licence_of, unreadable
from egem.annotators.depth import DepthEstimate, DepthOutput, by_size, to_estimate
from egem.core.errors import ConfigError
from egem.device import device_of

OUTPUTS: Final[dict[str, DepthOutput]] = {
    "zoedepth": "metric",
    "depth_pro": "metric",
    "glpn": "metric",
    "dpt": "disparity",
}
"""`model_type` of a checkpoint -> what its numbers are; `depth_anything` says it in its own configuration."""

_DEPTH_ANYTHING: Final[dict[str, DepthOutput]] = {"relative": "disparity", "metric": "metric"}
_NOT_FROM_IMAGES_ALONE: Final = ("prompt_depth_anything",)


@dataclass(frozen=True, kw_only=True)
class TransformersDepth:
    """A model with its own image processor."""

    model: Any
    processor: Any
    output: DepthOutput
    origin: str
    licence: str
    device: Any

    @classmethod
    def from_pretrained(
        cls, checkpoint: str, *, output: DepthOutput | None = None, device: str = "auto"
    ) -> "TransformersDepth":
        """Load a checkpoint.

        Args:
            checkpoint: folder or name on the hub.
            output: what the model's numbers are; None takes what is known of its type (`OUTPUTS`).
            device: see `egem.device.device_of`.

        Raises:
            CheckpointError: it cannot be loaded.
            ConfigError: it is not known what its numbers are, or it needs more than an image.
        """
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation

        place = device_of(device)
        try:
            config = AutoConfig.from_pretrained(checkpoint)
            output = output or known_output(config, checkpoint)
            processor = AutoImageProcessor.from_pretrained(checkpoint)
            model = AutoModelForDepthEstimation.from_pretrained(checkpoint).to(place).eval()
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise unreadable(checkpoint, "depth model", error) from error
        return cls(
            model=model,
            processor=processor,
            output=output,
            origin=f"{config.model_type.replace('_', '-')}/{checkpoint_name(checkpoint)}",
            licence=licence_of(checkpoint),
            device=place,
        )

    def estimate(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], focals: Sequence[float | None]
    ) -> list[DepthEstimate]:
        """See `DepthEstimator`; focal lengths are not asked for by these models."""
        import torch

        found: dict[int, DepthEstimate] = {}
        for indices in by_size(images):
            batch = [images[i] for i in indices]
            sizes = [image.shape[:2] for image in batch]
            inputs = self.processor(images=batch, return_tensors="pt").to(self.device)
            with torch.inference_mode():
                outputs = self.model(**inputs)
            # ZoeDepth pads its input and has to be told how large the image was.
            extra = {"source_sizes": sizes} if self.model.config.model_type == "zoedepth" else {}
            results = self.processor.post_process_depth_estimation(outputs, target_sizes=sizes, **extra)
            for index, result in zip(indices, results, strict=True):
                values = result["predicted_depth"].float().cpu().numpy()
                found[index] = to_estimate(values, self.output)
        return [found[i] for i in range(len(images))]


def known_output(config: Any, checkpoint: str) -> DepthOutput:
    """What the numbers of a model are, from its configuration.

    Raises:
        ConfigError: not known; says how to state it.
    """
    kind = config.model_type
    if kind in _NOT_FROM_IMAGES_ALONE:
        raise ConfigError(f"{checkpoint} is a {kind}: it needs sparse depth as a prompt; give another model.")
    if kind == "depth_anything":
        return _DEPTH_ANYTHING[config.depth_estimation_type]
    if kind not in OUTPUTS:
        raise ConfigError(
            f"what the numbers of {checkpoint} (a {kind}) mean is not known; state it with "
            f"--output {'|'.join(get_args(DepthOutput))}."
        )
    return OUTPUTS[kind]
