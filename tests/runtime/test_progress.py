"""Progress: plain lines off a terminal, bars on one, silence on other ranks."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from rlvis.runtime.progress import Progress, clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_plain_line_a_step_with_time_left(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "rlvis"), Progress(100, interactive=False) as progress:
        for step, seconds in ((2, 1.0), (3, 0.6)):
            with progress.sampling(10):
                progress.advance(5)
            progress.step(step, 0.512, 2e-6, seconds, reward_std=0.04)
        progress.step(4, None, 0.0, 0.8)
    assert caplog.messages[1] == "step 3/100  reward 0.512 +- 0.04  |ratio-1| 2e-6  0.6 s/step  ETA 1:18"
    assert caplog.messages[2] == "step 4/100  reward none  |ratio-1| 0  0.8 s/step  ETA 1:17"
    assert len(caplog.messages) == 3


def test_a_pipe_is_not_a_terminal_and_a_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not Progress(1).interactive
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert Progress(1).interactive
    assert not Progress(1, enabled=False).interactive


def test_bars_on_a_terminal_and_messages_above_them(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    handler = logging.StreamHandler(screen)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with Progress(3, first=1) as progress:
            assert handler.stream is not screen
            root.warning("in between")
            with progress.sampling(8):
                progress.advance(8)
                progress._bars.refresh()
            progress.step(2, 0.25, 1e-4, 0.5)
        assert handler.stream is screen
    finally:
        root.removeHandler(handler)
    shown = screen.getvalue()
    assert "in between" in shown
    assert "sampling" in shown
    assert "8/8" in shown
    assert "2/3" in shown
    assert "reward 0.250  |ratio-1| 0.0001  0.5 s/step" in shown
    assert sys.stderr is screen


def test_other_ranks_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Progress(3, enabled=False) as progress, progress.sampling(2):
        progress.advance()
        progress.step(1, 0.5, 0.0, 1.0)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0:00"), (75.4, "1:15"), (7380, "2:03:00"), (-3, "0:00")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
