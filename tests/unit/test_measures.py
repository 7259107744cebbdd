import math

import numpy as np
import pytest

from egem.evaluation.answers import ScoredAnswer
from egem.evaluation.benchmarks.robovqa import robobrain_bleu
from egem.evaluation.benchmarks.sharerobot import curve_distances
from egem.evaluation.measures import bleu, in_polygon, mask_share, mean_relative_accuracy, smoothed_bleu
from egem.evaluation.totals import combine, estimate_totals


def test_relative_accuracy_at_known_errors():
    # Relative errors of 0, 0.04, 0.26 and 0.6 pass 10, 10, 5 and 0 of the thresholds 0.50 to 0.95.
    given = (10.0, 10.4, 7.4, 16.0)
    assert [mean_relative_accuracy(number, 10.0) for number in given] == [1.0, 1.0, 0.5, 0.0]
    assert mean_relative_accuracy(5.0, 10.0) == 0.1  # exactly 0.5 counts
    assert mean_relative_accuracy(0.0, 0.0) == 1.0
    assert mean_relative_accuracy(0.21, 0.0) == 0.6
    assert mean_relative_accuracy(-9.0, -10.0) == mean_relative_accuracy(9.0, 10.0)


def test_share_of_points_in_a_mask():
    field = np.zeros((4, 6))
    field[1, 2], field[3, 5] = 1.0, 0.5
    points = np.array([[2, 1], [5, 3], [6, 3], [-1, 0], [0, 0]])
    assert mask_share(field, points) == pytest.approx(1.5 / 5)
    assert mask_share(field, np.zeros((0, 2), int)) == 0.0


def test_points_in_a_polygon():
    arrow = [(0.1, 0.0), (4.0, 0.0), (3.9, 4.0), (2.0, 1.0), (0.0, 4.0)]
    rng = np.random.default_rng(0)
    for x, y in rng.uniform(-1, 5, (200, 2)):
        # By the winding number: the sum of the angles under which the corners are seen.
        angles = [math.atan2(b - y, a - x) for a, b in arrow]
        turns = [
            (b - a + math.pi) % (2 * math.pi) - math.pi
            for a, b in zip(angles, angles[1:] + angles[:1], strict=True)
        ]
        inside = abs(sum(turns)) > 1
        assert in_polygon(x, y, arrow) == inside
        assert in_polygon(x, y, arrow, edges=True) == inside
    square = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    assert in_polygon(0.5, 0.5, square)
    assert not in_polygon(0.5, 0.5, square, edges=True)  # its upright edges cancel, as they do there


SENTENCES = [
    ("put the cup down", "put the cup down"),
    ("put cup down", "put the cup down"),
    ("yes", "yes"),
    ("no", "yes"),
    ("", "yes"),
    ("the the the the", "the cat"),
    ("place the red block into the box.", "put the red block in the box"),
    ("pick up the 3.5-inch disk, then stop", "pick up the 3.5-inch disk"),
    ("a b", "a b c d e"),
]


def test_bleu_by_hand():
    assert bleu(["a", "b", "c", "d"], ["a", "b", "c", "d"]) == pytest.approx(1.0)
    assert bleu(["x"], ["y"]) == 0.0
    # 3 of 3 words, shorter than the 4 of the reference.
    assert bleu(["put", "cup", "down"], ["put", "the", "cup", "down"], (1.0,)) == pytest.approx(
        math.exp(1 - 4 / 3)
    )
    assert bleu(["the", "the", "the"], ["the", "cat"], (1.0,)) == pytest.approx(1 / 3)
    assert robobrain_bleu("Yes!", "yes")["score"] == 0.0
    assert robobrain_bleu("oh yes", "yes")["bleu1"] == pytest.approx(0.5)
    assert robobrain_bleu("put it", "put it")["score"] == pytest.approx(1.0)


@pytest.mark.parametrize(("given", "true"), SENTENCES)
def test_smoothed_bleu_is_sacrebleus(given, true):
    sacrebleu = pytest.importorskip("sacrebleu")
    assert smoothed_bleu(given, true) == pytest.approx(
        sacrebleu.sentence_bleu(given, [true]).score / 100, abs=1e-9
    )


@pytest.mark.parametrize(("given", "true"), SENTENCES)
def test_bleu_is_nltks(given, true):
    score = pytest.importorskip("nltk.translate.bleu_score")
    for weights in ((1.0, 0.0, 0.0, 0.0), (0.33, 0.33, 0.33, 0.0), (0.25, 0.25, 0.25, 0.25)):
        want = float(score.sentence_bleu([true.split(" ")], given.split(" "), weights=weights))
        assert bleu(given.split(" "), true.split(" "), weights) == pytest.approx(want, abs=1e-9)


def test_distances_of_curves():
    line = np.array([[0.0, 0.0], [0.5, 0.0], [1.0, 0.0]])
    assert curve_distances(line, line) == {"DFD": 0.0, "HD": 0.0, "RMSE": 0.0}
    shifted = curve_distances(line + np.array([0, 0.1]), line)
    assert list(shifted.values()) == pytest.approx([0.1, 0.1, 0.1])
    # Back and forth: every point is near, but the order is not.
    back = curve_distances(line[::-1], line)
    assert back["HD"] == 0.0
    assert back["DFD"] == pytest.approx(1.0)
    assert curve_distances(np.array([[0.0, 0.0]]), line)["HD"] == pytest.approx(1.0)


def answers(skill, values, labels=()):
    return [
        ScoredAnswer(
            id=f"{skill}{i}", scene=f"s{i}", category="c", skill=skill, prediction="", score=v, labels=labels
        )
        for i, v in enumerate(values)
    ]


def test_totals_are_means_of_means():
    rows = (
        answers("a", [1.0] * 30 + [0.0] * 10)
        + answers("b", [0.5] * 20, ("x",))
        + answers("c", [0.0] * 5, ("x",))
    )
    totals = {
        total.name: total
        for total in estimate_totals(
            rows, {"t": (("a", "b"), "c"), "x": "x", "none": "zz", "part": ("a", "zz")}
        )
    }
    assert totals["t"].score.mean == pytest.approx(((0.75 + 0.5) / 2 + 0.0) / 2)
    assert totals["x"].score.mean == pytest.approx(10 / 25)
    assert "none" not in totals
    assert totals["part"].missing == ("zz",)
    assert totals["part"].score.mean == pytest.approx(0.75)
    assert totals["t"].score.low < totals["t"].score.mean < totals["t"].score.high
    assert totals["t"].score.n == 65
    assert combine((("a", "b"), "c"), {"a": 1.0, "b": 0.0, "c": 0.5}) == 0.5
    assert combine("z", {}) is None


def test_a_total_has_the_interval_of_its_scenes():
    # One scene decides everything about `a`: drawing scenes anew moves the total by as much.
    rng = np.random.default_rng(1)
    values = rng.random(60)
    total = estimate_totals(answers("a", values.tolist()), {"t": ("a",)})[0].score
    spread = 1.96 * values.std() / math.sqrt(60)
    assert total.high - total.low == pytest.approx(2 * spread, rel=0.15)
