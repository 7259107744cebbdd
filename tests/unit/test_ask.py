"""Scenes to records: what the records of one view share, and that chance comes from the generator alone."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from egem.core.errors import ConfigError, RecordError
from egem.data_engine import ask, build, write_records
from egem.data_engine.skills import DEFAULT_SKILLS
from egem.data_engine.symbolic import block_scene
from egem.media import decode_depth, decode_image
from egem.records import IMAGE_MARK
from egem.shards import iterate_records


def test_records_of_a_view_share_everything_but_the_question() -> None:
    scene = block_scene(1)
    records = ask(scene, np.random.default_rng(0), num_questions=12)
    assert len(records) == 12
    assert len({record.id for record in records}) == 12
    for record in records:
        assert record.group == scene.id
        assert record.images[0] is records[0].images[0]
        assert record.depths[0] is records[0].depths[0]
        assert record.intrinsics == (scene.camera.intrinsics,)
        assert record.messages[0].content.startswith(f"{IMAGE_MARK}\n")
        assert record.messages[1].content == record.answer.text
        assert record.meta["seed"] == 1
    np.testing.assert_array_equal(decode_image(records[0].images[0]), scene.image)
    stored = decode_depth(records[0].depths[0])
    assert np.abs(stored - scene.depth).max() <= scene.depth_unit_m / 2 + 1e-6


def test_equal_generators_give_equal_records() -> None:
    scene = block_scene(2)
    first, second, other = (ask(scene, np.random.default_rng(seed), num_questions=15) for seed in (7, 7, 8))
    assert first == second
    assert [r.messages for r in first] != [r.messages for r in other]


def test_no_question_is_asked_twice() -> None:
    for seed in range(20):
        records = ask(block_scene(seed), np.random.default_rng(seed), num_questions=60)
        texts = [(r.skill, r.messages[0].content) for r in records]
        assert len(set(texts)) == len(texts)


def test_questions_spread_over_skills() -> None:
    counts = Counter(
        r.skill
        for seed in range(60)
        for r in ask(block_scene(seed), np.random.default_rng(seed), num_questions=12)
    )
    assert len(counts) >= 24
    assert max(counts.values()) <= 3.5 * np.median([counts[name] for name in DEFAULT_SKILLS])


def test_skills_can_be_chosen_and_unknown_ones_are_named() -> None:
    scene = block_scene(1)
    records = ask(scene, np.random.default_rng(0), num_questions=5, skills=["camera_side", "point_depth"])
    assert {r.skill for r in records} == {"camera_side", "point_depth"}
    with pytest.raises(ConfigError, match=r"unknown skill 'camera_sid'\. Did you mean 'camera_side'\?"):
        ask(scene, np.random.default_rng(0), num_questions=5, skills=["camera_sid"])


def test_depth_in_the_wrong_unit_is_refused() -> None:
    scene = block_scene(1)
    with pytest.raises(RecordError, match=r"scene 'blocks/1': median depth .* is implausible"):
        ask(replace(scene, depth=scene.depth * 1000), np.random.default_rng(0), num_questions=3)


def test_a_scene_without_depth_or_objects_asks_nothing() -> None:
    scene = replace(block_scene(1), depth=None, mask=None, objects=(), camera=None, task=None)
    assert ask(scene, np.random.default_rng(0), num_questions=3) == []


def test_build_writes_what_ask_gives(tmp_path: Path) -> None:
    scenes = [block_scene(seed) for seed in range(4)]
    manifest = build(scenes, tmp_path / "a", num_questions=6, seed=3)
    assert manifest.groups == 4
    assert manifest.rows == 24
    assert manifest.by_source == {"blocks": 24}
    written = list(iterate_records(tmp_path / "a"))
    expected = [
        r for i, s in enumerate(scenes) for r in ask(s, np.random.default_rng([3, i]), num_questions=6)
    ]
    assert written == expected


def test_an_unknown_skill_stops_a_build_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown skill"):
        build([block_scene(0)], tmp_path / "a", num_questions=6, seed=3, skills=["nothing"])
    assert not (tmp_path / "a").exists()


def test_nothing_to_write_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no record was added"):
        write_records([], tmp_path / "a")
    assert not list(tmp_path.iterdir())
