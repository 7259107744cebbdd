from dataclasses import replace

import numpy as np
import pytest
import torch
from tests import tiny

from egem.core.errors import ConfigError
from egem.data.depth import target_size
from egem.models import backbone as backbone_module
from egem.models.flow_matching import Draws, draw
from egem.models.gem import GEM, MODULES, parameter_report
from egem.models.presets import build


@pytest.fixture
def model() -> GEM:
    torch.set_num_threads(1)
    return tiny.build_micro()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_modules_and_the_codec_which_is_none_of_them() -> None:
    model = tiny.build_micro("dc-ae")
    assert tuple(name for name, _ in model.named_children()) == MODULES
    assert {name.split(".")[0] for name in model.state_dict()} == set(MODULES)
    codec_parameters = {id(p) for p in model.depth_codec.autoencoder.parameters()}  # pyright: ignore
    assert not codec_parameters & {id(p) for p in model.parameters()}


def test_both_losses_reach_every_parameter(model: GEM) -> None:
    losses = model(tiny.random_batch(2), generator=generator())
    (losses.language_sum + losses.depth_sum).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert losses.depth_count == 2
    assert losses.language_count > 0
    assert losses.language_sum.dtype == losses.depth_sum.dtype == torch.float32


def test_depth_alone_computes_no_logits_and_language_alone_no_depth(model: GEM, monkeypatch) -> None:
    called = []
    for name in ("depth_head.sana", "connector"):
        model.get_submodule(name).register_forward_hook(lambda m, a, o, name=name: called.append(name))
    loss = backbone_module.linear_cross_entropy
    monkeypatch.setattr(
        backbone_module, "linear_cross_entropy", lambda *a: (called.append("logits"), loss(*a))[1]
    )
    depth = model(tiny.random_batch(1), language=False, generator=generator())
    assert called == ["connector", "depth_head.sana"]
    assert (depth.language_sum, depth.language_count) == (0, 0)
    called.clear()
    language = model(tiny.random_batch(1), depth=False)
    assert called == ["logits"]
    assert (language.depth_sum, language.depth_count) == (0, 0)


def test_a_frozen_backbone_keeps_no_graph(model: GEM) -> None:
    model.backbone.requires_grad_(False)
    kept = []
    model.connector.register_forward_pre_hook(lambda m, args: kept.append(args[0].requires_grad))
    losses = model(tiny.random_batch(1), language=False, generator=generator())
    losses.depth_sum.backward()
    assert kept == [False]
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.connector.parameters())
    next(model.backbone.parameters()).requires_grad_(True)
    model(tiny.random_batch(1), language=False, generator=generator())
    assert kept[1]


def test_conditions_are_dropped_in_training_only(model: GEM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "config", replace(model.config, condition_dropout=1.0))
    batch = tiny.random_batch(2)
    conditions = []
    model.connector.register_forward_pre_hook(lambda m, args: conditions.append(args[0].detach()))
    dropped = model.train()(batch, language=False, generator=generator()).depth_sum
    kept = model.eval()(batch, language=False, generator=generator()).depth_sum
    assert not conditions[0].any()
    assert conditions[1].any()
    assert dropped != kept


def test_missing_depth_never_enters_the_loss(model: GEM) -> None:
    batch = tiny.random_batch(2)
    before = model(batch, language=False, generator=generator())
    targets = batch.depth[0]
    # Sana sees the filling as part of x_t, so only the target may be tested: compare against it directly.
    pixels = targets.pixels.clone()
    weight = model.depth_codec.latent_weight(targets.valid)
    latents = model.depth_codec.encode(pixels)
    model.depth_head.sana.proj_out.weight.data.zero_()
    model.depth_head.sana.proj_out.bias.data.zero_()
    noise = torch.randn(latents.shape, generator=generator(3))
    draws = Draws(time=torch.rand(2), noise=noise, drop=torch.zeros(2).bool())
    expected = ((noise - latents).square() * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))
    pixels[~targets.valid[:, None]] = 1.0
    changed = replace(batch, depth=(replace(targets, pixels=pixels),))
    losses = model(changed, language=False, draws=[draws])
    torch.testing.assert_close(losses.depth_sum, expected.sum())
    assert before.depth_count == losses.depth_count == 2


def test_maps_without_readings_and_placeholders_count_for_nothing(model: GEM) -> None:
    batch = tiny.random_batch(3)
    targets = batch.depth[0]
    valid = targets.valid.clone()
    valid[1] = False
    weight = torch.tensor([1.0, 1.0, 0.0])
    losses = model(
        replace(batch, depth=(replace(targets, valid=valid, weight=weight),)),
        language=False,
        generator=generator(),
    )
    alone = model(
        replace(batch, depth=(replace(targets, weight=torch.tensor([1.0, 0.0, 0.0])),)),
        language=False,
        generator=generator(),
    )
    assert losses.depth_count == 1
    assert losses.depth_sum == alone.depth_sum
    text = model(tiny.batch_of([tiny.random_sample(image_sizes=())]), generator=generator())
    assert (text.depth_sum, text.depth_count) == (0, 0)
    (text.language_sum + text.depth_sum).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_same_generator_same_loss(model: GEM) -> None:
    batch = tiny.random_batch(2)
    first, second, other = (model(batch, generator=generator(seed)).depth_sum for seed in (0, 0, 1))
    assert first == second != other


@pytest.mark.parametrize("codec", ["pixel", "dc-ae"])
def test_sampled_depth_has_the_policys_size_and_range(codec: str) -> None:
    model = tiny.build_micro(codec).eval()  # pyright: ignore
    samples = [
        tiny.random_sample(seed=n, image_sizes=sizes, prompt_only=True)
        for n, sizes in enumerate([((32, 48),), ((64, 32), (32, 32)), ()])
    ]
    maps = model.sample_depth(samples, generator=generator())
    policy = model.config.depth
    expected = [
        [target_size(h, w, policy) for h, w in sizes] for sizes in [((32, 48),), ((64, 32), (32, 32)), ()]
    ]
    assert [[tuple(m.shape[1:]) for m in own] for own in maps] == expected
    for drawn in [m for own in maps for m in own]:
        assert drawn.shape[0] == policy.num_channels
        assert drawn.min() >= -1
        assert drawn.max() <= 1
    again = model.sample_depth(samples, generator=generator())
    assert all(torch.equal(a, b) for a, b in zip(maps[1], again[1], strict=True))


def test_drawn_depth_is_metric_where_the_encoding_is() -> None:
    sample = tiny.random_sample(prompt_only=True)
    metric = tiny.build_micro().draw_depth([sample], generator=generator())[0][0]
    assert (metric.kind, metric.values.dtype, metric.values.shape) == ("metric", np.float32, (32, 32))
    assert metric.values.min() >= 0.05 - 1e-6
    relative = tiny.build_micro("dc-ae").draw_depth([sample], generator=generator())[0][0]
    assert relative.kind == "inverse_relative"
    assert relative.scale is None


def test_one_call_of_the_depth_head_for_maps_of_one_size(model: GEM) -> None:
    calls = []
    model.depth_head.register_forward_pre_hook(lambda m, args: calls.append(tuple(args[0].shape)))
    samples = [tiny.random_sample(seed=n, image_sizes=((32, 32),) * n, prompt_only=True) for n in (1, 3)]
    model.sample_depth(samples, num_steps=1, guidance=1.0, generator=generator())
    assert calls == [(4, 16, 8, 8)]


def test_bad_sizes(model: GEM) -> None:
    sample = tiny.random_sample(prompt_only=True)
    with pytest.raises(ConfigError, match=r"^depth of 30 x 32: both must be multiples of 4\.$"):
        model.sample_depth([sample], sizes=[[(30, 32)]])
    with pytest.raises(ConfigError, match=r"^sample 0: 2 sizes for 1 images\.$"):
        model.sample_depth([sample], sizes=[[(32, 32), (32, 32)]])


def test_parts_that_do_not_fit() -> None:
    preset = tiny.micro_preset()
    with pytest.raises(ConfigError, match="misfit: backbone 32 wide"):
        build(replace(preset, depth_head=preset.depth_head | {"in_channels": 32}))


def test_parameter_report(model: GEM) -> None:
    model.backbone.requires_grad_(False)
    report = parameter_report(model)
    assert list(report) == list(MODULES)
    assert report["backbone"][1] == 0 < report["backbone"][0]
    assert report["connector"][0] == report["connector"][1] == 32 * 24 + 24 + 24 * 24 + 24 + 24
    assert sum(total for total, _ in report.values()) == sum(p.numel() for p in model.parameters())


def test_bfloat16_autocast_trains(model: GEM) -> None:
    batch = tiny.random_batch(2)
    exact = model(batch, generator=generator())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(batch, generator=generator())
    assert rounded.depth_sum.dtype == torch.float32
    assert rounded.depth_sum.item() == pytest.approx(exact.depth_sum.item(), rel=0.02)
    (rounded.language_sum + rounded.depth_sum).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_training_and_sampling_use_the_checkpoints_time_shift(
    model: GEM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "config", replace(model.config, time_shift=3.0, sampling_steps=2))
    times = []
    model.depth_head.register_forward_pre_hook(lambda m, args: times.extend(args[1].tolist()))
    model.sample_depth([tiny.random_sample(prompt_only=True)], guidance=1.0)
    assert times == pytest.approx([1.0, 0.75])
    times.clear()
    model(tiny.random_batch(1), language=False, generator=generator())
    plain = draw((1, 1, 1, 1), dropout=0.0, generator=generator()).time.item()
    assert times == pytest.approx([3 * plain / (1 + 2 * plain)])
