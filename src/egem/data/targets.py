"""What the depth head is taught to draw: depth, or one of two controls.

* `depth`: the depth of each image.
* `image`: the image itself in place of its depth map, at the map's size (the RGB reconstruction of the paper's
  ablation): as much to draw, nothing said about geometry.
* `shuffled`: the depth of another group of images, always the same one: maps of the same kind that say nothing
  about the image they are drawn from.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image

from egem.batch import DepthMap
from egem.core.errors import ConfigError
from egem.data.depth import DepthPolicy, DepthTarget


def donors(num_groups: int, *, seed: int) -> Int[np.ndarray, "group"]:
    """For each group another one; each gives once and takes once (one cycle through all, in random order).

    Args:
        num_groups: how many groups there are.
        seed: of the order.

    Raises:
        ConfigError: a single group has no other.
    """
    if num_groups < 2:
        raise ConfigError("depth_target 'shuffled' needs at least two groups of images; give more data.")
    order = np.random.default_rng([seed, num_groups]).permutation(num_groups)
    taken_from = np.empty(num_groups, np.int64)
    taken_from[order] = np.roll(order, -1)
    return taken_from


def pictures_in_place(
    maps: Sequence[DepthMap], images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
) -> tuple[DepthMap, ...]:
    """The images in place of the depth maps: as many and as large, red, green and blue in [-1, 1], all valid.

    Args:
        maps: of these images, as pixels.
        images: RGB, of any size.
    """
    return tuple(_picture(place, images[place.image_index]) for place in maps)


def check_target(target: DepthTarget, policy: DepthPolicy) -> None:
    """Whether a checkpoint's depth head and codec can be taught this.

    Raises:
        ConfigError: an image has three channels and the codec another number.
    """
    if target == "image" and policy.num_channels != 3:
        raise ConfigError(
            f"depth_target 'image': a picture has 3 channels, but this checkpoint draws depth encoded as "
            f"'{policy.encoding}', with {policy.num_channels}; take a checkpoint whose encoding is 'spectral'."
        )


def _picture(place: DepthMap, image: UInt8[np.ndarray, "_ _ 3"]) -> DepthMap:
    height, width = place.valid.shape
    # Antialiased, as depth is: each pixel is about the mean of those it stands for.
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(small, np.float32) / 127.5 - 1.0).permute(2, 0, 1).contiguous()
    return DepthMap(
        image_index=place.image_index, pixels=pixels, valid=torch.ones(height, width, dtype=torch.bool)
    )
