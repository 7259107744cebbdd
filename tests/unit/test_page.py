import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from egem.core.errors import ConfigError
from egem.evaluation.benchmarks import Benchmark
from egem.evaluation.predictor import GeneratedDepth
from egem.evaluation.runner import RunOptions, run
from egem.report.contents import (
    DepthRow,
    DepthTable,
    Example,
    Headline,
    Report,
    ScoreRow,
    SkillTable,
    StageRow,
)
from egem.report.curves import Chart, Series
from egem.report.drawing import Marks
from egem.report.examples import example
from egem.report.page import duration, render, write_report
from egem.report.panels import DepthPicture
from egem.report.summary import HEIGHT, WIDTH, summary_picture
from egem.report.tables import read_scores
from record_sets import group, picture, write_records

NASTY = "<script>alert('x')</script> & \"quotes\""
VOID = {"meta", "img", "link", "br", "line", "path", "circle", "rect"}


class Checker(HTMLParser):
    """Every tag is closed in order; attributes and texts are collected."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.sources, self.links, self.ids = [], [], [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.sources += [values["src"]] if "src" in values else []
        self.links += [values["href"]] if "href" in values else []
        self.ids |= {values["id"]} if "id" in values else set()
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


def score_row(name=NASTY, **changes):
    values = {"n": 100, "mean": 0.7, "low": 0.6, "high": 0.8}
    values |= {"blind_mean": 0.4, "blind_low": 0.3, "blind_high": 0.5}
    return ScoreRow(name=name, category=NASTY, **{**values, "above_blind": True, **changes})


@pytest.fixture
def report():
    image, depth = picture(0)
    depths = DepthRow(
        name=NASTY, family="metric", num_images=3, abs_rel=0.1, rmse=0.2, delta1=0.9, delta2=0.95, delta3=1.0
    )
    return Report(
        title=NASTY,
        summary=NASTY,
        headlines=(Headline(label=NASTY, value=NASTY, note=NASTY, state="good"),),
        facts=((NASTY, NASTY),),
        stages=(
            StageRow(name=NASTY, modules=(NASTY,), trainable_parameters=1234567, steps=10, seconds=75.0),
        ),
        charts=(Chart(title=NASTY, series=(Series(name=NASTY, steps=(1, 2), values=(3.0, 2.0)),)),),
        skill_tables=(
            SkillTable(benchmark=NASTY, overall=score_row(), rows=(score_row(), score_row()), note=NASTY),
        ),
        depth_tables=(DepthTable(benchmark=NASTY, rows=(depths,), note=NASTY),),
        depth_pictures=(DepthPicture(image=image, truth=depth, generated=depth + 0.1, label=NASTY),),
        examples=(
            Example(
                image=image, skill=NASTY, question=NASTY, expected=NASTY, given=NASTY, score=1.0,
                right_marks=Marks(points=[(500, 500)]),
            ),
            Example(image=image, skill="s", question="q", expected="e", given="", score=0.0),
        ),
        notes=(NASTY,),
    )  # fmt: skip


def test_the_page_is_one_file_and_every_text_is_escaped(report):
    page = render(report)
    checker = check(page)
    assert "script" not in checker.tags
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 15
    assert "link" not in checker.tags
    assert not re.search(r"https?://|url\(|@import", page)
    assert checker.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in checker.sources)
    assert all(link.startswith("#") and link[1:] in checker.ids for link in checker.links)
    assert "width=device-width" in page
    assert "prefers-color-scheme: dark" in page


def test_the_pictures_are_pictures(report):
    for source in check(render(report)).sources:
        image = Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1])))
        image.load()
        assert image.width in (256, 384)


def test_numbers_stand_on_the_page(report):
    page = render(report)
    assert "1,234,567" in page
    assert "1 min 15 s" in page
    assert "left:60.0%;width:20.0%" in page  # interval of the score
    assert "left:30.0%;width:20.0%" in page  # of the blind baseline
    assert "2 of 2 skills" in page
    assert "(nothing)" in page


def test_what_is_empty_is_left_out():
    page = render(Report(title="bare"))
    checker = check(page)
    assert "section" not in checker.tags
    assert checker.links == []
    table = SkillTable(
        benchmark="b",
        overall=score_row(blind_mean=None, blind_low=None, blind_high=None, above_blind=False),
        rows=(),
    )
    page = render(Report(title="one", skill_tables=(table,)))
    check(page)
    assert 'class="blind"' not in page


def test_the_page_is_written_into_a_folder_or_a_file(tmp_path, report):
    assert write_report(tmp_path, report) == tmp_path / "report.html"
    named = write_report(tmp_path / "deep" / "name.html", report)
    assert named.read_bytes() == (tmp_path / "report.html").read_bytes()
    assert write_report(tmp_path / "run", report) == tmp_path / "run" / "report.html"


def test_durations():
    found = [duration(seconds) for seconds in (0.4, 59, 60, 725, 3600, 7384)]
    assert found == ["0 s", "59 s", "1 min 0 s", "12 min 5 s", "1 h 0 min", "2 h 3 min"]


def test_examples_draw_what_an_answer_means():
    nearest, _, point, box = group(1)
    shown = example(box, "It is at [10, 20, 30, 40].", 0.0)
    assert shown.right_marks.boxes == [(100, 200, 300, 400)]
    assert shown.given_marks.boxes == [(10, 20, 30, 40)]
    assert shown.question == "Question 3 about box?"
    shown = example(point, "(5, 6)", 1.0)
    assert shown.right_marks.region is not None
    assert shown.given_marks.points == [(5, 6)]
    assert example(nearest, "[5, 6]", 0.0).given_marks == Marks()


class Right:
    name, fingerprint = "right", "right"

    def answer(self, records, *, batch_size, max_new_tokens):
        return [record.answer.text for record in records]

    def draw_depth(self, images, *, num_steps, guidance, seed, batch_size):
        return [self._map(np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64)) for _ in images]

    def round_trip(self, depth, image_size):
        return self._map(np.ones((48, 64), np.float32))

    def _map(self, values):
        return GeneratedDepth(
            values=values, kind="inverse_relative", scale=None, shift=None, encoded=values[None]
        )


def test_tables_are_read_from_a_benchmark_run(tmp_path):
    benchmark = Benchmark.from_folder("six", write_records(tmp_path / "r", 6))
    scores = run(benchmark, Right(), tmp_path / "out", RunOptions())
    skills, depth = read_scores(tmp_path / "out")
    assert skills.overall.mean == 1.0
    assert [row.name for row in skills.rows] == ["box", "counting", "free space", "nearest"]
    assert skills.rows[3].blind_mean == 0.0
    assert skills.rows[3].low == pytest.approx(scores.skills[3].score.low)
    floor = scores.skills[0].blind
    assert floor is not None
    found = skills.rows[0]
    assert (found.blind_mean, found.blind_low, found.blind_high) == (floor.mean, floor.low, floor.high)
    assert found.blind_low < found.blind_high
    assert "the other half" in skills.note
    assert depth is not None
    assert [(row.name, row.family) for row in depth.rows] == [
        ("generated", "disparity-affine"),
        ("round trip", "disparity-affine"),
    ]
    page = render(Report(title="t", skill_tables=(skills,), depth_tables=(depth,)))
    check(page)


def test_what_is_not_a_score_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="give a benchmark run's folder"):
        read_scores(tmp_path / "scores.json")
    (tmp_path / "scores.json").write_text('{"benchmark": 1}')
    with pytest.raises(ConfigError, match="is not the scores of a benchmark run"):
        read_scores(tmp_path)


def test_the_summary_picture(report):
    rows = [score_row(name=f"skill {i}", mean=0.5 + i / 100) for i in range(25)]
    drawn = summary_picture(
        title="title",
        example=report.examples[0],
        depth=report.depth_pictures[0],
        depth_line="delta1 0.95",
        skills=rows,
    )
    assert drawn.shape == (HEIGHT, WIDTH, 3)
    for part in (drawn[76:300, 28:320], drawn[330:520, 28:600], drawn[110:560, 880:1170]):
        assert part.std() > 15  # something is drawn in each part
    assert (drawn[:, :20] == 255).all()
    assert (drawn[:, -20:] == 255).all()
