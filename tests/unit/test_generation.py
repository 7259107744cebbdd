import pytest
import torch
from tests import tiny

from egem.core.errors import ConfigError
from egem.models.gem import GEM
from egem.models.generation import _choose


@pytest.fixture(scope="module")
def model() -> GEM:
    torch.set_num_threads(1)
    model = tiny.build_micro().eval()
    with torch.no_grad():
        for name, weight in model.backbone.named_parameters():
            if "self_attn" in name and weight.ndim == 2:
                weight *= 8.0  # so that what is attended to decides the token
    return model


@pytest.fixture(scope="module")
def prompts() -> list[tiny.Sample]:
    return [
        tiny.random_sample(seed=n, image_sizes=((32, 32),) * (n % 3), num_turns=1 + n, prompt_only=True)
        for n in range(4)
    ]


def test_greedy_tokens_equal_a_full_forward_for_each_token(model: GEM, prompts: list[tiny.Sample]) -> None:
    """Without any cache: the whole sequence again and again."""
    generated = model.generate_text(prompts, max_new_tokens=6)
    for prompt, tokens in zip(prompts, generated, strict=True):
        ids = prompt.input_ids
        for token in tokens:
            longer = tiny.replace(
                prompt,
                input_ids=ids,
                labels=torch.full_like(ids, -100),
                position_ids=tiny.positions(ids, prompt.image_grid),
            )
            batch = tiny.batch_of([longer])
            assert model.backbone.logits(model.backbone(batch))[0, -1].argmax().item() == token
            ids = torch.cat([ids, torch.tensor([token])])


def test_transformers_generates_the_same(model: GEM, prompts: list[tiny.Sample]) -> None:
    for prompt in prompts[1:3]:
        theirs = model.backbone.qwen.generate(
            input_ids=prompt.input_ids[None],
            attention_mask=torch.ones_like(prompt.input_ids)[None],
            pixel_values=prompt.patches,
            image_grid_thw=prompt.image_grid,
            mm_token_type_ids=(prompt.input_ids == tiny.IMAGE_PAD).int()[None],
            max_new_tokens=8,
            do_sample=False,
        )[0, len(prompt.input_ids) :].tolist()
        ours = model.generate_text([prompt], max_new_tokens=8)[0]
        assert theirs[: len(ours)] == ours
        assert len(theirs) == len(ours) or theirs[len(ours)] in model.stop_ids


def test_generation_stops_at_im_end_which_is_not_returned(
    model: GEM, prompts: list[tiny.Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = model.generate_text(prompts, max_new_tokens=8)
    stop = free[0][3]
    monkeypatch.setattr(model.backbone.qwen.generation_config, "eos_token_id", stop)
    expected = [tokens[: tokens.index(stop)] if stop in tokens else tokens for tokens in free]
    assert model.generate_text(prompts, max_new_tokens=8) == expected
    monkeypatch.setattr(model.backbone.qwen.generation_config, "eos_token_id", None)
    with pytest.raises(ConfigError, match="names no eos_token_id"):
        model.generate_text(prompts, max_new_tokens=1)


def test_sampling_is_reproducible_and_follows_the_distribution(
    model: GEM, prompts: list[tiny.Sample]
) -> None:
    def sample(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return model.generate_text(prompts, max_new_tokens=5, temperature=1.0, generator=generator)

    assert sample(0) == sample(0)
    assert sample(0) != sample(1)
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).expand(4000, -1)
    generator = torch.Generator().manual_seed(0)
    counts = torch.bincount(_choose(logits, 1.0, 1.0, generator), minlength=4) / 4000
    torch.testing.assert_close(counts, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.03, rtol=0)
    counts = torch.bincount(_choose(logits, 1.0, 0.7, generator), minlength=4) / 4000
    torch.testing.assert_close(counts, torch.tensor([0.625, 0.375, 0.0, 0.0]), atol=0.03, rtol=0)
    counts = torch.bincount(_choose(logits, 0.5, 1.0, generator), minlength=4) / 4000
    squares = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    torch.testing.assert_close(counts, squares / squares.sum(), atol=0.03, rtol=0)


def test_bad_options(model: GEM, prompts: list[tiny.Sample]) -> None:
    with pytest.raises(ConfigError, match=r"temperature -1\.0, top_p 1\.0; use temperature >= 0"):
        model.generate_text(prompts, max_new_tokens=1, temperature=-1.0)
    with pytest.raises(ConfigError, match="no prompts given"):
        model.generate_text([], max_new_tokens=1)
    assert model.generate_text(prompts, max_new_tokens=0) == [[], [], [], []]
