import json
from itertools import product

import numpy as np
import pytest

from egem.core.errors import CheckpointError
from egem.evaluation.compare import compare, comparison_markdown, mcnemar
from egem.recipes.pages import comparison_report
from egem.report.page import render

SKILLS = ("count", "left")


def write(folder, scores, *, benchmark="b", questions="q", rule="official"):
    folder.mkdir()
    told = {"benchmark": benchmark, "questions": questions, "rule": rule, "checkpoint": folder.name}
    (folder / "answers.of.json").write_text(json.dumps(told))
    lines = [
        {
            "id": f"{i}",
            "scene": f"s{i // 2}",
            "category": "spatial",
            "skill": SKILLS[i % 2],
            "prediction": "",
            "score": float(score),
        }
        for i, score in enumerate(scores)
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_mcnemar_is_the_exact_binomial_test():
    for wins, losses in ((0, 0), (1, 0), (5, 0), (3, 7), (10, 10), (12, 3)):
        n = wins + losses
        extreme = sum(
            1
            for tosses in product((0, 1), repeat=min(n, 20))
            if abs(sum(tosses) - n / 2) >= abs(wins - n / 2) - 1e-9
        )
        assert mcnemar(wins, losses) == pytest.approx(min(1.0, extreme / 2**n))


def test_a_clear_difference_and_none(tmp_path):
    rng = np.random.default_rng(0)
    second = rng.random(200) < 0.5
    first = second | (rng.random(200) < 0.3)
    found = compare(write(tmp_path / "a", first), write(tmp_path / "b", second))
    row = found.overall
    assert row.difference == pytest.approx(first.mean() - second.mean())
    assert (row.wins, row.losses) == (int((first & ~second).sum()), 0)
    assert row.low > 0
    assert row.p_bootstrap < 0.001
    assert row.p_mcnemar < 1e-6
    assert row.num_scenes == 100
    assert [line.name for line in found.skills] == ["count", "left"]
    assert sum(line.n for line in found.skills) == 200
    same = compare(tmp_path / "a", tmp_path / "a").overall
    assert (same.difference, same.p_bootstrap, same.p_mcnemar) == (0.0, 1.0, 1.0)
    back = compare(tmp_path / "b", tmp_path / "a").overall
    assert back.difference == -row.difference


def test_scores_between_0_and_1_have_no_mcnemar(tmp_path):
    found = compare(write(tmp_path / "a", [0.5, 1.0, 0.2]), write(tmp_path / "b", [0.4, 1.0, 0.1]))
    assert found.overall.p_mcnemar is None
    assert found.overall.wins == 2


def test_tables_hold_every_row(tmp_path):
    found = compare(write(tmp_path / "a", [1, 1, 0, 1]), write(tmp_path / "b", [0, 1, 1, 0]))
    text = comparison_markdown(found)
    assert "| all | 4 | 0.750 | 0.500 | +0.250 |" in text
    assert text.count("\n| ") == 4
    page = render(comparison_report(found))
    assert "+0.250" in page
    assert "A : B better" in page


def test_only_equal_questions_are_compared(tmp_path):
    a = write(tmp_path / "a", [1, 0])
    with pytest.raises(CheckpointError, match="rule is 'official' in one and 'lmms-eval' in the other"):
        compare(a, write(tmp_path / "rule", [1, 0], rule="lmms-eval"))
    with pytest.raises(CheckpointError, match="questions is 'q' in one and 'p' in the other"):
        compare(a, write(tmp_path / "other", [1, 0], questions="p"))
    with pytest.raises(CheckpointError, match=r"1 questions are answered in one only, the first is 2"):
        compare(a, write(tmp_path / "more", [1, 0, 1]))
    with pytest.raises(CheckpointError, match="is not the result of a benchmark"):
        compare(a, tmp_path / "nothing")
