"""Rules on the update: ratio, clip, KL, loss, gradient.

The first optimizer step of a training step sees the policy that sampled, so its ratios are 1 and it clips
nothing; clip fractions are therefore judged over the other updates_per_step - 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from rlvis.observe.symptom import BROKEN, SUSPICIOUS, Seen, Series, Symptom, first_over, rolling

FAR = 0.5  # |ratio - 1|: half or 1.5 times the probability
FAR_CLIPS = 20.0  # or this many clip ranges, whichever is more
CLIPPED = 0.95  # of the ratios after the first optimizer step
KL_APPROX, KL_REFERENCE = 0.1, 1.0  # nats
KL_GROWTH = 50.0
JUMP = 10.0
WINDOW = 10

SMALLER_LR = "optim.lr: a third of it, or optim.grad_norm smaller"


def far(seen: Seen) -> float:
    """The largest |ratio - 1| that says nothing bad."""
    return max(FAR, FAR_CLIPS * seen.clip)


def ratio_first(seen: Seen) -> Iterator[Symptom]:
    """The ratio must be 1 before the first update."""
    series = seen.series("ratio/max_deviation_first").finite
    exact = seen.told("model.dtype", "float32") == "float32" and not seen.told("advantage.guard")
    limit = seen.clip / 4
    over = np.nonzero(series.value > (0.0 if exact else limit))[0]
    if not len(over):
        return
    broken = series.value > limit
    at = int(np.nonzero(broken)[0][0]) if broken.any() else int(over[0])
    value = float(series.value[at])
    fast = seen.told("model.dtype", "float32") != "float32"
    yield Symptom(
        "ratio-first",
        BROKEN if value > limit else SUSPICIOUS,
        int(series.step[at]),
        "ratio/max_deviation_first",
        value,
        "0 (float32), at most a quarter of the clip range elsewhere",
        f"before the first update the ratio is off by {value:.1e}, {value / seen.clip:.2g} times the clip "
        f"range {seen.clip:g}, although the policy has not moved",
        "rollout and update do not compute the same log-prob: another shape of the micro-batch, a narrow "
        "dtype, dropout, or a module that keeps state between forwards",
        "model.dtype=float32, or advantage.old_logprob=recompute"
        if fast
        else "advantage.old_logprob=recompute",
    )


def ratio_far(seen: Seen) -> Iterator[Symptom]:
    """No ratio strays far beyond the clip range."""
    series = seen.series("ratio/max_deviation").finite
    over = np.nonzero(series.value > far(seen))[0]
    if len(over):
        value = float(series.value[over[0]])
        yield Symptom(
            "ratio-far",
            SUSPICIOUS if value < 10 * far(seen) else BROKEN,
            int(series.step[over[0]]),
            "ratio/max_deviation",
            value,
            f"at most {far(seen):g}",
            f"a ratio is off by {value:.2g} at {len(over)} of {len(series)} steps (here the first; the clip "
            f"range is {seen.clip:g})",
            "one optimizer step changes the policy so much that clipping cannot hold it: the learning rate "
            "is too high, or there are too many updates on the same samples",
            f"{SMALLER_LR}, or train.updates_per_step=1",
        )


def clipped(seen: Seen) -> Iterator[Symptom]:
    """Neither everything nor nothing is clipped."""
    high, low = seen.series("clip/fraction_high"), seen.series("clip/fraction_low")
    updates = seen.series("update/optimizer_steps")
    if not len(high) == len(low) == len(updates):
        return
    moving = updates.value > 1
    count = updates.value[moving]
    share = (high.value + low.value)[moving] * count / (count - 1)
    series = Series(high.step[moving], share).finite
    at = first_over(series, CLIPPED, WINDOW)
    if at is not None:
        value = float(rolling(series.value, WINDOW)[at - WINDOW + 1])
        yield Symptom(
            "clip-always",
            SUSPICIOUS,
            int(series.step[at]),
            "clip/fraction_high",
            value,
            f"below {CLIPPED:.0%} of the ratios after the first optimizer step",
            f"{value:.0%} of the ratios after the first optimizer step are clipped (mean of {WINDOW} steps, "
            f"clip range {seen.clip:g})",
            "after its first optimizer step nearly nothing of a training step is learned: the clip range is "
            "too narrow for this learning rate, or lies below the noise of the log-prob",
            f"advantage.clip_range={max(10 * seen.clip, 1e-4):g}, or a smaller optim.lr",
        )
    if len(series) >= WINDOW and not series.value.any():
        yield Symptom(
            "clip-never",
            SUSPICIOUS,
            int(series.step[WINDOW - 1]),
            "clip/fraction_high",
            0.0,
            "above 0 at some step",
            f"not one ratio left the clip range {seen.clip:g} in {len(series)} steps",
            "the policy hardly moves: the learning rate is small for this clip range, or nothing is trained",
            "optim.lr: three times it, or a smaller advantage.clip_range",
        )


def kl(seen: Seen) -> Iterator[Symptom]:
    """Neither KL grows without bound."""
    floor = (FAR_CLIPS * seen.clip) ** 2 / 2
    for key, limit, least in (("kl/approx", KL_APPROX, floor), ("kl/reference", KL_REFERENCE, 0.05)):
        series = seen.series(key).finite
        window = max(5, len(series) // 10)
        means = rolling(series.value, window)
        over = np.nonzero(series.value > limit)[0]
        growth = means / np.maximum(np.minimum.accumulate(means), least) if len(means) else means
        grown = np.nonzero(growth > KL_GROWTH)[0]
        if not len(over) and not (len(series) >= 20 and len(grown)):
            continue
        at = int(over[0]) if len(over) else int(grown[0]) + window - 1
        value = float(series.value[at])
        beta = float(seen.told("advantage.kl_beta", 0.0))
        stronger = f"advantage.kl_beta={10 * beta:g}" if beta else "advantage.kl_beta=0.04"
        old = key == "kl/approx"
        yield Symptom(
            f"{key.replace('/', '-')}-grows",
            SUSPICIOUS,
            int(series.step[at]),
            key,
            value,
            f"below {limit:g} nats, and not {KL_GROWTH:g} times what it was",
            f"{key} is {value:.2g} nats"
            + ("" if len(over) else f", {KL_GROWTH:g} times its lowest mean of {window} steps"),
            "within one training step the policy leaves the one that sampled"
            if old
            else "the policy drifts away from the reference without end",
            SMALLER_LR if old else f"{stronger}, or a smaller optim.lr",
        )


def gradient(seen: Seen) -> Iterator[Symptom]:
    """The gradient's norm is finite and does not jump; the loss is finite."""
    for key, name in (("update/grad_norm", "gradient"), ("update/loss", "loss")):
        series = seen.series(key)
        bad = np.nonzero(~np.isfinite(series.value))[0]
        half = seen.told("model.dtype") == "float16" and name == "gradient"
        if len(bad) and not (
            half and len(bad) < 0.2 * len(series) + 5
        ):  # its loss scale is still being found
            yield Symptom(
                f"{name}-not-finite",
                BROKEN,
                int(series.step[bad[0]]),
                key,
                float(series.value[bad[0]]),
                "finite",
                f"{key} is not finite at {len(bad)} of {len(series)} steps",
                "numbers overflow: the policy has diverged, or its dtype is too narrow",
                "a smaller optim.lr, or model.dtype=float32",
            )
    series = seen.series("update/grad_norm").finite
    for i in range(5, len(series)):
        usual = float(np.median(series.value[max(0, i - 20) : i]))
        if usual > 0 and series.value[i] > JUMP * usual:
            value = float(series.value[i])
            yield Symptom(
                "gradient-jump",
                SUSPICIOUS,
                int(series.step[i]),
                "update/grad_norm",
                value,
                f"below {JUMP:g} times the median of the 20 steps before",
                f"the gradient's norm is {value:.2g}, {value / usual:.0f} times the usual {usual:.2g}",
                "one batch pulls far harder than others: an outlier among rewards or log-probs, or the "
                "policy begins to diverge",
                f"optim.grad_norm={usual:.1g}, or a smaller optim.lr",
            )
            return


RULES: tuple[Callable[[Seen], Iterator[Symptom]], ...] = (ratio_first, ratio_far, clipped, kl, gradient)
