"""Steps for tests of the data engine; here, because worker processes import them by name."""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from egem.core.errors import RecordError
from egem.data_engine.engine import EngineConfig, Job, Outcome, run_job
from egem.records import IMAGE_MARK, Answer, ImageFile, Message, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """An item."""

    value: int
    num_bytes: int = 0

    @property
    def where(self) -> str:
        return f"number {self.value}"


def record(value: int) -> Record:
    return Record(
        id=f"n/{value}",
        source="numbers",
        category="spatial",
        skill="counting",
        group=f"n/{value}",
        images=(ImageFile(data=b"\x89PNG" + value.to_bytes(4, "big")),),
        messages=(
            Message(role="user", content=f"{IMAGE_MARK}\nWhich number?"),
            Message(role="assistant", content=str(value)),
        ),
        answer=Answer(kind="number", text=str(value), number=float(value), unit="count"),
    )


@dataclass(frozen=True, kw_only=True)
class Write:
    """Numbers to records; some are bad, and one may kill the process the first time it is met."""

    calls: Path
    """A file for each number is made here when it is met, another one each time."""
    bad: tuple[int, ...] = ()
    broken: tuple[int, ...] = ()
    deadly: int | None = None

    def __call__(self, items: Sequence[Number]) -> Iterator[Outcome]:
        for item in items:
            before = len(list(self.calls.glob(f"{item.value}-*")))
            (self.calls / f"{item.value}-{before}").touch()
            if item.value == self.deadly and not before:
                os.kill(os.getpid(), signal.SIGKILL)
            if item.value in self.bad:
                yield Outcome(where=item.where, error=RecordError(f"{item.where} is bad."))
            elif item.value in self.broken:
                yield Outcome(where=item.where, error=KeyError("missing"))
            else:
                yield Outcome(where=item.where, records=[record(item.value)], counts={"odd": item.value % 2})


def run(step: Write, out: Path, *, num: int = 40, share: float = 0.0, **engine: object):
    """A job over the numbers, ten to a part."""
    job = Job(
        title="numbers",
        unit="number",
        step=step,
        description={"numbers": "all"},
        out=out,
        items_per_part=10,
        max_error_fraction=share,
    )
    return run_job((Number(value=value) for value in range(num)), job, EngineConfig(**engine))
