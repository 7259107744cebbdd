"""A batch of k equals k batches of one: losses, gradients, generated tokens, sampled depth."""

from collections.abc import Sequence

import pytest
import torch
from tests import tiny

from egem.batch import Sample
from egem.models.flow_matching import Draws
from egem.models.gem import GEM

SAMPLES = [
    {"image_sizes": ((32, 32),)},
    {"image_sizes": ((48, 32), (32, 32)), "depth_sizes": ((32, 16), (32, 32)), "num_turns": 4},
    {"image_sizes": ((32, 64),), "depth_sizes": ((16, 32),), "num_turns": 1},
    {"image_sizes": ((32, 32), (32, 32)), "depth_sizes": (None, (32, 32)), "num_turns": 3},
    {"image_sizes": (), "num_turns": 3},
]


@pytest.fixture(scope="module", params=["pixel", "dc-ae"])
def model(request: pytest.FixtureRequest) -> GEM:
    torch.set_num_threads(1)
    return tiny.build_micro(request.param)


def samples_for(model: GEM, *, prompt_only: bool = False) -> list[Sample]:
    channels = model.depth_codec.channels
    return [
        tiny.random_sample(seed=n, channels=channels, prompt_only=prompt_only, **options)  # pyright: ignore
        for n, options in enumerate(SAMPLES)
    ]


def draws_for(model: GEM, samples: Sequence[Sample]) -> list[list[Draws]]:
    """For each sample, one draw per depth map."""
    generator = torch.Generator().manual_seed(7)
    codec = model.depth_codec
    result = []
    for sample in samples:
        own = []
        for depth_map in sample.depth_maps:
            height, width = depth_map.valid.shape
            shape = (1, codec.latent_channels, height // codec.factor, width // codec.factor)
            own.append(
                Draws(
                    time=torch.rand(1, generator=generator),
                    noise=torch.randn(shape, generator=generator),
                    drop=torch.rand(1, generator=generator) < 0.3,
                )
            )
        result.append(own)
    return result


def grouped(samples: Sequence[Sample], draws: Sequence[Sequence[Draws]]) -> list[Draws]:
    """In the order in which `tiny.batch_of` groups maps by size."""
    groups: dict[tuple[int, ...], list[Draws]] = {}
    for sample, own in zip(samples, draws, strict=True):
        for depth_map, one in zip(sample.depth_maps, own, strict=True):
            groups.setdefault(tuple(depth_map.valid.shape), []).append(one)
    return [
        Draws(
            time=torch.cat([one.time for one in group]),
            noise=torch.cat([one.noise for one in group]),
            drop=torch.cat([one.drop for one in group]),
        )
        for group in groups.values()
    ] or [Draws(time=torch.ones(1), noise=torch.zeros(1, 1, 1, 1), drop=torch.zeros(1, dtype=torch.bool))]


def test_losses_and_gradients(model: GEM) -> None:
    samples = samples_for(model)
    draws = draws_for(model, samples)
    channels = model.depth_codec.channels
    model.zero_grad()
    together = model(tiny.batch_of(samples, channels=channels), draws=grouped(samples, draws))
    (together.language_sum + together.depth_sum).backward()
    expected = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    sums = torch.zeros(4, dtype=torch.float64)
    for sample, own in zip(samples, draws, strict=True):
        if not own:  # the placeholder's own draw has the placeholder's size
            codec = model.depth_codec
            side = 32 // codec.factor
            own = [
                Draws(
                    time=torch.ones(1),
                    noise=torch.zeros(1, codec.latent_channels, side, side),
                    drop=torch.zeros(1, dtype=torch.bool),
                )
            ]
            alone = model(tiny.batch_of([sample], channels=channels), draws=own)
        else:
            alone = model(tiny.batch_of([sample], channels=channels), draws=grouped([sample], [own]))
        (alone.language_sum + alone.depth_sum).backward()
        sums += torch.stack(
            [alone.language_sum, alone.language_count, alone.depth_sum, alone.depth_count]
        ).detach()
    whole = [together.language_sum, together.language_count, together.depth_sum, together.depth_count]
    torch.testing.assert_close(torch.stack(whole).double().detach(), sums, rtol=1e-5, atol=1e-5)
    assert together.depth_count == 5
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        torch.testing.assert_close(parameter.grad, expected[key], rtol=2e-3, atol=2e-4, msg=key)


def test_logits(model: GEM) -> None:
    samples = samples_for(model)
    batch = tiny.batch_of(samples)
    together = model.backbone.logits(model.backbone(batch))
    for row, sample in enumerate(samples):
        alone = model.backbone.logits(model.backbone(tiny.batch_of([sample])))[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, rtol=1e-5, atol=1e-5)


def test_generated_tokens(model: GEM) -> None:
    samples = samples_for(model, prompt_only=True)
    together = model.generate_text(samples, max_new_tokens=12)
    assert together == [model.generate_text([sample], max_new_tokens=12)[0] for sample in samples]


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_sampled_depth(model: GEM, guidance: float) -> None:
    samples = samples_for(model, prompt_only=True)[:4]
    codec = model.depth_codec
    generator = torch.Generator().manual_seed(3)
    sizes = [[(32, 32)], [(32, 16), (32, 32)], [(16, 32)], [(32, 32), (16, 32)]]
    noise = [
        [
            torch.randn(codec.latent_channels, h // codec.factor, w // codec.factor, generator=generator)
            for h, w in s
        ]
        for s in sizes
    ]
    together = model.sample_depth(samples, sizes=sizes, noise=noise, num_steps=3, guidance=guidance)
    for n, sample in enumerate(samples):
        alone = model.sample_depth(
            [sample], sizes=[sizes[n]], noise=[noise[n]], num_steps=3, guidance=guidance
        )[0]
        assert [tuple(m.shape[1:]) for m in alone] == sizes[n]
        torch.testing.assert_close(together[n], alone, rtol=1e-5, atol=1e-5)


def test_one_generator_draws_the_same_for_one_batch_and_for_batches_of_one(model: GEM) -> None:
    """Maps of one size: time, drop and noise come map by map, whatever the batch."""
    channels = model.depth_codec.channels
    samples = [tiny.random_sample(seed=n, channels=channels) for n in range(4)]
    together = model(
        tiny.batch_of(samples, channels=channels), language=False, generator=torch.Generator().manual_seed(5)
    )
    generator = torch.Generator().manual_seed(5)
    alone = sum(
        model(tiny.batch_of([s], channels=channels), language=False, generator=generator).depth_sum
        for s in samples
    )
    torch.testing.assert_close(together.depth_sum, alone, rtol=1e-5, atol=1e-5)
