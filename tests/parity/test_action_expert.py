"""The action expert against computations that share no code with it: dense attention on transformers' own cache, the
released expert's forward pass, and the guidance of real-time chunking with a Jacobian written out."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import tiny
from tests.tiny_vla import ACTION_DIM, HORIZON, STATE_DIM, build_micro_vla, robot_samples
from torch import Tensor
from transformers import DynamicCache, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from egem.core.errors import CheckpointError
from egem.models.action_flow import Continuation, sample_chunks
from egem.models.gem_vla import GEMVLA
from egem.models.generation import prompt_batch
from egem.models.interchange.expert import export_expert, import_expert

Weights = dict[str, Tensor]


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(()))


def mlp(w: Weights, name: str, x: Tensor, layers: int) -> Tensor:
    for index in range(layers):
        x = linear(w, f"{name}.{2 * index}", x if index == 0 else x * x.sigmoid())
    return x


def dense_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One sample, (token, head, dim) with fewer key heads, head by head and token by token; to (token, head * dim)."""
    share = query.shape[1] // key.shape[1]
    rows = []
    for token in query:
        heads = []
        for head, q in enumerate(token):
            scores = torch.stack([q @ k for k in key[:, head // share]]) / math.sqrt(len(q))
            heads.append(torch.softmax(scores, 0) @ value[:, head // share])
        rows.append(torch.cat(heads))
    return torch.stack(rows)


def embedded_time(w: Weights, time: float) -> Tensor:
    angles = [time * 10_000.0 ** (-k / 128) for k in range(128)]
    waves = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles], dtype=torch.float64)
    return mlp(w, "t_embedder.mlp", waves, 2)


def blocks(w: Weights, x: Tensor, modulation: Tensor, cross, num_heads: int) -> Tensor:
    """All blocks of one sample; `cross(block, query)` looks at the backbone."""
    active = modulation * modulation.sigmoid()
    number = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))
    for index in range(number):
        b = {n.removeprefix(f"blocks.{index}."): v for n, v in w.items() if n.startswith(f"blocks.{index}.")}
        m = linear(b, "adaLN_modulation.1", active).chunk(9)
        y = rms(x, b["attn_norm.weight"]) * (1 + m[1]) + m[0]
        query = rms(linear(b, "attn.wq", y).unflatten(-1, (num_heads, -1)), b["attn.norm_q.weight"])
        key, value = projected(b, "attn", y, query.shape[-1])
        x = x + m[2] * linear(b, "attn.wo", dense_attention(query, key, value))
        y = rms(x, b["cross_norm.weight"]) * (1 + m[4]) + m[3]
        query = rms(
            linear(b, "cross_attn.wq", y).unflatten(-1, (num_heads, -1)), b["cross_attn.norm_q.weight"]
        )
        x = x + m[5] * linear(b, "cross_attn.wo", cross(index, b, query))
        y = rms(x, b["ffn_norm.weight"]) * (1 + m[7]) + m[6]
        gate = linear(b, "ffn.w1", y)
        x = x + m[8] * linear(b, "ffn.w2", gate * gate.sigmoid() * linear(b, "ffn.w3", y))
    m = linear(w, "final_layer.adaLN_modulation.1", active).chunk(2)
    y = linear(w, "final_layer.ffn.fc1", rms(x, w["final_layer.ffn_norm.weight"]) * (1 + m[1]) + m[0])
    return linear(w, "final_layer.ffn.fc2", y * y.sigmoid())


def projected(b: Weights, name: str, x: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """The last, innermost axis of wkv's output holds key and value."""
    both = linear(b, f"{name}.wkv", x).unflatten(-1, (-1, head_dim, 2))
    return rms(both[..., 0], b[f"{name}.norm_k.weight"]), both[..., 1]


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, HORIZON, ACTION_DIM, generator=generator),
        torch.tensor([0.3, 0.85]),
        torch.randn(2, STATE_DIM, generator=generator),
    )


def test_keys_and_values_of_transformers_own_cache(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    """Each sample alone through untouched classes; dense attention, grouped heads, queries rotated by hand."""
    chunk, time, state = inputs
    model, samples = build_micro_vla(), robot_samples(2)
    with torch.no_grad():
        found = model.action_expert(chunk, time, state, model.prefix(samples))
    config = model.action_expert.config
    original = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**tiny.micro_preset().backbone)).eval()
    original.load_state_dict(model.backbone.qwen.state_dict())
    w = {name: value.double() for name, value in model.action_expert.state_dict().items()}
    # 16 numbers a head are 8 planes that turn at these speeds; text positions are the same on all three axes.
    speeds = torch.tensor([10_000.0 ** (-k / 8) for k in range(8)], dtype=torch.float64)
    for n, sample in enumerate(samples):
        cache = DynamicCache()
        with torch.no_grad():
            original.model(
                input_ids=sample.input_ids[None],
                attention_mask=torch.ones(1, len(sample.input_ids), dtype=torch.long),
                pixel_values=sample.patches,
                image_grid_thw=sample.image_grid,
                mm_token_type_ids=(sample.input_ids == tiny.IMAGE_PAD).int()[None],
                past_key_values=cache,
                use_cache=True,
            )
        angles = (int(sample.position_ids.max()) + 1) * speeds

        def cross(index: int, b: Weights, query: Tensor, cache=cache, angles=angles) -> Tensor:
            layer = cache.layers[config.layers[index]]
            first, second = query[..., :8], query[..., 8:]
            query = torch.cat(
                [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()],
                -1,
            )
            return dense_attention(
                query, layer.keys[0].transpose(0, 1).double(), layer.values[0].transpose(0, 1).double()
            )

        token = mlp(w, "state_adaptor", state[n].double(), 3)[None] + w["state_pos_emb"][0]
        x = (
            torch.cat([mlp(w, "act_adaptor", chunk[n].double(), 3), w["register_tokens"][0]])
            + w["x_pos_emb"][0]
        )
        expected = blocks(
            w, torch.cat([token, x]), embedded_time(w, 1000 * float(time[n])), cross, config.num_heads
        )
        # Angles of up to 850 radians are known to 1e-4 in float32.
        torch.testing.assert_close(found[n], expected[1 : 1 + HORIZON].float(), rtol=2e-3, atol=2e-4)


def test_the_released_expert(inputs: tuple[Tensor, Tensor, Tensor], tmp_path: Path) -> None:
    """A state dict under its released names: time 1 - t and velocity actions - noise there, ours once imported."""
    chunk, time, state = inputs
    source = build_micro_vla("hidden_states", seed=3).action_expert.state_dict()
    # Depth 2 in place of 1 would be wrong: the released code looks at the states that enter layers 0, 1, 2.
    adaptors = ("lang_adaptor.", "act_adaptor.", "state_adaptor.")
    released = {n if n.startswith(adaptors) else f"model.{n}": v.clone() for n, v in source.items()}
    (tmp_path / "rdt").mkdir()
    torch.save(released, tmp_path / "rdt" / "pytorch_model.bin")
    tiny.write_checkpoint(tmp_path / "gem")
    import_expert(tmp_path / "rdt", tmp_path / "gem", tmp_path / "vla")
    model = GEMVLA.from_pretrained(tmp_path / "vla")
    config = model.action_expert.config
    assert (config.layers, config.horizon, config.num_heads, config.num_kv_heads) == (
        (0, 1, 2),
        HORIZON,
        4,
        2,
    )
    samples = robot_samples(2)
    with torch.no_grad():
        found = model.action_expert(chunk, time, state, model.prefix(samples))
    w = {name.removeprefix("model."): value.double() for name, value in released.items()}
    for n, sample in enumerate(samples):
        with torch.no_grad():
            states = entering_layers(model, sample)

        def cross(index: int, b: Weights, query: Tensor, states=states) -> Tensor:
            adapted = rms(mlp(w, "lang_adaptor", states[index].double(), 2), b["cond_norm.weight"])
            return dense_attention(query, *projected(b, "cross_attn", adapted, query.shape[-1]))

        position = mlp(w, "state_adaptor", state[n].double(), 3) + w["state_pos_emb"][0, 0]
        modulation = torch.cat([embedded_time(w, 1.0 - float(time[n])), position])
        x = (
            torch.cat([mlp(w, "act_adaptor", chunk[n].double(), 3), w["register_tokens"][0]])
            + w["x_pos_emb"][0]
        )
        theirs = blocks(w, x, modulation, cross, 4)[:HORIZON]
        torch.testing.assert_close(found[n], -theirs.float(), rtol=1e-4, atol=1e-5)

    export_expert(tmp_path / "vla", tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == released.keys()
    assert all(torch.equal(back[name], value) for name, value in released.items())
    save_file(
        {name: v for name, v in released.items() if "blocks.1.ffn.w3" not in name},
        tmp_path / "less.safetensors",
    )
    with pytest.raises(CheckpointError, match=r"missing: blocks\.1\.ffn\.w3\.weight"):
        import_expert(tmp_path / "less.safetensors", tmp_path / "gem", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def entering_layers(model: GEMVLA, sample) -> list[Tensor]:
    """What enters each text layer, seen by hooks on the layers themselves."""
    seen: list[Tensor] = []
    layers = model.backbone.qwen.model.language_model.layers
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0].clone()))
        for layer in layers
    ]
    model.backbone(prompt_batch([sample], "cpu"))
    for handle in handles:
        handle.remove()
    return seen


def test_guidance_of_real_time_chunking() -> None:
    """A linear network has a Jacobian that can be written down; the paper's tau runs from noise (0) to data (1)."""
    generator = torch.Generator().manual_seed(0)
    horizon, dim, steps, committed, kept = 4, 2, 5, 1, 3
    size = horizon * dim
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64) / 3
    noise = torch.randn(1, horizon, dim, generator=generator, dtype=torch.float64)
    previous = torch.randn(kept, dim, generator=generator)

    def velocity(chunk: Tensor, time: Tensor) -> Tensor:
        return ((chunk.flatten(1) @ matrix.T) * (1 + time[:, None])).view_as(chunk)

    continuation = Continuation.of([previous], [committed], horizon=horizon, action_dim=dim)
    assert continuation is not None
    found = sample_chunks(velocity, noise, num_steps=steps, continuation=continuation)

    weights = []
    for i in range(horizon):  # H - s = kept actions overlap, d = committed of them are frozen
        c = (kept - i) / (kept - committed + 1)
        soft = c * (math.exp(c) - 1) / (math.e - 1)
        weights += [1.0 if i < committed else soft if i < kept else 0.0] * dim
    target = torch.zeros(size, dtype=torch.float64)
    target[: kept * dim] = previous.flatten().double()
    x = noise.flatten()
    frozen = torch.arange(size) < committed * dim
    start = x.clone()
    for step in range(steps):
        tau = step / steps
        x = torch.where(frozen, (1 - tau) * start + tau * target, x)
        flow = -(matrix @ x) * (2 - tau)  # towards the data
        jacobian = torch.eye(size, dtype=torch.float64) - (1 - tau) * (2 - tau) * matrix
        error = target - (x + (1 - tau) * flow)
        spread = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
        strength = 5.0 if tau == 0 else min(5.0, (1 - tau) / (tau * spread))
        x = x + (flow + strength * (error * torch.tensor(weights)) @ jacobian) / steps
    x = torch.where(frozen, target, x)
    torch.testing.assert_close(found.flatten(), x, rtol=1e-5, atol=1e-6)
