"""Time and memory of stages that may run inside each other."""

from __future__ import annotations

import pytest
import torch

from rlvis.runtime.clock import Clock


def test_on_a_cpu_there_is_time_and_no_memory() -> None:
    clock = Clock()
    with clock.stage("a"):
        pass
    assert clock.seconds["a"] >= 0
    assert clock.peak == {}


def test_a_peak_counts_for_the_stages_around_it_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"peak": 0}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: now["peak"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: now.update(peak=1))
    clock = Clock()
    now["peak"] = 100  # before any stage
    with clock.stage("build"):
        now["peak"] = 5
        with clock.stage("map"):
            now["peak"] = 7
    with clock.stage("update"):
        now["peak"] = 3
    assert clock.peak == {"build": 7, "map": 7, "update": 3}
