"""Memory options of the transformer blocks: the same gradients from fewer kept activations."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests import tiny

from egem.benchmarking.plan import Kept
from egem.models.blocks import transformer_blocks
from egem.models.gem import GEM
from egem.training.model_options import checkpoint_activations

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model() -> GEM:
    torch.set_num_threads(1)
    return tiny.build_micro()


def gradients(model: GEM) -> dict[str, torch.Tensor]:
    model.zero_grad()
    batch = tiny.random_batch(2, image_sizes=((32, 32), (48, 32)))
    losses = model(batch, generator=torch.Generator().manual_seed(0))
    (losses.language_sum + losses.depth_sum).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_checkpointing_gives_the_same_gradients(model: GEM, mode: str) -> None:
    expected = gradients(model)
    checkpoint_activations(model, mode)  # pyright: ignore[reportArgumentType]
    calls = []
    for block in transformer_blocks(model):
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    found = gradients(model)
    assert len(calls) == 2 * len(list(transformer_blocks(model)))  # each once more in the backward pass
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    checkpoint_activations(model, "none")
    calls.clear()
    gradients(model)
    assert len(calls) == len(list(transformer_blocks(model)))


def test_checkpointing_keeps_less(model: GEM) -> None:
    """What autograd itself holds, and what the plan says of it."""
    batch = tiny.random_batch(2)
    kept = {}
    for mode in ("none", "full"):
        checkpoint_activations(model, mode)  # pyright: ignore[reportArgumentType]
        count = Kept(model)
        with count.counting():
            model(batch, generator=torch.Generator().manual_seed(0))
        kept[mode] = count
    blocks = ("text layers", "vision tower", "depth head")
    assert all(kept["full"].everything[part] == 0 for part in blocks)
    planned = {mode: kept["none"].under(mode) for mode in ("none", "selective", "full")}  # pyright: ignore
    for part in blocks:
        assert 0 < planned["full"][part] < planned["selective"][part] < planned["none"][part]


def test_nothing_is_computed_again_without_gradients(model: GEM) -> None:
    checkpoint_activations(model, "full")
    with torch.no_grad():
        assert model.backbone(tiny.random_batch(1)).grad_fn is None


COMPILED = """
import torch
from tests import tiny
from tests.unit.test_blocks import gradients
from egem.models.blocks import compile_blocks

torch.set_num_threads(1)
model = tiny.build_micro()
expected, names = gradients(model), list(model.state_dict())
compile_blocks(model, backend="aot_eager")
torch.testing.assert_close(gradients(model), expected, rtol=1e-4, atol=1e-5)
assert list(model.state_dict()) == names
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 5
# A block is cut only where we say so: at attention, whose lengths differ.
cuts = torch._dynamo.utils.counters["graph_break"]
assert cuts and all("torch.compiler.disable" in reason for reason in cuts), cuts
print("equal")

from tests.tiny_vla import ACTION_DIM, HORIZON, STATE_DIM, build_micro_vla
from egem.models.action_sampler import ActionSampler

torch._dynamo.reset()
counters = torch._dynamo.utils.counters["stats"]
counters.clear()
vla = build_micro_vla().eval()
views = [((32, 32),), ((48, 32),), ((64, 64), (64, 64), (64, 64), (64, 64))]
samples = [tiny.random_sample(seed=n, prompt_only=True, image_sizes=view) for n, view in enumerate(views)]
states, noise = torch.randn(3, STATE_DIM), torch.randn(3, HORIZON, ACTION_DIM)
left = [torch.randn(2, ACTION_DIM)]
# One sample, several, one that goes on from an earlier chunk; then other and longer prompts, and more of them.
asked = [(slice(0, 1), None), (slice(0, 2), None), (slice(0, 1), left)]
asked += [(slice(2, 3), None), (slice(0, 3), None), (slice(1, 3), None), (slice(2, 3), left)]

def chunks(sampler):
    found, graphs = [], []
    for part, previous in asked:
        found.append(sampler(samples[part], states[part], noise=noise[part], previous=previous))
        graphs.append(counters["unique_graphs"])
    return found, graphs

expected, graphs = chunks(ActionSampler(vla, num_steps=3))
assert set(graphs) == {0}, graphs
found, graphs = chunks(ActionSampler(vla, num_steps=3, compiled="expert", backend="eager"))
assert 0 < graphs[0] < graphs[1] < graphs[2] == graphs[-1], graphs
for one, other in zip(found, expected):
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
print("equal")
"""


def test_compiled_blocks_give_the_same_gradients_and_chunks() -> None:
    """Traced by dynamo and differentiated ahead of time, without the code generator, which takes minutes.

    A policy compiles its expert once for one sample, for several and for real-time chunking, whatever the prompts.

    In a process of its own: dynamo cannot see through the tests' checks of every array's shape.
    """
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "equal\nequal\n", done.stderr[-2000:]


def test_a_step_on_an_accelerator_never_waits(model: GEM) -> None:
    """On the meta device whatever reads a tensor's values raises: item, nonzero, a mask as an index."""
    batch = tiny.batch_of(
        [
            tiny.random_sample(seed=0, image_sizes=((32, 32), (48, 32))),
            tiny.random_sample(seed=1, image_sizes=((16, 16),)),
            tiny.random_sample(seed=2, image_sizes=()),
        ]
    )
    model.to("meta", torch.bfloat16)
    losses = model(batch.to("meta"), generator=torch.Generator().manual_seed(0))
    (losses.language_sum + losses.depth_sum).backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(3, device="meta").nonzero()
