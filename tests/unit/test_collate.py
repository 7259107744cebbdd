import torch
from tests.tiny import random_sample

from egem.batch import IGNORE_LABEL, DepthTargets
from egem.data.collate import collate

PLACEHOLDER = DepthTargets(
    pixels=torch.zeros(1, 1, 16, 16),
    valid=torch.ones(1, 16, 16, dtype=torch.bool),
    image_index=torch.zeros(1, dtype=torch.int64),
    weight=torch.zeros(1),
)

SIZES = [((32, 32),), ((32, 64), (32, 32)), ((16, 16), (64, 32)), ((32, 32),), ()]
DEPTHS = [((32, 32),), (None, (16, 16)), (None, (32, 32)), (None,), ()]


def make():
    return [
        random_sample(seed=seed, image_sizes=images, depth_sizes=depths, num_turns=1 + seed)
        for seed, (images, depths) in enumerate(zip(SIZES, DEPTHS, strict=True))
    ]


def test_rows_are_padded_on_the_right():
    samples = make()
    batch = collate(samples, pad_id=7, depth_placeholder=PLACEHOLDER)
    assert batch.record_ids == tuple(f"random/{seed}" for seed in range(5))
    length = max(len(sample.input_ids) for sample in samples)
    assert batch.input_ids.shape == batch.labels.shape == batch.segment_ids.shape == (5, length)
    assert batch.position_ids.shape == (3, 5, length)
    for row, sample in enumerate(samples):
        end = len(sample.input_ids)
        assert torch.equal(batch.input_ids[row, :end], sample.input_ids)
        assert torch.equal(batch.labels[row, :end], sample.labels)
        assert torch.equal(batch.position_ids[:, row, :end], sample.position_ids)
        assert (batch.segment_ids[row, :end] == 1).all()
        assert (batch.input_ids[row, end:] == 7).all()
        assert (batch.labels[row, end:] == IGNORE_LABEL).all()
        assert (batch.segment_ids[row, end:] == 0).all()


def test_images_follow_each_other():
    samples = make()
    batch = collate(samples, pad_id=0, depth_placeholder=PLACEHOLDER)
    assert batch.image_grid.tolist() == [[1, 4, 4], [1, 4, 8], [1, 4, 4], [1, 2, 2], [1, 8, 4], [1, 4, 4]]
    assert torch.equal(batch.patches, torch.cat([sample.patches for sample in samples]))


def test_depth_maps_are_grouped_by_size():
    samples = make()
    batch = collate(samples, pad_id=0, depth_placeholder=PLACEHOLDER)
    large, small = batch.depth
    assert large.image_index.tolist() == [0, 4]
    assert small.image_index.tolist() == [2]
    assert torch.equal(large.pixels[1], samples[2].depth_maps[0].pixels)
    assert torch.equal(large.valid[0], samples[0].depth_maps[0].valid)
    assert torch.equal(small.pixels[0], samples[1].depth_maps[0].pixels)
    assert large.weight.tolist() == [1, 1]
    assert large.weight.dtype == torch.float32


def test_placeholder_where_there_is_no_depth():
    sample = random_sample(depth_sizes=(None,))
    assert collate([sample], pad_id=0, depth_placeholder=PLACEHOLDER).depth == (PLACEHOLDER,)


def test_one_sample_is_itself():
    sample = random_sample(seed=5)
    batch = collate([sample], pad_id=0, depth_placeholder=PLACEHOLDER)
    assert torch.equal(batch.input_ids[0], sample.input_ids)
    assert (batch.segment_ids == 1).all()
