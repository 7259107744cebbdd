"""Our multimodal positions against transformers' Qwen3-VL."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

from egem.data.chat import positions

IMAGE = 99


def reference(ids: np.ndarray, grid: np.ndarray, merge: int) -> np.ndarray:
    """`get_rope_index` reads nothing of the model but the merge size, so no weights are needed."""
    model = SimpleNamespace(
        config=SimpleNamespace(vision_config=SimpleNamespace(spatial_merge_size=merge)),
        get_vision_position_ids=lambda *a, **k: Qwen3VLModel.get_vision_position_ids(model, *a, **k),
    )
    tokens = torch.from_numpy(ids)[None]
    found, _ = Qwen3VLModel.get_rope_index(
        model,
        tokens,
        mm_token_type_ids=(tokens == IMAGE).int(),
        image_grid_thw=torch.from_numpy(grid) if len(grid) else None,
    )
    return found[:, 0].numpy()


def sequence(
    rng: np.random.Generator, grids: list[tuple[int, int]], merge: int
) -> tuple[np.ndarray, np.ndarray]:
    ids: list[int] = []
    for rows, columns in grids:
        ids += rng.integers(0, 50, rng.integers(1, 6)).tolist()  # at least the vision start
        ids += [IMAGE] * (rows * columns // merge**2)
    ids += rng.integers(0, 50, rng.integers(1, 6)).tolist()
    return np.array(ids), np.array([(1, *grid) for grid in grids], np.int64).reshape(-1, 3)


@pytest.mark.parametrize("merge", [1, 2])
@pytest.mark.parametrize(
    "grids",
    [[], [(4, 4)], [(2, 12)], [(12, 2)], [(4, 6), (6, 4)], [(2, 2)] * 8, [(10, 14), (2, 2), (4, 20)]],
    ids=str,
)
def test_positions(grids, merge):
    ids, grid = sequence(np.random.default_rng(0), grids, merge)
    np.testing.assert_array_equal(positions(ids, grid, IMAGE, merge), reference(ids, grid, merge))
