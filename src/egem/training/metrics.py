"""Where a run's numbers go: metrics.jsonl always, charts if wanted, a bar or log lines to watch.

metrics.jsonl has one line per optimizer step. Names: `loss/language`, `loss/depth`,
`optimizer/gradient_norm`, `optimizer/learning_rate/<module>`, `data/...`, `<probe>/...`; what depends on the
machine rather than on the run starts with one of `TIMING_PREFIXES`.
"""

import contextlib
import importlib
import importlib.util
import json
import logging
import os
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from tqdm import tqdm

from egem.core.config import to_dict
from egem.core.errors import ConfigError
from egem.core.files import disk_errors_named, write_atomically
from egem.training.config import TrainConfig

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
TIMING_PREFIXES = ("time/", "throughput/")
"""Values that differ between two otherwise equal runs."""

_WANDB_ID_FILE = "wandb_id.txt"


@runtime_checkable
class Sink(Protocol):
    """Takes named numbers of a step."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One point of every chart."""
        ...

    def close(self) -> None:
        """Flush what is buffered."""
        ...


class MetricsFile:
    """metrics.jsonl: one line per step, on disk as soon as it is written."""

    def __init__(self, run: Path, *, after: int) -> None:
        """Open for appending.

        Args:
            run: folder of the run.
            after: last step whose line is kept; the run goes on from there.
        """
        self._path = run / METRICS_FILE
        if self._path.exists():
            kept = [json.dumps(row) for row in read_metrics(run) if row["step"] <= after]
            write_atomically(self._path, "".join(line + "\n" for line in kept).encode())
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one step's line.

        Raises:
            EgemError: the disk is full.
        """
        with disk_errors_named(self._path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Force all lines to disk, so that no checkpoint is newer than the file."""
        with disk_errors_named(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; what could not be written was reported by `write` already."""
        with contextlib.suppress(OSError):
            self._file.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's metrics.jsonl; what a crash tore at its end is left out.

    Raises:
        ConfigError: the file is missing, or a line that others follow is not a JSON object.
    """
    path = Path(run) / METRICS_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); is {run} a run folder?") from None
    rows = [_row(line) for line in lines]
    while rows and rows[-1] is None:
        rows.pop()
    if None in rows:
        raise ConfigError(
            f"{path} line {rows.index(None) + 1} is not a JSON object; restore or remove the line."
        )
    return [row for row in rows if row is not None]


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and line.endswith("\n") else None


class TensorBoard:
    """Charts in the run folder, for `tensorboard --logdir`."""

    def __init__(self, run: Path, *, after: int) -> None:
        _require_package("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        # Points of steps that a resumed run repeats are hidden.
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=after + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One point of every chart."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush what is buffered."""
        self._writer.close()


class Tracker:
    """wandb or trackio, which share the few functions used here; a resumed run continues its chart."""

    def __init__(self, package: str, config: TrainConfig) -> None:
        _require_package(package, package)
        self._module = importlib.import_module(package)
        options: dict[str, Any] = {"project": config.project, "name": config.run.name, "resume": "allow"}
        if package == "wandb":
            # wandb finds a run by its id, trackio by its name.
            path = config.run / _WANDB_ID_FILE
            if not path.exists():
                write_atomically(path, uuid.uuid4().hex.encode())
            options["id"] = path.read_text()
        self._module.init(config=to_dict(config), **options)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One point of every chart."""
        self._module.log(dict(values), step=step)

    def close(self) -> None:
        """Flush what is buffered."""
        self._module.finish()


class Metrics:
    """All sinks of a run; used as a context manager."""

    def __init__(self, config: TrainConfig, *, after: int, num_steps: int, enabled: bool = True) -> None:
        """Open the sinks.

        Args:
            config: of the run.
            after: steps finished already.
            num_steps: of the whole run.
            enabled: False on all processes but the first, where nothing is written.

        Raises:
            ConfigError: a tracker's package is not installed.
        """
        self._log_every = config.log_every
        self._num_steps = num_steps
        self._window: list[Mapping[str, float]] = []
        self._stage = ""
        self._file = MetricsFile(config.run, after=after) if enabled else None
        self._sinks = _open_trackers(config, after) if enabled else []
        interactive = enabled and sys.stderr.isatty()
        self._bar = tqdm(total=num_steps, initial=after, unit="step", disable=not interactive)

    def __enter__(self) -> "Metrics":
        """The sinks are open already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every sink."""
        self._bar.close()
        for sink in self._sinks:
            sink.close()
        if self._file is not None:
            self._file.close()

    def write(self, *, step: int, stage: str, stage_step: int, values: Mapping[str, float]) -> None:
        """Record one step.

        Args:
            step: steps finished in the run, this one included.
            stage: its stage.
            stage_step: likewise in the stage.
            values: by name, finite.
        """
        if self._file is None:
            return
        self._file.write({"step": step, "stage": stage, "stage_step": stage_step, **values})
        if stage != self._stage:
            # A mean over two stages would mean nothing.
            self._stage, self._window = stage, []
        self._window.append(values)
        self._bar.set_description(stage, refresh=False)
        self._bar.update()
        if step % self._log_every and step != self._num_steps:
            return
        means = _means(self._window)
        self._window = []
        for sink in self._sinks:
            sink.write(step, means)
        self._show(step, stage, means)

    def sync(self) -> None:
        """Force metrics.jsonl to disk."""
        if self._file is not None:
            self._file.sync()

    def _show(self, step: int, stage: str, means: Mapping[str, float]) -> None:
        losses = {name: f"{value:.4f}" for name, value in means.items() if name.startswith("loss/")}
        if not self._bar.disable:
            self._bar.set_postfix({name.removeprefix("loss/"): value for name, value in losses.items()})
            return
        logger.info(
            "%s step %d/%d  %s  %.1f samples/s",
            stage,
            step,
            self._num_steps,
            "  ".join(f"{name} {value}" for name, value in losses.items()),
            means.get("throughput/samples_per_second", 0.0),
        )


def _open_trackers(config: TrainConfig, after: int) -> list[Sink]:
    chosen = config.trackers
    if chosen is None:
        chosen = ("tensorboard",) if importlib.util.find_spec("tensorboard") else ()
    return [
        TensorBoard(config.run, after=after) if name == "tensorboard" else Tracker(name, config)
        for name in chosen
    ]


def _require_package(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"tracker '{package}' is not installed; pip install 'egem[{extra}]', or leave it out of trackers."
        )


def _means(rows: list[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(found) / len(found) for name, found in values.items()}
