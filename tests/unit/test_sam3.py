import re

import numpy as np
import pytest
import torch

from egem.annotators.sam3 import Sam3, Sam3Clips, Sam3Options, instances, prompt_tokens
from egem.core.errors import CheckpointError
from tiny_annotators import sam3, sam3_video


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = sam3(tmp_path_factory.mktemp("sam3"))
    return Sam3.from_pretrained(str(folder), options=Sam3Options(min_score=0.0), device="cpu")


def processor_rule(output, row, size, threshold, mask_threshold):
    """transformers' post_process_instance_segmentation, whose module needs torchvision: written down again."""
    scores = torch.sigmoid(output.pred_logits[row]) * torch.sigmoid(output.presence_logits[row])
    keep = scores > threshold
    masks = torch.sigmoid(output.pred_masks[row])[keep]
    masks = torch.nn.functional.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]
    return scores[keep], masks > mask_threshold


def test_scores_and_masks_follow_the_processors_rule(detector, image):
    pixels = detector.pictures.tensor([image])
    assert pixels.shape == (1, 3, 112, 112)
    assert -1 <= pixels.min() < -0.5
    assert 0.5 < pixels.max() <= 1
    tokens = prompt_tokens(detector.tokenizer, ["red mug"])
    assert tokens["input_ids"].shape == (1, 32)
    with torch.no_grad():
        output = detector.model(
            pixel_values=pixels, **{k: tokens[k] for k in ("input_ids", "attention_mask")}
        )
    scores, masks = processor_rule(output, 0, (60, 80), 0.1, 0.45)
    found = instances(output, 0, (60, 80), Sam3Options(min_score=0.1, mask_threshold=0.45))
    expected = sorted(
        ((float(s), m.numpy()) for s, m in zip(scores, masks, strict=True) if m.any()),
        key=lambda each: -each[0],
    )
    assert len(found) == len(expected) > 0
    for (score, mask), (score_, mask_) in zip(found, expected, strict=True):
        assert score == pytest.approx(score_, abs=1e-6)
        assert (mask == mask_).all()


def test_phrases_of_several_images_are_found_as_alone(detector, image):
    other = image[:, ::-1, :][:50].copy()
    together = detector.detect([image, other], [["red mug", "robot gripper"], ["robot gripper"]])
    alone = [*detector.detect([image], [["robot gripper"]]), *detector.detect([other], [["robot gripper"]])]
    assert {each.phrase for each in together[0]} <= {"red mug", "robot gripper"}
    for found, expected in zip(together, alone, strict=True):
        found = [each for each in found if each.phrase == "robot gripper"]
        assert [round(each.score, 4) for each in found] == [round(each.score, 4) for each in expected]
        for one, two in zip(found, expected, strict=True):
            assert (one.mask == two.mask).mean() > 0.999
    assert detector.detect([image], [[]]) == [[]]
    assert detector.licence == "sam-license"


def test_things_of_a_clip_keep_their_number(tmp_path, image):
    clips = Sam3Clips.from_pretrained(str(sam3_video(tmp_path)), device="cpu")
    frames = [np.roll(image, shift, axis=1) for shift in (0, 2, 4)]
    found = clips.detect_clip(frames, ["red mug"])
    assert len(found) == 3
    numbers = [{each.object_id for each in frame} for frame in found]
    assert numbers[0]
    assert all(numbers[0] >= later for later in numbers[1:])
    for frame in found:
        for each in frame:
            assert each.phrase == "red mug"
            assert each.mask.shape == (60, 80)
            assert each.mask.any()
    # The same checkpoint's detector serves single images.
    assert Sam3.from_pretrained(str(tmp_path), device="cpu").pictures.size == (112, 112)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path))):
        Sam3.from_pretrained(str(tmp_path), device="cpu")
