"""Our image preprocessing against transformers' own, bit for bit."""

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from egem.data.images import ImagePolicy, patchify

QWEN = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
TINY = {"patch_size": 8, "temporal_patch_size": 1, "merge_size": 2}
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = [
    (1, 1),
    (2, 3),
    (37, 211),
    (211, 37),
    (480, 640),
    (641, 479),
    (64, 64),
    (3, 500),
    (500, 3),
    (1201, 803),
    (31, 33),
    (48, 16),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [QWEN, TINY], ids=["qwen", "tiny"])
@pytest.mark.parametrize("limits", [(4096, 262144), (65536, 16777216), (1024, 16384)])
def test_patches_and_grid(size, shape, limits):
    image = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), dtype=np.uint8)
    reference = Qwen2VLImageProcessorPil(
        **shape,
        size={"shortest_edge": limits[0], "longest_edge": limits[1]},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )(images=[image], input_data_format="channels_last", return_tensors="np")
    policy = ImagePolicy(**shape, min_pixels=limits[0], max_pixels=limits[1])
    values, grid = pixel_values(image, policy)
    np.testing.assert_array_equal(grid, reference["image_grid_thw"][0])
    np.testing.assert_array_equal(values, reference["pixel_values"])


def pixel_values(image, policy):
    patches, grid = patchify(image, policy)
    assert patches.dtype == np.uint8
    return policy.patch_scale().values(torch.from_numpy(patches)).numpy(), grid


def test_other_normalisation():
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    reference = Qwen2VLImageProcessorPil(
        **QWEN,
        size={"shortest_edge": 1024, "longest_edge": 65536},
        image_mean=list(CLIP_MEAN),
        image_std=list(CLIP_STD),
    )(images=[image], input_data_format="channels_last", return_tensors="np")
    policy = ImagePolicy(**QWEN, min_pixels=1024, max_pixels=65536, mean=CLIP_MEAN, std=CLIP_STD)
    np.testing.assert_array_equal(pixel_values(image, policy)[0], reference["pixel_values"])


def test_policy_reads_what_transformers_writes(tmp_path):
    size = {"shortest_edge": 4096, "longest_edge": 65536}
    Qwen2VLImageProcessorPil(**QWEN, size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(
        tmp_path
    )
    assert ImagePolicy.from_folder(tmp_path) == ImagePolicy(**QWEN, min_pixels=4096, max_pixels=65536)
