"""Rules on rewards over training.

`advantage.sign=-1` trains against the reward, as a control: what is wanted is then its fall.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from rlvis.observe.symptom import BROKEN, SUSPICIOUS, Seen, Series, Symptom, moved, noise, rolling, window_of

FALL = 3.0  # standard deviations between steps, from the best
SUDDEN = 6.0  # the same, of a fall that is never made up for
FLAT, LONG = 2.0, 40  # standard errors; steps before a flat curve says anything
APART = 4.0  # standard errors that two terms move against each other
HELD_OUT = 0.03  # of a score in [0, 1]


def falls(seen: Seen) -> Iterator[Symptom]:
    """A reward that rose does not fall again, and none ends below where it began."""
    raw = seen.series("reward/mean").finite
    series = Series(raw.step, seen.sign * raw.value)
    sudden = list(_sudden(series, seen.sign))
    yield from sudden or _slow(seen, series)


def _sudden(series: Series, sign: float) -> Iterator[Symptom]:
    """A fall from one step to the next that is never made up for."""
    values = series.value
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
    yield Symptom(
        "reward-falls",
        BROKEN,
        int(series.step[at]),
        "reward/mean",
        sign * float(values[at]),
        f"no fall of {SUDDEN:g} standard deviations between steps that is not made up for",
        f"reward/mean went from {sign * values[top]:.3g} at step {int(series.step[top])} to "
        f"{sign * values[at]:.3g} at step {int(series.step[at])} and never came back to within {height:.0f} "
        "standard deviations between steps",
        "one update destroyed what the policy could do: the learning rate is far too high, or one batch was "
        "an outlier",
        "optim.lr: a tenth of it; start again from a checkpoint before the fall",
    )


def _slow(seen: Seen, series: Series) -> Iterator[Symptom]:
    """A fall of the mean of a window."""
    window = window_of(len(series))
    means = rolling(series.value, window)
    if len(series) < 3 * window:
        return
    spread = noise(series.value)
    best = np.maximum.accumulate(means)
    below_start = means < means[0] - 2 * spread * np.sqrt(2 / window)
    from_best = means < best - FALL * spread
    dropped = best - means > 2 * spread * np.sqrt(2 / window)
    ill = (below_start & dropped) | from_best
    if not ill[-1]:
        return
    first = len(ill) - int(np.argmin(ill[::-1])) if not ill.all() else 0
    top, end = int(np.argmax(means)), float(means[-1]) * seen.sign
    rose = means[top] > means[0] + 2 * spread * np.sqrt(2 / window)
    down, beyond = ("fell", "below") if seen.sign > 0 else ("rose", "above")
    high = f"{means[top] * seen.sign:.3g} at step {int(series.step[top + window - 1])}"
    tail = f", {beyond} the {means[0] * seen.sign:.3g} it began with" if below_start[-1] else ""
    gone = float(best[-1] - means[-1]) / spread if spread > 0 else float("inf")
    yield Symptom(
        "reward-falls",
        BROKEN if gone > 3 * FALL or (below_start[-1] and rose) else SUSPICIOUS,
        int(series.step[first + window - 1]),
        "reward/mean",
        end,
        f"at most {FALL:g} standard deviations between steps from its best",
        f"reward/mean {down} from {high} to {end:.3g} (means of {window} steps), {gone:.1f} standard "
        f"deviations between steps{tail}",
        "the policy collapsed after it had learned: the learning rate is too high for what the reward can "
        "tell, or nothing holds the policy near the reference"
        if rose
        else "training works against the reward: the learning rate is far too high, or the reward's sign or "
        "its weights are turned around",
        "optim.lr: a third of it, or advantage.kl_beta=0.04; start again from a checkpoint before the fall",
    )


def flat(seen: Seen) -> Iterator[Symptom]:
    """Over a long run the reward moves."""
    series = seen.series("reward/mean").finite
    if len(series) < LONG or abs(seen.gain) >= FLAT:
        return
    if any(falls(seen)):
        return
    low, high = (
        float(part.mean()) for part in (series.value[: len(series) // 3], series.value[-len(series) // 3 :])
    )
    yield Symptom(
        "reward-flat",
        SUSPICIOUS,
        int(series.step[-1]),
        "reward/mean",
        high,
        f"a change of at least {FLAT:g} standard errors in {LONG} steps",
        f"reward/mean is {high:.3g} in the last third of {len(series)} steps and was {low:.3g} in the first: "
        f"no more than {abs(seen.gain):.1f} standard errors",
        "there is no signal to learn from: the learning rate is too small, groups are too small or alike, or "
        "the reward does not depend on what the policy can change",
        "optim.lr: three times it, or data.samples_per_prompt: twice it",
    )


def apart(seen: Seen) -> Iterator[Symptom]:
    """No reward term is bought with another."""
    terms = seen.told("reward.terms", {})
    if not isinstance(terms, Mapping) or len(terms) < 2:
        return
    gains = {}
    for name, term in terms.items():
        weight = float(term.get("weight", 1.0)) if isinstance(term, Mapping) else 1.0
        series = seen.series(f"reward/{name}/mean").finite
        if weight and len(series) >= 30:
            gains[name] = moved(series) * seen.sign * (1 if weight > 0 else -1)
    if not gains:
        return
    up, down = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
    if gains[up] < APART or gains[down] > -APART:
        return
    series = seen.series(f"reward/{down}/mean").finite
    yield Symptom(
        "terms-apart",
        SUSPICIOUS,
        int(series.step[len(series) - len(series) // 3]),
        f"reward/{down}/mean",
        float(series.value[-(len(series) // 3) :].mean()),
        "no term falls for long",
        f"{up} improved by {gains[up]:.1f} standard errors while {down} got worse by {-gains[down]:.1f}",
        f"{up} dominates the sum, or is raised at the cost of {down}: a first sign of reward hacking",
        f"advantage.combine=gdpo, or reward.terms.{down}.weight: twice it",
    )


def held_out(seen: Seen) -> Iterator[Symptom]:
    """What rises in training rises on held-out prompts, too."""
    if seen.gain < 3:
        return
    keys = dict.fromkeys(key for row in seen.rows for key in row if key.startswith("eval/"))
    for key in keys:
        if key.count("/") > 1 or (key == "eval/accuracy" and "eval/score" in keys):  # the score is less noisy
            continue
        series = seen.series(key).finite
        if len(series) < 2:
            continue
        spread = seen.series(f"reward/{key[5:]}/std").finite
        drawn = float(seen.told("eval.prompts", 1000)) * float(seen.told("eval.samples", 1))
        worse = max(HELD_OUT, 0.6 / np.sqrt(drawn))
        if key not in ("eval/score", "eval/accuracy"):
            worse = (
                0.25 * float(np.median(spread.value)) if len(spread) else 0.1 * abs(float(series.value[0]))
            )
        values = seen.sign * series.value
        best = np.maximum.accumulate(values)
        ill = best - values > worse
        if not ill[-1]:
            continue
        first = len(ill) - int(np.argmin(ill[::-1])) if not ill.all() else 0
        yield Symptom(
            "held-out-falls",
            SUSPICIOUS,
            int(series.step[first]),
            key,
            float(series.value[-1]),
            f"at most {worse:.2g} from its best while the training reward improves",
            f"{key} went from {float(best[-1]) * seen.sign:.3g} to {float(series.value[-1]):.3g} while "
            f"reward/mean improved by {seen.gain:.1f} standard errors",
            "the policy exploits the trained reward (reward hacking), or fits the training prompts alone",
            "a checkpoint before that step; then advantage.kl_beta=0.04, another reward beside it, or more "
            "prompts",
        )
        return


RULES: tuple[Callable[[Seen], Iterator[Symptom]], ...] = (falls, flat, apart, held_out)
