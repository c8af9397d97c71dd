"""Rules on the update: ratio, clip, KL, loss, gradient.

The first optimizer step of a training step sees the policy that sampled, so its ratios are 1 and it clips
nothing; clip fractions are therefore judged over the other updates_per_step - 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlvis.findings import Finding, Severity
from rlvis.observe.health.symptom import WINDOW, mean_above, symptom
from rlvis.observe.history import RunHistory, Series, rolling, window_of

FAR = 0.5  # |ratio - 1|: half or 1.5 times the probability
FAR_CLIPS = 20.0  # or this many clip ranges, whichever is more
CLIPPED = 0.95  # of the ratios after the first optimizer step
PULL = 5.0  # times the share of positions whose clipping pulls as that of a tenth of the samples does
KL_APPROX, KL_REFERENCE = 0.1, 1.0  # nats
KL_GROWTH = 50.0
JUMP = 10.0

SMALLER_LR = "optim.lr: a third of it, or optim.grad_norm smaller"


def far(history: RunHistory) -> float:
    """The largest |ratio - 1| that says nothing bad."""
    return max(FAR, FAR_CLIPS * history.clip)


def ratio_first(history: RunHistory) -> Iterator[Finding]:
    """The ratio must be 1 before the first update."""
    series = history.series("ratio/max_deviation_first").finite
    narrow = history.setting("model.dtype", "float32") != "float32"
    exact = not narrow and not history.setting("advantage.guard")
    limit = history.clip / 4
    odd, broken = (np.nonzero(series.value > least)[0] for least in (0.0 if exact else limit, limit))
    if not len(odd):
        return
    at = broken[0] if len(broken) else odd[0]
    value = float(series.value[at])
    yield symptom(
        series,
        at,
        severity=Severity.failure if value > limit else Severity.warning,
        what=f"before the first update the ratio is off by {value:.1e}, {value / history.clip:.2g} times the "
        f"clip range {history.clip:g}, although the policy has not moved",
        wanted="0 (float32), at most a quarter of the clip range elsewhere",
        why="rollout and update do not compute the same log-prob: another shape of the micro-batch, a narrow "
        "dtype, dropout, or a module that keeps state between forwards",
        type=f"{'model.dtype=float32, or ' if narrow else ''}advantage.old_logprob=recompute",
    )


def ratio_far(history: RunHistory) -> Iterator[Finding]:
    """No ratio strays far beyond the clip range."""
    series, limit = history.series("ratio/max_deviation").finite, far(history)
    over = np.nonzero(series.value > limit)[0]
    if not len(over):
        return
    value = float(series.value[over[0]])
    yield symptom(
        series,
        over[0],
        severity=Severity.warning if value < 10 * limit else Severity.failure,
        what=f"a ratio is off by {value:.2g} at {len(over)} of {len(series)} steps (here the first; the clip "
        f"range is {history.clip:g})",
        wanted=f"at most {limit:g}",
        why="one optimizer step changes the policy so much that clipping cannot hold it: the learning rate "
        "is too high, or there are too many updates on the same samples",
        type=f"{SMALLER_LR}, or train.updates_per_step=1",
    )


def clip_always(history: RunHistory) -> Iterator[Finding]:
    """Not all ratios after the first optimizer step are clipped."""
    series = _clipped(history)
    if (reached := mean_above(series, CLIPPED)) is None:
        return
    at, share = reached
    yield symptom(
        series,
        at,
        value=share,
        what=f"{share:.0%} of the ratios after the first optimizer step are clipped (mean of {WINDOW} steps, "
        f"clip range {history.clip:g})",
        wanted=f"below {CLIPPED:.0%} of the ratios after the first optimizer step",
        why="after its first optimizer step nearly nothing of a training step is learned: the clip range is "
        "too narrow for this learning rate, or lies below the noise of the log-prob",
        type=f"advantage.clip_range={max(10 * history.clip, 1e-4):g}, or a smaller optim.lr",
    )


def clip_pulls(history: RunHistory) -> Iterator[Finding]:
    """A clip at single positions binds so rarely that it does not pull the policy back."""
    allowed = history.series("clip/allowed_fraction").finite
    if history.setting("advantage.ratio_scope") != "position" or not len(allowed):
        return
    limit = PULL * 2 * float(allowed.value[-1])
    series = _clipped(history)
    if (reached := mean_above(series, limit)) is None:
        return
    at, share = reached
    yield symptom(
        series,
        at,
        severity=Severity.warning,
        value=share,
        what=f"{share:.2%} of the ratios of single positions are clipped after the first optimizer step "
        f"(mean of {WINDOW} steps, clip range {history.clip:g})",
        wanted=f"below {limit:.2%} for a latent of this size",
        why="what a clip leaves of the positions is the noise that opposes the update, so it pulls the "
        "policy back, sqrt(F H W) times as hard as a clip of the samples' ratios that binds as often",
        type=f"advantage.ratio_scope=sample, or advantage.clip_range={4 * history.clip:.1g}",
    )


def clip_never(history: RunHistory) -> Iterator[Finding]:
    """Now and then a ratio is clipped."""
    series = _clipped(history)
    if len(series) < WINDOW or series.value.any():
        return
    yield symptom(
        series,
        WINDOW - 1,
        what=f"not one ratio left the clip range {history.clip:g} in {len(series)} steps",
        wanted="above 0 at some step",
        why="the policy hardly moves: the learning rate is small for this clip range, or nothing is trained",
        type="optim.lr: three times it, or a smaller advantage.clip_range",
    )


def _clipped(history: RunHistory) -> Series:
    """Share of the ratios after the first optimizer step that are clipped, where there is more than one."""
    high, low = history.series("clip/fraction_high"), history.series("clip/fraction_low")
    updates = history.series("update/optimizer_steps")
    if not len(high) == len(low) == len(updates):
        return Series(high.step[:0], high.value[:0], high.key)
    moving = updates.value > 1
    count = updates.value[moving]
    share = (high.value + low.value)[moving] * count / (count - 1)
    return Series(high.step[moving], share, high.key).finite


def kl_approx(history: RunHistory) -> Iterator[Finding]:
    """Within a training step the policy stays close to the one that sampled."""
    yield from _kl_grows(
        history.series("kl/approx").finite,
        KL_APPROX,
        (FAR_CLIPS * history.clip) ** 2 / 2,
        why="within one training step the policy leaves the one that sampled",
        type=SMALLER_LR,
    )


def kl_reference(history: RunHistory) -> Iterator[Finding]:
    """The policy does not drift away from the reference without bound."""
    beta = float(history.setting("advantage.kl_beta", 0.0))
    stronger = f"advantage.kl_beta={10 * beta:g}" if beta else "advantage.kl_beta=0.04"
    yield from _kl_grows(
        history.series("kl/reference").finite,
        KL_REFERENCE,
        0.05,
        why="the policy drifts away from the reference without end",
        type=f"{stronger}, or a smaller optim.lr",
    )


def _kl_grows(series: Series, limit: float, least: float, *, why: str, type: str) -> Iterator[Finding]:
    """A KL above `limit`, or KL_GROWTH times what it was; below `least` nats its growth says nothing."""
    window = window_of(len(series))
    means = rolling(series.value, window)
    over = np.nonzero(series.value > limit)[0]
    growth = means / np.maximum(np.minimum.accumulate(means), least) if len(means) else means
    grown = np.nonzero(growth > KL_GROWTH)[0]
    if not len(over) and not (len(series) >= 20 and len(grown)):
        return
    at = int(over[0]) if len(over) else int(grown[0]) + window - 1
    yield symptom(
        series,
        at,
        what=f"{series.key} is {float(series.value[at]):.2g} nats"
        + ("" if len(over) else f", {KL_GROWTH:g} times its lowest mean of {window} steps"),
        wanted=f"below {limit:g} nats, and not {KL_GROWTH:g} times what it was",
        why=why,
        type=type,
    )


def gradient_not_finite(history: RunHistory) -> Iterator[Finding]:
    """The gradient's norm is finite."""
    series = history.series("update/grad_norm")
    lost = len(series) - len(series.finite)
    if history.setting("model.dtype") == "float16" and lost < 0.2 * len(series) + 5:
        return  # its loss scale is still being found
    yield from _not_finite(series)


def loss_not_finite(history: RunHistory) -> Iterator[Finding]:
    """The loss is finite."""
    yield from _not_finite(history.series("update/loss"))


def _not_finite(series: Series) -> Iterator[Finding]:
    bad = np.nonzero(~np.isfinite(series.value))[0]
    if not len(bad):
        return
    yield symptom(
        series,
        bad[0],
        severity=Severity.failure,
        what=f"{series.key} is not finite at {len(bad)} of {len(series)} steps",
        wanted="finite",
        why="numbers overflow: the policy has diverged, or its dtype is too narrow",
        type="a smaller optim.lr, or model.dtype=float32",
    )


def gradient_jump(history: RunHistory) -> Iterator[Finding]:
    """The gradient's norm does not jump."""
    series = history.series("update/grad_norm").finite
    for at in range(5, len(series)):
        usual, value = float(np.median(series.value[max(0, at - 20) : at])), float(series.value[at])
        if usual > 0 and value > JUMP * usual:
            yield symptom(
                series,
                at,
                what=f"the gradient's norm is {value:.2g}, {value / usual:.0f} times the usual {usual:.2g}",
                wanted=f"below {JUMP:g} times the median of the 20 steps before",
                why="one batch pulls far harder than others: an outlier among rewards or log-probs, or the "
                "policy begins to diverge",
                type=f"optim.grad_norm={usual:.1g}, or a smaller optim.lr",
            )
            return
