"""Which transitions of a rollout are stochastic, and which of those are trained.

The last transition is never either: it lands on x0. Outside a window the sampler takes deterministic steps,
so only the states inside need to be kept. Randomness comes in as the caller's generators.
Plain numpy: checks of a configuration ask here too, before torch is loaded. Sources: DanceGRPO,
Flow-GRPO-Fast, MixGRPO.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from rlvis.flow.progressive import Decay
from rlvis.flow.progressive import position as progressive_position
from rlvis.schema import SamplerConfig, WindowKind

Rng: TypeAlias = "np.random.Generator | Sequence[np.random.Generator]"


@dataclass(frozen=True)
class Window:
    """One window for all samples of a step ([S], [T]), or one per sample ([n,S], [n,T]).

    trained: int64, increasing indices of the trained transitions. stochastic: bool, which transitions add
        noise.
    """

    trained: np.ndarray
    stochastic: np.ndarray


def trained_transitions(sampler: SamplerConfig) -> int:
    """How many of the T transitions a full window trains; the last one never is. 0 or less when the window is
    empty.
    """
    window, trainable = sampler.window, sampler.steps - 1
    if window.kind is WindowKind.all:
        return trainable
    if window.kind is WindowKind.random_subset:
        return subset_size(sampler.steps, sampler.timestep_fraction)
    if window.kind is WindowKind.progressive:
        return min(window.size, trainable if window.high is None else window.high)
    return window.size


def subset_size(steps: int, fraction: float) -> int:
    """Transitions of a random subset: int((steps - 1) * fraction), but .29 * 100 is 28.999..."""
    return int((steps - 1) * fraction + 1e-9)


def select(
    kind: WindowKind,
    steps: int,
    *,
    rng: Rng | None = None,
    fraction: float = 1.0,
    start: int = 0,
    size: int = 2,
    low: int = 0,
    high: int | None = None,
    iteration: int = 0,
    iters_per_group: int = 25,
    stride: int = 1,
    roll_back: bool = True,
    decay: Decay = "none",
) -> Window:
    """Choose by name, from the plain values of a config; each kind takes the arguments its own function has.

    Raises:
        ValueError: an unknown kind, a random kind without `rng`, or what the function itself refuses.
    """
    if kind == WindowKind.all:
        return fixed(steps, 0, steps - 1)
    if kind == WindowKind.fixed:
        return fixed(steps, start, size)
    if kind == WindowKind.progressive:
        return progressive(steps, iteration, size, iters_per_group, stride, roll_back, high, decay)
    if kind not in (WindowKind.random_subset, WindowKind.random_window):
        raise ValueError(
            f"window kind must be all, fixed, random_subset, random_window or progressive, got {kind!r}"
        )
    if rng is None:
        raise ValueError(f"window kind {kind} draws at random: pass rng")
    if kind == WindowKind.random_subset:
        return random_subset(steps, fraction, rng)
    return random_window(steps, size, rng, low, high)


def fixed(steps: int, start: int, size: int) -> Window:
    """Transitions start .. start + size - 1 are stochastic and trained, the others are neither.

    Raises:
        ValueError: the window is empty, or not inside the first steps - 1 transitions.
    """
    if size < 1 or start < 0 or start + size > steps - 1:
        raise ValueError(
            f"a window of {size} transitions from {start} must hold at least one and end before the last of "
            f"{steps} "
            f"(start + size <= {steps - 1}), which is deterministic"
        )
    at = np.arange(steps)
    inside = (at >= start) & (at < start + size)
    return Window(trained=at[inside], stochastic=inside)


def random_subset(steps: int, fraction: float, rng: Rng) -> Window:
    """Train int((steps - 1) * fraction) of the first steps - 1 transitions, all stochastic (DanceGRPO: .6).

    Flow-GRPO's .99 is a fraction of `steps` and means "all but the last": fraction 1 here.

    Args:
        steps: T.
        fraction: in (0, 1].
        rng: one generator for a subset that all samples share, or a sequence of n for one subset each.

    Raises:
        ValueError: the subset would be empty, or larger than what there is.
    """
    trainable, size = steps - 1, subset_size(steps, fraction)
    if not 1 <= size <= trainable:
        raise ValueError(
            f"timestep_fraction={fraction} of {trainable} trainable transitions is {size}: it must be in "
            f"(0, 1] and leave at least one, so at least {1 / max(trainable, 1):.3f}"
        )
    stochastic = np.arange(steps) < trainable

    def one(generator: np.random.Generator) -> Window:
        chosen = np.sort(generator.permutation(trainable)[:size])
        return Window(trained=chosen.astype(np.int64), stochastic=stochastic)

    return _each(one, rng)


def random_window(steps: int, size: int, rng: Rng, low: int = 0, high: int | None = None) -> Window:
    """A window of `size` transitions that starts uniformly in low .. high - size, inclusive (Flow-GRPO-Fast).

    Args:
        steps: T.
        size: transitions in the window.
        rng: one generator for all samples, or a sequence of n for one window each.
        low: first transition that may be inside.
        high: one past the last that may be inside; None is steps - 1, all but the last transition.

    Raises:
        ValueError: the window is empty, or does not fit between low and high.
    """
    end = steps - 1 if high is None else high
    if size < 1 or low < 0 or end > steps - 1 or low > end - size:
        raise ValueError(
            f"a random window of {size} transitions does not fit in [{low}, {end}) of {steps} steps: it "
            f"needs size >= 1, low >= 0, high <= {steps - 1} and high - low >= size"
        )
    return _each(lambda generator: fixed(steps, int(generator.integers(low, end - size + 1)), size), rng)


def progressive(
    steps: int,
    iteration: int,
    size: int = 4,
    iters_per_group: int = 25,
    stride: int = 1,
    roll_back: bool = True,
    high: int | None = None,
    decay: Decay = "none",
) -> Window:
    """MixGRPO's window: held for some iterations, then moved by `stride` towards the data, cut off at `high`.

    Args:
        steps: T.
        iteration: training step, from 0.
        size: transitions in a full window; stride = size is the published variant without overlap.
        iters_per_group: iterations for which a window is held.
        stride: transitions the window moves by.
        roll_back: start over at 0 once the start has passed `high`; else it stays there.
        high: one past the last transition that may be inside; None is the published steps - 2.
        decay: shorter holds later on: `linear` in the start down to iters_per_group // 4, `exponential` from
            start 13 on.

    Raises:
        ValueError: the window is empty: the published machine visits start = high, where nothing is
            stochastic and nothing is trained (`progressive.first_empty` says when).
    """
    end = steps - 2 if high is None else high
    start = progressive_position(end, iteration, size, iters_per_group, stride, roll_back, decay)
    if start >= end:
        raise ValueError(
            f"the progressive window is empty at iteration {iteration}: it has moved to transition {start} "
            f"of {end} (stride {stride}, {iters_per_group} iterations each, {steps} sampling steps). Train "
            "fewer iterations, or raise sampler.window.iters_per_group"
        )
    return fixed(steps, start, min(size, end - start))


def _each(one: Callable[[np.random.Generator], Window], rng: Rng) -> Window:
    """One window from one generator, or a stack of windows from a sequence of them."""
    if isinstance(rng, np.random.Generator):
        return one(rng)
    windows = [one(generator) for generator in rng]
    return Window(
        trained=np.stack([w.trained for w in windows]),
        stochastic=np.stack([w.stochastic for w in windows]),
    )
