import numpy as np
import pytest

from egem.evaluation.intervals import estimate, wilson


def test_wilson_against_published_values():
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    for successes, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = wilson(successes / n, n)
        assert found == pytest.approx((low, high), abs=5e-5)


def test_one_question_a_group_is_plain_wilson():
    scores = [1.0] * 15 + [0.0] * 133
    found = estimate(scores, [str(i) for i in range(148)])
    assert (found.low, found.high) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert found.n == 148
    assert found.mean == pytest.approx(15 / 148)


def test_copies_of_a_question_add_no_certainty():
    rng = np.random.default_rng(0)
    once = (rng.random(60) < 0.4).astype(float)
    groups = [str(i) for i in range(60)]
    single = estimate(once.tolist(), groups)
    copied = estimate(np.repeat(once, 8).tolist(), np.repeat(groups, 8).tolist())
    assert copied.n == 480
    assert copied.mean == pytest.approx(single.mean)
    assert copied.high - copied.low == pytest.approx(single.high - single.low, rel=0.03)


def test_questions_unlike_each_other_within_a_group_never_count_more_than_themselves():
    scores = [0.0, 1.0] * 50
    found = estimate(scores, [str(i // 2) for i in range(100)])
    assert (found.low, found.high) == pytest.approx(wilson(0.5, 100))


def test_all_right_is_as_uncertain_as_the_number_of_groups():
    found = estimate([1.0] * 40, [str(i // 10) for i in range(40)])
    assert (found.low, found.high) == pytest.approx(wilson(1.0, 4))
    assert found.low < 0.55


def test_bootstrap_covers_the_true_mean_of_clustered_scores():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        level = np.repeat(rng.beta(2, 2, size=30), 5)
        scores = np.clip(level + rng.normal(0, 0.05, 150), 0, 1)
        found = estimate(scores.tolist(), [str(i // 5) for i in range(150)], seed=trial)
        covered += found.low <= 0.5 <= found.high
    assert 178 <= covered <= 199  # 95 % of 200, and too narrow if groups were ignored


def test_bootstrap_agrees_with_the_normal_approximation_for_many_groups():
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 9, size=500)
    scores = [
        rng.beta(2, 3, size=count) * level for count, level in zip(counts, rng.random(500), strict=True)
    ]
    found = estimate(np.concatenate(scores).tolist(), np.repeat(np.arange(500), counts).astype(str).tolist())
    sums = np.array([group.sum() for group in scores])
    mean = sums.sum() / counts.sum()
    error = np.sqrt(500 / 499 * np.sum((sums - mean * counts) ** 2)) / counts.sum()
    assert found.mean == pytest.approx(mean)
    assert found.low == pytest.approx(mean - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(mean + 1.96 * error, abs=0.15 * error)


def test_the_same_scores_always_get_the_same_interval():
    scores = np.random.default_rng(2).random(100).tolist()
    groups = [str(i // 4) for i in range(100)]
    assert estimate(scores, groups) == estimate(scores, groups)


def test_constant_fractions_do_not_look_certain():
    found = estimate([0.5] * 30, [str(i) for i in range(30)])
    assert (found.low, found.high) == pytest.approx(wilson(0.5, 30))


def test_few_groups_fall_back_to_the_wide_interval():
    found = estimate([0.2, 0.4, 0.9], ["a", "b", "c"])
    assert (found.low, found.high) == pytest.approx(wilson(0.5, 3))


def test_above_means_not_touching():
    high = estimate([1.0] * 90 + [0.0] * 10, [str(i) for i in range(100)])
    low = estimate([1.0] * 30 + [0.0] * 70, [str(i) for i in range(100)])
    middle = estimate([1.0] * 80 + [0.0] * 20, [str(i) for i in range(100)])
    assert high.is_above(low)
    assert not low.is_above(high)
    assert not high.is_above(middle)
    assert not high.is_above(high)


@pytest.mark.parametrize(
    ("scores", "groups", "message"),
    [
        ([], [], "at least one"),
        ([1.0], ["a", "b"], "1 scores for 2 groups"),
        ([1.5], ["a"], r"outside \[0, 1\]"),
        ([float("nan")], ["a"], r"outside \[0, 1\]"),
    ],
)
def test_nonsense_is_refused(scores, groups, message):
    with pytest.raises(ValueError, match=message):
        estimate(scores, groups)
