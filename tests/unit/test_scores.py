import json

import pytest

from egem.core.config import from_dict, to_dict
from egem.evaluation.depth import DepthMetrics
from egem.evaluation.depth_run import DepthScore, DepthScores
from egem.evaluation.scores import ScoredAnswer, Scores, markdown, tabulate


def answers(skill, category, values, first=0):
    return [
        ScoredAnswer(
            id=f"{skill}/{first + i}",
            scene=f"scene/{first + i}",
            category=category,
            skill=skill,
            prediction="",
            score=value,
        )
        for i, value in enumerate(values)
    ]


@pytest.fixture
def table():
    rows = answers("count", "spatial", [1.0] * 80 + [0.0] * 20) + answers("point", "grounding", [0.25] * 50)
    blind = {a.id: float(i < 30) for i, a in enumerate(rows) if a.skill == "count"}
    return rows, blind, tabulate(rows, blind)


def test_every_question_counts_the_same(table):
    _, _, (overall, categories, skills) = table
    assert overall.score.mean == pytest.approx((80 + 12.5) / 150)
    assert overall.score.n == 150
    assert [(c.name, c.score.n) for c in categories] == [("grounding", 50), ("spatial", 100)]
    assert [(s.name, s.category) for s in skills] == [("count", "spatial"), ("point", "grounding")]


def test_above_blind_only_where_the_intervals_do_not_touch(table):
    rows, _, (overall, _, (count, point)) = table
    assert count.above_blind
    assert count.blind is not None
    assert count.blind.mean == pytest.approx(0.3)
    assert point.blind is None
    assert not point.above_blind
    assert overall.blind is None  # a floor under some of the questions is not one under all
    near = {a.id: float(i < 75) for i, a in enumerate(rows) if a.skill == "count"}
    assert not tabulate(rows, near)[2][0].above_blind


def scores(table, depth=None):
    overall, categories, skills = table[2]
    return Scores(
        benchmark="b",
        questions="q",
        checkpoint="c",
        checkpoint_sha256="s",
        num_groups=100,
        num_scenes=50,
        blind_training="t",
        overall=overall,
        categories=categories,
        skills=skills,
        depth=depth,
    )


def test_scores_survive_json(table):
    metrics = DepthMetrics(abs_rel=0.1, rmse=0.2, delta1=0.9, delta2=0.95, delta3=1.0, num_images=7)
    depth = DepthScores(
        scores=(DepthScore(name="generated", family="disparity-affine", metrics=metrics),),
        unit="m",
        depth_range=(0.1, 3.0),
        num_steps=None,
        guidance=2.0,
    )
    before = scores(table, depth)
    assert from_dict(Scores, json.loads(json.dumps(to_dict(before)))) == before
    assert before.num_above_blind == 1
    assert before.depth.find("generated") == metrics
    assert before.depth.find("generated", "metric") is None


def test_markdown_holds_every_row(table):
    text = markdown(scores(table))
    assert "| count | spatial | 100 | 0.800 |" in text
    assert "| point | grounding | 50 | 0.250 |" in text
    assert "1 of 2 skills are above blind guessing" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {10}
