"""Counts, balance, and the blind baseline: it must find what can be won without looking, and only that."""

from pathlib import Path

import numpy as np
import pytest

from egem.blind import blind_scores, combined
from egem.data_engine import build, statistics, table, write_records
from egem.data_engine.symbolic import block_scene
from egem.records import Answer, ImageFile, Message, Record


def record(number: int, question: str, answer: Answer, skill: str = "s") -> Record:
    return Record(
        id=f"r{number}",
        source="made",
        category="spatial",
        skill=skill,
        group=f"g{number}",
        images=(ImageFile(data=b"x"),),
        messages=(
            Message(role="user", content=f"<image>\n{question}"),
            Message(role="assistant", content=answer.text),
        ),
        answer=answer,
    )


def choice(text: str, *choices: str) -> Answer:
    return Answer(kind="choice", text=text, choices=choices)


def halves(records: list[Record]) -> float:
    return blind_scores(records[::2], records[1::2])["s"].mean


def test_fair_coins_stay_near_chance() -> None:
    rng = np.random.default_rng(0)
    answers = [("yes", "no")[int(rng.integers(2))] for _ in range(800)]
    fair = [record(i, "Is it?", choice(answer, "yes", "no")) for i, answer in enumerate(answers)]
    assert abs(halves(fair) - 0.5) < 0.07


def test_a_frequent_answer_is_found() -> None:
    rng = np.random.default_rng(0)
    answers = [("yes", "no")[int(rng.random() < 0.2)] for _ in range(400)]
    assert halves([record(i, "Is it?", choice(a, "yes", "no")) for i, a in enumerate(answers)]) > 0.73


def test_a_telling_name_is_found() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(400):
        names = ["the tray", f"the {('red', 'blue', 'green')[int(rng.integers(3))]} cube"]
        a, b = (names[int(j)] for j in rng.permutation(2))
        rows.append(record(i, f"Which is bigger, {a} or {b}?", choice("the tray", a, b)))
    assert halves(rows) > 0.97


def test_a_favoured_place_is_found() -> None:
    rows = [
        record(i, f"Which, the n{i % 17} or the m{i % 13}?", choice(f"n{i % 17}", f"n{i % 17}", f"m{i % 13}"))
        for i in range(300)
    ]
    assert halves(rows) > 0.95


def test_a_phrasing_that_gives_the_answer_away_is_found() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(400):
        yes = bool(rng.integers(2))
        rows.append(
            record(i, "Is it?" if yes else "Might it be?", choice("yes" if yes else "no", "yes", "no"))
        )
    assert halves(rows) > 0.97


def test_coordinates_that_give_the_answer_away_are_found() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(400):
        (x1, y1), (x2, y2) = rng.integers(0, 1000, (2, 2))
        lower = "A" if y1 > y2 else "B"
        rows.append(record(i, f"Nearer: A [{x1}, {y1}] or B [{x2}, {y2}]?", choice(lower, "A", "B")))
    assert halves(rows) > 0.95


def test_a_depth_that_follows_from_the_row_is_found() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(600):
        x, y = rng.integers(0, 1000, 2)
        depth = 3.0 - 2.0 * y / 1000
        rows.append(
            record(i, f"Depth at [{x}, {y}]?", Answer(kind="number", text="x", number=float(depth), unit="m"))
        )
    constant = [record(i, "Depth?", r.answer) for i, r in enumerate(rows)]
    assert halves(rows) > 0.8
    assert halves(constant) < 0.35


def test_one_answer_for_many() -> None:
    numbers = [Answer(kind="number", text="x", number=n, unit="m") for n in (1.0, 2.0, 9.0)]
    assert combined(numbers) == "2.0000 m"
    assert combined([Answer(kind="number", text="x", number=2.0, unit="count")]) == "2"
    points = [Answer(kind="point", text="x", points=(p,)) for p in ((0, 0), (100, 50))]
    assert combined(points) == "[50, 25]"
    boxes = [Answer(kind="box", text="x", box=b) for b in ((0, 0, 10, 10), (10, 10, 30, 30))]
    assert combined(boxes) == "[5, 5, 20, 20]"
    path = Answer(kind="trajectory", text="x", points=((0, 0), (700, 0)))
    assert combined([path]).startswith("[[0, 0], [100, 0], [200, 0]")
    assert combined([Answer(kind="text", text=t) for t in "aba"]) == "a"


def test_skills_that_were_never_trained_on_are_left_out() -> None:
    rows = [record(i, "Is it?", choice("yes", "yes", "no"), skill=f"s{i % 2}") for i in range(4)]
    assert set(blind_scores(rows[:1], rows)) == {"s0"}


def test_statistics_of_a_folder(tmp_path: Path) -> None:
    build((block_scene(i) for i in range(30)), tmp_path / "a", num_questions=10, seed=0)
    result = statistics(tmp_path / "a")
    assert result.manifest.rows == result.measured_rows == 300
    assert sum(skill.rows for skill in result.skills) == 300
    assert result.quarantined == 0
    by_name = {skill.name: skill for skill in result.skills}
    assert by_name["camera_side"].kind == "choice"
    assert by_name["camera_side"].chance == 0.5
    assert by_name["camera_side"].first_option is None
    assert 0.0 <= by_name["nearer_object"].first_option <= 1.0
    low, middle, high = by_name["camera_distance"].numbers
    assert 0.3 < low < middle < high < 2.0
    text = table(result)
    assert "300 records in 30 groups, 30 images, 30 with depth, 0 rows quarantined" in text
    assert "source: blocks 300" in text
    assert all(name in text for name in by_name)
    assert "blind" in text


def test_the_two_halves_share_no_group(tmp_path: Path) -> None:
    # Every group repeats one question with its own answer: only a leak between halves could score.
    rows = []
    for i in range(60):
        answer = Answer(kind="text", text=f"t{i}")
        rows += [
            Record(**{**_fields(record(i, f"word{chr(97 + i % 26)}{i}?", answer)), "id": f"{i}/{j}"})
            for j in range(3)
        ]
    write_records(rows, tmp_path / "a")
    (skill,) = statistics(tmp_path / "a").skills
    assert skill.blind == pytest.approx(0.0, abs=0.02)


def _fields(one: Record) -> dict:
    return {name: getattr(one, name) for name in Record.__dataclass_fields__}
