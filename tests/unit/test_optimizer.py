import math
from pathlib import Path

import pytest
import torch
from tests.tiny import build_micro, random_batch
from tests.training_runs import three_stages

from egem.core.errors import ConfigError
from egem.training.config import StageConfig, TrainConfig
from egem.training.optimizer import (
    freeze,
    gradient_norm,
    make_optimizer,
    set_learning_rates,
    set_training,
    trained_parameters,
)

CONNECTOR, DEPTH_HEAD, JOINT = three_stages()
TRAINED = {
    "connector": ("connector.",),
    "depth_head": ("connector.", "depth_head."),
    "joint": ("connector.", "depth_head.", "backbone."),
}


def config(**fields):
    return TrainConfig(**{"run": Path("r"), "data": (Path("d"),), "stages": (JOINT,), **fields})


def stage(rates):
    return StageConfig(name="joint", learning_rates=rates, steps=10)


@pytest.mark.parametrize("chosen", three_stages(), ids=lambda chosen: chosen.name)
def test_each_stage_trains_exactly_its_modules(chosen):
    model = build_micro()
    report = freeze(model, chosen)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    expected = {name for name in shapes if name.startswith(TRAINED[chosen.name])}
    assert set(report.parameters) == expected
    assert report.parameters == {name: shapes[name] for name in expected}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == expected
    assert report.num_trainable == sum(math.prod(shapes[name]) for name in expected)
    assert report.num_trainable + report.num_frozen == sum(p.numel() for p in model.parameters())
    # Conditions must be dropped in every stage; children without anything to learn stay in evaluation mode.
    assert model.training
    for name, child in model.named_children():
        assert child.training == (f"{name}." in TRAINED[chosen.name])


@pytest.mark.parametrize("chosen", three_stages(), ids=lambda chosen: chosen.name)
def test_a_step_moves_what_is_trained_and_nothing_else(chosen):
    model = build_micro()
    freeze(model, chosen)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, chosen, config())
    set_learning_rates(optimizer, chosen, 1, 4)
    batch = random_batch(4)
    losses = model(batch, language=chosen.language_weight > 0, generator=torch.Generator().manual_seed(0))
    (losses.language_sum + losses.depth_sum).backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    gradients = {name for name, p in model.named_parameters() if p.grad is not None}
    assert gradients <= {name for name in before if name.startswith(TRAINED[chosen.name])}
    assert moved <= gradients
    for prefix in TRAINED[chosen.name]:
        share = [name in moved for name in gradients if name.startswith(prefix)]
        assert sum(share) > 0.9 * len(share)


def test_longest_name_decides_and_zero_freezes():
    model = build_micro()
    embedding = "backbone.qwen.model.language_model.embed_tokens"
    chosen = stage({"backbone": 1e-4, "backbone.qwen.model.visual": 1e-5, embedding: 0.0})
    freeze(model, chosen)
    optimizer = make_optimizer(model, chosen, config())
    rates = set_learning_rates(optimizer, chosen, 0, 10)
    assert rates == {"backbone": 1e-4, "backbone.qwen.model.visual": 1e-5}
    peaks = {id(p): group["peak"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if name.startswith("backbone.qwen.model.visual."):
            assert peaks[id(parameter)] == 1e-5
        elif name.startswith(embedding) or not name.startswith("backbone."):
            assert not parameter.requires_grad
            assert id(parameter) not in peaks
        else:
            assert peaks[id(parameter)] == 1e-4


def test_vectors_do_not_decay():
    model = build_micro()
    freeze(model, JOINT)
    optimizer = make_optimizer(model, JOINT, config(weight_decay=0.1))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(trained_parameters(model))
    for parameter in model.parameters():
        assert decay[id(parameter)] == (0.1 if parameter.ndim >= 2 else 0.0)


def test_rates_follow_the_schedule():
    model = build_micro()
    chosen = StageConfig(
        name="joint", learning_rates={"connector": 1e-3, "depth_head": 1e-4}, steps=10, warmup_steps=4
    )
    freeze(model, chosen)
    optimizer = make_optimizer(model, chosen, config())
    assert set_learning_rates(optimizer, chosen, 0, 10) == {"connector": 2.5e-4, "depth_head": 2.5e-5}
    assert set_learning_rates(optimizer, chosen, 3, 10) == {"connector": 1e-3, "depth_head": 1e-4}
    assert set_learning_rates(optimizer, chosen, 7, 10)["connector"] == pytest.approx(5e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("conector", "unknown module in stage 'joint' 'conector'. Did you mean 'connector'?"),
        ("depth_codec", "unknown module in stage 'joint' 'depth_codec'."),
        ("backbone.qwen.modle", "Did you mean 'backbone.qwen.model'?"),
    ],
)
def test_unknown_module(name, message):
    with pytest.raises(ConfigError) as error:
        freeze(build_micro(), stage({"connector": 1e-3, name: 1e-3}))
    assert message in str(error.value)


def test_gradient_norm_is_that_of_all_gradients_together():
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (3, 5, 2)]
    parameters[0].grad, parameters[1].grad = torch.randn(3), torch.randn(5)
    together = torch.cat([parameters[0].grad, parameters[1].grad])
    assert gradient_norm(parameters) == pytest.approx(float(together.norm()), rel=1e-6)
    parameters[1].grad[2] = math.inf
    assert not gradient_norm(parameters).isfinite()


def test_training_mode_can_be_set_again():
    model = build_micro()
    freeze(model, CONNECTOR)
    model.eval()
    set_training(model)
    assert model.training
    assert model.connector.training
    assert not model.backbone.training
