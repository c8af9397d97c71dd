"""Rules on groups and scorers: whether samples are told apart, and whether every one of them gets a score."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np

from rlvis.observe.symptom import BROKEN, SUSPICIOUS, Seen, Symptom, first_over, rolling, window_of

WINDOW = 10
ZERO_VARIANCE = 0.5
INVALID = 0.05
COLLAPSED = 0.2  # of the spread at the start


def zero_variance(seen: Seen) -> Iterator[Symptom]:
    """Groups of equal rewards teach nothing."""
    series = seen.series("group/zero_variance_fraction").finite
    at = first_over(series, ZERO_VARIANCE, WINDOW)
    if at is None:
        return
    value = float(rolling(series.value, WINDOW)[at - WINDOW + 1])
    reached = seen.gain > 3
    if reached and seen.sign < 0:
        return  # a control has lost all there was to lose
    yield Symptom(
        "zero-variance",
        SUSPICIOUS if reached or value < 0.95 else BROKEN,
        int(series.step[at]),
        "group/zero_variance_fraction",
        value,
        f"below {ZERO_VARIANCE:g}",
        f"{value:.0%} of the prompts have equal rewards in their whole group (mean of {WINDOW} steps)",
        "the reward is saturated: training has reached what these prompts can give"
        if reached
        else "the reward is constant, or too coarse to tell the samples of a prompt apart",
        "harder prompts or an end here (train.steps)"
        if reached
        else "a finer reward, or data.samples_per_prompt: twice it",
    )


def constant(seen: Seen) -> Iterator[Symptom]:
    """No scorer suddenly gives one value for everything."""
    keys = dict.fromkeys(key for row in seen.rows for key in row if re.fullmatch(r"reward/[^/]+/std", key))
    for key in keys:
        series = seen.series(key).finite
        moving = np.nonzero(series.value > 0)[0]
        start = int(moving[-1]) + 1 if len(moving) else 0
        still = len(series) - start
        if still < (3 if start else 5):
            continue
        usual = float(np.median(series.value[:5]))
        if start and float(np.median(series.value[max(0, start - 5) : start])) < COLLAPSED * usual:
            continue  # it came to rest slowly: the reward is saturated
        term, step = key.split("/")[1], int(series.step[start])
        level = seen.series(f"reward/{term}/mean").finite
        value = float(level.value[-1]) if len(level) else float("nan")
        since = f"since step {step}" if start else f"in all {still} steps"
        yield Symptom(
            "reward-constant",
            BROKEN,
            step,
            key,
            0.0,
            "above 0",
            f"{term} gives {value:.4g} for every sample {since}",
            "the scorer is stuck or answers without looking: a server that gives a default, a cache, or an "
            "error that is turned into a number",
            f"nothing in the configuration: call the scorer of reward.terms.{term} by hand on two pictures",
        )


def invalid(seen: Seen) -> Iterator[Symptom]:
    """Every sample gets its scores."""
    series, share = seen.series("reward/invalid_count").finite, seen.series("reward/valid_fraction").finite
    bad = np.nonzero(series.value > 0)[0]
    if not len(bad):
        return
    lost = 1.0 - float(share.value.mean()) if len(share) else 0.0
    total = int(series.value.sum())
    yield Symptom(
        "invalid-samples",
        BROKEN if lost > INVALID else SUSPICIOUS,
        int(series.step[bad[0]]),
        "reward/invalid_count",
        float(series.value[bad[0]]),
        "0",
        f"{total} samples ({lost:.1%}) in {len(bad)} of {len(series)} steps have no valid reward and are not "
        "trained",
        "a scorer fails, runs out of time or returns NaN for some samples; the log names which and why",
        "train.score_retries=5 where it fails at random; else mend the scorer (reward.terms.<name>)",
    )


def collapse(seen: Seen) -> Iterator[Symptom]:
    """The samples of a prompt stay different, unless the reward's improvement explains it."""
    series = seen.series("group/std_mean").finite
    window = window_of(len(series))
    means = rolling(series.value, window)
    if len(series) < 3 * window or means[0] <= 0:
        return
    low = means < COLLAPSED * means[0]
    if not low[-1]:
        return
    reward = seen.series("reward/mean").finite
    gained = seen.sign * (rolling(reward.value, window) - reward.value[:window].mean())
    if len(gained) and gained[-1] > means[0]:
        return  # near what can be reached, samples are alike because they are right
    first = len(low) - int(np.argmin(low[::-1])) if not low.all() else 0
    yield Symptom(
        "spread-collapses",
        SUSPICIOUS,
        int(series.step[first + window - 1]),
        "group/std_mean",
        float(means[-1]),
        f"at least {COLLAPSED:.0%} of its start",
        f"the reward's spread inside groups fell from {means[0]:.2g} to {means[-1]:.2g} (means of {window} "
        "steps), and the reward did not rise as much",
        "mode collapse: the samples of a prompt have become alike",
        "advantage.kl_beta=0.04, or a smaller optim.lr; sampler.eta: more",
    )


RULES: tuple[Callable[[Seen], Iterator[Symptom]], ...] = (zero_variance, constant, invalid, collapse)
