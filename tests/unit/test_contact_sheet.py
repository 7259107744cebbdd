"""The page to look through records: complete, self-contained, safe to open."""

import re
from pathlib import Path

import pytest

from egem.core.errors import ConfigError, RecordError
from egem.data_engine import build, write_records
from egem.data_engine.symbolic import block_scene
from egem.media import encode_png
from egem.records import Answer, ImageFile, Message, Record
from egem.report.contact_sheet import render_contact_sheet, write_contact_sheet
from egem.shards import iterate_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "blocks"
    build((block_scene(i) for i in range(6)), path, num_questions=40, seed=0)
    return path


def test_every_question_and_answer_is_on_the_page(folder: Path, tmp_path: Path) -> None:
    page = write_contact_sheet(folder, tmp_path / "a.html").read_text()
    records = list(iterate_records(folder))
    assert page.count('class="question"') == len(records)
    assert page.count('class="group"') == 6
    for record in records:
        assert f'data-skill="{record.skill}"' in page
        assert f"<b>{record.answer.text}</b>" in page
    assert f'<option value="{records[0].skill}">' in page
    assert 'name="viewport"' in page


def test_nothing_is_fetched(folder: Path, tmp_path: Path) -> None:
    page = write_contact_sheet(folder, tmp_path / "a.html").read_text()
    assert not re.search(r"https?://|src=\"(?!data:)|@import|<link", page)
    assert set(re.findall(r'data-of="(\w+)"', page)) <= set(re.findall(r' id="(\w+)"', page))


def test_each_picture_is_stored_once(folder: Path, tmp_path: Path) -> None:
    page = write_contact_sheet(folder, tmp_path / "a.html").read_text()
    assert page.count("data:image/jpeg") == 12  # six images and six depth maps


def test_places_are_drawn(folder: Path) -> None:
    group = [r for r in iterate_records(folder) if r.group == "blocks/0"]
    for kind, mark in (("box", "<rect"), ("trajectory", "<polyline"), ("point", "<image href")):
        chosen = [r for r in group if r.answer.kind == kind][:1]
        assert (mark in render_contact_sheet([chosen], title="t", total=1)) is bool(chosen)
    asked = [r for r in group if r.skill == "nearer_point"] or [
        r for r in iterate_records(folder) if r.skill == "nearer_point"
    ]
    page = render_contact_sheet([asked[:1]], title="t", total=1)
    assert page.count("<circle") == 2
    assert ">A</text>" in page


def test_text_from_outside_is_escaped() -> None:
    record = Record(
        id="r",
        source="<i>s",
        category="spatial",
        skill="<b>k",
        group="<script>alert(1)</script>",
        images=(ImageFile(data=encode_png(block_scene(0).image)),),
        messages=(
            Message(role="user", content="<image><script>alert(2)</script>"),
            Message(role="assistant", content="<u>x</u>"),
        ),
        answer=Answer(kind="text", text="<u>x</u>"),
    )
    page = render_contact_sheet([[record]], title="<h2>", total=1)
    assert page.count("<script>") == 1
    assert "<u>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_groups_are_taken_evenly(folder: Path, tmp_path: Path) -> None:
    half = len(list(iterate_records(folder))) // 2
    page = write_contact_sheet(folder, tmp_path / "a.html", num=half).read_text()
    assert [n for n in range(6) if f"<h3>blocks/{n} " in page] == [0, 2, 5]
    assert "3 of 6 groups" in page
    with pytest.raises(ConfigError, match="num is 0"):
        write_contact_sheet(folder, tmp_path / "a.html", num=0)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    record = next(iter_records())
    write_records([record], tmp_path / "a")
    with pytest.raises(RecordError, match="group 'g'"):
        write_contact_sheet(tmp_path / "a", tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()


def iter_records():
    yield Record(
        id="r",
        source="s",
        category="spatial",
        skill="k",
        group="g",
        images=(ImageFile(data=b"no image"),),
        messages=(Message(role="user", content="<image>?"), Message(role="assistant", content="x")),
        answer=Answer(kind="text", text="x"),
    )


def test_a_page_of_one_skill_or_source(folder: Path, tmp_path: Path) -> None:
    records = list(iterate_records(folder))
    skill = records[5].skill
    count = sum(record.skill == skill for record in records)
    page = write_contact_sheet(folder, tmp_path / "a.html", skills=[skill], sources=["blocks"]).read_text()
    assert page.count('class="question"') == page.count(f'data-skill="{skill}"') == count
    with pytest.raises(ConfigError, match="unknown skill 'beauty'"):
        write_contact_sheet(folder, tmp_path / "b.html", skills=["beauty"])
