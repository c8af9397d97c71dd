"""Rules on trust, maps, prompts and the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from rlvis.observe.symptom import SUSPICIOUS, Seen, Series, Symptom, first_over, rolling

WINDOW = 10
EFFECTIVE = 0.25  # of the prompts of a step
INVERTED = 0.3
ENTROPY = 0.5
SLOWER, SLOW_WINDOW = 4.0, 20
LEAK_GIB, LEAK = 0.5, 0.2  # growth since the first third of a run, absolute and of its start


def weights(seen: Seen) -> Iterator[Symptom]:
    """A trust tells groups apart, and leaves most of them a say."""
    if seen.told("trust.kind", "none") == "none":
        return
    spread = seen.series("trust/weight_std").finite
    if len(spread) >= WINDOW and not spread.value.any():
        yield Symptom(
            "weights-constant",
            SUSPICIOUS,
            int(spread.step[WINDOW - 1]),
            "trust/weight_std",
            0.0,
            "above 0 with a trust",
            f"all groups have the same weight in all {len(spread)} steps, although trust.kind="
            f"{seen.told('trust.kind')}",
            "the trust changes nothing: its prior knows nothing, its slope is too small for this reward's "
            "scale, or every weight stands at its bound",
            "trust.scale=running_std, or another prior (prior=moving_average)",
        )
    groups, prompts = seen.series("trust/effective_groups").finite, seen.told("data.prompts_per_step")
    if not prompts:
        return
    share = Series(groups.step, -groups.value / float(prompts))
    at = first_over(share, -EFFECTIVE, WINDOW)
    if at is not None:
        value = -float(rolling(share.value, WINDOW)[at - WINDOW + 1]) * float(prompts)
        yield Symptom(
            "few-effective-groups",
            SUSPICIOUS,
            int(groups.step[at]),
            "trust/effective_groups",
            value,
            f"at least {EFFECTIVE:.0%} of the {prompts} prompts of a step",
            f"{value:.1f} of {prompts} groups carry the update (mean of {WINDOW} steps)",
            "weights are spread so far that a few groups decide everything",
            "trust.scale=running_std, or narrower bounds (trust.ras.alpha, trust.posterior.w_max)",
        )


def order(seen: Seen) -> Iterator[Symptom]:
    """The contrast keeps the order of most samples."""
    yield from _window(
        seen,
        "trust/inverted_fraction",
        INVERTED,
        "order-inverted",
        "{value:.0%} of the pairs of samples in a group change their order by the contrast (mean of 10 "
        "steps)",
        "samples far below the prior are pushed up: the contrast is too steep for this reward's scale",
        "trust.crt.monotone=true, or trust.scale=running_std",
    )


def maps(seen: Seen) -> Iterator[Symptom]:
    """Maps exist, and do not put everything on a few positions."""
    failed = seen.series("map/failed").finite
    bad = np.nonzero(failed.value > 0)[0]
    if len(bad):
        yield Symptom(
            "maps-failed",
            SUSPICIOUS,
            int(failed.step[bad[0]]),
            "map/failed",
            float(failed.value[bad[0]]),
            "0",
            f"{int(failed.value.sum())} samples in {len(bad)} of {len(failed)} steps got a map of ones",
            "the backbone's features are not finite for them: its dtype is too narrow or pictures are broken",
            "advantage.map.backbone_dtype=float32",
        )
    entropy = seen.series("map/entropy").finite
    turned = Seen(
        [{"step": int(s), "map/entropy": -float(v)} for s, v in zip(*_pair(entropy), strict=True)], {}
    )
    yield from _window(
        turned,
        "map/entropy",
        -ENTROPY,
        "map-narrow",
        "the maps have {value:.2f} of the entropy of a uniform one (mean of 10 steps)",
        "nearly all of the loss falls on a few positions: the map follows single outliers among the tokens",
        "advantage.map.sigma: more, or advantage.map.aggregation=average",
        negated=True,
    )


def _pair(series: Series) -> tuple[list[int], list[float]]:
    return series.step.tolist(), series.value.tolist()


def _window(
    seen: Seen, key: str, limit: float, name: str, what: str, why: str, type: str, *, negated: bool = False
) -> Iterator[Symptom]:
    """A symptom where the mean of a window is above `limit`; negated: the series was, to be below it."""
    series = seen.series(key).finite
    at = first_over(series, limit, WINDOW)
    if at is not None:
        side = -1.0 if negated else 1.0
        value = side * float(rolling(series.value, WINDOW)[at - WINDOW + 1])
        wanted = f"{'above' if negated else 'below'} {side * limit:g}"
        step = int(series.step[at])
        yield Symptom(name, SUSPICIOUS, step, key, value, wanted, what.format(value=value), why, type)


def truncated(seen: Seen) -> Iterator[Symptom]:
    """Prompts reach the policy whole."""
    series = seen.series("data/truncated_prompts").finite
    bad = np.nonzero(series.value > 0)[0]
    if len(bad):
        yield Symptom(
            "truncated-prompts",
            SUSPICIOUS,
            int(series.step[bad[0]]),
            "data/truncated_prompts",
            float(series.value[bad[0]]),
            "0",
            f"{int(series.value.sum())} prompts in {len(bad)} of {len(series)} steps lost their ends",
            "they are longer than the text encoders take, while the reward judges the whole text",
            "model.max_tokens: more, where the family takes it; else shorter prompts",
        )


def slower(seen: Seen) -> Iterator[Symptom]:
    """Steps do not become slower for good; a busy machine slows single ones."""
    series = seen.series("time/step").finite
    window = SLOW_WINDOW
    if len(series) < 2 * window:
        return
    value = np.array([np.median(series.value[i : i + window]) for i in range(len(series) - window + 1)])
    usual = np.minimum.accumulate(value)
    over = value > SLOWER * np.maximum(usual, 1e-9)
    if over[-1]:
        first = len(over) - int(np.argmin(over[::-1])) if not over.all() else 0
        yield Symptom(
            "steps-slower",
            SUSPICIOUS,
            int(series.step[first + window - 1]),
            "time/step",
            float(value[-1]),
            f"below {SLOWER:g} times the run's best {window} steps",
            f"a step takes {value[-1]:.3g} s, {value[-1] / usual[-1]:.1f} times the {usual[-1]:.3g} s of "
            f"before (medians of {window} steps)",
            "another program shares the machine, memory is swapped, or a scorer or the disk has become slow: "
            "compare the time/* curves",
            "nothing in the configuration: look at the machine",
        )


def leak(seen: Seen) -> Iterator[Symptom]:
    """Device memory stops growing after the first steps."""
    series = seen.series("memory/max_gib").finite
    if len(series) < 20:
        return
    start = len(series) // 3
    before, later = float(series.value[start]), series.value[start:]
    rises = int((np.diff(later) > 0).sum())
    grown = float(later[-1]) - before
    if rises >= 5 and grown > LEAK_GIB and grown > LEAK * before:
        yield Symptom(
            "memory-grows",
            SUSPICIOUS,
            int(series.step[start + int(np.argmax(np.diff(later) > 0)) + 1]),
            "memory/max_gib",
            float(later[-1]),
            "constant after the first steps",
            f"the peak of device memory rose {rises} times, from {before:.1f} to {later[-1]:.1f} GiB",
            "something keeps tensors from step to step: a scorer that remembers, or longer and longer inputs",
            "train.shard smaller; look at your own reward for what it keeps",
        )


RULES: tuple[Callable[[Seen], Iterator[Symptom]], ...] = (weights, order, maps, truncated, slower, leak)
