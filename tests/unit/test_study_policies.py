"""The robot half of the study: from an expert's episodes and a shared backbone to a scored policy and its table."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.small_study import SMALL, write_records

from egem.core.config import save_json
from egem.core.errors import ConfigError
from egem.models.gem import GEM
from egem.recipes.study.parts import Study
from egem.recipes.study.plan import StudyRun
from egem.recipes.study.policies import PolicyResult, PolicyStudy, load_policy_results
from egem.recipes.study.policy_recipe import POLICY_ARMS, PolicyRecipe, policy_plan
from egem.recipes.study.policy_report import policy_tables, write_policies
from egem.recipes.study.report import END_MARK, begin_mark
from egem.rollout.summary import TaskResult

RECIPE = PolicyRecipe(
    tasks=("lift",),
    demonstrations=1,
    size=(64, 64),
    expert_steps=2,
    joint_steps=2,
    batch_size=2,
    episodes=1,
    seeds=2,
    backbones=SMALL,
)


def test_a_policy_is_made_and_scored_once(tmp_path: Path) -> None:
    wanted = {f"train-{n}": config for n, config in enumerate(SMALL.training_data(), 1)}
    for number, (name, config) in enumerate((wanted | {"described": SMALL.described_data()}).items()):
        write_records(tmp_path / "shared" / "data" / name, 100 * number, config.num)
        save_json(config, tmp_path / "shared" / "data" / f"{name}.json")
    half = PolicyStudy(
        recipe=RECIPE, out=tmp_path / "out", backbones=tmp_path / "shared", device="cpu", workers=0
    )
    made = half.make(tmp_path / "results", arms=("loss",), max_runs=1, keep_models=True)
    assert [path.name for path in made.results] == ["loss-0.json"]
    assert made.num_left == 1
    (result,) = load_policy_results(tmp_path / "results", RECIPE)
    assert result.overall.episodes == result.tasks[0].episodes == 1
    assert result.action_loss > 0
    # It set out from the backbone that language alone has taught, of the same seed.
    training = half.training(POLICY_ARMS["loss"], 0)
    taught = Study(recipe=SMALL, out=tmp_path / "shared", workers=0)
    run = StudyRun(regime="pretrained", arm="language", seed=0)
    assert training.checkpoint is not None
    assert training.checkpoint.parent == taught.finished(run)
    assert [stage.depth_weight for stage in training.stages] == [0.0, 0.1]
    start, end = (
        GEM.from_pretrained(folder).backbone.state_dict()
        for folder in (training.checkpoint, training.run / "model")
    )
    change = max(float((start[name] - end[name]).abs().max()) for name in start)
    assert 0 < change < 0.01  # four steps
    assert half.make(tmp_path / "results", arms=("loss",), max_runs=0).num_left == 1
    with pytest.raises(ConfigError, match=r"was recorded with other options .*demos\.json"):
        replace(half, recipe=replace(RECIPE, noise=0.5)).demonstrations()
    with pytest.raises(ConfigError, match="a study of other sizes"):
        load_policy_results(tmp_path / "results", replace(RECIPE, joint_steps=3))


def result(arm: str, seed: int, successes: int) -> PolicyResult:
    task = TaskResult(
        task="lift",
        episodes=10,
        successes=successes,
        crashes=0,
        mean=successes / 10,
        low=0.0,
        high=1.0,
        steps=None,
        failures={"grasp": 10 - successes},
    )
    return PolicyResult(
        recipe_fingerprint=RECIPE.fingerprint,
        arm=arm,
        seed=seed,
        overall=task,
        tasks=(task,),
        action_loss=0.5,
        minutes=3.0,
        machine="here",
        commit=None,
    )


def test_the_table_compares_arms_seed_by_seed(tmp_path: Path) -> None:
    results = [result("both", 0, 6), result("plain", 0, 4), result("both", 1, 8), result("plain", 1, 4)]
    text = policy_tables(RECIPE, results)
    assert text.startswith("4 of 8 policies are finished (here)")
    assert (
        "| both: depth backbone, action + depth | 2 | 0.700 ± 0.141 | 0.70 (0.48 .. 0.85) | grasp 6 |" in text
    )
    assert "| both - plain | +0.300 | -0.971 .. +1.571 | 2 |" in text
    assert "both - loss" not in text
    page = tmp_path / "study.md"
    page.write_text(f"before\n{begin_mark('policies')}\nold\n{END_MARK}\nafter\n")
    for each in results:
        save_json(each, tmp_path / "policies" / f"{each.name}.json")
    write_policies(RECIPE, tmp_path, page)
    assert page.read_text() == f"before\n{begin_mark('policies')}\n\n{text}\n\n{END_MARK}\nafter\n"
    assert load_policy_results(tmp_path, RECIPE) == sorted(results, key=lambda each: each.name)


def test_all_arms_of_a_seed_come_before_the_next() -> None:
    assert [f"{arm.name}-{seed}" for arm, seed in policy_plan(RECIPE)][3:6] == ["both-0", "plain-1", "loss-1"]
