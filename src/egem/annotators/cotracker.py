"""CoTracker3 through its published torch interface: a TorchScript file, or a local checkout with weights.

Both give `predictor(video, queries=...) -> tracks, visible` with video (1, frame, 3, height, width) in 0 to 255 and
queries (1, point, 3) of frame, x, y. Its pixel coordinates put the centre of the first pixel at (0, 0).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, UInt8

from egem.annotators.tracks import PointTracks
from egem.core.errors import CheckpointError, ConfigError
from egem.device import device_of

LICENCE: Final = "cc-by-nc-4.0"
"""Of the published weights."""
_ENTRY: Final = "cotracker3_offline"


@dataclass(frozen=True, kw_only=True)
class CoTracker3:
    """The offline model: it sees all frames at once and finds points again behind what hid them."""

    predictor: Any
    origin: str
    device: Any
    licence: str = LICENCE

    @classmethod
    def load(cls, path: Path, *, weights: Path | None = None, device: str = "auto") -> "CoTracker3":
        """Load the predictor.

        Args:
            path: TorchScript file, or a checkout of facebookresearch/co-tracker (with its hubconf.py).
            weights: for a checkout: the offline model's tensors as safetensors.
            device: see `egem.device.device_of`.

        Raises:
            ConfigError: neither of both, or a checkout without weights.
            CheckpointError: a file cannot be read, or has other tensors.
        """
        place = device_of(device)
        if (path / "hubconf.py").is_file():
            predictor = _of_checkout(path, weights)
        elif path.is_file():
            predictor = _of_script(path)
        else:
            raise ConfigError(
                f"{path} is neither a TorchScript file nor a checkout of co-tracker (no hubconf.py in it)."
            )
        name = (weights or path).stem
        return cls(predictor=predictor.to(place).eval(), origin=f"cotracker3/{name}", device=place)

    def track(
        self, frames: Sequence[UInt8[np.ndarray, "height width 3"]], points: Float[np.ndarray, "point 2"]
    ) -> PointTracks:
        """See `PointTracker`."""
        import torch

        video = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float()[None].to(self.device)
        queries = torch.zeros(1, len(points), 3, device=self.device)
        queries[0, :, 1:] = torch.from_numpy(np.asarray(points, np.float32) - np.float32(0.5)).to(self.device)
        with torch.inference_mode():
            tracks, visible = self.predictor(video, queries=queries)
        places = tracks[0].float().cpu().numpy() + np.float32(0.5)
        expected = (len(frames), len(points), 2)
        if places.shape != expected or not np.isfinite(places).all():
            raise CheckpointError(
                f"{self.origin} gave tracks of shape {places.shape} where {expected} was asked for, or not finite."
            )
        seen = visible[0].bool().cpu().numpy()
        return PointTracks(points=_held(places, seen), visible=seen)


def _held(places: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Places with the last one that was seen where a point is not."""
    held = places.copy()
    for frame in range(1, len(held)):
        held[frame] = np.where(seen[frame][:, None], places[frame], held[frame - 1])
    return held


def _of_script(path: Path) -> Any:
    import torch

    try:
        return torch.jit.load(str(path), map_location="cpu")
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} is no TorchScript file ({str(error).splitlines()[0]}); weights are read from safetensors, "
            "beside a checkout of co-tracker."
        ) from error


def _of_checkout(path: Path, weights: Path | None) -> Any:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if weights is None:
        raise ConfigError(
            f"{path} is a checkout; give its weights too (--cotracker-weights FILE.safetensors)."
        )
    if weights.suffix != ".safetensors":
        raise ConfigError(
            f"{weights}: pickled weights are not loaded. Convert them once, where you trust them: "
            "safetensors.torch.save_file(torch.load('scaled_offline.pth', weights_only=True), 'offline.safetensors')."
        )
    predictor: Any = torch.hub.load(str(path), _ENTRY, source="local", pretrained=False)
    try:
        predictor.model.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{weights} does not fit {path}: {str(error).splitlines()[0]}") from error
    return predictor
