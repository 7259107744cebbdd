"""SIGTERM and SIGUSR1 (a scheduler's warning) end training after the step under way, with a checkpoint."""

import signal
import threading
from types import FrameType, TracebackType

from egem.core.errors import TrainingError

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(TrainingError):  # noqa: N818 - not an error
    """Training was asked to stop and has saved its state; the message says how to go on."""


class StopSignals:
    """Notes the signals instead of dying of them, inside a `with` block of the main thread."""

    def __init__(self) -> None:
        self.received: str | None = None
        """Name of the first signal that came."""
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignals":
        """Take over the signals; elsewhere than in the main thread Python does not allow it."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _note(self, number: int, frame: FrameType | None) -> None:
        # Nothing else: a handler may interrupt any line, also one that holds the log's lock.
        self.received = self.received or signal.Signals(number).name
