"""What is refused, by which rule; how questions are chosen, worded and stored; and what a bad scene says."""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from egem.cli import main
from egem.core.errors import ConfigError, RecordError
from egem.data_engine.ask_room import MAX_LEAD, ask_room
from egem.data_engine.engine import EngineConfig
from egem.data_engine.generate import GenerateConfig, generate
from egem.data_engine.room_questions import FAMILIES, RULES, relative_direction, route_plan
from egem.data_engine.room_questions import family as family_module
from egem.data_engine.room_questions.family import Facts
from egem.data_engine.room_scene import Room, load_room, save_room
from egem.scoring import score
from egem.shards import iterate_records
from room_scans import box, l_shape, room

A, B, C = box(1, "sofa", (0, 0)), box(2, "lamp", (4, 0)), box(3, "plant", (2, 3))
FAR = box(4, "door", (9, 9))
NEAR = box(5, "stool", (0.8, 0))


REFUSALS = {
    "structure": ("object_counting", room([A, B, box(9, "wall", (0, 5))]), room([A, B])),
    "hidden": ("object_size_estimation", room([A, B], [{1: 100, 2: 3}]), room([A, B])),
    "doubled_name": ("object_size_estimation", room([A, box(2, "sofa", (4, 0))]), room([A, B])),
    "name_within_name": (
        "object_size_estimation",
        room([box(1, "table", (0, 0)), box(2, "coffee table", (4, 0))]),
        room([box(1, "table", (0, 0)), box(2, "tablet", (4, 0))]),
    ),
    "hidden_instance": (
        "object_counting",
        room([A, box(2, "sofa", (4, 0))], [{1: 100, 2: 3}]),
        room([A, box(2, "sofa", (4, 0))], [{1: 100, 2: 3}, {2: 90}]),
    ),
    "touching": (
        "object_abs_distance",
        room([A, box(2, "lamp", (0.4, 0))]),
        room([A, box(2, "lamp", (0.5, 0))]),
    ),
    "near_tie": (
        "object_rel_distance",
        room([A, box(2, "lamp", (1, 0)), box(3, "plant", (2.05, 0))]),
        room([A, box(2, "lamp", (1, 0)), box(3, "plant", (4, 0))]),
    ),
    "implausible": (
        "object_rel_distance",
        room([A, box(2, "lamp", (0.5, 0)), box(3, "plant", (0, 9))]),
        None,
    ),
    "too_close": ("object_rel_direction_hard", room([A, B, C, NEAR, FAR]), room([A, B, C])),
    "near_border": ("object_rel_direction_easy", room([A, B, box(3, "plant", (8, 0.3))]), room([A, B, C])),
    "depends_on_spot": (
        "object_rel_direction_easy",
        room([box(1, "sofa", (0, 0), (8, 8, 1)), B, box(3, "plant", (8, 1.8))]),
        room([A, B, box(3, "plant", (8, 1.8))]),
    ),
    "blocked": (
        "route_planning",
        room([A, B, C, box(7, "wardrobe", (2, 0), (0.5, 0.5, 2))], [{1: 100, 2: 100, 3: 100}]),
        room([A, B, C]),
    ),
    "glimpsed": ("obj_appearance_order", room([A, B, C], [{1: 99, 2: 5}, {2: 99}, {3: 99}]), None),
    "same_frame": ("obj_appearance_order", room([A, B, C], [{1: 99}, {2: 99, 3: 99}]), None),
    "no_points": ("room_size_estimation", room([A]), room([A], points=l_shape(0.1))),
    "small_floor": ("room_size_estimation", room([A], points=l_shape(0.1) / 10), None),
}
"""Rule -> the family it is seen in, a room that it refuses, and one like it in which it does not speak."""


def refusals(family: str, scene: Room) -> Counter[str]:
    facts = Facts(scene)
    FAMILIES[family].find(facts, np.random.default_rng(0))
    return facts.refused


def test_every_rule_has_its_case() -> None:
    assert set(REFUSALS) == set(RULES)


@pytest.mark.parametrize("rule", REFUSALS)
def test_a_rule_refuses_what_it_says_and_nothing_else(rule: str) -> None:
    family, bad, good = REFUSALS[rule]
    assert refusals(family, bad)[rule] > 0
    if good is not None:
        assert refusals(family, good)[rule] == 0


def furnished(number: int = 0) -> Room:
    """Ten things in places of their own, each appearing in a frame of its own."""
    rng = np.random.default_rng(number)
    names = ["sofa", "lamp", "plant", "desk", "fridge", "heater", "stool", "mirror", "rug", "door"]
    grid = [(x, y) for x in (0.0, 1.5, 3.0, 4.5) for y in (0.0, 1.6, 3.2)]
    spots = [grid[i] for i in rng.permutation(len(grid))]
    things = [
        box(i, name, np.add(spots[i], rng.uniform(-0.3, 0.3, 2)).tolist(), rng.uniform(0.2, 0.5, 3))
        for i, name in enumerate(names, 1)
    ]
    order = rng.permutation(len(things)) + 1
    return room(things, [{int(i): 99} for i in order], id=f"hand/{number}", points=l_shape(0.1))


def asked(number: int, **options) -> tuple:
    settings = {"num_questions": 200, **options}
    return ask_room(furnished(number), np.random.default_rng(number), **settings).records


def test_directions_are_told_at_their_borders() -> None:
    assert relative_direction.easy(20.0) == ("left", 20)
    assert relative_direction.easy(-175.0) == ("right", 5)
    assert relative_direction.medium(130.0) == ("left", 5)
    assert relative_direction.medium(-170.0) == ("back", 35)
    assert relative_direction.hard(95.0) == ("back-left", 5)
    assert relative_direction.hard(-45.0) == ("front-right", 45)
    assert route_plan.named_turn(30.0)[0] is None
    assert [route_plan.named_turn(d)[0] for d in (60.0, -60.0, 179.0)] == list(route_plan.TURNS)


def test_a_route_worked_out_by_hand() -> None:
    # East to the lamp, then left, up to the plant, which stands north of it.
    things = [box(1, "sofa", (0, 0)), box(2, "lamp", (4, 0)), box(3, "plant", (4, 4))]
    found = FAMILIES["route_planning"].find(Facts(room(things)), np.random.default_rng(0))
    ways = {tuple(c.slots[k] for k in ("start", "facing", "goal")): c for c in found}
    way = ways["sofa", "lamp", "plant"]
    assert way.answer == "Turn Left"
    assert way.slots["actions"] == (
        "1. Go forward until the lamp. 2. [please fill in]. 3. Go forward until the plant."
    )
    assert set(way.options) == set(route_plan.TURNS)


def test_no_answer_leads_by_more_than_two_in_a_room() -> None:
    for number in range(4):
        for name, family in FAMILIES.items():
            if family.keys:
                records = asked(number, families=[name])
                counts = [sum(r.answer.text == key for r in records) for key in family.keys]
                assert len(records) > 10
                assert max(counts) - min(counts) <= MAX_LEAD


def test_orders_cannot_be_told_from_the_options() -> None:
    central = total = 0
    for number in range(12):
        for record in asked(number, families=["obj_appearance_order"], num_questions=50):
            orders = {option: option.split(", ") for option in record.answer.choices}
            if len(orders) < 4:
                continue

            def far(option: str, orders: dict[str, list[str]] = orders) -> int:
                own = orders[option]
                return sum(a != b for other in orders.values() for a, b in zip(own, other, strict=True))

            least = min(map(far, orders))
            middle = [option for option in orders if far(option) == least]
            if len(middle) == 1:
                total += 1
                central += middle[0] == record.answer.text
    assert total > 300
    assert abs(central / total - 0.25) < 4 * np.sqrt(0.25 * 0.75 / total)


def test_own_phrasings_name_the_things_and_are_answered_in_words() -> None:
    for name, family in FAMILIES.items():
        texts = set()
        assert len(family.phrasings) >= 4
        for number in range(3):
            for record in asked(number, families=[name], wording="own", num_questions=25):
                question, said = (message.content for message in record.messages)
                assert said == record.answer.text
                assert score(record.answer, said) == 1.0
                assert "{" not in question
                # How a question goes on after its first words, the names aside.
                texts.add(question.split("\n")[1][:8])
                for thing in record.meta["objects"]:
                    assert thing["name"] in question
                for option in record.answer.choices:
                    assert option in question
        # The room's size is asked once about each of three rooms.
        assert len(texts) >= 2


def test_wordings_are_mixed_evenly_and_the_same_seed_asks_the_same() -> None:
    records = asked(1)
    share = np.mean([record.meta["wording"] == "own" for record in records])
    assert 0.35 < share < 0.65
    assert [r.messages for r in records] == [r.messages for r in asked(1)]
    assert [r.messages for r in records] != [
        r.messages for r in ask_room(furnished(1), np.random.default_rng(9), num_questions=200).records
    ]
    assert len({(r.skill, r.messages[0].content) for r in records}) == len(records)
    assert len({record.skill for record in asked(1, num_questions=10)}) == 10


def test_unknown_families_are_named() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'route_planning'"):
        asked(0, families=["route_plan"])


@pytest.fixture(autouse=True)
def few_tuples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at fewer things keeps these tests fast."""
    monkeypatch.setattr(family_module, "MAX_TRIED", 200)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        save_room(furnished(number), tmp_path / "in" / str(number))
    return tmp_path


def test_scenes_come_back_from_disk_as_they_were(folder: Path) -> None:
    before, after = furnished(2), load_room(folder / "in" / "2" / "room.json")
    assert (before.id, before.licence, before.meta) == (after.id, after.licence, after.meta)
    np.testing.assert_allclose(before.points, after.points, atol=1e-6)
    for a, b in zip(before.objects, after.objects, strict=True):
        assert (a.index, a.name, a.category) == (b.index, b.name, b.category)
        for part in ("center", "axes", "lengths"):
            np.testing.assert_array_equal(getattr(a, part), getattr(b, part))
    for a, b in zip(before.views, after.views, strict=True):
        assert (a.image.data, a.pixels, a.size, a.seconds) == (b.image.data, b.pixels, b.size, b.seconds)


def test_the_command_writes_records_and_counts_refusals(folder: Path, capsys: pytest.CaptureFixture) -> None:
    out = folder / "out"
    arguments = ["--scenes", str(folder / "in"), "--out", str(out), "--num-frames", "20", "--workers", "1"]
    main(["data", "generate", *arguments])
    printed = capsys.readouterr().out
    records = list(iterate_records(out))
    assert f"{len(records)} records of 3 scenes" in printed
    assert len(records) == 180
    notes = json.loads((out / "refused.json").read_text())
    assert notes["refused"]["object_rel_direction_hard"]["near_border"] > 0
    assert f"near_border {notes['refused']['object_rel_direction_hard']['near_border']}" in printed
    assert notes["rules"] == RULES
    assert records[0].timestamps == tuple(float(i) for i in range(10))


def test_workers_do_not_change_the_shards(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # Other processes know nothing of it.
    hashes = []
    for workers in (1, 2):
        engine = EngineConfig(workers=workers, items_per_part=1)
        config = GenerateConfig(num_questions=30)
        manifest = generate(folder / "in", folder / str(workers), config, engine).manifest
        hashes.append([shard.sha256 for shard in manifest.shards])
    assert hashes[0] == hashes[1]


def test_frames_are_taken_evenly(folder: Path) -> None:
    generate(folder / "in", folder / "out", GenerateConfig(num_frames=4))
    for record in iterate_records(folder / "out"):
        assert record.meta["frames"] == ["0", "3", "6", "9"]


def _spoil(folder: Path, **changes: object) -> Path:
    file = folder / "in" / "1" / "room.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **changes}))
    return file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 7}, "version 7; 'egem-room' version 1"),
        ({"frames": [{}]}, "KeyError"),
        (
            {
                "objects": [
                    {"id": 1, "category": "x", "center": [0, 0, 0], "axes": [1] * 9, "lengths": [1] * 3}
                ]
            },
            "right angles",
        ),
        ({"frames": []}, "no frame with a pose"),
        ({"points": "gone.ply"}, "gone.ply cannot be read"),
    ],
)
def test_bad_scenes_say_what_is_wrong(folder: Path, changes: dict, message: str) -> None:
    _spoil(folder, **changes)
    with pytest.raises(RecordError, match=message):
        generate(folder / "in", folder / "out")
    assert not (folder / "out").exists()
    result = generate(folder / "in", folder / "out", GenerateConfig(max_error_fraction=0.4))
    assert (result.rooms, len(result.quarantine)) == (2, 1)
    assert message.split(";")[0] in (folder / "out" / "quarantine.jsonl").read_text()


def test_truncated_scenes_and_missing_images_are_named(folder: Path) -> None:
    file = folder / "in" / "0" / "room.json"
    file.write_text(file.read_text()[:500])
    with pytest.raises(RecordError, match="not valid JSON"):
        generate(file, folder / "out")
    (folder / "in" / "2" / "frames" / "003.png").unlink()
    with pytest.raises(RecordError, match=r"003\.png"):
        generate(folder / "in" / "2", folder / "out")


def test_folders_without_scenes_say_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(
        ConfigError, match=r"no 3D scene: looked for egem-room \(room.json\), scannet .*notes.txt"
    ):
        generate(tmp_path, tmp_path / "out")
    with pytest.raises(ConfigError, match="does not exist"):
        generate(tmp_path / "gone", tmp_path / "out")
    with pytest.raises(ConfigError, match="num_frames is 0"):
        generate(tmp_path, tmp_path / "out", GenerateConfig(num_frames=0))


def test_names_in_another_name_are_found_in_both_orders() -> None:
    for first, second in combinations(("table", "coffee table"), 2):
        for names in ((first, second), (second, first)):
            things = [box(i, name, (4 * i, 0)) for i, name in enumerate(names, 1)]
            assert [thing.name for thing in Facts(room(things)).named()] == ["coffee table"]
