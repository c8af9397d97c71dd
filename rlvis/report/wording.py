"""Differences with their intervals in words: no more digits than they bear, and why there is no interval."""

from __future__ import annotations

import math

from rlvis.evaluation.statistics import Bounds, Comparison


def signed(value: float, scale: float) -> str:
    """A difference with its sign, to a tenth of the leading digit of `scale`: +0.042 beside a reach of
    0.03.
    """
    known = scale > 0 and math.isfinite(scale)
    decimals = min(6, max(0, 1 - math.floor(math.log10(scale)))) if known else 0
    return f"{value + 0.0:+.{decimals}f}"


def between(bounds: Bounds) -> str:
    """low .. high of a difference; a dash where there is no interval."""
    if not bounds.known:
        return "-"
    return " .. ".join(signed(end, (bounds.high - bounds.low) / 2) for end in (bounds.low, bounds.high))


def shares(bounds: Bounds) -> str:
    """low .. high of a share, in per cent."""
    return f"{max(0.0, bounds.low):.0%} .. {min(1.0, bounds.high):.0%}" if bounds.known else "-"


def size(compared: Comparison) -> str:
    """The difference to the digits of its interval."""
    reach = (compared.bounds.high - compared.bounds.low) / 2
    return signed(compared.difference, reach if compared.bounds.known else abs(compared.difference))


def counts(prompts: int, seeds: int) -> str:
    """48 prompts x 3 seeds; the prompts alone where one run is meant."""
    return f"{prompts} prompts" + (f" x {seeds} seeds" if seeds > 1 else "")


def change(compared: Comparison) -> str:
    """Within a run: "+0.042, 95 % +0.010 .. +0.071, 48 prompts", or why there is no interval."""
    if not compared.differing:
        return compared.doubt
    if compared.doubt:
        return f"{size(compared)}; {compared.doubt}"
    return f"{size(compared)}, 95 % {between(compared.bounds)}, {counts(compared.prompts, compared.seeds)}"
