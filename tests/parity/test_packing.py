"""Packed rows equal one sample a row: losses, gradients, whole runs; and no sample sees its neighbours."""

from dataclasses import replace

import pytest
import torch
from tests import tiny
from tests.training_runs import assert_close, micro_config, numbers, three_stages
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from egem.batch import Batch, DepthTargets, Losses, Sample
from egem.data.collate import collate
from egem.models.attention import attend_segments
from egem.models.gem import GEM
from egem.models.segments import Segments
from egem.training.loop import train

PLACEHOLDER = DepthTargets(
    pixels=torch.zeros(1, 1, 32, 32),
    valid=torch.ones(1, 32, 32, dtype=torch.bool),
    image_index=torch.zeros(1, dtype=torch.int64),
    weight=torch.zeros(1),
)
OPTIONS = [
    {"image_sizes": ((32, 32),)},
    {"image_sizes": ((48, 32), (32, 32)), "depth_sizes": ((32, 16), (32, 32)), "num_turns": 4},
    {"image_sizes": (), "num_turns": 3},
    {"image_sizes": ((32, 64),), "depth_sizes": (None,), "num_turns": 1},
    {"image_sizes": ((32, 32), (32, 32)), "depth_sizes": (None, (32, 32)), "num_turns": 3},
]

PLACEHOLDER = tiny.random_batch(1, depth_sizes=(None,)).depth[0]


@pytest.fixture(scope="module")
def model() -> GEM:
    torch.set_num_threads(1)
    return tiny.build_micro()


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [tiny.random_sample(seed=n, **options) for n, options in enumerate(OPTIONS)]  # pyright: ignore


def collated(samples: list[Sample], row_tokens: int | None) -> Batch:
    return collate(samples, pad_id=0, depth_placeholder=PLACEHOLDER, row_tokens=row_tokens)


def result(model: GEM, batches: tuple[Batch, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    """Sums of all losses and counts, and all gradients, from one generator over all passes."""
    model.zero_grad()
    generator = torch.Generator().manual_seed(3)
    total = torch.zeros(4)
    for batch in batches:
        losses: Losses = model(batch, generator=generator)
        (losses.language_sum + 0.5 * losses.depth_sum).backward()
        values = (losses.language_sum, losses.language_count, losses.depth_sum, losses.depth_count)
        total += torch.stack([value.detach().float() for value in values])
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_packed_in_one_pass(model: GEM, samples: list[Sample]) -> None:
    apart, packed = collated(samples, None), collated(samples, 60)
    assert len(apart.input_ids) == 5
    assert 1 < len(packed.input_ids) < 5
    values, gradients = result(model, (packed,))
    expected, expected_gradients = result(model, (apart,))
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-5)


def test_packed_row_by_row(model: GEM) -> None:
    """Depth maps of one size, so that both ways draw for them in the same order; one row has none."""
    samples = [
        tiny.random_sample(seed=n, num_turns=1 + n, depth_sizes=(None,) if n == 1 else None) for n in range(5)
    ]
    whole = collated(samples, 20)
    rows = whole.rows()
    assert len(rows) == len(whole.input_ids) == 5
    assert [len(row.image_grid) for row in rows] == [1, 1, 1, 1, 1]
    values, gradients = result(model, (collated(samples, None),))
    # The row without depth draws for its placeholder, which the others must not notice.
    generator = torch.Generator().manual_seed(3)
    assert not rows[1].depth[0].weight.any()
    model.zero_grad()
    total = torch.zeros(2)
    for n, row in enumerate(rows):
        own = torch.Generator() if n == 1 else generator
        losses = model(row, generator=own)
        (losses.language_sum + 0.5 * losses.depth_sum).backward()
        total += torch.stack([losses.language_sum, losses.depth_sum]).detach()
    torch.testing.assert_close(total, values[[0, 2]], rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-5, msg=name)


def test_rows_are_cut_completely(samples: list[Sample]) -> None:
    whole = collated(samples, 60)
    rows = whole.rows()
    for name in ("input_ids", "labels", "segment_ids"):
        for row, part in enumerate(rows):
            length = part.input_ids.shape[1]
            assert torch.equal(getattr(part, name)[0], getattr(whole, name)[row, :length])
            assert (part.segment_ids > 0).all()
            assert not whole.segment_ids[row, length:].any()
    assert torch.equal(torch.cat([part.patches for part in rows]), whole.patches)
    assert torch.equal(torch.cat([part.image_grid for part in rows]), whole.image_grid)
    first = 0
    found = []
    for part in rows:
        found += [
            (int(index) + first, targets.pixels[n])
            for targets in part.depth
            for n, index in enumerate(targets.image_index)
            if targets.weight[n] > 0
        ]
        first += len(part.image_grid)
    expected = {int(index): t.pixels[n] for t in whole.depth for n, index in enumerate(t.image_index)}
    assert sorted(index for index, _ in found) == sorted(expected)
    assert all(torch.equal(pixels, expected[index]) for index, pixels in found)


def test_a_sample_is_blind_to_its_neighbours(model: GEM, samples: list[Sample]) -> None:
    packed = collated(samples, 1000)
    assert len(packed.input_ids) == 1
    changed = packed.segment_ids == 2
    other_ids = packed.input_ids.where(~changed | (packed.input_ids >= 1000), (packed.input_ids + 1) % 900)
    first = samples[0].patches.shape[0]
    other_patches = packed.patches.clone()
    other_patches[first : first + samples[1].patches.shape[0]] += 1.0
    with torch.no_grad():
        logits = model.backbone.logits(model.backbone(packed))
        moved = model.backbone.logits(
            model.backbone(replace(packed, input_ids=other_ids, patches=other_patches))
        )
    assert torch.equal(moved[~changed], logits[~changed])
    assert (moved[changed] != logits[changed]).any(dim=-1).float().mean() > 0.9


@pytest.mark.parametrize("row_tokens", [40, 10_000])
def test_a_run_does_not_change(tmp_path, row_tokens: int) -> None:
    """Rows of a few samples, each a pass of its own, and all samples in one row."""
    (joint,) = three_stages(steps=(1, 1, 4))[2:]
    # Without depth: in rows, maps of two sizes are drawn for in another order.
    joint = replace(joint, depth_weight=0.0)
    config = micro_config(tmp_path, run=tmp_path / "apart", stages=(joint,))
    train(config)
    packed = replace(joint, row_tokens=row_tokens)
    train(replace(config, run=tmp_path / "packed", stages=(packed,)))
    assert_close(numbers(tmp_path / "packed"), numbers(tmp_path / "apart"), rel=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_segments_equal_a_block_mask(causal: bool, key_heads: int) -> None:
    lengths = (1, 130, 7, 64)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(heads, sum(lengths), 8, generator=generator, requires_grad=True)
        for heads in (4, key_heads, key_heads)
    )
    segments = Segments.of(lengths, torch.device("cpu"))
    ours = attend_segments(query, key, value, segments, scale=0.3, causal=causal)
    ids = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    mask = ids[:, None] == ids[None]
    mask = mask.tril() if causal else mask
    repeated = [states.repeat_interleave(4 // key_heads, dim=0) for states in (key, value)]
    theirs = scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3).transpose(0, 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    direction = torch.randn(ours.shape, generator=generator)
    gradients = [torch.autograd.grad((out * direction).sum(), (query, key, value)) for out in (ours, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)
