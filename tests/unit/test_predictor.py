import numpy as np
import pytest
import torch

from egem.core.errors import CheckpointError, RecordError
from egem.evaluation.depth import align, depth_range, measure
from egem.evaluation.predictor import Predictor
from record_sets import group, picture
from tiny import build_micro, write_checkpoint

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    # Untrained weights say one token for ever; larger ones make the text depend on the question.
    model = build_micro()
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter *= 4
    folder = tmp_path_factory.mktemp("gem") / "checkpoint"
    model.save_pretrained(folder)
    return Predictor.from_checkpoint(folder, device="cpu")


@pytest.fixture(scope="module")
def records():
    return [r for seed, size in ((0, (48, 64)), (1, (64, 32)), (2, (48, 64))) for r in group(seed, size)]


def test_answers_do_not_depend_on_the_batch(predictor, records):
    one = predictor.answer(records, batch_size=1, max_new_tokens=12)
    eight = predictor.answer(records, batch_size=8, max_new_tokens=12)
    assert one == eight
    assert len(one) == len(records)
    assert len(set(one)) > 1  # a random model that always says the same would prove nothing


def test_answers_do_not_depend_on_the_order(predictor, records):
    forward = predictor.answer(records, batch_size=5, max_new_tokens=8)
    backward = predictor.answer(records[::-1], batch_size=5, max_new_tokens=8)
    assert forward == backward[::-1]


def test_the_prompt_holds_every_turn_but_the_last_answer(predictor, records):
    sample = predictor.prompt(records[0])
    text = predictor.preparer.tokenizer.decode(sample.input_ids.tolist())
    assert "Question 0 about nearest?" in text
    assert text.rstrip().endswith("assistant")
    assert sample.record_ids == (records[0].id,)
    assert (sample.labels == -100).all()


def test_drawn_depth_is_the_same_whatever_the_batch_and_order(predictor):
    images = [picture(seed, size)[0] for seed, size in ((0, (48, 64)), (1, (64, 32)), (2, (48, 64)))]
    together = predictor.draw_depth(images, num_steps=3, guidance=2.0, seed=5)
    reverse = predictor.draw_depth(images[::-1], num_steps=3, guidance=2.0, seed=5, batch_size=1)[::-1]
    for a, b in zip(together, reverse, strict=True):
        assert a.values.shape == b.values.shape
        np.testing.assert_allclose(a.encoded, b.encoded, atol=1e-4)
    other = predictor.draw_depth(images[:1], num_steps=3, guidance=2.0, seed=6)[0]
    assert np.abs(other.encoded - together[0].encoded).max() > 0.01


def test_drawn_depth_has_the_kind_that_its_encoding_allows(predictor):
    drawn = predictor.draw_depth([picture(0)[0]], num_steps=1)[0]
    assert drawn.kind == "metric"  # the micro preset encodes logarithms
    policy = predictor.model.config.depth
    assert drawn.values.min() >= policy.near_m * 0.999
    assert drawn.values.max() <= policy.far_m * 1.001


def test_spectral_depth_is_relative(tmp_path):
    spectral = Predictor.from_checkpoint(write_checkpoint(tmp_path / "ckpt", "dc-ae"), device="cpu")
    drawn = spectral.draw_depth([picture(0)[0]], num_steps=1)[0]
    assert drawn.kind == "inverse_relative"
    assert drawn.scale is None
    assert 0 <= drawn.values.min() <= drawn.values.max() <= 1
    assert drawn.encoded.shape[0] == 3


def test_the_round_trip_is_nearly_the_truth(predictor):
    image, depth = picture(3, (64, 64))
    back = predictor.round_trip(depth, image.shape[:2])
    metrics = measure(align(back.values, depth, "metric", depth_range([depth])), depth)
    assert metrics.delta1 > 0.93  # 32 x 32: only the box's rim is lost
    with pytest.raises(RecordError, match="without a single reading"):
        predictor.round_trip(np.zeros_like(depth), image.shape[:2])


def test_the_fingerprint_follows_the_files(tmp_path, predictor):
    same = Predictor.from_checkpoint(predictor.folder, device="cpu")
    assert same.fingerprint == predictor.fingerprint
    other = Predictor.from_checkpoint(write_checkpoint(tmp_path / "other", seed=1), device="cpu")
    assert other.fingerprint != predictor.fingerprint
    with pytest.raises(CheckpointError, match="in memory"):
        _ = Predictor(predictor.model, predictor.preparer).fingerprint


def test_no_such_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere is not a folder"):
        Predictor.from_checkpoint(tmp_path / "nowhere")
