"""How the shipped start is made: towers grow without changing what they compute, cells are read off layouts."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.tiny import random_batch

from egem.batch import IGNORE_LABEL
from egem.core.errors import ConfigError
from egem.data.collate import collate
from egem.data.loader import depth_placeholder
from egem.data.prepare import Preparer
from egem.data_engine.skills.describing import GRID
from egem.models.gem import GEM
from egem.models.presets import TINY, build
from egem.recipes.render import RenderConfig, render
from egem.recipes.tiny import START
from egem.recipes.tiny_start import (
    ReadOut,
    ReadOutConfig,
    cells_of,
    deepened,
    places_of,
    token_patches,
    train_with_read_out,
)
from egem.shards import RecordGroups


def shallow(depth: int) -> GEM:
    vision = TINY.backbone["vision_config"] | {"depth": depth, "deepstack_visual_indexes": [0, 1]}
    return build(replace(TINY, backbone=TINY.backbone | {"vision_config": vision}), seed=3)


def test_deepening_changes_nothing_at_first() -> None:
    model, batch = shallow(3).eval(), random_batch(seed=1)
    grown = deepened(model, seed=7).eval()
    assert len(grown.backbone.qwen.model.visual.blocks) == 6
    with torch.no_grad():
        torch.testing.assert_close(grown.backbone(batch), model.backbone(batch), rtol=0, atol=0)


def test_new_blocks_learn_from_the_first_step() -> None:
    grown, batch = deepened(shallow(3)), random_batch(seed=1)
    grown.backbone(batch).square().sum().backward()
    for block in grown.backbone.qwen.model.visual.blocks:
        for last in (block.attn.proj, block.mlp.linear_fc2):
            assert last.weight.grad.abs().max() > 0


def test_a_tower_of_the_right_depth_is_left_alone() -> None:
    model = build("tiny")
    assert deepened(model) is model


def test_a_tower_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="a vision tower of 4 blocks cannot be spread evenly over 6"):
        deepened(shallow(4))


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "data"
    config = RenderConfig(
        num=6,
        cameras=("front",),
        seed=4,
        questions=3,
        skills=("layout", "point_at_object", "color_of"),
        workers=1,
    )
    render(config, folder)
    return folder


def test_cells_are_what_the_layout_says(described) -> None:
    groups = RecordGroups([described])
    for group, cells in cells_of(groups).items():
        (layout,) = (r for records in groups for r in records if r.group == group and r.skill == "layout")
        assert len(cells) == 36
        said = layout.messages[-1].content.replace(";", "").split()
        assert [word for cell in cells for word in dict.fromkeys(cell)] == said


def test_places_are_the_cells_of_the_thing_that_is_meant(described) -> None:
    groups = RecordGroups([described])
    cells = cells_of(groups)
    places, seen = places_of(groups, cells), set()
    for record in (r for records in groups for r in records):
        for place in places.get(record.id, []):
            seen.add(record.skill)
            if record.skill == "color_of":
                color, shape = cells[record.group][place]
                assert color == record.messages[-1].content
                assert shape in record.messages[0].content
            else:
                x, y = record.answer.points[0]
                assert place % 6 * 1000 / 6 <= x <= (place % 6 + 1) * 1000 / 6
                assert place // 6 * 1000 / 6 <= y <= (place // 6 + 1) * 1000 / 6
    assert seen == {"color_of", "point_at_object"}


def test_a_place_is_to_be_known_before_it_is_said(described) -> None:
    groups, preparer = RecordGroups([described]), Preparer.from_checkpoint(START)
    cells = cells_of(groups)
    places = places_of(groups, cells)
    record = next(r for records in groups for r in records if r.skill == "point_at_object")
    sample = preparer.sample([record])
    batch = collate([sample], pad_id=preparer.tokenizer.pad_id, depth_placeholder=depth_placeholder(preparer))
    read_out = ReadOut(GRID**2, 16, cells, places)
    torch.nn.init.eye_(read_out.where.weight)
    torch.nn.init.zeros_(read_out.where.bias)
    (place,) = places[record.id]
    said = (batch.labels[0, 1:] != IGNORE_LABEL).nonzero()[:, 0].tolist()
    hidden = torch.zeros(*batch.input_ids.shape, GRID**2)
    hidden[0, said[2:], place] = 30.0  # known only once the answer has begun to say it
    assert read_out._places(hidden, batch).item() == pytest.approx(np.log(GRID**2))
    hidden[0, said[:2], place] = 30.0
    assert read_out._places(hidden, batch).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("with_depth", [True, False])
def test_read_outs_improve_and_the_checkpoint_is_written(described, tmp_path, caplog, with_depth) -> None:
    build("tiny").save_pretrained(tmp_path / "from")
    config = ReadOutConfig(
        data=(described,),
        checkpoint=tmp_path / "from",
        out=tmp_path / "out",
        batch_size=3,
        workers=0,
        device="cpu",
        with_depth=with_depth,
    )
    errors = []
    with caplog.at_level("INFO"):
        for steps in (1, 12):
            assert train_with_read_out(replace(config, steps=steps, warmup_steps=2)) == config.out
            told = re.findall(r"(\w+) (\d+\.\d+)", caplog.records[-1].getMessage())
            errors.append({name: float(value) for name, value in told})
    assert set(errors[0]) == {"language", "cells", "places", *(("flow", "depth") if with_depth else ())}
    for name in set(errors[0]) - {"language", "flow"}:
        assert errors[1][name] < 0.9 * errors[0][name], name
    trained, before = GEM.from_pretrained(config.out), GEM.from_pretrained(config.checkpoint)
    assert {parameter.dtype for parameter in trained.parameters()} == {torch.bfloat16}
    for part in ("backbone", "connector", "depth_head"):
        (name, new), *_ = getattr(trained, part).named_parameters()
        old = before.get_parameter(f"{part}.{name}").to(torch.bfloat16)
        assert torch.equal(new, old) == (part != "backbone" and not with_depth), part


def test_patches_are_those_of_their_tokens() -> None:
    model, batch = build("tiny"), random_batch(seed=2, image_sizes=((96, 96),), depth_sizes=((24, 24),))
    values, valid = token_patches(model, batch)
    pixels = batch.depth[0].pixels[:, 0]
    assert values.shape == (len(pixels), 36, 16)
    np.testing.assert_array_equal(values[0, 7].reshape(4, 4), pixels[0, 4:8, 4:8])
    np.testing.assert_array_equal(valid[0, 35].reshape(4, 4), batch.depth[0].valid[0, 20:24, 20:24])
