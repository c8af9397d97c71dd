"""What a server did, counted, as Prometheus reads it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

TABLE = {
    "rlvis_requests_total": "requests that were scored, or whose scorer failed",
    "rlvis_samples_total": "samples in them",
    "rlvis_failures_total": "samples without a valid score",
    "rlvis_seconds_total": "seconds spent in the scorer",
    "rlvis_refused_total": "requests that were refused, by status",
}


class Counts:
    """Counters by term; safe to use from several threads."""

    def __init__(self, terms: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], float] = {}
        for name in ("requests", "samples", "failures", "seconds"):  # a counter is there before it counts
            for term in terms:
                self._counts[f"rlvis_{name}_total", _label("term", term)] = 0

    def scored(self, term: str, samples: int, invalid: int, seconds: float) -> None:
        """A call of a scorer, which may have raised: then all samples are invalid."""
        with self._lock:
            label = _label("term", term)
            numbers = {"requests": 1, "samples": samples, "failures": invalid, "seconds": seconds}
            for name, number in numbers.items():
                self._counts[f"rlvis_{name}_total", label] += number

    def refused(self, status: int) -> None:
        """A request that was not served."""
        with self._lock:
            key = "rlvis_refused_total", _label("status", str(status))
            self._counts[key] = self._counts.get(key, 0) + 1

    def text(self) -> str:
        """All counters in the text format, version 0.0.4."""
        with self._lock:
            counts = dict(self._counts)
        lines = []
        for name, about in TABLE.items():
            lines += [f"# HELP {name} {about}", f"# TYPE {name} counter"]
            lines += [f"{name}{label} {value:.10g}" for (key, label), value in counts.items() if key == name]
        return "\n".join(lines) + "\n"


def _label(name: str, value: str) -> str:
    plain = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{{{name}="{plain}"}}'
