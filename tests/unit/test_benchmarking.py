"""The counts and plans that `egem bench train` states, against independent ones; and its run from end to end."""

import json
from dataclasses import replace

import pytest
import torch
from benchmarks.gpu import base as gpu_base
from benchmarks.gpu import measured, planned_gb
from tests import tiny
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from egem.benchmarking import workload
from egem.benchmarking.flops import forward_flops
from egem.benchmarking.parts import clock_of, parts_timed
from egem.benchmarking.plan import Kept, PlanConfig, advice, plan, plan_result, plan_table
from egem.benchmarking.training import BenchTrainConfig, bench_train, table
from egem.cli import main
from egem.core.errors import ConfigError
from egem.models.presets import PRESETS, build


def counted(function) -> int:
    # Torch counts no product inside its fused attention on the CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        function()
    return counter.get_total_flops()


def test_flops_are_those_that_torch_counts() -> None:
    """Single image and sample, so that no product is shared; torch counts the whole square of causal attention."""
    torch.set_num_threads(1)
    model = tiny.build_micro().eval()
    batch = tiny.random_batch(1, image_sizes=((32, 48),), depth_sizes=((32, 16),))
    found = forward_flops(model, batch)
    length = batch.input_ids.shape[1]
    config = model.backbone.config.text_config
    square = 4 * length**2 * config.head_dim * config.num_attention_heads * config.num_hidden_layers  # pyright: ignore
    half = square * (length + 1) / (2 * length)
    with torch.no_grad():
        vision = counted(lambda: model.backbone._vision(batch.patches, batch.image_grid))
        hidden = model.backbone(batch)
        everything = counted(lambda: model.backbone.language_loss(model.backbone(batch), batch))
        depth = counted(lambda: model.depth_loss(hidden, batch, generator=torch.Generator().manual_seed(0)))
    assert found.vision == pytest.approx(vision, rel=1e-6)
    assert found.text - half + square == pytest.approx(everything - vision, rel=1e-6)
    assert found.depth == pytest.approx(depth, rel=1e-6)
    assert forward_flops(model, batch, depth=False).depth == 0


def test_flops_of_gem_2b_are_about_two_for_each_weight_and_token() -> None:
    model = build("gem-2b", device="meta")
    ids = torch.full((1, 1000), 7)
    batch = replace(
        tiny.random_batch(1),
        input_ids=ids,
        labels=ids,
        position_ids=torch.zeros(3, 1, 1000, dtype=torch.long),
        segment_ids=torch.ones_like(ids),
        image_grid=torch.tensor([[1, 28, 28]]),
        patches=torch.zeros(784, 1536),
    )
    found = forward_flops(model, batch, depth=False)
    weights = sum(p.numel() for p in model.backbone.qwen.model.language_model.parameters())
    assert found.text == pytest.approx(2 * weights * 1000, rel=0.1)
    assert found.vision == pytest.approx(2 * 784 * 0.3e9, rel=0.3)


def test_kept_bytes_are_those_autograd_holds() -> None:
    """A chain whose saved tensors can be counted by hand: each exp keeps its result."""
    model = tiny.build_micro()
    kept = Kept(model)
    values = torch.zeros(1000, requires_grad=True)
    with kept.counting():
        values.exp().exp().sum()
    assert kept.everything["rest"] == 2 * 4 * 1000


def test_plan_counts_what_training_allocates() -> None:
    config = PlanConfig(preset="tiny", row_tokens=6 * 184, image_size=128)  # 6 images
    model = build("tiny", device="meta")
    parameters = sum(p.numel() for p in model.parameters())
    found = plan(config)
    assert found.weights == pytest.approx(4 * parameters / 1e9)
    assert found.gradients == pytest.approx(4 * parameters / 1e9)
    assert found.optimizer == pytest.approx(8 * parameters / 1e9)
    assert plan(replace(config, optimizer="adamw8bit")).optimizer == pytest.approx(found.optimizer / 4)
    # On one GPU autocast has a bfloat16 copy of all that is trained; several keep whole gradients for a while.
    assert found.gathered_weights == pytest.approx(2 * parameters / 1e9)
    split = plan(replace(config, gpus=4))
    assert split.weights == pytest.approx(found.weights / 4)
    assert split.gradients == pytest.approx(found.gradients)
    split = plan(replace(config, gpus=4, accumulate_whole=False))
    assert split.gradients == pytest.approx(found.gradients / 4)
    frozen = plan(replace(config, frozen=("backbone",)))
    assert frozen.gradients < found.gradients / 2
    assert plan(replace(config, lora_rank=4)).optimizer < found.optimizer / 2
    twice = plan(replace(config, row_tokens=12 * 184))
    text = "text layers"
    assert twice.activations[text] == pytest.approx(2 * found.activations[text], rel=0.1)


def test_plan_of_gem_8b_on_eight_gpus(capsys) -> None:
    main(["bench", "train", "--plan", "gem-8b", "--gpus", "8", "--gpu-memory", "80"])
    shown = capsys.readouterr().out
    assert "text layers" in shown
    assert "gradients" in shown
    weights = sum(p.numel() for p in build("gem-8b", device="meta").parameters())
    assert f"| {weights * 4 / 8 / 1e9:.2f} |" in shown


def test_a_plan_that_does_not_fit_says_what_to_turn_on() -> None:
    config = PlanConfig(preset="tiny", row_tokens=6 * 184, image_size=128)
    full = replace(config, activation_checkpointing="full")
    result = plan_result(replace(config, gpu_memory=plan(full).total + 1e-3))
    assert not result["fits"]
    assert result["fits_then"]
    assert result["turn_on"] == ["--activation-checkpointing full"]
    assert "Turn on: --activation-checkpointing full." in plan_table(result)
    options, found = advice(replace(config, gpu_memory=1.0))
    assert found.total > 1.0
    assert "--lora-rank 16" in options


def test_the_24_gb_recipe_fits_its_card() -> None:
    from egem.recipes import RECIPES

    recipe = RECIPES["gem-2b-24gb"]()
    row_tokens = recipe.stages[-1].row_tokens
    assert row_tokens is not None
    config = PlanConfig(
        preset="gem-2b",
        gpu_memory=24.0,
        row_tokens=row_tokens,
        activation_checkpointing=recipe.activation_checkpointing,
        lora_rank=recipe.lora_rank,
        lora_modules=recipe.lora_modules,
        cached_latents=recipe.latents == "required",
    )
    assert plan(config).total < 22.0


@pytest.mark.parametrize("name", ["gem-2b", "gem-8b"])
def test_the_full_recipes_fit_eight_cards_of_80_gb(name: str) -> None:
    from egem.recipes import RECIPES

    recipe = RECIPES[name]()
    row_tokens = recipe.stages[-1].row_tokens
    assert row_tokens is not None
    config = PlanConfig(
        preset=name,
        gpus=8,
        row_tokens=row_tokens,
        activation_checkpointing=recipe.activation_checkpointing,
        accumulate_whole=recipe.stages[-1].accumulate_whole,
    )
    assert plan(config).total < 76.0


def test_the_gpu_script_starts_only_what_fits_the_card() -> None:
    """An H200 has 149e9 bytes; what the plan has no room for is refused before anything is allocated."""
    assert planned_gb(gpu_base(tiny=False, steps=None)) < 0.9 * 149
    refused = measured(gpu_base(tiny=True, steps=1), memory_gb=1e-3)
    assert "not started" in refused["error"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"gpus": 0}, "gpus 0"), ({"row_tokens": 10}, "row_tokens 10"), ({"preset": "gem2b"}, "gem-2b")],
)
def test_plans_that_make_no_sense(fields: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        plan(PlanConfig(**{"preset": "gem-2b", **fields}))


def test_parts_of_a_step_are_the_whole() -> None:
    torch.set_num_threads(1)
    model = tiny.build_micro()
    seconds: dict[str, float] = {}
    now = clock_of(torch.device("cpu"))
    batch = tiny.random_batch(2)
    names = set(vars(model)), set(vars(model.backbone))
    model(batch, generator=torch.Generator().manual_seed(0))  # What a first pass sets up belongs to no part.
    start = now()
    with parts_timed(model, seconds, now):
        losses = model(batch, generator=torch.Generator().manual_seed(0))
        (losses.language_sum + losses.depth_sum).backward()
    whole = now() - start
    assert set(seconds) == {"vision", "text", "output layer", "depth head", "depth codec"}
    assert 0.4 * whole < sum(seconds.values()) <= whole
    assert (set(vars(model)), set(vars(model.backbone))) == names


def test_the_benchmark_from_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "PRESETS", PRESETS | {"tiny": tiny.micro_preset()})
    config = BenchTrainConfig(
        image_size=64,
        batch_size=2,
        steps=1,
        rounds=1,
        workers=0,
        device="cpu",
        row_tokens=400,
    )
    # Of processors that emulate bfloat16.
    monkeypatch.setattr("egem.benchmarking.training.compute_dtype", lambda name, _: torch.float32)
    result = json.loads(json.dumps(bench_train(config)))
    assert result["config"]["dtype"] == "float32"
    assert set(result["loops"]) == {"joint", "language", "baseline"}
    joint = result["loops"]["joint"]
    assert sum(joint["shares"].values()) == pytest.approx(1.0)
    assert 0 < joint["mfu_text_only"] < joint["mfu"] < 1
    assert joint["images_per_second"] == pytest.approx(joint["samples_per_second"])
    ratio = joint["samples_per_second"] / result["loops"]["baseline"]["samples_per_second"]
    assert result["speedup_over_baseline"]["median"] == pytest.approx(ratio)
    assert "samples of joint" in table(result).replace("samples/s", "samples")
