"""The table of the robot half, made from the files of its finished policies and set into the study's page."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from egem.core.errors import ConfigError
from egem.evaluation.intervals import wilson
from egem.recipes.study.policies import PolicyResult, load_policy_results
from egem.recipes.study.policy_recipe import POLICY_ARMS, PolicyRecipe, policy_plan
from egem.recipes.study.report import effect_cell, set_into, spread, test_cells
from egem.recipes.study.significance import paired

PAIRS = (("both", "plain"), ("backbone", "plain"), ("loss", "plain"), ("both", "backbone"), ("both", "loss"))
"""What is compared with what: all of GEM, each of its two halves alone, and each beside the other."""


def write_policies(recipe: PolicyRecipe, results: Path, page: Path) -> Path:
    """Write the table of all finished policies into the page.

    Raises:
        ConfigError: the page is missing or has no marks, or there is no result, or one of other sizes.
    """
    found = load_policy_results(results, recipe)
    if not found:
        raise ConfigError(
            f"{results / recipe.name} holds no finished policy; make some first: egem study policies."
        )
    return set_into(page, recipe.name, policy_tables(recipe, found))


def policy_tables(recipe: PolicyRecipe, results: Sequence[PolicyResult]) -> str:
    """All tables as Markdown."""
    machines = "; ".join(sorted({result.machine for result in results}))
    tasks = [task.task for task in results[0].tasks]
    lines = [
        f"{len(results)} of {len(policy_plan(recipe))} policies are finished ({machines}). Mean success over tasks and "
        "seeds, ± one standard deviation over seeds; of each task the share over all seeds' episodes with its 95 % "
        "interval (Wilson).",
        "",
        f"| policy | seeds | success | {' | '.join(tasks)} | failures end in | action loss | minutes |",
        f"|---|--:|--:|{'---|' * len(tasks)}---|--:|--:|",
    ]
    for arm in POLICY_ARMS.values():
        rows = [result for result in results if result.arm == arm.name]
        if rows:
            means = spread([row.overall.mean for row in rows])
            cells = [means, *(_share(rows, task) for task in tasks), _failures(rows)]
            cells += [spread([row.action_loss for row in rows]), spread([row.minutes for row in rows])]
            lines.append(f"| {arm.name}: {arm.title} | {len(rows)} | {' | '.join(cells)} |")
    lines += ["", "| A minus B | difference | 95 % interval | seeds | p (t) | p (signs) | effect d_z |"]
    lines += ["|---|--:|---|--:|--:|--:|--:|"]
    for first, second in PAIRS:
        test = paired(_by_seed(results, first), _by_seed(results, second))
        if test is not None:
            lines.append(f"| {first} - {second} | {test_cells(test)} | {effect_cell(test)} |")
    return "\n".join(lines)


def _by_seed(results: Sequence[PolicyResult], arm: str) -> dict[int, float]:
    return {result.seed: result.overall.mean for result in results if result.arm == arm}


def _share(rows: Sequence[PolicyResult], task: str) -> str:
    found = [each for row in rows for each in row.tasks if each.task == task]
    episodes = sum(each.episodes for each in found)
    if not episodes:
        return ""
    mean = sum(each.successes for each in found) / episodes
    low, high = wilson(mean, episodes)
    return f"{mean:.2f} ({low:.2f} .. {high:.2f})"


def _failures(rows: Sequence[PolicyResult]) -> str:
    counts = Counter[str]()
    for row in rows:
        counts.update(row.overall.failures)
    return ", ".join(f"{stage} {count}" for stage, count in counts.most_common(3))
