"""The controls of what the depth head is taught: pictures, another image's depth, regression instead of flow."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.record_sets import write_records
from tests.tiny import build_micro, micro_preset, random_batch

from egem.core.errors import ConfigError
from egem.data.loader import batches
from egem.data.order import ReadingOrder
from egem.data.prepare import Preparer
from egem.data.targets import donors
from egem.media import decode_image
from egem.models.gem import GEM
from egem.models.presets import build
from egem.shards import RecordGroups
from egem.training.config import StageConfig, TrainConfig

NUM_GROUPS = 5


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> RecordGroups:
    return RecordGroups([write_records(tmp_path_factory.mktemp("records") / "r", NUM_GROUPS)])


@pytest.fixture(scope="module")
def preparers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Preparer]:
    folder = tmp_path_factory.mktemp("checkpoints")
    for codec in ("pixel", "dc-ae"):
        build_micro(codec).save_pretrained(folder / codec)
    return {codec: Preparer.from_checkpoint(folder / codec) for codec in ("pixel", "dc-ae")}


def drawn(records: RecordGroups, preparer: Preparer, target: str, seed: int = 0) -> torch.Tensor:
    """The maps of every group, in the order of the groups."""
    order = ReadingOrder(len(records), 0, shuffle=False)
    loaded = batches(
        records,
        preparer,
        order,
        batch_size=len(records),
        num_steps=1,
        workers=0,
        target=target,
        target_seed=seed,
    )
    (targets,) = next(loaded).depth
    assert targets.pixels is not None
    return targets.pixels


def test_every_group_has_another_donor_and_gives_once() -> None:
    for num_groups in (2, 3, 100):
        found = donors(num_groups, seed=num_groups)
        assert sorted(found.tolist()) == list(range(num_groups))
        assert not np.any(found == np.arange(num_groups))
    assert not np.array_equal(donors(100, seed=0), donors(100, seed=1))
    with pytest.raises(ConfigError, match="at least two groups"):
        donors(1, seed=0)


def test_shuffled_depth_is_the_donor_s_and_always_the_same(records: RecordGroups, preparers: dict) -> None:
    own = drawn(records, preparers["pixel"], "depth")
    shuffled = drawn(records, preparers["pixel"], "shuffled", seed=3)
    torch.testing.assert_close(shuffled, own[torch.from_numpy(donors(NUM_GROUPS, seed=3))])
    assert all(not torch.equal(a, b) for a, b in zip(own, shuffled, strict=True))
    torch.testing.assert_close(shuffled, drawn(records, preparers["pixel"], "shuffled", seed=3))


def test_image_target_is_the_picture_at_the_map_s_size(records: RecordGroups, preparers: dict) -> None:
    depth, images = (drawn(records, preparers["dc-ae"], target) for target in ("depth", "image"))
    assert images.shape == depth.shape
    picture = decode_image(records[0][0].images[0]).astype(np.float32) / 127.5 - 1
    # 48 x 64 pixels onto 24 x 32: away from edges, antialiasing is near the mean of each block of four.
    height, width = images.shape[2:]
    blocks = picture.reshape(height, 48 // height, width, 64 // width, 3).mean(axis=(1, 3))
    difference = np.abs(images[0].permute(1, 2, 0).numpy() - blocks)
    assert np.median(difference) < 0.02
    assert images.abs().max() <= 1


def test_image_target_needs_three_channels(records: RecordGroups, preparers: dict) -> None:
    with pytest.raises(ConfigError, match=r"3 channels.*'log'.*spectral"):
        drawn(records, preparers["pixel"], "image")
    stage = StageConfig(name="joint", learning_rates={"backbone": 1e-3}, steps=1)
    with pytest.raises(ConfigError, match="stored latents are of depth"):
        TrainConfig(
            run=Path("r"), data=(Path("d"),), stages=(stage,), depth_target="image", latents="required"
        )


def regressing() -> GEM:
    preset = micro_preset()
    return build(replace(preset, config=replace(preset.config, objective="regression")), seed=0)


def test_regression_is_the_squared_error_of_what_is_sampled() -> None:
    """An independent computation: sample the map, compare its latents with the true ones."""
    model = regressing().train()
    batch = random_batch(2, seed=4)
    hidden = model.backbone(batch)
    loss, count = model.depth_loss(hidden, batch, generator=torch.Generator().manual_seed(1))
    again, _ = model.depth_loss(hidden, batch, generator=torch.Generator().manual_seed(2))
    assert count == 2
    torch.testing.assert_close(loss, again)

    tokens, mask = model.backbone.image_tokens(hidden, batch)
    (targets,) = batch.depth
    latents = model.depth_codec.encode(targets.pixels)
    zeros, ones = torch.zeros_like(latents), torch.ones(len(latents))
    predicted = -model.depth_head(zeros, ones, model.connector(tokens), mask)
    weight = model.depth_codec.latent_weight(targets.valid)
    expected = ((predicted - latents).square() * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))
    torch.testing.assert_close(loss, expected.sum())


def test_regression_says_one_map_whatever_the_noise() -> None:
    from tests.tiny import random_sample

    model = regressing().eval()
    sample = random_sample(prompt_only=True)
    first, second = (
        model.sample_depth([sample], num_steps=n, generator=torch.Generator().manual_seed(n))[0][0]
        for n in (1, 7)
    )
    torch.testing.assert_close(first, second)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in build_micro().parameters())
