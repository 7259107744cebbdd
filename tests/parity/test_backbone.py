"""Our forward pass against transformers' own on the same tokens and weights, forward and backward."""

from collections.abc import Sequence

import pytest
import torch
from tests import tiny
from torch import Tensor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from egem.batch import IGNORE_LABEL, Batch
from egem.models.backbone import Backbone
from egem.models.gem import GEM

SIZES = {
    "one image": [((32, 32),)],
    "several images": [((32, 32), (48, 32), (32, 32))],
    "images of other sizes, other order": [((64, 32),), ((32, 32), (32, 64)), ((64, 32), (32, 32))],
    "text beside images": [((32, 48),), (), ((48, 48),)],
}


@pytest.fixture(scope="module")
def model() -> GEM:
    torch.set_num_threads(1)
    return tiny.build_micro()


@pytest.fixture(scope="module")
def original(model: GEM) -> Qwen3VLForConditionalGeneration:
    """Untouched transformers classes with the same weights."""
    qwen = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**tiny.micro_preset().backbone))
    qwen.load_state_dict(model.backbone.qwen.state_dict())
    return qwen.train()


def batch_of(sizes: Sequence[tuple[tuple[int, int], ...]]) -> Batch:
    return tiny.batch_of([tiny.random_sample(seed=n, image_sizes=size) for n, size in enumerate(sizes)])


def original_hidden(qwen: Qwen3VLForConditionalGeneration, batch: Batch) -> Tensor:
    """Transformers computes its own positions and mask from ids and padding."""
    return qwen.model(
        input_ids=batch.input_ids,
        attention_mask=(batch.segment_ids > 0).long(),
        pixel_values=batch.patches,
        image_grid_thw=batch.image_grid,
        mm_token_type_ids=(batch.input_ids == tiny.IMAGE_PAD).int(),
    ).last_hidden_state


@pytest.mark.parametrize("name", SIZES)
def test_hidden_states_and_gradients(
    name: str, model: GEM, original: Qwen3VLForConditionalGeneration
) -> None:
    batch = batch_of(SIZES[name])
    real = batch.segment_ids > 0
    ours, theirs = model.backbone(batch)[real], original_hidden(original, batch)[real]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(0))
    for hidden, module in ((ours, model), (theirs, original)):
        module.zero_grad()
        (hidden * direction).sum().backward()
    expected = dict(original.named_parameters())
    for key, parameter in model.backbone.qwen.named_parameters():
        assert parameter.grad is not None, key
        torch.testing.assert_close(parameter.grad, expected[key].grad, rtol=2e-3, atol=2e-4, msg=key)


@pytest.mark.parametrize("name", SIZES)
def test_language_loss(name: str, model: GEM, original: Qwen3VLForConditionalGeneration) -> None:
    batch = batch_of(SIZES[name])
    logits = original.lm_head(original_hidden(original, batch))
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1),
        batch.labels[:, 1:].flatten(),
        reduction="sum",
        ignore_index=IGNORE_LABEL,
    )
    losses = model(batch, depth=False)
    torch.testing.assert_close(losses.language_sum, expected, rtol=1e-5, atol=1e-4)
    assert losses.language_count == (batch.labels[:, 1:] != IGNORE_LABEL).sum()


def test_transformers_own_forward_still_works_on_our_modules(
    model: GEM, original: Qwen3VLForConditionalGeneration
) -> None:
    batch = batch_of(SIZES["several images"])
    torch.testing.assert_close(
        original_hidden(model.backbone.qwen, batch), original_hidden(original, batch), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("preset", ["gem-2b", "gem-8b"])
def test_vision_tables_equal_transformers_at_the_released_sizes(preset: str) -> None:
    """Two-frame patches of 16 pixels, a 48 x 48 table of positions: cut to one narrow layer."""
    from egem.models.presets import PRESETS

    sizes = PRESETS[preset].backbone
    vision = sizes["vision_config"] | {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2}
    vision |= {"out_hidden_size": 32, "deepstack_visual_indexes": [0]}
    text = tiny.micro_preset().backbone["text_config"]
    config = Qwen3VLConfig(**(sizes | {"vision_config": vision, "text_config": text}))
    torch.manual_seed(0)
    qwen = Qwen3VLForConditionalGeneration(config)
    grid = torch.tensor([[1, 6, 10], [1, 20, 4], [1, 6, 10]])
    patches = torch.randn(int(grid.prod(dim=1).sum()), 3 * 2 * 16 * 16)
    with torch.no_grad():
        theirs = qwen.model.visual(patches, grid_thw=grid)
        tokens, deepstack = Backbone(qwen)._vision(patches, grid)
    torch.testing.assert_close(tokens, theirs.pooler_output, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(deepstack, theirs.deepstack_features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 127, 128, 300])
@pytest.mark.parametrize("causal", [False, True])
def test_products_equal_torchs_fused_attention(length: int, causal: bool) -> None:
    from egem.models.attention import attend

    shape = (2, 3, length, 8)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(shape, generator=generator, requires_grad=True) for _ in range(3))
    ours = attend(query, key, value, scale=0.3, causal=causal)
    theirs = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=0.3)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    direction = torch.randn(shape, generator=generator)
    gradients = [torch.autograd.grad((out * direction).sum(), (query, key, value)) for out in (ours, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)
