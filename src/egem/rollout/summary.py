"""What came of a rollout: success of each task with its interval, where failures ended, crashes beside them."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egem.core.config import to_dict
from egem.core.files import write_atomically
from egem.environments.environment import STAGES, EnvironmentInfo
from egem.evaluation.intervals import wilson
from egem.report.contents import Headline, PlainTable, Report
from egem.report.page import write_report


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """Of one task, or of all."""

    task: str
    episodes: int
    """Without crashes."""
    successes: int
    crashes: int
    """Episodes that the simulator did not survive; they say nothing about the policy and are played again."""
    mean: float
    """Share of successes; 0 where no episode was played."""
    low: float
    high: float
    """95 % interval (Wilson)."""
    steps: float | None
    """Mean number of actions of the successes."""
    failures: dict[str, int]
    """By stage: reach, grasp, wrong object, transport, release, push, other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Of a rollout."""

    environment: str
    actor: str
    note: str
    """What must be said beside these scores."""
    overall: TaskResult
    tasks: tuple[TaskResult, ...]
    episodes_per_minute: float | None
    """Of those played in this call."""


def summarise(
    entries: Sequence[dict[str, Any]], *, actor: str, info: EnvironmentInfo, rate: float | None
) -> Summary:
    """Count the journal's entries."""
    names = list(dict.fromkeys(entry["task"] for entry in entries))
    return Summary(
        environment=info.name,
        actor=actor,
        note=info.note,
        overall=_result("all tasks", entries),
        tasks=tuple(_result(name, [e for e in entries if e["task"] == name]) for name in names),
        episodes_per_minute=rate,
    )


def write_summary(summary: Summary, entries: Sequence[dict[str, Any]], out: Path) -> None:
    """Write summary.json, summary.md and summary.html into a folder."""
    films = sorted(p.name for p in (out / "films").glob("*.mp4"))
    write_atomically(out / "summary.json", (json.dumps(to_dict(summary), indent=2) + "\n").encode())
    write_atomically(out / "summary.md", _markdown(summary, entries, films).encode())
    overall = summary.overall
    rows = tuple(tuple(row) for row in _rows(summary))
    failures = [f"{e['id']}: {e.get('stage', e['status'])}, {e['detail']}" for e in entries if "detail" in e]
    report = Report(
        title=f"Rollout of {summary.actor} in {summary.environment}",
        summary=summary.note,
        headlines=(
            Headline(
                label="success",
                value=f"{100 * overall.mean:.1f} %",
                note=f"{100 * overall.low:.1f} to {100 * overall.high:.1f}, {overall.episodes} episodes",
            ),
        ),
        totals=(PlainTable(title="Success", head=_HEAD, rows=rows),),
        notes=(*failures[:50], *(f"films/{name}" for name in films)),
    )
    write_report(out / "summary.html", report)


def table(summary: Summary) -> str:
    """The success table in Markdown."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in _rows(summary)])


_HEAD = ("task", "success", "95 %", "episodes", "steps", "failures", "crashes")


def _rows(summary: Summary) -> list[list[str]]:
    return [
        [
            result.task,
            f"{100 * result.mean:.1f} %",
            f"{100 * result.low:.1f} to {100 * result.high:.1f}",
            f"{result.successes} of {result.episodes}",
            "" if result.steps is None else f"{result.steps:.0f}",
            ", ".join(f"{count} {stage}" for stage, count in result.failures.items()),
            str(result.crashes or ""),
        ]
        for result in (*summary.tasks, summary.overall)
    ]


def _markdown(summary: Summary, entries: Sequence[dict[str, Any]], films: Sequence[str]) -> str:
    parts = [f"# Rollout of {summary.actor} in {summary.environment}", ""]
    if summary.note:
        parts += [f"**{summary.note}**", ""]
    parts += [table(summary), ""]
    if summary.episodes_per_minute is not None:
        parts += [f"{summary.episodes_per_minute:.1f} episodes a minute.", ""]
    failed = [entry for entry in entries if entry["status"] != "success"]
    if failed:
        parts += ["## Failures", ""]
        parts += [f"* {e['id']}: {e.get('stage', e['status'])}: {e['detail']}" for e in failed]
        parts.append("")
    if films:
        parts += ["## Films", "", *(f"* [{name}](films/{name})" for name in films), ""]
    return "\n".join(parts)


def _result(name: str, entries: Sequence[dict[str, Any]]) -> TaskResult:
    played = [entry for entry in entries if entry["status"] != "crash"]
    won = [entry for entry in played if entry["status"] == "success"]
    count = Counter(entry["stage"] for entry in played if entry["status"] == "failure")
    mean = len(won) / len(played) if played else 0.0
    low, high = wilson(mean, len(played)) if played else (0.0, 1.0)
    return TaskResult(
        task=name,
        episodes=len(played),
        successes=len(won),
        crashes=len(entries) - len(played),
        mean=mean,
        low=low,
        high=high,
        steps=sum(e["steps"] for e in won) / len(won) if won else None,
        failures={stage: count[stage] for stage in STAGES if count[stage]},
    )
