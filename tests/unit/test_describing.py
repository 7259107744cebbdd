"""Skills that describe a picture: every word checked against masks, boxes and colours worked out again."""

import re
from collections import Counter

import numpy as np
import pytest

from egem.data_engine import SKILLS, ask
from egem.data_engine.skills import DEFAULT_SKILLS
from egem.data_engine.symbolic import block_scene
from egem.scene import Scene

NAMES = ("caption", "layout", "is_there", "color_of", "shape_of")


@pytest.fixture(scope="module")
def answers() -> list[tuple[Scene, str, str, str]]:
    """(scene, skill, question, answer)."""
    found = []
    for seed in range(60):
        scene = block_scene(seed)
        for record in ask(scene, np.random.default_rng(seed), num_questions=9, skills=NAMES):
            question, answer = (message.content for message in record.messages)
            found.append((scene, record.skill, question, answer))
    assert {skill for _, skill, _, _ in found} == set(NAMES)
    return found


def seen(scene: Scene) -> list:
    assert scene.mask is not None
    return [o for o in scene.objects if (scene.mask == o.index).any()]


def test_asked_only_by_name():
    assert not set(NAMES) & set(DEFAULT_SKILLS)
    records = ask(block_scene(3), np.random.default_rng(0), num_questions=60)
    assert not {record.skill for record in records} & set(NAMES)
    assert all(SKILLS[name].on_request for name in NAMES)


def test_caption_points_lie_on_the_things_they_name(answers):
    for scene, skill, _, answer in answers:
        if skill != "caption":
            continue
        assert scene.mask is not None
        height, width = scene.mask.shape
        last = -1.0
        for part in answer.split("; "):
            x, y, name = re.fullmatch(r"\[(\d+), (\d+)\] (.+)", part).groups()  # type: ignore[union-attr]
            thing = next(o for o in scene.objects if o.name == name)
            column, row = int(int(x) / 1000 * width), int(int(y) / 1000 * height)
            assert scene.mask[row, column] == thing.index
            columns = np.flatnonzero((scene.mask == thing.index).any(axis=0))
            middle = columns[0] + columns[-1]
            assert middle >= last, "from left to right"
            last = middle


def test_layout_names_what_covers_each_cell(answers):
    words = Counter()
    for scene, skill, _, answer in answers:
        if skill != "layout":
            continue
        assert scene.mask is not None
        rows = answer.split("; ")
        assert len(rows) == 6
        height, width = scene.mask.shape
        for r, line in enumerate(rows):
            by_length = sorted({f"{o.color} {o.shape}" for o in scene.objects} | {"robot", "table", "room"})
            cells = re.findall("|".join(by_length), line)
            assert " ".join(cells) == line
            assert len(cells) == 6
            for c, cell in enumerate(cells):
                words[cell if cell in ("robot", "table", "room") else "thing"] += 1
                part = scene.mask[
                    r * height // 6 : (r + 1) * height // 6, c * width // 6 : (c + 1) * width // 6
                ]
                shares = {o.index: (part == o.index).mean() for o in scene.objects}
                best = max(shares, key=lambda index: shares[index])
                if shares[best] >= 0.3:
                    covering = {o.index: f"{o.color} {o.shape}" for o in scene.objects}
                    winners = {covering[i] for i, share in shares.items() if share == shares[best]}
                    assert cell in winners
                else:
                    assert cell in ("robot", "table", "room")
    assert min(words[word] for word in ("table", "room", "thing")) > 20


def test_presence_is_right_and_balanced(answers):
    counts = Counter()
    for scene, skill, question, answer in answers:
        if skill == "is_there":
            there = [o for o in seen(scene) if f" {o.color} {o.shape}" in question]
            assert answer == ("yes" if there else "no")
            counts[answer] += 1
    assert 0.35 < counts["yes"] / counts.total() < 0.65


@pytest.mark.parametrize(
    ("skill", "given", "wanted"), [("color_of", "shape", "color"), ("shape_of", "color", "shape")]
)
def test_attribute_of_the_only_one(answers, skill, given, wanted):
    checked = 0
    for scene, name, question, answer in answers:
        if name == skill:
            words = re.findall(r"[a-z]+", question.split("\n")[1].lower())
            things = [o for o in seen(scene) if getattr(o, given) in words]
            assert [getattr(o, wanted) for o in things] == [answer]
            checked += 1
    assert checked > 20
