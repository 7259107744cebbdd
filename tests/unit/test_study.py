"""The study: its plan, what its arms share, its tests, its files, its page."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from tests.processes import locked_elsewhere
from tests.small_study import SMALL, write_records

from egem.core.config import save_json
from egem.core.errors import ConfigError
from egem.core.files import locked
from egem.models.gem import GEM
from egem.recipes.study.arms import ARMS
from egem.recipes.study.hypotheses import judged
from egem.recipes.study.parts import Study, lock_of
from egem.recipes.study.plan import StudyRun, plan, reference_of
from egem.recipes.study.recipe import StudyRecipe, balls
from egem.recipes.study.report import END_MARK, begin_mark, write_study
from egem.recipes.study.results import RunResult, load_results, save_result
from egem.recipes.study.run import make
from egem.recipes.study.significance import holm, paired, sign_flip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path, list[RunResult]]:
    """Two arms of one seed, from start to end, on pictures that need no renderer."""
    out = tmp_path_factory.mktemp("study")
    study, results = Study(recipe=SMALL, out=out, workers=0), out / "results"
    wanted = {f"train-{n}": config for n, config in enumerate(SMALL.training_data(), 1)}
    wanted |= {"described": SMALL.described_data(), **SMALL.test_data()}
    for number, (name, config) in enumerate(wanted.items()):
        write_records(out / "data" / name, 100 * number, config.num)
        save_json(config, out / "data" / f"{name}.json")
    make(study, results, arms=("language", "depth"), regimes=("pretrained",), max_runs=2)
    return study, results, load_results(results, SMALL.name)


def test_runs_leave_a_small_file_each_and_are_not_made_twice(finished) -> None:
    study, results, found = finished
    assert sorted(result.run.name for result in found) == ["pretrained-depth-0", "pretrained-language-0"]
    assert all(path.stat().st_size < 8000 for path in (results / SMALL.name).iterdir())
    assert not any((study.out / "runs").iterdir())
    again = make(study, results, arms=("language", "depth"), regimes=("pretrained",), max_runs=0)
    assert again.results == ()
    assert again.num_left == 2


def test_arms_read_the_same_and_are_asked_the_same(finished) -> None:
    depth, language = finished[2]
    assert depth.arm == "depth"
    for field in ("data", "questions", "blind"):
        assert getattr(depth, field) == getattr(language, field)
    assert depth.cost.joint_tokens == language.cost.joint_tokens
    assert depth.cost.joint_samples == language.cost.joint_samples == 4
    assert depth.measured.counts == language.measured.counts
    assert depth.measured.depth is not None
    assert language.measured.depth is None
    assert language.cost.head_minutes == 0 < depth.cost.head_minutes
    # The first step of both starts from the same backbone, so asks the same loss of it.
    assert depth.joint_loss[0] == pytest.approx(language.joint_loss[0], rel=1e-5)
    assert depth.measured.probes.num_images == 12
    for result in (depth, language):
        losses = result.measured.answer_loss
        assert set(losses) == {"nearer_object", "counting"}
        assert result.score("answer_loss") == pytest.approx(sum(losses.values()) / 2)


def test_the_backbone_of_balls_looks_before_it_is_asked_about_space(tmp_path: Path) -> None:
    recipe = replace(balls(), seen_views=4, seeing_batch=2, looking_steps=2)
    study = Study(recipe=recipe, out=tmp_path, workers=0, device="cpu")
    looking = study.seeing()
    assert looking == tmp_path / "looking" / "model"
    seen, looked = (GEM.from_pretrained(folder) for folder in (tmp_path / "seeing" / "model", looking))
    for part, same in (("backbone", False), ("depth_head", True)):
        (name, old), *_ = getattr(seen, part).named_parameters()
        new = looked.get_parameter(f"{part}.{name}")
        assert torch.equal(old.to(torch.bfloat16), new) is same, part
    before = (looking / "config.json").stat().st_mtime_ns
    assert study.seeing() == looking
    assert (looking / "config.json").stat().st_mtime_ns == before


def test_results_of_other_sizes_are_refused(finished, tmp_path: Path) -> None:
    study, _, found = finished
    for result in found:
        save_result(tmp_path, result)
    other = replace(found[0], seed=1, recipe_fingerprint="0")
    path = save_result(tmp_path, other)
    with pytest.raises(ConfigError, match=r"cannot be compared: recipe_fingerprint"):
        load_results(tmp_path, SMALL.name)
    path.rename(path.with_stem("renamed"))
    with pytest.raises(ConfigError, match="give it its name back"):
        load_results(tmp_path, SMALL.name)
    larger = Study(recipe=replace(SMALL, questions=4), out=study.out)
    with pytest.raises(ConfigError, match="rendered for a study with other sizes"):
        larger.training_data()


def test_every_arm_starts_from_the_same_backbone_with_a_head_of_the_same_size(finished) -> None:
    study = finished[0]
    sizes = {}
    for regime in ("pretrained", "scratch"):
        models = {
            name: study.start(StudyRun(regime=regime, arm=name, seed=3), ARMS[name])
            for name in ("language", "depth", "regression", "image")
        }
        first = models["language"].backbone.state_dict()
        for model in models.values():
            assert all(torch.equal(value, first[key]) for key, value in model.backbone.state_dict().items())
        sizes = {n: sum(p.numel() for p in m.depth_head.parameters()) for n, m in models.items()}
    assert sizes["depth"] == sizes["regression"]
    assert sizes["image"] / sizes["depth"] < 1.02


def test_decisive_runs_come_first_and_nothing_twice() -> None:
    runs = plan(StudyRecipe(name="tabletop"))
    assert len(set(runs)) == len(runs) == 20 + 9 + 9 + 12 + 20 + 6
    first = [(run.arm, run.seed) for run in runs[:8]]
    assert first[:4] == [("language", 0), ("depth", 0), ("image", 0), ("shuffled", 0)]
    assert {seed for _, seed in first[4:]} == {1}
    assert {run.regime for run in runs[:50]} == {"pretrained"}
    # The recipe's own weight is the arm `depth`; from random weights there is nothing to leave out.
    assert "depth-weight-0.3" not in {run.arm for run in runs}
    assert not any(run.regime == "scratch" and run.arm == "direct" for run in runs)
    assert reference_of("depth-10-percent") == "language-10-percent"
    assert reference_of("depth-weight-1") == "language"


def test_paired_tests_equal_independent_ones() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.5, 0.1, 5), rng.normal(0.4, 0.1, 5)
    found = paired(dict(enumerate(first)), {**dict(enumerate(second)), 7: 1.0})
    assert found is not None
    reference = stats.ttest_rel(first, second)
    low, high = reference.confidence_interval()
    assert (found.p_t, found.low, found.high) == pytest.approx((reference.pvalue, low, high))
    exact = stats.permutation_test(
        (first, second),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert found.p_signs == pytest.approx(exact.pvalue)
    assert sign_flip([0.1, 0.2, 0.3, 0.4, 0.5]) == 2 / 32
    assert sign_flip([0.0, 0.0]) == 1.0
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert paired({0: 1.0}, {1: 1.0}) is None


def made_up(result: RunResult, arm: str, seed: int, accuracy: float) -> RunResult:
    skills = result.measured.accuracy["held_out"]
    measured = replace(
        result.measured,
        accuracy={**result.measured.accuracy, "held_out": dict.fromkeys(skills, accuracy)},
    )
    return replace(result, arm=arm, seed=seed, measured=measured)


def test_verdicts_follow_the_numbers(finished) -> None:
    base = finished[2][1]
    runs = [
        made_up(base, arm, seed, value + 0.01 * seed * sign)
        for seed in range(5)
        for arm, value, sign in (
            ("language", 0.3, 1),
            ("depth", 0.5, 1.1),
            ("shuffled", 0.45, 0.9),
            ("image", 0.6, 1),
        )
    ]
    verdicts = judged(runs)
    assert verdicts["depth-language"].says == "yes"
    assert verdicts["depth-shuffled"].says == "yes"
    assert verdicts["depth-image"].says == "no: not above"
    # Made up alike for all skills, so no more on the depth-like ones.
    assert verdicts["depth-skills"].test.difference == pytest.approx(0)
    assert verdicts["depth-unused"].says == "open"
    close = [made_up(base, arm, s, v + 0.001 * s**k) for s in range(5) for arm, v, k in
             (("language", 0.3, 1), ("depth", 0.35, 2))]  # fmt: skip
    assert judged(close)["depth-language"].says == "above, but by less than 10 points"
    assert judged(close[:2])["depth-language"].says == "open"


def test_report_fills_the_page_and_says_what_is_wrong(finished, tmp_path: Path) -> None:
    _, _, found = finished
    for seed in range(2):
        for result in found:
            save_result(tmp_path / "runs", replace(result, seed=seed))
    page = tmp_path / "study.md"
    with pytest.raises(ConfigError, match="no finished run"):
        write_study(SMALL, tmp_path / "none", page)
    page.write_text("by hand\n")
    with pytest.raises(ConfigError, match="no place for results"):
        write_study(SMALL, tmp_path / "runs", page)
    page.write_text(f"above\n{begin_mark('tabletop')}\nold\n{END_MARK}\nbelow\n")
    write_study(SMALL, tmp_path / "runs", page)
    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith("\nbelow\n")
    assert "old" not in text
    score = found[0].score("held_out")
    assert f"| (b) depth by flow matching (GEM) | 2 | {score:.3f} ± 0.000 |" in text
    figure = tmp_path / "study" / "tabletop-pretrained-arms.svg"
    assert f"]({figure.relative_to(tmp_path)})" in text
    before = figure.read_bytes()
    write_study(SMALL, tmp_path / "runs", page)
    assert page.read_text() == text
    assert figure.read_bytes() == before


def test_a_run_in_other_hands_is_left_to_them_until_they_end(tmp_path: Path) -> None:
    path = lock_of(tmp_path, "run-pretrained-depth-weight-0.1-0")
    with locked_elsewhere(path):
        with locked(path, wait=False) as mine:
            assert not mine
        with locked(lock_of(tmp_path, "run-pretrained-depth-weight-0.1-1"), wait=False) as mine:
            assert mine
    with locked(path, wait=False) as mine:
        assert mine


def test_results_read_back_as_they_were(finished, tmp_path: Path) -> None:
    _, _, (depth, _) = finished
    path = save_result(tmp_path, depth)
    assert load_results(tmp_path, "tabletop") == [depth]
    assert json.loads(path.read_text())["version"] == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tablet"], "Did you mean 'tabletop'"),
        (["tabletop"], "needs --out"),
        (["tabletop", "--out", "x", "--arms", "dept"], "Did you mean 'depth'"),
        (["tabletop", "--out", "x", "--regimes", "trained"], "unknown regime"),
        (["tabletop", "--out", "x", "--views", "3"], "at least 2"),
        (["policies"], "needs --out"),
        (["policies", "--out", "x", "--arms", "bth"], "Did you mean 'both'"),
    ],
)
def test_wrong_options_are_named(words: list[str], says: str) -> None:
    from egem.cli.study import study

    with pytest.raises(ConfigError, match=says):
        study(words)
