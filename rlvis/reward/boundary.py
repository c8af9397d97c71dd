"""What stands between a scorer and everything else: whatever it does is seen by its own call alone.

A scorer of anybody's may switch off gradients, change the default dtype, seed or draw from the global
generators, go to another folder, call sys.exit or never come back. After each call all that is as it was, and
is named once. Unusual: a scorer that draws from the global generators has streams of its own in them, which
go on from call to call, so that its draws depend on no other scorer and on no executor. Beside a rollout
(reward.executor=thread) the other thread may have changed what belongs to the whole process for a moment, so
what counts there is how it was when the step began; what is still otherwise when all is scored is put back
then (`surroundings.kept`).
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rlvis.named import one_line
from rlvis.reward.lent import copied
from rlvis.reward.limit import within
from rlvis.reward.surroundings import SETTINGS, Streams, began_beside, is_beside

log = logging.getLogger(__name__)

MOST, LETTERS = 32, 40  # further numbers of a term, and of a name of them


class ScorerExitError(RuntimeError):
    """A scorer raised what ends a process (SystemExit and the like)."""


@dataclass
class News:
    """What happened to the calls of a term since it was last told: repeated calls, samples that were scored
    one by one, seconds of both and of waiting for a scorer that was away; sums and counts of extras.
    """

    retried: int = 0
    alone: int = 0
    seconds: float = 0.0
    extras: dict[str, tuple[float, int]] = field(default_factory=dict)

    def extra(self, name: str, values: Tensor) -> None:
        """Numbers [n] of that name; those that are not finite are left out."""
        values = values[values.isfinite()]
        name = re.sub(r"[^\w.-]+", "_", name)[:LETTERS]
        total, count = self.extras.get(name, (0.0, 0))
        if name in self.extras or len(self.extras) < MOST:
            self.extras[name] = total + float(values.sum()), count + values.numel()

    def means(self) -> dict[str, float]:
        """Of the extras that had a number."""
        return {name: total / count for name, (total, count) in self.extras.items() if count}


class Boundary:
    """Of one term. timeout: seconds that a call may take in this process; None: for ever.

    reason: why its last failed samples failed, in words. news: see there; whoever tells it begins a new one.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self.timeout, self.reason, self.news = timeout, "", News()
        self.streams: Streams | None = None  # where the scorer's own draws go on
        self._said: set[str] = set()
        self._lost: threading.Thread | None = None

    def call(
        self,
        name: str,
        scorer: Callable[..., Any],
        images: Tensor,
        prompts: Sequence[str],
        metadata: Sequence[dict[str, Any]],
    ) -> Any:
        """What the scorer `name` returns. Raises what it raises, as an Exception (`ScorerExitError`) but for
        a Ctrl-C, and LateError.
        """
        before, streams = [one.read() for one in SETTINGS], Streams.now()
        if self.streams is not None:
            self.streams.install()
        begin = self.streams or streams
        try:
            return within(
                self.timeout, lambda: scorer(images, list(prompts), copied(metadata)), self, is_beside()
            )
        except BaseException as error:
            in_main = threading.current_thread() is threading.main_thread()
            if isinstance(error, Exception) or (type(error) is KeyboardInterrupt and in_main):
                raise
            raise ScorerExitError(f"the scorer raised {one_line(error)}, which would end the run") from error
        finally:
            self._put_back(name, before)
            after = Streams.now()
            if moved := begin.moved(after):
                self.streams = after
                what = f"draws from, or seeds, the global generators of {', '.join(moved)}"
                self._say(name, what, "they are as before, and it goes on in streams of its own")
            if moved or self.streams is not None:
                streams.install()

    def take(self) -> News:
        """The news so far; others begin."""
        news, self.news = self.news, News()
        return news

    def wrote(self, name: str) -> None:
        """The scorer wrote into its pictures, which are as before."""
        self._say(name, "writes into its pictures", "it is given a copy, and nobody else sees it")

    def _put_back(self, name: str, before: Sequence[Any]) -> None:
        began = began_beside()
        for one, value in zip(SETTINGS, before, strict=True):
            now = one.read()
            if now == value or (began is not None and one.shared and began[one.name] != value):
                continue
            one.write(value)
            self._say(name, f"changes the {one.name} ({value} to {now})", "it is put back after each call")

    def _say(self, name: str, what: str, done: str) -> None:
        key = what.split("(")[0]
        if key not in self._said:
            self._said.add(key)
            log.warning("reward %s %s: %s", name, what, done)


@contextmanager
def set_aside(boundaries: Sequence[Boundary]) -> Iterator[None]:
    """Scorers' own streams are afterwards where they were before, and what happened is no news."""
    streams = [one.streams for one in boundaries]
    try:
        yield
    finally:
        for one, before in zip(boundaries, streams, strict=True):
            one.streams = before
            one.take()
