"""Images as Qwen3-VL's vision tower takes them: resized to whole merged patches and cut up.

Equal to transformers' `Qwen2VLImageProcessorPil` value for value, but without transformers or torchvision. Patches stay
bytes, an eighth of the memory, until the device that uses them (`egem.batch.PatchScale`).
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image

from egem.batch import PatchScale
from egem.core.errors import CheckpointError, ConfigError, RecordError

MAX_ASPECT_RATIO = 200


@dataclass(frozen=True, kw_only=True)
class ImagePolicy:
    """How a backbone wants its images; the content of its `preprocessor_config.json`."""

    patch_size: int
    """Pixels a side of one patch."""
    temporal_patch_size: int
    """Frames in one patch; a still image is repeated this often."""
    merge_size: int
    """Patches a side that become one visual token."""
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ConfigError(f"image size: {self.min_pixels} to {self.max_pixels} pixels is no range.")

    @property
    def factor(self) -> int:
        """Pixels a side of one visual token."""
        return self.patch_size * self.merge_size

    @property
    def patch_bytes(self) -> int:
        """Bytes of one flattened patch of a still image."""
        return len(self.mean) * self.patch_size**2

    def patch_scale(self) -> PatchScale:
        """What the processor makes of each byte."""
        values = np.arange(256, dtype=np.float32)[None].repeat(len(self.mean), axis=0)
        # These roundings, in this order, are transformers' at each of the 256 levels.
        values /= 255
        values -= np.array(self.mean, np.float32)[:, None]
        values /= np.array(self.std, np.float32)[:, None]
        return PatchScale(levels=torch.from_numpy(values), repeats=self.temporal_patch_size)

    @classmethod
    def from_folder(cls, folder: Path) -> "ImagePolicy":
        """Read the policy of a Qwen3-VL checkpoint.

        Args:
            folder: holds `preprocessor_config.json`, or `processor_config.json` with an `image_processor`.

        Raises:
            CheckpointError: neither is there, or it asks for something Qwen's image processor does not do.
        """
        values, path = _processor_values(Path(folder))
        size = values.get("size") or {}
        try:
            policy = cls(
                patch_size=values["patch_size"],
                temporal_patch_size=values["temporal_patch_size"],
                merge_size=values["merge_size"],
                min_pixels=values.get("min_pixels") or size["shortest_edge"],
                max_pixels=values.get("max_pixels") or size["longest_edge"],
                mean=tuple(values["image_mean"]),
                std=tuple(values["image_std"]),
            )
        except KeyError as error:
            raise CheckpointError(f"{path} has no {error}; it is not a Qwen3-VL image processor's.") from None
        expected = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3}
        for key, value in expected.items():
            if values.get(key, value) != value:
                raise CheckpointError(f"{path}: {key} = {values[key]} is not supported, only {value}.")
        if not math.isclose(values.get("rescale_factor", 1 / 255), 1 / 255):
            raise CheckpointError(f"{path}: rescale_factor {values['rescale_factor']} is not 1/255.")
        return policy


def smart_resize(height: int, width: int, policy: ImagePolicy) -> tuple[int, int]:
    """The size an image is brought to: whole visual tokens, the shape nearly kept, the area within limits.

    Raises:
        RecordError: one side is more than 200 times the other.
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise RecordError(
            f"an image of {width} x {height} pixels: one side is over {MAX_ASPECT_RATIO} times the other."
        )
    factor = policy.factor
    # Python's round (half to even) is part of the definition.
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width > policy.max_pixels:
        shrink = math.sqrt(height * width / policy.max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif new_height * new_width < policy.min_pixels:
        enlarge = math.sqrt(policy.min_pixels / (height * width))
        new_height = math.ceil(height * enlarge / factor) * factor
        new_width = math.ceil(width * enlarge / factor) * factor
    return new_height, new_width


def patchify(
    image: UInt8[np.ndarray, "height width 3"], policy: ImagePolicy, *, fast_resize: bool = False
) -> tuple[UInt8[np.ndarray, "patch pixel"], Int[np.ndarray, "3"]]:
    """Resize and cut an image.

    Args:
        image: RGB.
        policy: of the backbone.
        fast_resize: resize as the processor on torchvision does, which transformers takes where that is
            installed, in place of its twin on Pillow: about four times as fast, and one value in 400 differs by
            one of 255 levels (very few by two).

    Returns:
        The patches, those of one visual token next to each other and in each one channel after another, and the
        grid: 1, rows, columns of patches.

    Raises:
        RecordError: the image is too long and thin.
    """
    size = smart_resize(image.shape[0], image.shape[1], policy)
    if size != image.shape[:2]:
        image = _resize_fast(image, size) if fast_resize else _resize(image, size)
    patch, merge = policy.patch_size, policy.merge_size
    rows, columns = size[0] // patch, size[1] // patch
    blocks = image.reshape(rows // merge, merge, patch, columns // merge, merge, patch, 3)
    patches = blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, policy.patch_bytes)
    return patches, np.array([1, rows, columns], np.int64)


def _resize(image: UInt8[np.ndarray, "height width 3"], size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _resize_fast(image: UInt8[np.ndarray, "height width 3"], size: tuple[int, int]) -> np.ndarray:
    import torch

    planes = torch.from_numpy(image if image.flags.writeable else image.copy()).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(planes, size=size, mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def _processor_values(folder: Path) -> tuple[dict[str, Any], Path]:
    for name, key in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        path = folder / name
        if not path.is_file():
            continue
        try:
            values = json.loads(path.read_text())
        except ValueError as error:
            raise CheckpointError(f"{path} is not valid JSON ({error}); copy the checkpoint again.") from None
        values = values if key is None else values.get(key)
        if isinstance(values, dict):
            return values, path
    raise CheckpointError(f"{folder} has no preprocessor_config.json; it is not a Qwen3-VL checkpoint.")
