"""Counts and latencies of a server, as text that Prometheus reads."""

from collections import Counter, deque
from collections.abc import Mapping

import numpy as np

WINDOW = 10_000
"""Latencies kept: quantiles are over the last this many."""
QUANTILES = (0.5, 0.9, 0.99)


class ServingMetrics:
    """What happened since the server started. Touched from the event loop alone."""

    def __init__(self) -> None:
        self.requests = 0
        self.answered = 0
        self.clients = 0
        self.waiting = 0
        self.clipped = 0
        self.errors: Counter[str] = Counter()
        self.batches: Counter[int] = Counter()
        self._latencies: dict[str, deque[float]] = {
            "total": deque(maxlen=WINDOW),
            "policy": deque(maxlen=WINDOW),
        }

    def took(self, stage: str, seconds: float) -> None:
        """Keep one latency: "total" from the frame's arrival to its answer, "policy" of the model alone."""
        self._latencies[stage].append(seconds)

    def quantiles(self, stage: str) -> Mapping[float, float]:
        """Seconds by quantile; empty before the first answer."""
        kept = self._latencies[stage]
        return dict(zip(QUANTILES, np.quantile(kept, QUANTILES).tolist(), strict=True)) if kept else {}

    def text(self) -> str:
        """In Prometheus' text format."""
        lines = [
            *_family("requests_total", "counter", "messages that came", {"": self.requests}),
            *_family("answers_total", "counter", "messages answered with actions", {"": self.answered}),
            *_family(
                "errors_total",
                "counter",
                "messages answered with an error",
                {f'{{code="{code}"}}': count for code, count in sorted(self.errors.items())},
            ),
            *_family(
                "batches_total",
                "counter",
                "calls of the policy by number of observations",
                {f'{{size="{size}"}}': count for size, count in sorted(self.batches.items())},
            ),
            *_family(
                "clipped_total", "counter", "numbers of actions moved to their limit", {"": self.clipped}
            ),
            *_family("clients", "gauge", "open connections", {"": self.clients}),
            *_family("waiting", "gauge", "observations that wait", {"": self.waiting}),
        ]
        for stage, kept in self._latencies.items():
            values = {f'{{quantile="{q:g}"}}': round(s, 6) for q, s in self.quantiles(stage).items()}
            name = f"{stage}_latency_seconds"
            lines += _family(name, "summary", f"over the last {len(kept)} answers", values)
        return "\n".join(lines) + "\n"


def _family(name: str, kind: str, meaning: str, values: Mapping[str, int | float]) -> list[str]:
    head = [f"# HELP egem_{name} {meaning}", f"# TYPE egem_{name} {kind}"]
    return [*head, *(f"egem_{name}{label} {value}" for label, value in values.items())]
