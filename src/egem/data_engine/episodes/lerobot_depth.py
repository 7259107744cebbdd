"""Depth in LeRobot datasets: whose it is, and its published forms as metres.

    images   16-bit PNG, or TIFF (lerobot 0.6 without videos): counts, or floating point, of `depth_unit`
    videos   lerobot 0.6: one channel of 12-bit codes between two depths, by default in logarithmic steps

What is of neither form is left out, and said so: metres cannot be guessed.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float, UInt16
from PIL import Image

from egem.core.errors import RecordError
from egem.data_engine.episodes.frames import EncodedDepth, VideoFrames

PIXEL_FORMAT: Final = "gray12le"
LAST_CODE: Final = 4095
_TWELVE_BITS: Final = ("gray12le", "yuv420p12le", "yuv422p12le", "yuv444p12le")
"""Pixel formats whose first plane holds the codes."""
_PREFIXES: Final = ("observation.depth.", "observation.images.", "observation.image.", "observation.")
_CODE_ENTRIES: Final = ("video.depth_min", "video.depth_max", "video.shift", "video.use_log")
_UNITS_M: Final = {"mm": 0.001, "m": 1.0}
"""Metres per count of the units that lerobot 0.6 notes; earlier releases note none and mean millimetres."""
_TIFF_STARTS: Final = (b"II*\0", b"MM\0*")


def is_depth(feature: Mapping[str, Any]) -> bool:
    """Whether a feature of info.json says that it is depth."""
    info = info_of(feature)
    return bool(info.get("is_depth_map") or info.get("video.is_depth_map"))


def info_of(feature: Mapping[str, Any]) -> Mapping[str, Any]:
    """What info.json notes about a feature's pictures."""
    return feature.get("info") or feature.get("video_info") or {}


def depth_features(
    features: Mapping[str, Mapping[str, Any]], cameras: Iterable[str]
) -> tuple[dict[str, str], list[str]]:
    """Which feature holds which camera's depth.

    Args:
        features: of info.json.
        cameras: their names, without what stands before them in features.

    Returns:
        Camera to feature (named as the camera, or as lerobot's robots do it with `_depth` behind); and about each
        depth feature that is left out, why and what to do.
    """
    names, found, left_out = set(cameras), {}, []
    for key, feature in features.items():
        if not is_depth(feature):
            continue
        own = _name(key)
        camera = next((c for c in (own, own.removesuffix("_depth")) if c in names and c not in found), None)
        if camera is None:
            there = ", ".join(sorted(names)) or "none"
            left_out.append(
                f"depth '{key}' is left out, as no camera is named like it (there are {there}); name it "
                "observation.images.<camera>_depth."
            )
        elif feature["dtype"] == "video" and (lacking := _lacking(feature)):
            left_out.append(
                f"depth '{key}' is left out, as metres cannot be told from its video ({lacking}); write it anew with "
                "lerobot 0.6 or later, or as 16-bit images."
            )
        else:
            found[camera] = key
    return found, left_out


def _name(key: str) -> str:
    return next((key.removeprefix(prefix) for prefix in _PREFIXES if key.startswith(prefix)), key)


def _lacking(feature: Mapping[str, Any]) -> str:
    """What keeps a depth video from being of the 12-bit form, in words; empty for nothing."""
    info = info_of(feature)
    missing = [entry for entry in _CODE_ENTRIES if info.get(entry) is None]
    if missing:
        return f"info.json has no {', '.join(missing)} of it"
    format = info.get("video.pix_fmt")
    return "" if format in _TWELVE_BITS else f"its pixel format is {format}, not of 12 bits"


def unit_m(feature: Mapping[str, Any], key: str, where: str) -> float:
    """Metres per count of depth images.

    Raises:
        RecordError: a unit that is not known.
    """
    info = info_of(feature)
    named = info.get("depth_unit") or "mm"
    if named not in _UNITS_M:
        raise RecordError(f"{where}: the depth of {key} is in '{named}'; {', '.join(_UNITS_M)} can be read.")
    return float(info.get("depth_unit_m", _UNITS_M[named]))


@dataclass(frozen=True, kw_only=True)
class DepthImages(EncodedDepth):
    """Depth maps as PNG or TIFF files."""

    def read(self, indices: Sequence[int]) -> list[Float[np.ndarray, "height width"]]:
        """See `DepthFrames`."""
        return [self._one(index) for index in indices]

    def _one(self, index: int) -> Float[np.ndarray, "height width"]:
        data = self.fetch(index)
        if data[:4] not in _TIFF_STARTS:
            return super().read([index])[0]
        try:
            values = np.asarray(Image.open(io.BytesIO(data), formats=("TIFF",)))
        except (OSError, SyntaxError, ValueError) as error:
            raise RecordError(
                f"{self.where}, depth {index} cannot be decoded: {error}; it is damaged."
            ) from error
        if values.ndim != 2:
            raise RecordError(f"{self.where}, depth {index} has shape {values.shape}; one channel is right.")
        metres = values.astype(np.float32) * np.float32(self.unit_m)
        return np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(0))


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthCodes:
    """How lerobot 0.6 packs metres into 12 bits (its `datasets/depth_utils.py`, after BEHAVIOR-1K).

    code = 4095 (f(depth) - f(near)) / (f(far) - f(near)), rounded and clipped; f(d) = log(d + shift), or f(d) = d.
    """

    near_m: float
    far_m: float
    shift_m: float
    logarithmic: bool

    @classmethod
    def of(cls, feature: Mapping[str, Any], key: str, where: str) -> "DepthCodes":
        """As info.json notes them.

        Raises:
            RecordError: numbers between which there are no steps.
        """
        near, far, shift, logarithmic = (info_of(feature)[entry] for entry in _CODE_ENTRIES)
        if not near < far or (logarithmic and near + shift <= 0):
            raise RecordError(
                f"{where}: {key} has depth_min {near}, depth_max {far} and shift {shift}; depth_min must be below "
                "depth_max, and above -shift."
            )
        return cls(near_m=near, far_m=far, shift_m=shift, logarithmic=bool(logarithmic))

    def metres(self, codes: UInt16[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
        """Depth; 0 for the first and the last code, which stand for all that is nearer, missing or farther."""
        share = codes.astype(np.float32) / LAST_CODE
        if self.logarithmic:
            low, high = np.log(self.near_m + self.shift_m), np.log(self.far_m + self.shift_m)
            depth = np.exp(low + share * (high - low)) - self.shift_m
        else:
            depth = self.near_m + share * (self.far_m - self.near_m)
        return np.where((codes > 0) & (codes < LAST_CODE), depth, 0).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class CodedDepth:
    """Depth maps in a video of 12-bit codes."""

    video: VideoFrames
    codes: DepthCodes

    def __len__(self) -> int:
        return len(self.video)

    def read(self, indices: Sequence[int]) -> list[Float[np.ndarray, "height width"]]:
        """See `DepthFrames`."""
        return [self.codes.metres(frame) for frame in self.video.decode(indices, PIXEL_FORMAT)]
