"""Tables and figures of a study, made from the files of its finished runs and set into a page of the documentation.

The page's own text (why, what was expected, what was found) is written by hand; what stands between the two marks is
written anew each time.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from egem.core.errors import ConfigError
from egem.core.files import write_atomically
from egem.recipes.study.arms import ARMS, MAIN, OTHERS
from egem.recipes.study.figures import draw_figures
from egem.recipes.study.hypotheses import HYPOTHESES, judged
from egem.recipes.study.plan import Regime, plan, reference_of
from egem.recipes.study.recipe import StudyRecipe
from egem.recipes.study.results import SPLITS, RunResult, load_results
from egem.recipes.study.significance import Paired, paired

REGIMES: tuple[Regime, ...] = ("pretrained", "scratch")
TITLES = {
    "pretrained": "From a backbone that can describe pictures",
    "scratch": "From random weights",
}
PAIRS = (
    ("depth", "language"),
    ("depth", "shuffled"),
    ("depth", "unused"),
    ("depth", "image"),
    ("depth", "regression"),
    ("depth", "direct"),
    ("image", "language"),
    ("shuffled", "language"),
    ("regression", "language"),
)
"""What is compared with what."""
COMPARED = ("held_out", "depth_skills", "new_cameras", "new_objects", "answer_loss", "probe_depth")


def begin_mark(recipe: str) -> str:
    """The line in the page after which a study's results stand."""
    return f"<!-- results of {recipe}: written by egem study {recipe} --report -->"


END_MARK = "<!-- end of results -->"


def write_study(recipe: StudyRecipe, results: Path, page: Path) -> Path:
    """Write tables and figures of all finished runs into the page; figures lie beside it.

    Args:
        recipe: of the study.
        results: folder of the small files.
        page: Markdown with the study's two marks.

    Raises:
        ConfigError: the page is missing or has no marks, or there is no result.
    """
    found = load_results(results, recipe.name)
    if not found:
        raise ConfigError(
            f"{results / recipe.name} holds no finished run; make some first: egem study {recipe.name}."
        )
    parts_of(page, recipe.name)
    figures = draw_figures(found, recipe, page.parent / "study")
    links = [f"![{title}]({path.relative_to(page.parent)})" for title, path in figures]
    return set_into(page, recipe.name, "\n".join([tables(recipe, found), "", *links]))


def set_into(page: Path, recipe: str, body: str) -> Path:
    """Put a study's results between its two marks.

    Raises:
        ConfigError: the page is missing or has no marks.
    """
    head, tail = parts_of(page, recipe)
    write_atomically(page, f"{head}{begin_mark(recipe)}\n\n{body}\n\n{END_MARK}{tail}".encode())
    return page


def parts_of(page: Path, recipe: str) -> tuple[str, str]:
    """What stands before and after a study's results.

    Raises:
        ConfigError: the page is missing or has no marks.
    """
    try:
        text = page.read_text()
    except OSError as error:
        raise ConfigError(f"{page} cannot be read ({error.strerror}); give --page a Markdown page.") from None
    begin = begin_mark(recipe)
    head, mark, rest = text.partition(begin)
    _, end, tail = rest.partition(END_MARK)
    if not mark or not end:
        raise ConfigError(f"{page} has no place for results; add the lines '{begin}' and '{END_MARK}'.")
    return head, tail


def tables(recipe: StudyRecipe, results: Sequence[RunResult]) -> str:
    """All tables as Markdown."""
    total = len(plan(recipe))
    machines = sorted({result.cost.machine for result in results})
    lines = [
        f"{len(results)} of {total} runs are finished ({'; '.join(machines)}). "
        "Numbers are means over seeds, ± one standard deviation.",
        "",
        *_hypotheses(results),
    ]
    for regime in REGIMES:
        of_regime = [result for result in results if result.regime == regime]
        if of_regime:
            lines += ["", f"### {TITLES[regime]}", "", *_arms(of_regime), "", *_comparisons(of_regime)]
            lines += ["", *_skills(of_regime)]
    return "\n".join(lines)


def scores_by_seed(results: Sequence[RunResult], arm: str, measure: str) -> dict[int, float]:
    """Seed -> score of an arm, of the runs at hand."""
    return {result.seed: result.score(measure) for result in results if result.arm == arm}


def _hypotheses(results: Sequence[RunResult]) -> list[str]:
    lines = [
        "| hypothesis | difference | 95 % interval | seeds | p (t) | p (Holm) | p (signs) | so far |",
        "|---|--:|---|--:|--:|--:|--:|---|",
    ]
    verdicts = judged(results)
    for hypothesis in HYPOTHESES:
        verdict = verdicts[hypothesis.name]
        cells = test_cells(verdict.test, "" if verdict.p_holm is None else f"{verdict.p_holm:.4f}")
        lines.append(f"| {hypothesis.text} | {cells} | {verdict.says} |")
    return lines


def _arms(results: Sequence[RunResult]) -> list[str]:
    lines = [
        "| arm | seeds | held-out scenes | depth-like skills | new cameras | new objects | answer loss | "
        "probe: depth R2 | probe: position R2 | drawn depth delta1 | minutes |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    measures = ("held_out", "depth_skills", "new_cameras", "new_objects", "answer_loss")
    for name, arm in ARMS.items():
        rows = [result for result in results if result.arm == name]
        if not rows:
            continue
        shown = [spread([row.score(m) for row in rows]) for m in (*measures, "probe_depth", "probe_position")]
        drawn = [row.measured.depth.delta1 for row in rows if row.measured.depth is not None]
        minutes = [row.cost.head_minutes + row.cost.joint_minutes for row in rows]
        letter = f"({arm.letter}) " if arm.letter else ""
        cells = [*shown, spread(drawn), f"{sum(minutes) / len(minutes):.1f}"]
        lines.append(f"| {letter}{arm.title} | {len(rows)} | {' | '.join(cells)} |")
    blind = {split: fmean(results[0].blind[split].values()) for split in SPLITS}
    cells = [f"{blind['held_out']:.3f}", "", f"{blind['new_cameras']:.3f}", f"{blind['new_objects']:.3f}"]
    return [*lines, f"| best guess without the picture |  | {' | '.join(cells)} |  |  |  |  |  |"]


def _comparisons(results: Sequence[RunResult]) -> list[str]:
    lines = [
        "| A minus B | measure | difference | 95 % interval | seeds | p (t) | p (signs) | effect d_z |",
        "|---|---|--:|---|--:|--:|--:|--:|",
    ]
    arms = {result.arm for result in results}
    others = [(name, reference_of(name)) for name in ARMS if name not in _FAMILIAR and name in arms]
    for first, second in (*PAIRS, *(pair for pair in others if pair[0] != pair[1])):
        for measure in COMPARED:
            test = paired(scores_by_seed(results, first, measure), scores_by_seed(results, second, measure))
            if test is not None:
                lines.append(f"| {first} - {second} | {measure} | {test_cells(test)} | {effect_cell(test)} |")
    return lines


def _skills(results: Sequence[RunResult]) -> list[str]:
    arms = [arm for arm in (*MAIN, *OTHERS) if any(result.arm == arm.name for result in results)]
    skills = sorted(results[0].measured.accuracy["held_out"])
    lines = [
        f"| held-out skill | n | blind | {' | '.join(f'({arm.letter}) {arm.name}' for arm in arms)} |",
        f"|---|--:|--:|{'--:|' * len(arms)}",
    ]
    for skill in skills:
        cells = []
        for arm in arms:
            rows = [result for result in results if result.arm == arm.name]
            cells.append(spread([row.measured.accuracy["held_out"][skill] for row in rows]))
        count, blind = results[0].measured.counts["held_out"][skill], results[0].blind["held_out"].get(skill)
        guess = "" if blind is None else f"{blind:.3f}"
        lines.append(f"| {skill} | {count} | {guess} | {' | '.join(cells)} |")
    return lines


_FAMILIAR = frozenset(arm.name for arm in (*MAIN, *OTHERS))


def test_cells(test: Paired | None, *after_t: str) -> str:
    """Difference, interval, seeds, p-values; more cells go after the t-test's."""
    if test is None:
        return " | ".join(["", "", "0", "", *after_t, ""])
    p_t = "" if test.p_t is None else f"{test.p_t:.4f}"
    interval = "" if test.n == 1 else f"{test.low:+.3f} .. {test.high:+.3f}"
    return " | ".join(
        [f"{test.difference:+.3f}", interval, str(test.n), p_t, *after_t, f"{test.p_signs:.4f}"]
    )


def effect_cell(test: Paired) -> str:
    """Cohen's d_z, where there is one."""
    return "" if test.effect is None else f"{test.effect:+.2f}"


def spread(values: Sequence[float]) -> str:
    """Mean over seeds, ± one standard deviation."""
    if not values:
        return ""
    mean = fmean(values)
    if len(values) == 1:
        return f"{mean:.3f}"
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return f"{mean:.3f} ± {variance**0.5:.3f}"
