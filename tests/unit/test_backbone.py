from dataclasses import replace

import pytest
import torch
from tests import tiny

from egem.models.backbone import Backbone, supervised_targets
from egem.models.vision import VisionTower


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.set_num_threads(1)
    return tiny.build_micro().backbone


def test_image_tokens_are_the_hidden_states_at_each_image(backbone: Backbone) -> None:
    batch = tiny.batch_of(
        [
            tiny.random_sample(seed=0, image_sizes=((32, 32), (48, 32))),
            tiny.random_sample(seed=1, image_sizes=((16, 16),)),
        ]
    )
    hidden = torch.randn(*batch.input_ids.shape, 32)
    tokens, mask = backbone.image_tokens(hidden, batch)
    assert mask.sum(dim=1).tolist() == [4, 6, 1]
    assert tokens.shape == (3, 6, 32)
    first = hidden[0][batch.input_ids[0] == tiny.IMAGE_PAD]
    assert torch.equal(tokens[0, :4], first[:4])
    assert torch.equal(tokens[1], first[4:])
    assert torch.equal(tokens[2, 0], hidden[1][batch.input_ids[1] == tiny.IMAGE_PAD][0])
    assert not tokens[~mask].any()


def test_a_batch_without_images_has_one_zero_token(backbone: Backbone) -> None:
    batch = tiny.batch_of([tiny.random_sample(image_sizes=())])
    tokens, mask = backbone.image_tokens(backbone(batch), batch)
    assert tokens.shape == (1, 1, 32)
    assert not tokens.any()
    assert mask.all()


def test_the_vision_tower_runs_and_gets_zero_gradient_without_images(backbone: Backbone) -> None:
    """Every rank of a sharded model must execute the same modules."""
    backbone.zero_grad()
    backbone(tiny.batch_of([tiny.random_sample(image_sizes=())])).sum().backward()
    for name, parameter in backbone.qwen.model.visual.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_padding_changes_nothing(backbone: Backbone) -> None:
    batch = tiny.batch_of([tiny.random_sample(seed=0, num_turns=1), tiny.random_sample(seed=1, num_turns=4)])
    ids = batch.input_ids.masked_fill(batch.segment_ids == 0, 17)
    real = batch.segment_ids > 0
    assert torch.equal(backbone(replace(batch, input_ids=ids))[real], backbone(batch)[real])


def test_supervised_targets() -> None:
    """The first token of a packed segment is predicted by nothing, nor is what stands at padding."""
    ignored = -100
    batch = replace(
        tiny.random_batch(1),
        input_ids=torch.zeros(2, 5, dtype=torch.long),
        position_ids=torch.zeros(3, 2, 5, dtype=torch.long),
        segment_ids=torch.tensor([[1, 1, 1, 2, 2], [1, 1, 0, 0, 0]]),
        labels=torch.tensor([[5, 6, ignored, 7, 8], [ignored, 9, ignored, ignored, ignored]]),
    )
    places, targets = supervised_targets(batch)
    assert places.tolist() == [0, 3, 5]
    assert targets.tolist() == [6, 8, 9]


def test_only_supervised_tokens_are_scored(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = tiny.random_batch(3)
    scored = []

    def spy(states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        scored.append((len(states), len(targets)))
        return states.sum() + weight.sum()

    monkeypatch.setattr("egem.models.backbone.linear_cross_entropy", spy)
    _, count = backbone.language_loss(backbone(batch), batch)
    assert scored == [(int(count), int(count))]


def test_nothing_supervised(backbone: Backbone) -> None:
    batch = tiny.batch_of([tiny.random_sample(prompt_only=True, num_turns=1)])
    total, count = backbone.language_loss(backbone(batch), batch)
    assert (total.item(), count.item()) == (0.0, 0)
    total.backward()


def test_positions_are_computed_once_per_size_and_kept_within_bounds(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egem.models.vision._MAX_CACHED_SIZES", 2)
    computed = []
    tower = VisionTower(backbone.qwen.model.visual)
    original = tower._tables
    monkeypatch.setattr(tower, "_tables", lambda *size: computed.append(size[:2]) or original(*size))
    for rows in (4, 4, 6, 8, 8, 4):
        tower(torch.randn(rows * 4, tiny.PATCH_DIM), torch.tensor([[1, rows, 4]]))
    assert computed == [(4, 4), (6, 4), (8, 4), (4, 4)]
    assert len(tower._positions) == 2


def test_bfloat16_autocast_is_close(backbone: Backbone) -> None:
    batch = tiny.random_batch(2, image_sizes=((32, 32), (48, 32)))
    exact, _ = backbone.language_loss(backbone(batch), batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = backbone.language_loss(backbone(batch), batch)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)
    rounded.backward()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradient(backbone: Backbone) -> None:
    batch = tiny.random_batch(2)
    gradients = []
    for on in (False, True):
        if on:
            backbone.qwen.gradient_checkpointing_enable({"use_reentrant": False})
        backbone.zero_grad()
        backbone.language_loss(backbone.train()(batch), batch)[0].backward()
        gradients.append([p.grad.clone() for p in backbone.parameters() if p.grad is not None])
    backbone.qwen.gradient_checkpointing_disable()
    torch.testing.assert_close(gradients[0], gradients[1])
