"""Where a step's time goes, and on a GPU its memory: seconds and peaks by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class Clock:
    """Seconds per stage, and on a GPU the largest memory allocated in it, in bytes."""

    seconds: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    inside: list[str] = field(default_factory=list)  # stages that are running, the outer first

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to `name`, and keep its peak; one stage may run inside another."""
        self._look()
        self.inside.append(name)
        start = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - start)
        self._look()
        self.inside.pop()

    def add(self, name: str, seconds: float) -> None:
        """Add time that was spent elsewhere."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def _look(self) -> None:
        """Take the peak since the last look into every stage that is running."""
        if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            return
        peak = torch.cuda.max_memory_allocated()
        for name in self.inside:
            self.peak[name] = max(self.peak.get(name, 0), peak)
        torch.cuda.reset_peak_memory_stats()
