"""GEM-VLA: losses however a batch is laid out, what learns from what, sampling, and the checkpoint folder."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import tiny
from tests.tiny_vla import ACTION_DIM, HORIZON, STATE_DIM, build_micro_vla, robot_batch, robot_samples
from torch import Tensor

from egem.batch import Batch
from egem.core.errors import CheckpointError, ConfigError
from egem.models.action_expert import even_layers
from egem.models.action_flow import draw_chunks, sample_chunks
from egem.models.action_sampler import ActionSampler
from egem.models.gem import GEM
from egem.models.gem_vla import GEMVLA, add_action_expert
from egem.models.generation import prompt_batch
from egem.models.lora import add_adapters
from egem.models.presets import build, expert_config
from egem.training.config import StageConfig
from egem.training.distributed import World
from egem.training.model_options import checkpoint_activations
from egem.training.optimizer import freeze
from egem.training.step import Clock, accumulate_gradient

CONDITIONINGS = ("keys_values", "hidden_states")


@pytest.fixture(scope="module", params=CONDITIONINGS)
def model(request: pytest.FixtureRequest) -> GEMVLA:
    torch.set_num_threads(1)
    return build_micro_vla(request.param)


def losses_of(model: GEMVLA, batch: Batch, **options):
    return model(batch, generator=torch.Generator().manual_seed(0), **options)


def packed(batch: Batch) -> Batch:
    """All rows one after another in a single row."""
    real = batch.segment_ids > 0
    segments = torch.arange(1, len(real) + 1)[:, None].expand_as(real)[real]
    return replace(
        batch,
        input_ids=batch.input_ids[real][None],
        labels=batch.labels[real][None],
        position_ids=batch.position_ids[:, real][:, None],
        segment_ids=segments[None],
        row_images=(len(batch.image_grid),),
    )


def padded_left(batch: Batch) -> Batch:
    lengths = (batch.segment_ids > 0).sum(dim=1).tolist()
    longest = max(lengths)

    def rolled(values: Tensor) -> Tensor:
        return torch.stack(
            [values[..., row, :].roll(longest - n, -1) for row, n in enumerate(lengths)], dim=-2
        )

    return replace(
        batch,
        **{
            name: rolled(getattr(batch, name))
            for name in ("input_ids", "labels", "position_ids", "segment_ids")
        },
    )


def test_the_layout_of_a_batch_changes_nothing(model: GEMVLA) -> None:
    samples = robot_samples(3)
    batch = replace(robot_batch(samples), row_images=(2, 2, 2))
    assert batch.actions is not None
    draws = model.chunk_draws(batch.actions, generator=torch.Generator().manual_seed(1))
    expected = model(batch, depth=False, chunk_draws=draws)
    assert int(expected.action_count) == 3 * HORIZON - 2
    for other in (packed(batch), padded_left(batch)):
        found = model(other, depth=False, chunk_draws=draws)
        torch.testing.assert_close(found.action_sum, expected.action_sum, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.language_sum, expected.language_sum, rtol=1e-5, atol=1e-5)
    alone = []
    for row, part in enumerate(batch.rows()):
        own = replace(draws, time=draws.time[row : row + 1], noise=draws.noise[row : row + 1])
        alone.append(model(part, depth=False, chunk_draws=own).action_sum)
    torch.testing.assert_close(torch.stack(alone).sum(), expected.action_sum, rtol=1e-5, atol=1e-5)


def test_several_draws_of_a_chunk_are_the_mean_of_one_each(model: GEMVLA) -> None:
    batch = robot_batch(robot_samples(3))
    assert batch.actions is not None
    model.zero_grad()
    draws = model.chunk_draws(batch.actions.repeated(2), generator=torch.Generator().manual_seed(1))
    both = model(batch, depth=False, language=False, action_draws=2, chunk_draws=draws)
    both.action_sum.backward()
    gradient = model.backbone.qwen.get_input_embeddings().weight.grad.clone()
    model.zero_grad()
    sums = []
    for first in (0, 1):
        own = replace(draws, time=draws.time[first::2], noise=draws.noise[first::2])
        one = model(batch, depth=False, language=False, chunk_draws=own)
        assert int(one.action_count) == int(both.action_count)
        (one.action_sum / 2).backward()
        sums.append(one.action_sum.detach() / 2)
    torch.testing.assert_close(both.action_sum.detach(), sum(sums), rtol=1e-5, atol=1e-5)
    found = model.backbone.qwen.get_input_embeddings().weight.grad
    assert float(found.abs().max()) > 0
    torch.testing.assert_close(gradient, found, rtol=1e-4, atol=1e-6)


def test_a_stage_s_draws_reach_the_model(model: GEMVLA) -> None:
    batch = robot_batch(robot_samples(2))
    stage = StageConfig(
        name="policy",
        learning_rates={"action_expert": 1e-3},
        steps=1,
        language_weight=0.0,
        depth_weight=0.0,
        action_weight=1.0,
        action_draws=3,
    )
    found = accumulate_gradient(
        model,
        [batch],
        stage=stage,
        seeds=[5],
        device=torch.device("cpu"),
        dtype=torch.float32,
        world=World(),
        clock=Clock(),
    )
    generator = torch.Generator().manual_seed(5)
    expected = model(batch, language=False, depth=False, action_draws=3, generator=generator)
    mean = float(expected.action_sum.detach() / expected.action_count)
    assert found.action == pytest.approx(mean, rel=1e-6)
    with pytest.raises(ConfigError, match="action_draws 3 without an action_weight"):
        replace(stage, action_weight=0.0, depth_weight=0.1)


def test_padding_of_a_chunk_enters_no_loss(model: GEMVLA) -> None:
    batch = robot_batch(robot_samples(1))
    assert batch.actions is not None
    silent = replace(batch, actions=replace(batch.actions, valid=torch.zeros_like(batch.actions.valid)))
    losses = losses_of(model, silent)
    assert (float(losses.action_sum.detach()), int(losses.action_count)) == (0.0, 0)
    assert float(losses_of(model, batch).action_sum.detach()) > 0


def test_checkpointing_gives_the_same_gradients(model: GEMVLA) -> None:
    batch = robot_batch(robot_samples(2))

    def gradients(mode: str) -> dict[str, Tensor]:
        checkpoint_activations(model, mode)  # pyright: ignore[reportArgumentType]
        model.zero_grad()
        losses_of(model, batch, language=False, depth=False).action_sum.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = gradients("none")
    learning = {name.split(".")[0] for name, gradient in expected.items() if gradient.abs().max() > 0}
    assert learning == {"backbone", "action_expert"}
    assert all(gradient.abs().max() > 0 for name, gradient in expected.items() if name.startswith("action_"))
    for mode in ("selective", "full"):
        torch.testing.assert_close(gradients(mode), expected, rtol=1e-6, atol=1e-7)
    checkpoint_activations(model, "none")


def test_depth_belongs_to_its_own_camera(model: GEMVLA) -> None:
    """Swapping the cameras of two maps changes the loss; a map's loss teaches its own camera's tokens."""
    (sample,) = robot_samples(1, num_views=2)
    first, second = (
        replace(depth, pixels=sample.depth_maps[0].pixels, valid=sample.depth_maps[0].valid)
        for depth in sample.depth_maps
    )
    draws = None

    def depth_sum(*maps) -> tuple[float, Tensor]:
        nonlocal draws
        batch = robot_batch([replace(sample, depth_maps=maps)])
        if draws is None or len(draws[0].time) != len(maps):
            draws = model.eval().draws(
                batch.depth, generator=torch.Generator().manual_seed(3), device=model.device
            )
        batch = replace(batch, patches=batch.patches.clone().requires_grad_())
        total = model(batch, language=False, action=False, draws=draws).depth_sum
        (gradient,) = torch.autograd.grad(total, batch.patches)
        return float(total.detach()), gradient

    other = replace(second, pixels=-second.pixels)
    swapped = (replace(first, image_index=1), replace(other, image_index=0))
    right, _ = depth_sum(first, other)
    wrong, _ = depth_sum(*swapped)
    assert abs(right - wrong) > 1e-4 * right
    # The first picture stands before the second: its tokens cannot depend on the second's patches.
    num_patches = int(sample.image_grid[0].prod())
    _, of_first = depth_sum(first)
    _, of_second = depth_sum(replace(first, image_index=1))
    assert of_first[num_patches:].abs().max() == 0 < of_first[:num_patches].abs().max()
    assert of_second[num_patches:].abs().max() > 0
    model.train()


def test_stages_train_the_named_modules(model: GEMVLA) -> None:
    stage = StageConfig(name="expert", learning_rates={"action_expert": 1e-3}, steps=1, language_weight=0.0)
    report = freeze(model, stage)
    assert {name.split(".")[0] for name in report.parameters} == {"action_expert"}
    model.zero_grad()
    losses_of(model, robot_batch(robot_samples(1)), language=False, depth=False).action_sum.backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.action_expert.parameters())
    model.requires_grad_(True)


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is an extra")
def test_adapters_of_the_backbone_learn_from_actions(tmp_path: Path) -> None:
    model = build_micro_vla()
    add_adapters(model, ("backbone",), rank=2, alpha=4.0, seed=0)
    stage = StageConfig(name="vla", learning_rates={"backbone": 1e-3, "action_expert": 1e-3}, steps=1)
    report = freeze(model, stage)
    assert all("lora_" in name for name in report.parameters if name.startswith("backbone"))
    losses_of(model, robot_batch(robot_samples(1)), language=False, depth=False).action_sum.backward()
    assert any(
        p.grad is not None and p.grad.abs().max() > 0 for n, p in model.named_parameters() if "lora_B" in n
    )
    model.save_pretrained(tmp_path / "merged")
    assert not any("lora" in name for name in GEMVLA.from_pretrained(tmp_path / "merged").state_dict())


def test_the_cached_prefix_gives_what_recomputation_gives(model: GEMVLA) -> None:
    samples = [tiny.random_sample(seed=n, num_turns=1 + n, prompt_only=True) for n in range(3)]
    generator = torch.Generator().manual_seed(0)
    states, noise = (
        torch.randn(3, STATE_DIM, generator=generator),
        torch.randn(3, HORIZON, ACTION_DIM, generator=generator),
    )
    together = model.sample_actions(samples, states, noise=noise, num_steps=4)

    @torch.no_grad()
    def velocity(chunk: Tensor, time: Tensor) -> Tensor:
        _, condition = model.look(prompt_batch(samples, "cpu"))
        return model.action_expert(chunk, time, states, model._adapted(condition))

    again = sample_chunks(velocity, noise, num_steps=4)
    torch.testing.assert_close(together, again, rtol=1e-5, atol=1e-5)
    for n, sample in enumerate(samples):
        alone = model.sample_actions([sample], states[n : n + 1], noise=noise[n : n + 1], num_steps=4)
        torch.testing.assert_close(alone[0], together[n], rtol=1e-5, atol=1e-5)
    fast = ActionSampler(model, num_steps=4)(samples, states, noise=noise)
    torch.testing.assert_close(fast, together, rtol=0, atol=0)
    # For a graph, prompts are padded to few lengths.
    longer = model.prefix(samples, token_multiple=64)
    assert longer.mask is not None
    assert longer.mask.shape[1] == 64
    padded = sample_chunks(lambda x, t: model.action_expert(x, t, states, longer), noise, num_steps=4)
    torch.testing.assert_close(padded.detach(), together, rtol=1e-5, atol=1e-5)
    drawn = [
        model.sample_actions(samples[:n], states[:n], generator=torch.Generator().manual_seed(5))
        for n in (1, 3)
    ]
    torch.testing.assert_close(drawn[0][0], drawn[1][0], rtol=1e-5, atol=1e-5)


def test_a_chunk_continues_what_is_committed(model: GEMVLA) -> None:
    samples = [tiny.random_sample(seed=n, prompt_only=True) for n in range(2)]
    generator = torch.Generator().manual_seed(0)
    states, noise = (
        torch.randn(2, STATE_DIM, generator=generator),
        torch.randn(2, HORIZON, ACTION_DIM, generator=generator),
    )
    free = model.sample_actions(samples, states, noise=noise)
    previous = torch.randn(4, ACTION_DIM, generator=generator)
    held = model.sample_actions(samples, states, noise=noise, previous=[previous, None], committed=[2, 0])
    assert torch.equal(held[0, :2], previous[:2])
    torch.testing.assert_close(held[1], free[1], rtol=1e-5, atol=1e-5)
    distance = [float((chunk[0, 2:4] - previous[2:]).square().mean()) for chunk in (held, free)]
    assert distance[0] < 0.5 * distance[1]  # not committed, yet held to
    everything = model.sample_actions(samples, states, noise=noise, previous=[previous, previous])
    assert torch.equal(everything[1, :4], previous)
    assert not held.requires_grad


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"states": torch.zeros(1, STATE_DIM + 1)}, "states must be"),
        ({"states": torch.full((1, STATE_DIM), float("nan"))}, "not finite"),
        ({"noise": torch.zeros(1, HORIZON + 1, ACTION_DIM)}, "noise"),
        ({"previous": [torch.zeros(HORIZON + 1, ACTION_DIM)]}, "at most"),
        ({"previous": [torch.full((2, ACTION_DIM), float("inf"))]}, "not finite"),
        ({"previous": [torch.zeros(2, ACTION_DIM)], "committed": [3]}, "no more can be committed"),
        ({"num_steps": 0}, "at least one"),
    ],
)
def test_bad_input_is_named(model: GEMVLA, change: dict, said: str) -> None:
    sample = tiny.random_sample(prompt_only=True)
    with pytest.raises(ConfigError, match=said):
        model.sample_actions([sample], **({"states": torch.zeros(1, STATE_DIM)} | change))


def test_a_batch_of_another_robot_is_refused(model: GEMVLA) -> None:
    batch = robot_batch(robot_samples(1))
    assert batch.actions is not None
    with pytest.raises(ConfigError, match="no actions"):
        losses_of(model, replace(batch, actions=None))
    with pytest.raises(ConfigError, match="different robots"):
        losses_of(
            model, replace(batch, actions=replace(batch.actions, actions=batch.actions.actions[..., :2]))
        )
    plain = losses_of(model, replace(batch, actions=None), action=False)
    assert int(plain.action_count) == 0


def test_round_trip(model: GEMVLA, tmp_path: Path) -> None:
    model.policy_files = {"statistics.json": b"{}\n"}
    model.save_pretrained(tmp_path / "one")
    again = GEM.from_pretrained(tmp_path / "one")
    assert isinstance(again, GEMVLA)
    assert again.action_expert.config == model.action_expert.config
    assert again.policy_files == {"statistics.json": b"{}\n"}
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in again.state_dict().items())
    assert state.keys() == again.state_dict().keys()

    path = tmp_path / "one" / "action_expert" / "model.safetensors"
    tensors = load_file(path)
    removed = tensors.pop("blocks.0.attn.wq.weight")
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"missing: blocks\.0\.attn\.wq"):
        GEMVLA.from_pretrained(tmp_path / "one")
    save_file(tensors | {"blocks.0.attn.wq.weight": removed[:-1].clone(), "extra": removed}, path)
    with pytest.raises(CheckpointError, match=r"unknown: extra; mis-shaped: blocks\.0\.attn\.wq"):
        GEMVLA.from_pretrained(tmp_path / "one")
    save_file(tensors | {"blocks.0.attn.wq.weight": removed}, path)
    GEMVLA.from_pretrained(tmp_path / "one")
    config = path.with_name("config.json")
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"condition_size": 48, "condition_heads": 1})
    )
    with pytest.raises(CheckpointError, match=r"misfit|mis-shaped"):
        GEM.from_pretrained(tmp_path / "one")


def test_a_checkpoint_without_an_expert_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no action_expert"):
        GEMVLA.from_pretrained(tiny.write_checkpoint(tmp_path / "gem"))


def test_an_expert_that_does_not_fit_is_refused() -> None:
    gem = tiny.build_micro()
    config = build_micro_vla().action_expert.config
    with pytest.raises(ConfigError, match="layers up to 7"):
        add_action_expert(gem, replace(config, layers=(0, 7)))
    with pytest.raises(ConfigError, match="multiple"):
        replace(config, num_kv_heads=3)


def test_sizes_of_the_presets() -> None:
    """The released expert has 490.8 M parameters, 483.4 M of them outside its adaptors."""
    gem = build("gem-2b", device="meta")
    config = expert_config(gem, action_dim=14, state_dim=14, horizon=32, conditioning="hidden_states")
    expert = add_action_expert(gem, replace(config, state="modulation")).action_expert
    total = sum(p.numel() for p in expert.parameters())
    adaptors = sum(p.numel() for n, p in expert.named_parameters() if n.split(".")[0].endswith("adaptor"))
    assert round(total / 1e6, 1) == 490.8
    assert round((total - adaptors) / 1e6, 1) == 483.4
    assert expert_config(gem, action_dim=7, state_dim=8, horizon=16).layers == tuple(range(1, 28, 2))
    assert even_layers(14, 36)[-1] == 35
    assert even_layers(4, 4) == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("name", "mean", "middle"), [("uniform", 0.5, 0.5), ("logistic-normal", 0.5, 0.5), ("beta", 0.6, 0.63)]
)
def test_noise_levels(name: str, mean: float, middle: float) -> None:
    time = draw_chunks((4000, 1, 1), distribution=name, generator=torch.Generator().manual_seed(0)).time  # pyright: ignore
    assert 0 < float(time.min()) <= float(time.max()) <= 1
    assert float(time.mean()) == pytest.approx(mean, abs=0.02)
    assert float(time.median()) == pytest.approx(middle, abs=0.02)
