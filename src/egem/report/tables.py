"""Tables of a report from the `scores.json` of a benchmark run."""

import json
from pathlib import Path
from typing import Any

from egem.core.errors import ConfigError
from egem.report.contents import DepthRow, DepthTable, ScoreRow, SkillTable


def read_scores(path: Path) -> tuple[SkillTable | None, DepthTable | None]:
    """The skill table where questions were asked, and the depth table where depth was drawn.

    Args:
        path: `scores.json`, or the folder it is in.

    Raises:
        ConfigError: no such file, or not the scores of a benchmark run.
    """
    path = path / "scores.json" if path.is_dir() else path
    try:
        scores = json.loads(path.read_text())
        return _skill_table(scores), _depth_table(scores)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}; give a benchmark run's folder."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not the scores of a benchmark run ({error!r}); run it again.") from None


def _skill_table(scores: dict[str, Any]) -> SkillTable | None:
    if scores["overall"] is None:
        return None
    return SkillTable(
        benchmark=scores["benchmark"],
        overall=_score_row(scores["overall"]),
        rows=tuple(map(_score_row, scores["skills"])),
        note=f"{scores['overall']['score']['n']:,} questions about {scores['num_groups']:,} views of "
        f"{scores['num_scenes']:,} scenes; "
        f"blind guesses were learned from {scores['blind_training']}.",
    )


def _score_row(line: dict[str, Any]) -> ScoreRow:
    score, blind = line["score"], line["blind"]
    return ScoreRow(
        name="all questions" if line["name"] == "all" else line["name"].replace("_", " "),
        category=line["category"],
        n=score["n"],
        mean=score["mean"],
        low=score["low"],
        high=score["high"],
        blind_mean=None if blind is None else blind["mean"],
        blind_low=None if blind is None else blind["low"],
        blind_high=None if blind is None else blind["high"],
        above_blind=line["above_blind"],
    )


def _depth_table(scores: dict[str, Any]) -> DepthTable | None:
    depth = scores["depth"]
    if depth is None:
        return None
    near, far = depth["depth_range"]
    rows = [DepthRow(name=row["name"], family=row["family"], **row["metrics"]) for row in depth["scores"]]
    unit = "metres" if depth["unit"] == "m" else "relative units"
    return DepthTable(
        benchmark=scores["benchmark"],
        rows=tuple(rows),
        note=f"Means over images; RMSE in {unit}; maps clipped to the true depths' range, {near:.3g} to "
        f"{far:.3g}. Round trip: true depth through encoding and codec, the best that could be drawn.",
    )
