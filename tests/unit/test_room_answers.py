"""A thousand questions about ten tabletop worlds and a ScanNet scan, answered a second time from boxes and frames.

What is asked is read from the question's text alone, and what is there from `room.json` (worlds) or from the fixture
(scan): none of the code that asks is used.
"""

import cmath
import json
import math
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egem.data_engine.generate import GenerateConfig, generate
from egem.data_engine.room_questions import FAMILIES
from egem.recipes.tabletop_rooms import export_tabletop_rooms
from egem.records import Record, validate
from egem.scoring import score
from egem.shards import iterate_records
from room_scans import FLOOR_M2, HEIGHT, THINGS, WIDTH, YAWS, scannet, seen

CONFIG = GenerateConfig(wording="published")
CLEAR = 0.002
PATTERNS = {
    "object_counting": r"How many (.+)\(s\) are in this room\?",
    "object_abs_distance": r"what is the distance between the (.+) and the (.+) \(in meters\)",
    "object_rel_distance": r"which of these objects \((.+)\) is the closest to the (.+)\?",
    "object_rel_direction_easy": r"by the (.+) and facing the (.+), is the (.+) to the left or the right of",
    "object_rel_direction_medium": r"by the (.+) and facing the (.+), is the (.+) to my left, right, or back",
    "object_rel_direction_hard": r"by the (.+) and facing the (.+), is the (.+) to my front-left",
    "object_size_estimation": r"\(length, width, or height\) of the (.+), measured in centimeters",
    "room_size_estimation": r"the size of this room \(in square meters\)\?",
    "route_planning": r"beginning at the (.+) and facing the (.+)\. You want to navigate to the (.+)\. You will "
    r".*?'turn right\.'\): (.*) You have reached",
    "obj_appearance_order": r"categories in the video: (.+)\?",
}

World = dict[str, Any]
"""things: name -> (centre, axes, edges); categories: of each thing; first: name -> first frame that shows it."""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[World, Record]]:
    folder = tmp_path_factory.mktemp("rooms")
    export_tabletop_rooms(folder / "in" / "worlds", 10, size=(64, 64))
    scannet(folder / "in" / "scans")
    found, scan = [], scan_truth()
    for name, num in (("worlds", 150), ("scans", 400)):
        generate(folder / "in" / name, folder / name, replace(CONFIG, num_questions=num))
        truths: dict[str, World] = {}
        for record in iterate_records(folder / name):
            if record.group not in truths:
                file = folder / "in" / name / f"{record.meta.get('seed', 0):06d}" / "room.json"
                truths[record.group] = scan if name == "scans" else json_truth(file)
            found.append((truths[record.group], record))
    return found


def json_truth(path: Path) -> World:
    content = json.loads(path.read_text())
    things = {
        o["name"]: tuple(np.array(o[k]) for k in ("center", "axes", "lengths")) for o in content["objects"]
    }
    first: dict[str, int] = {}
    for number, frame in enumerate(content["frames"]):
        for o in content["objects"]:
            if frame["pixels"].get(str(o["id"]), 0) >= max(16, CLEAR * math.prod(frame["size"])):
                first.setdefault(o["name"], number)
    return {"things": things, "categories": [o["category"] for o in content["objects"]], "first": first}


def scan_truth() -> World:
    things, categories = {}, [label.rstrip(" 12") for label in THINGS]
    for label, (center, edges) in THINGS.items():
        things[label] = (np.array(center), np.eye(3), np.array(edges))
    shown = [
        np.bincount(seen(number)[1].ravel(), minlength=len(THINGS) + 1)[1:] for number in range(len(YAWS))
    ]
    first = {
        label: next(i for i, counts in enumerate(shown) if counts[place] >= CLEAR * HEIGHT * WIDTH)
        for place, label in enumerate(THINGS)
    }
    return {"things": things, "categories": categories, "first": first}


def gap(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...]) -> float:
    """Distance of two boxes by going to and fro between them."""
    point = a[0]
    before = point
    for _ in range(250):
        for center, axes, lengths in (b, a):
            inside = np.clip((point - center) @ axes.T, -lengths / 2, lengths / 2)
            point, before = center + inside @ axes, point
    return float(np.linalg.norm(point - before))


def place(world: World, name: str) -> complex:
    x, y, _ = world["things"][name][0]
    return complex(x, y)


def direction(world: World, stand: str, facing: str, target: str) -> float:
    """Degrees to turn from facing one thing to facing another; left is positive."""
    here = world["things"][stand][0]
    bearings = [
        math.degrees(math.atan2(*(world["things"][name][0] - here)[1::-1])) for name in (facing, target)
    ]
    return (bearings[1] - bearings[0] + 180) % 360 - 180


def walk(world: World, start: str, facing: str, actions: str) -> str:
    """The quarter turns that bring a robot closest to where it goes next."""
    here, heading, turns = place(world, start), place(world, facing) - place(world, start), []
    quarter = {"Turn Left": 1j, "Turn Right": -1j, "Turn Back": -1, "": 1}
    steps = [step.rstrip(".") for step in re.split(r"\s*\d+\. ", actions)[1:]]
    for step, following in pairwise([*steps, ""]):
        if step.startswith("["):
            aim = place(world, following.removeprefix("Go forward until the ")) - here
            turns.append(min(quarter, key=lambda name: abs(cmath.phase(aim / (heading * quarter[name])))))
        else:
            there = place(world, step.removeprefix("Go forward until the "))
            here, heading = there, there - here
    return ", ".join(turns)


def expected(world: World, record: Record) -> str | float:
    """The answer, from the text of the question."""
    text = record.messages[0].content
    found = re.search(PATTERNS[record.skill], text)
    assert found is not None, text
    words, things = found.groups(), world["things"]
    match record.skill:
        case "object_counting":
            return world["categories"].count(words[0])
        case "object_abs_distance":
            return gap(things[words[0]], things[words[1]])
        case "object_rel_distance":
            return min(words[0].split(", "), key=lambda name: gap(things[words[1]], things[name]))
        case "object_rel_direction_easy":
            return "left" if direction(world, *words) > 0 else "right"
        case "object_rel_direction_medium":
            degrees = direction(world, *words)
            return "back" if abs(degrees) > 135 else "left" if degrees > 0 else "right"
        case "object_rel_direction_hard":
            degrees = direction(world, *words)
            return f"{'front' if abs(degrees) < 90 else 'back'}-{'left' if degrees > 0 else 'right'}"
        case "object_size_estimation":
            return 100 * float(max(things[words[0]][2]))
        case "room_size_estimation":
            return FLOOR_M2
        case "route_planning":
            return walk(world, words[0], words[1], words[3])
        case _:
            return ", ".join(sorted(words[0].split(", "), key=lambda name: world["first"][name]))


def test_a_thousand_answers_agree(asked: list[tuple[World, Record]]) -> None:
    wrong = []
    for world, record in asked:
        answer, wanted = record.answer, expected(world, record)
        if answer.kind == "number":
            tolerance = 0.02 if record.skill == "room_size_estimation" else 0.002
            right = answer.number == pytest.approx(wanted, rel=tolerance, abs=0.002)
        else:
            right = answer.text == wanted
        if not right:
            wrong.append((record.skill, record.messages[0].content, answer, wanted))
    assert not wrong, (len(wrong), wrong[:3])
    assert len(asked) >= 1000


def test_every_family_is_asked(asked: list[tuple[World, Record]]) -> None:
    counts = Counter(record.skill for _, record in asked)
    assert set(counts) == set(FAMILIES)
    assert counts["room_size_estimation"] == 1
    assert min(count for name, count in counts.items() if name != "room_size_estimation") >= 12, counts


def test_records_are_valid_and_their_answers_score_full_marks(asked: list[tuple[World, Record]]) -> None:
    for _, record in asked[::7]:
        validate(record)
        assert (
            len(record.images) == len(record.depths) == len(record.intrinsics) == len(record.meta["frames"])
        )
        assert score(record.answer, record.messages[-1].content) == 1.0, record.messages


def test_right_options_stand_in_every_place_equally_often(asked: list[tuple[World, Record]]) -> None:
    for size in (2, 3, 4):
        letters = Counter(r.messages[-1].content for _, r in asked if len(r.answer.choices) == size)
        total = sum(letters.values())
        assert total > 60
        # Four standard deviations.
        assert all(abs(n / total - 1 / size) < 4 * math.sqrt(1 / size / total) for n in letters.values()), (
            letters
        )


def test_numbers_lead_back_to_the_boxes(asked: list[tuple[World, Record]]) -> None:
    for world, record in asked:
        for thing in record.meta["objects"]:
            named = world["things"].get(thing["name"])
            if named is not None:
                np.testing.assert_allclose(thing["center"], named[0], atol=1e-5)
                np.testing.assert_allclose(thing["lengths"], named[2], atol=1e-5)
        if record.skill == "object_abs_distance":
            ends = np.array(record.meta["numbers"]["closest_points"])
            assert np.linalg.norm(ends[0] - ends[1]) == pytest.approx(record.answer.number, abs=1e-4)
