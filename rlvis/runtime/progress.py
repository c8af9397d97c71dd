"""Progress of a run: one bar for steps and a nested one for sampling on a terminal, one plain line a step
elsewhere.

The plain lines go through logging, so a log file, a batch system and a notebook all see them. On a terminal
the handlers that write there are led through rich while the bars stand, so that messages appear above the
bars instead of through them.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)

WINDOW = 20  # steps whose mean time the remaining time is told from


class Progress:
    """A context that shows how far a run is.

    interactive: None asks whether stderr is a terminal. first: steps done before (a resumed run). enabled:
    False on all ranks but 0, and nothing is shown.

    >>> with Progress(3, interactive=False) as progress:
    ...     progress.step(1, reward=0.5, ratio_dev=0.0, seconds=0.8)
    """

    def __init__(
        self, total_steps: int, interactive: bool | None = None, *, first: int = 0, enabled: bool = True
    ) -> None:
        self.total = total_steps
        self.first = first
        self.enabled = enabled
        self.interactive = enabled and (sys.stderr.isatty() if interactive is None else interactive)
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._bars: Any = None
        self._steps: Any = None
        self._sampling: Any = None
        self._moved: list[tuple[logging.StreamHandler[Any], Any]] = []

    def __enter__(self) -> Self:
        if self.interactive:
            self._open_bars()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handler, stream in self._moved:
            handler.setStream(stream)
        self._moved.clear()
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def step(
        self,
        step: int,
        reward: float | None,
        ratio_dev: float,
        seconds: float,
        *,
        reward_std: float | None = None,
    ) -> None:
        """A step is done: `step` of `total_steps` (counted from 1), its mean reward, max |ratio - 1| and wall
        time in s.

        reward: None where no sample was valid. reward_std: shown behind it when given.
        """
        if not self.enabled:
            return
        self._recent.append(seconds)
        facts = _facts(reward, reward_std, ratio_dev, seconds)
        left = clock((self.total - step) * sum(self._recent) / len(self._recent))
        if self._bars is not None:
            self._bars.update(self._steps, completed=step, facts=facts, left=left)
        else:
            log.info("step %d/%d  %s  ETA %s", step, self.total, facts, left)

    @contextmanager
    def sampling(self, total: int) -> Iterator[None]:
        """A nested bar of `total` parts (forwards) while the context lasts; `advance` moves it. Nothing off a
        terminal.
        """
        if self._bars is None:
            yield
            return
        self._sampling = self._bars.add_task("  sampling", total=total, facts="", left="")
        try:
            yield
        finally:
            self._bars.remove_task(self._sampling)
            self._sampling = None

    def advance(self, parts: int = 1) -> None:
        """Move the sampling bar; without one (off a terminal) nothing happens."""
        if self._sampling is not None:
            self._bars.advance(self._sampling, parts)

    def _open_bars(self) -> None:
        from rich import progress
        from rich.console import Console

        self._bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=24),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[facts]}"),
            progress.TextColumn("{task.fields[left]}", style="dim"),
            console=Console(file=sys.stderr),
        )
        before = (sys.stdout, sys.stderr)
        self._bars.start()
        self._steps = self._bars.add_task("step", total=self.total, completed=self.first, facts="", left="")
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in before:
                self._moved.append((handler, handler.stream))
                handler.setStream(sys.stdout if handler.stream is before[0] else sys.stderr)


def clock(seconds: float) -> str:
    """Seconds as 0:07, 1:15, 2:03:00.

    >>> clock(75.4)
    '1:15'
    """
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _facts(reward: float | None, reward_std: float | None, ratio_dev: float, seconds: float) -> str:
    text = "reward none" if reward is None else f"reward {reward:.3f}"
    if reward is not None and reward_std is not None:
        text += f" +- {reward_std:.2f}"
    deviation = f"{ratio_dev:.1g}".replace("e-0", "e-")
    return f"{text}  |ratio-1| {deviation}  {seconds:.1f} s/step"
