"""Rules on rewards over training.

`advantage.sign=-1` trains against the reward, as a control: what is wanted is then its fall.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from rlvis.findings import Finding, Severity
from rlvis.observe.health.symptom import last_stretch, symptom
from rlvis.observe.history import RunHistory, Series, moved, noise, rolling, window_of

FALL = 3.0  # standard deviations between steps, from the best
SUDDEN = 6.0  # the same, of a fall that is never made up for
FLAT, LONG = 2.0, 40  # standard errors; steps before a flat curve says anything
APART = 4.0  # standard errors that two terms move against each other
HELD_OUT = 0.03  # of a score in [0, 1]


def falls(history: RunHistory) -> Iterator[Finding]:
    """A reward that rose does not fall again, and none ends below where it began."""
    series = history.series("reward/mean").finite
    sudden = list(_sudden(series, history.sign))
    yield from sudden or _slow(series, history.sign)


def _sudden(series: Series, sign: float) -> Iterator[Finding]:
    """A fall from one step to the next that is never made up for."""
    values = sign * series.value
    if len(series) < 8:
        return
    before = np.maximum.accumulate(values)[:-1]
    after = np.maximum.accumulate(values[::-1])[::-1][1:]
    spread = noise(values)
    gone = np.nonzero((before - after)[:-2] > SUDDEN * spread)[0]
    if not len(gone):
        return
    at = int(gone[0]) + 1
    top = int(np.argmax(values[:at]))
    height = float(before[at - 1] - after[at - 1]) / max(spread, 1e-12)
    yield symptom(
        series,
        at,
        severity=Severity.failure,
        what=f"reward/mean went from {series.value[top]:.3g} at step {int(series.step[top])} to "
        f"{series.value[at]:.3g} at step {int(series.step[at])} and never came back to within {height:.0f} "
        "standard deviations between steps",
        wanted=f"no fall of {SUDDEN:g} standard deviations between steps that is not made up for",
        why="one update destroyed what the policy could do: the learning rate is far too high, or one batch "
        "was an outlier",
        type="optim.lr: a tenth of it; start again from a checkpoint before the fall",
    )


def _slow(series: Series, sign: float) -> Iterator[Finding]:
    """A fall of the mean of a window."""
    window = window_of(len(series))
    means = rolling(sign * series.value, window)
    if len(series) < 3 * window:
        return
    spread = noise(series.value)
    error = 2 * spread * np.sqrt(2 / window)  # two standard errors of the difference of two windows
    best = np.maximum.accumulate(means)
    below_start = means < means[0] - error
    ill = (below_start & (best - means > error)) | (means < best - FALL * spread)
    if (first := last_stretch(ill)) is None:
        return
    top = int(np.argmax(means))
    rose = means[top] > means[0] + error
    down, beyond = ("fell", "below") if sign > 0 else ("rose", "above")
    tail = f", {beyond} the {means[0] * sign:.3g} it began with" if below_start[-1] else ""
    gone = float(best[-1] - means[-1]) / spread if spread > 0 else float("inf")
    yield symptom(
        series,
        first + window - 1,
        value=means[-1] * sign,
        severity=Severity.failure if gone > 3 * FALL or (below_start[-1] and rose) else Severity.warning,
        what=f"reward/mean {down} from {means[top] * sign:.3g} at step {series.step[top + window - 1]} to "
        f"{means[-1] * sign:.3g} (means of {window} steps), {gone:.1f} standard deviations between "
        f"steps{tail}",
        wanted=f"at most {FALL:g} standard deviations between steps from its best",
        why="the policy collapsed after it had learned: the learning rate is too high for what the reward "
        "can tell, or nothing holds the policy near the reference"
        if rose
        else "training works against the reward: the learning rate is far too high, or the reward's sign or "
        "its weights are turned around",
        type="optim.lr: a third of it, or advantage.kl_beta=0.04; start again from a checkpoint before the "
        "fall",
    )


def flat(history: RunHistory) -> Iterator[Finding]:
    """Over a long run the reward moves."""
    series = history.series("reward/mean").finite
    if len(series) < LONG or abs(history.gain) >= FLAT or any(falls(history)):
        return
    third = len(series) // 3
    low, high = float(series.value[:third].mean()), float(series.value[-len(series) // 3 :].mean())
    yield symptom(
        series,
        -1,
        value=high,
        what=f"reward/mean is {high:.3g} in the last third of {len(series)} steps and was {low:.3g} in the "
        f"first: no more than {abs(history.gain):.1f} standard errors",
        wanted=f"a change of at least {FLAT:g} standard errors in {LONG} steps",
        why="there is no signal to learn from: the learning rate is too small, groups are too small or "
        "alike, or the reward does not depend on what the policy can change",
        type="optim.lr: three times it, or data.samples_per_prompt: twice it",
    )


def apart(history: RunHistory) -> Iterator[Finding]:
    """No reward term is bought with another."""
    terms = history.setting("reward.terms", {})
    if not isinstance(terms, Mapping) or len(terms) < 2:
        return
    gains = {}
    for name, term in terms.items():
        weight = float(term.get("weight", 1.0)) if isinstance(term, Mapping) else 1.0
        series = history.series(f"reward/{name}/mean").finite
        if weight and len(series) >= 30:
            gains[name] = moved(series) * history.sign * (1 if weight > 0 else -1)
    if not gains:
        return
    up, down = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
    if gains[up] < APART or gains[down] > -APART:
        return
    series = history.series(f"reward/{down}/mean").finite
    third = len(series) // 3
    yield symptom(
        series,
        len(series) - third,
        value=series.value[-third:].mean(),
        what=f"{up} improved by {gains[up]:.1f} standard errors while {down} got worse by {-gains[down]:.1f}",
        wanted="no term falls for long",
        why=f"{up} dominates the sum, or is raised at the cost of {down}: a first sign of reward hacking",
        type=f"advantage.combine=gdpo, or reward.terms.{down}.weight: twice it",
    )


def held_out(history: RunHistory) -> Iterator[Finding]:
    """What rises in training rises on held-out prompts, too."""
    if history.gain < 3:
        return
    keys = [key for key in history.keys if key.startswith("eval/") and key.count("/") == 1]
    left_out = {"eval/diversity"}  # no reward: samples that all do what they should differ less
    if "eval/score" in keys:
        left_out.add("eval/accuracy")  # the score is less noisy
    keys = [key for key in keys if key not in left_out]
    for key in keys:
        series = history.series(key).finite
        if len(series) < 2:
            continue
        values, allowed = history.sign * series.value, _allowed(history, series)
        best = np.maximum.accumulate(values)
        if (first := last_stretch(best - values > allowed)) is None:
            continue
        last = float(series.value[-1])
        yield symptom(
            series,
            first,
            value=last,
            what=f"{key} went from {float(best[-1]) * history.sign:.3g} to {last:.3g} while reward/mean "
            f"improved by {history.gain:.1f} standard errors",
            wanted=f"at most {allowed:.2g} from its best while the training reward improves",
            why="the policy exploits the trained reward (reward hacking), or fits the training prompts alone",
            type="a checkpoint before that step; then advantage.kl_beta=0.04, another reward beside it, or "
            "more prompts",
        )
        return


def _allowed(history: RunHistory, series: Series) -> float:
    """How far a held-out measure may lie below its best: for scores in [0, 1] by the chance of their samples,
    for others by the spread of that reward in training.
    """
    if series.key in ("eval/score", "eval/accuracy"):
        samples = float(history.setting("eval.prompts", 1000)) * float(history.setting("eval.samples", 1))
        return max(HELD_OUT, float(0.6 / np.sqrt(samples)))
    spread = history.series(f"reward/{series.key[5:]}/std").finite
    return 0.25 * float(np.median(spread.value)) if len(spread) else 0.1 * abs(float(series.value[0]))
