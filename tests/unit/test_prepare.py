import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.record_sets import group, picture

import egem
from egem.batch import IGNORE_LABEL, Sample
from egem.core.errors import CheckpointError, RecordError
from egem.data.chat import ChatTokenizer, positions
from egem.data.depth import DepthPolicy, decode, encode
from egem.data.images import ImagePolicy, patchify
from egem.data.prepare import Preparer
from egem.media import decode_image, encode_depth, encode_png
from egem.records import Answer, DepthFile, ImageFile, Message, Record

FOLDER = Path(egem.__file__).parent / "assets" / "tiny_tokenizer"
IMAGES = ImagePolicy(patch_size=8, temporal_patch_size=1, merge_size=2, min_pixels=256, max_pixels=16384)
LOG = DepthPolicy(encoding="log", long_side=64, multiple=16)


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return ChatTokenizer.from_folder(FOLDER)


@pytest.fixture
def preparer(tokenizer) -> Preparer:
    return Preparer(IMAGES, LOG, tokenizer)


def png(seed: int, size: tuple[int, int] = (48, 64)) -> ImageFile:
    return ImageFile(data=encode_png(picture(seed, size)[0]))


def depth_of(seed: int, size: tuple[int, int] = (48, 64), **options: object) -> DepthFile:
    return DepthFile(data=encode_depth(picture(seed, size)[1], 0.001), **options)


def record(*turns: str, name: str = "r/0", **options: object) -> Record:
    roles = ("user", "assistant")
    messages = tuple(Message(role=roles[i % 2], content=text) for i, text in enumerate(turns))
    values = {
        "id": name,
        "source": "test",
        "category": "spatial",
        "skill": "s",
        "group": "r",
        "images": (png(0),),
        "messages": messages,
        "answer": Answer(kind="text", text=turns[-1]),
    }
    return Record(**{**values, **options})


def answers(preparer: Preparer, sample: Sample) -> list[str]:
    keep = (sample.labels != IGNORE_LABEL).numpy()
    ids = sample.input_ids.numpy()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], keep.astype(int), [0]])))
    return [
        preparer.tokenizer.decode(ids[a:b].tolist()) for a, b in zip(edges[::2], edges[1::2], strict=True)
    ]


def text(preparer: Preparer, sample: Sample) -> str:
    return preparer.tokenizer.decode(sample.input_ids.tolist())


def test_a_group_is_one_sequence_with_its_image_once(preparer):
    records = group(0)
    sample = preparer.sample(records)
    assert sample.record_ids == tuple(r.id for r in records)
    assert answers(preparer, sample) == [r.answer.text for r in records]
    assert sample.image_grid.tolist() == [[1, 6, 8]]
    assert (sample.input_ids == preparer.tokenizer.image_token_id).sum() == 12
    image = decode_image(records[0].images[0])
    np.testing.assert_array_equal(sample.patches.numpy(), patchify(image, IMAGES)[0])
    expected = positions(
        sample.input_ids.numpy(), sample.image_grid.numpy(), preparer.tokenizer.image_token_id, 2
    )
    np.testing.assert_array_equal(sample.position_ids.numpy(), expected)
    assert "<image>" not in text(preparer, sample)


def test_depth_is_encoded_as_the_policy_says(preparer):
    sample = preparer.sample(group(3))
    (depth_map,) = sample.depth_maps
    expected = encode(picture(3)[1], (48, 64), LOG)
    assert depth_map.image_index == 0
    assert depth_map.pixels.dtype == torch.float32
    np.testing.assert_allclose(depth_map.pixels.numpy(), expected.pixels, atol=1e-3)  # 1 mm on disk
    np.testing.assert_array_equal(depth_map.valid.numpy(), expected.valid)
    assert not depth_map.valid[:3].any()
    metres = decode(depth_map.pixels.numpy(), LOG).values[depth_map.valid.numpy()]
    np.testing.assert_allclose(metres, picture(3)[1][picture(3)[1] > 0], rtol=2e-3)


def test_without_depth(preparer):
    assert preparer.sample(group(0), with_depth=False).depth_maps == ()
    assert preparer.sample(group(0, with_depth=False)).depth_maps == ()


def test_several_images_of_different_sizes(preparer):
    sizes = [(48, 64), (64, 32), (40, 90)]
    question = "Left <image> middle <image> right <image>: which is nearest?"
    several = record(
        question,
        "the left",
        images=tuple(png(i, size) for i, size in enumerate(sizes)),
        depths=(depth_of(0, sizes[0]), None, depth_of(2, sizes[2])),
    )
    sample = preparer.sample([several])
    assert sample.image_grid.tolist() == [[1, 6, 8], [1, 8, 4], [1, 4, 12]]
    assert [d.image_index for d in sample.depth_maps] == [0, 2]
    assert [tuple(d.pixels.shape) for d in sample.depth_maps] == [(1, 48, 64), (1, 16, 64)]
    assert len(sample.patches) == 48 + 32 + 48


def test_video_frames_carry_their_times(preparer):
    video = record(
        "<image><image>What moves?",
        "the mug",
        images=(png(0), png(1)),
        timestamps=(0.5, 1.0),
    )
    assert "<0.5 seconds><1.0 seconds>What moves?" in text(preparer, preparer.sample([video]))
    prompt = preparer.prompt(
        video.messages[:1], [decode_image(i) for i in video.images], timestamps=(0.5, 1.0)
    )
    assert "<0.5 seconds><1.0 seconds>What moves?\nassistant\n" in text(preparer, prompt)


def test_turns_are_chosen_and_ordered_by_the_generator(preparer):
    records = group(0)
    assert answers(preparer, preparer.sample(records, max_turns=2)) == [r.answer.text for r in records[:2]]
    seen = set()
    for seed in range(20):
        draws = [
            preparer.sample(records, max_turns=2, rng=np.random.default_rng(seed)).record_ids
            for _ in range(2)
        ]
        assert draws[0] == draws[1]
        seen.add(draws[0])
    assert len(seen) > 6
    sample = preparer.sample(records, rng=np.random.default_rng(1))
    assert sorted(sample.record_ids) == sorted(r.id for r in records)
    assert (sample.input_ids == preparer.tokenizer.image_token_id).sum() == 12


def test_long_conversations_of_one_record_count_as_turns(preparer):
    long = record("<image>a?", "one", "b?", "two", "c?", "three")
    assert answers(preparer, preparer.sample([long])) == ["one", "two", "three"]
    assert answers(preparer, preparer.sample([long], max_turns=2)) == ["one", "two"]


def test_a_record_with_marks_inside_its_text_comes_first(preparer):
    inside = record("See <image> this", "yes", name="r/9")
    leading = record("<image>\nAnd?", "no", name="r/0")
    for records in ([leading, inside], [inside, leading]):
        sample = preparer.sample(records)
        assert sample.record_ids == ("r/9", "r/0")
        assert "See" in text(preparer, sample)
    with pytest.raises(RecordError, match="'r/8': an <image> mark inside the text, in a group of several"):
        preparer.sample([inside, replace(inside, id="r/8")])


def test_group_members_must_agree(preparer):
    first = record("<image>a?", "one")
    with pytest.raises(RecordError, match="record 'r/1' is in group 'r' with 'r/0' but has other images"):
        preparer.sample([first, replace(first, id="r/1", images=(png(1),))])
    system = replace(first, id="r/1", messages=(Message(role="system", content="s"), *first.messages))
    with pytest.raises(RecordError, match="has another system message"):
        preparer.sample([first, system])
    both = [replace(system, id="r/0"), system]
    assert text(preparer, preparer.sample(both)).count("system\ns") == 1


def test_turns_that_do_not_fit_are_dropped_whole(tokenizer, caplog):
    records = group(0)
    lengths = [
        len(Preparer(IMAGES, LOG, tokenizer).sample(records, max_turns=n).input_ids) for n in (1, 2, 3)
    ]
    short = Preparer(IMAGES, LOG, tokenizer, max_length=lengths[2] - 1)
    with caplog.at_level(logging.WARNING):
        sample = short.sample(records)
        short.sample(records)
    assert len(sample.input_ids) == lengths[1]
    assert sample.record_ids == tuple(r.id for r in records[:2])
    assert answers(short, sample) == [r.answer.text for r in records[:2]]
    assert short.counts["turn beyond max_length"] == 4
    assert len(caplog.records) == 1
    with pytest.raises(RecordError, match=r"one turn has \d+ tokens \(12 of images\), a sequence at most 20"):
        Preparer(IMAGES, LOG, tokenizer, max_length=20).sample(records)


def test_images_of_dropped_turns_go_too(tokenizer):
    long = record(
        "<image>a?",
        "one",
        "<image>b?",
        "two",
        images=(png(0), png(1, (64, 64))),
        depths=(depth_of(0), depth_of(1, (64, 64))),
    )
    whole = Preparer(IMAGES, LOG, tokenizer).sample([long])
    cut = Preparer(IMAGES, LOG, tokenizer, max_length=len(whole.input_ids) - 1).sample([long])
    assert len(whole.image_grid) == len(whole.depth_maps) == 2
    assert len(cut.image_grid) == len(cut.depth_maps) == 1
    assert len(cut.patches) == 48
    only = Preparer(IMAGES, LOG, tokenizer).sample([replace(long, messages=long.messages)], max_turns=1)
    assert torch.equal(only.input_ids, cut.input_ids)


def test_bad_depth_is_named(preparer):
    other = record("<image>a?", "one", depths=(depth_of(0, (24, 32)),))
    message = "record 'r/0': depth map 0 has 32 x 24 pixels, its image 64 x 48; they must be of one size"
    with pytest.raises(RecordError, match=message):
        preparer.sample([other])
    millimetres = record("<image>a?", "one", depths=(depth_of(0, unit_m=1.0),))
    with pytest.raises(
        RecordError, match=r"record 'r/0', depth map 0: median depth .* is the unit millimetres"
    ):
        preparer.sample([millimetres])


def test_relative_depth_needs_a_relative_encoding(preparer, tokenizer, caplog):
    relative = record("<image>a?", "one", depths=(depth_of(0, kind="relative", unit_m=3.0),))
    with caplog.at_level(logging.WARNING):
        assert preparer.sample([relative]).depth_maps == ()
        assert preparer.sample([relative]).depth_maps == ()
    assert [r.getMessage() for r in caplog.records] == [
        "record 'r/0': relative depth under the metric encoding 'log'; left out (further ones are only counted)."
    ]
    inverse = Preparer(IMAGES, replace(LOG, encoding="inverse"), tokenizer)
    assert len(inverse.sample([relative]).depth_maps) == 1


def test_depth_without_a_reading_is_counted(preparer):
    blind = DepthFile(data=encode_depth(np.zeros((48, 64), np.float32), 0.001))
    assert preparer.sample([record("<image>a?", "one", depths=(blind,))]).depth_maps == ()
    assert preparer.counts["depth map without a reading"] == 1


def test_bad_images_are_named(preparer):
    with pytest.raises(RecordError, match="record 'r/0': the image stored in the record"):
        preparer.sample([record("<image>a?", "one", images=(ImageFile(data=b"no"),))])
    thin = ImageFile(data=encode_png(np.zeros((1, 300, 3), np.uint8)))
    with pytest.raises(RecordError, match="record 'r/0': an image of 300 x 1 pixels"):
        preparer.sample([record("<image>a?", "one", images=(thin,))])
    with pytest.raises(RecordError, match="record 'r/0': 2 <image> marks for 1 images"):
        preparer.sample([record("<image><image>a?", "one")])


def test_text_only(preparer):
    sample = preparer.sample([record("Hello?", "Hi", images=())])
    assert sample.patches.shape == (0, IMAGES.patch_bytes)
    assert sample.image_grid.shape == (0, 3)


def test_prompt(preparer):
    image = picture(0)[0]
    sample = preparer.prompt([Message(role="user", content="<image>Where?")], [image], record_ids=("q",))
    assert (sample.labels == IGNORE_LABEL).all()
    assert text(preparer, sample).endswith("Where?\nassistant\n")
    assert sample.record_ids == ("q",)
    trained = preparer.sample([record("<image>Where?", "here")])
    length = len(sample.input_ids)
    assert torch.equal(trained.input_ids[:length], sample.input_ids)
    assert torch.equal(trained.position_ids[:, :length], sample.position_ids)
    with pytest.raises(RecordError, match="0 <image> marks for 1 images"):
        preparer.prompt([Message(role="user", content="Where?")], [image])
    with pytest.raises(RecordError, match="2 timestamps for 1 images"):
        preparer.prompt([Message(role="user", content="<image>?")], [image], timestamps=(0.0, 1.0))


def test_relative_file_paths(preparer, tmp_path):
    (tmp_path / "a.png").write_bytes(png(0).data)
    by_path = record("<image>a?", "one", images=(ImageFile(path="a.png"),))
    sample = preparer.sample([by_path], root=tmp_path)
    assert torch.equal(sample.patches, preparer.sample([record("<image>a?", "one")]).patches)


def test_from_checkpoint(tmp_path):
    backbone = tmp_path / "backbone"
    backbone.mkdir()
    for file in FOLDER.iterdir():
        (backbone / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match=r"config.json has no readable 'depth' section"):
        Preparer.from_checkpoint(tmp_path)
    depth = {"encoding": "log", "long_side": 64, "multiple": 16}
    (tmp_path / "config.json").write_text(json.dumps({"preset": "tiny", "depth": depth}))
    found = Preparer.from_checkpoint(tmp_path, max_length=100)
    assert found.depth == LOG
    assert found.max_length == 100
    assert found.images == ImagePolicy.from_folder(FOLDER)
    assert len(found.sample(group(0), max_turns=1).depth_maps) == 1
