"""Rules on the machine: time and memory of a step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlvis.findings import Finding
from rlvis.observe.health.symptom import last_stretch, symptom
from rlvis.observe.history import RunHistory

SLOWER, SLOW_WINDOW = 4.0, 20
LEAK_GIB, LEAK = 0.5, 0.2  # growth since the first third of a run, absolute and of its start


def slower(history: RunHistory) -> Iterator[Finding]:
    """Steps do not become slower for good; a busy machine slows single ones."""
    series, window = history.series("time/step").finite, SLOW_WINDOW
    if len(series) < 2 * window:
        return
    medians = np.median(np.lib.stride_tricks.sliding_window_view(series.value, window), axis=1)
    best = np.minimum.accumulate(medians)
    if (first := last_stretch(medians > SLOWER * np.maximum(best, 1e-9))) is None:
        return
    now, usual = medians[-1], best[-1]
    yield symptom(
        series,
        first + window - 1,
        value=now,
        what=f"a step takes {now:.3g} s, {now / usual:.1f} times the {usual:.3g} s of before (medians of "
        f"{window} steps)",
        wanted=f"below {SLOWER:g} times the run's best {window} steps",
        why="another program shares the machine, memory is swapped, or a scorer or the disk has become slow: "
        "compare the time/* curves",
        type="nothing in the configuration: look at the machine",
    )


def leak(history: RunHistory) -> Iterator[Finding]:
    """Device memory stops growing after the first steps."""
    series = history.series("memory/max_gib").finite
    if len(series) < 20:
        return
    start = len(series) // 3
    before, later = float(series.value[start]), series.value[start:]
    rising = np.diff(later) > 0
    grown = float(later[-1]) - before
    if rising.sum() < 5 or grown <= LEAK_GIB or grown <= LEAK * before:
        return
    yield symptom(
        series,
        start + int(np.argmax(rising)) + 1,
        value=later[-1],
        what=f"the peak of device memory rose {int(rising.sum())} times, from {before:.1f} to "
        f"{later[-1]:.1f} GiB",
        wanted="constant after the first steps",
        why="something keeps tensors from step to step: a scorer that remembers, or longer and longer inputs",
        type="train.shard smaller; look at your own reward for what it keeps",
    )
