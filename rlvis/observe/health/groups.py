"""Rules on prompts, groups and scorers: prompts arrive whole, samples differ, all of them get scores."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from rlvis.findings import Finding, Severity
from rlvis.observe.health.symptom import WINDOW, counted, last_stretch, mean_above, symptom
from rlvis.observe.history import RunHistory, Series, rolling, window_of

ZERO_VARIANCE = 0.5
INVALID = 0.05
FLAT = 3  # steps in a row with equal rewards everywhere
COLLAPSED = 0.2  # of the spread at the start


def zero_variance(history: RunHistory) -> Iterator[Finding]:
    """Groups of equal rewards teach nothing."""
    series = history.series("group/zero_variance_fraction").finite
    if (over := mean_above(series, ZERO_VARIANCE)) is None:
        yield from _flat(history, series)
        return
    at, share = over
    reached = history.gain > 3
    if reached and history.sign < 0:
        return  # a control has lost all there was to lose
    yield symptom(
        series,
        at,
        value=share,
        severity=Severity.warning if reached or share < 0.95 else Severity.failure,
        what=f"{share:.0%} of the prompts have equal rewards in their whole group (mean of {WINDOW} steps)",
        wanted=f"below {ZERO_VARIANCE:g}",
        why="the reward is saturated: training has reached what these prompts can give"
        if reached
        else "the reward is constant, or too coarse to tell the samples of a prompt apart",
        type="harder prompts or an end here (train.steps)"
        if reached
        else "a finer reward, or data.samples_per_prompt: twice it",
    )


def _flat(history: RunHistory, series: Series) -> Iterator[Finding]:
    """The same at the end of a run that is too short, or was too good before, for a mean to show it."""
    start = last_stretch(series.value == 1)
    least = history.setting("reward.max_invalid_steps", FLAT)
    if start is None or len(series) - start < (least if isinstance(least, int) and least > 0 else FLAT):
        return
    yield symptom(
        series,
        start,
        what=f"all prompts have equal rewards in their whole group in the last {len(series) - start} steps",
        wanted=f"below {ZERO_VARIANCE:g}",
        why="the reward is constant, saturated, or too coarse to tell the samples of a prompt apart",
        type="a finer reward or harder prompts, or data.samples_per_prompt: twice it",
    )


def constant(history: RunHistory) -> Iterator[Finding]:
    """No scorer suddenly gives one value for everything."""
    for key in history.keys:
        if re.fullmatch(r"reward/[^/]+/std", key):
            yield from _constant(history, key.split("/")[1])


def _constant(history: RunHistory, term: str) -> Iterator[Finding]:
    series = history.series(f"reward/{term}/std").finite
    moving = np.nonzero(series.value > 0)[0]
    start = int(moving[-1]) + 1 if len(moving) else 0
    still = len(series) - start
    if still < (3 if start else 5):
        return
    usual = float(np.median(series.value[:5]))
    if start and float(np.median(series.value[max(0, start - 5) : start])) < COLLAPSED * usual:
        return  # it came to rest slowly: the reward is saturated
    level = history.series(f"reward/{term}/mean").finite
    value = float(level.value[-1]) if len(level) else float("nan")
    since = f"since step {int(series.step[start])}" if start else f"in all {still} steps"
    yield symptom(
        series,
        start,
        value=0.0,
        severity=Severity.failure,
        what=f"{term} gives {value:.4g} for every sample {since}",
        wanted="above 0",
        why="the scorer is stuck or answers without looking: a server that gives a default, a cache, or an "
        "error that is turned into a number",
        type=f"nothing in the configuration: call the scorer of reward.terms.{term} by hand on two pictures",
    )


def invalid(history: RunHistory) -> Iterator[Finding]:
    """Every sample gets its scores."""
    share = history.series("reward/valid_fraction").finite
    lost = 1.0 - float(share.value.mean()) if len(share) else 0.0
    empty = int((share.value == 0).sum())
    none = f"; {empty} of {len(share)} steps had no valid reward at all" if empty else ""
    yield from counted(
        history.series("reward/invalid_count").finite,
        f"{{total}} samples ({lost:.1%}) in {{steps}} steps have no valid reward and are not trained{none}",
        severity=Severity.failure if lost > INVALID else Severity.warning,
        why="a scorer fails, runs out of time or returns NaN for some samples; the log names which and why",
        type="train.score_retries=5 where it fails at random; else mend the scorer (reward.terms.<name>)",
    )


def collapse(history: RunHistory) -> Iterator[Finding]:
    """The samples of a prompt stay different, unless the reward's improvement explains it."""
    series = history.series("group/std_mean").finite
    window = window_of(len(series))
    means = rolling(series.value, window)
    if len(series) < 3 * window or means[0] <= 0:
        return
    if (first := last_stretch(means < COLLAPSED * means[0])) is None:
        return
    reward = history.series("reward/mean").finite
    gained = history.sign * (rolling(reward.value, window) - reward.value[:window].mean())
    if len(gained) and gained[-1] > means[0]:
        return  # near what can be reached, samples are alike because they are right
    yield symptom(
        series,
        first + window - 1,
        value=means[-1],
        what=f"the reward's spread inside groups fell from {means[0]:.2g} to {means[-1]:.2g} (means of "
        f"{window} steps), and the reward did not rise as much",
        wanted=f"at least {COLLAPSED:.0%} of its start",
        why="mode collapse: the samples of a prompt have become alike",
        type="advantage.kl_beta=0.04, or a smaller optim.lr; sampler.eta: more",
    )


def truncated(history: RunHistory) -> Iterator[Finding]:
    """Prompts reach the policy whole."""
    yield from counted(
        history.series("data/truncated_prompts").finite,
        "{total} prompts in {steps} steps lost their ends",
        why="they are longer than the text encoders take, while the reward judges the whole text",
        type="model.max_tokens: more, where the family takes it; else shorter prompts",
    )
