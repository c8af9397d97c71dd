"""Rules on what the samples themselves look like, from the deviations that the sentinels wrote.

The sentinels judge while a run goes on; here the same threshold and patience are read from what they left, so
that report and autopsy name what stayed unusual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlvis.observe.sentinels import EVALUATED, KINDS, patience, unusual, words
from rlvis.observe.step_statistics import PREFIX
from rlvis.observe.symptom import SUSPICIOUS, Seen, Symptom
from rlvis.schema import SentinelConfig

END = "/deviation"


def settings(seen: Seen) -> SentinelConfig:
    """The sentinels' numbers of a run; the defaults where it has none."""
    usual = SentinelConfig()
    return SentinelConfig(
        baseline=int(seen.told("sentinels.baseline", usual.baseline)),
        threshold=float(seen.told("sentinels.threshold", usual.threshold)),
        patience=int(seen.told("sentinels.patience", usual.patience)),
    )


def limits(seen: Seen) -> dict[str, tuple[float | None, float | None]]:
    """Metric key -> (lowest, highest) deviation of each statistic of pictures, None where no alarm is."""
    most = settings(seen).threshold
    return {
        key_of(name): (-most if kind.less else None, most if kind.more else None)
        for name, kind in KINDS.items()
    }


def judged(seen: Seen) -> list[str]:
    """Names of the statistics that have deviations, in the order of their first appearance."""
    keys = dict.fromkeys(key for row in seen.rows for key in row)
    return [key.removeprefix(PREFIX).removesuffix(END) for key in keys if _is_deviation(key)]


def key_of(name: str) -> str:
    """The metric of a statistic's deviations."""
    return f"{PREFIX}{name}{END}"


def unlike(seen: Seen) -> Iterator[Symptom]:
    """Samples stay like those of the first steps, and held-out rewards do not fall while the trained one
    rises.
    """
    told = settings(seen)
    for name in judged(seen):
        series, needed, streak = seen.series(key_of(name)).finite, patience(name, told), 0
        for i, (step, deviation) in enumerate(zip(series.step, series.value, strict=True)):
            streak = streak + 1 if unusual(name, float(deviation), told.threshold) else 0
            if streak == needed:
                since = int(series.step[i - needed + 1])
                yield _symptom(seen, name, int(step), float(deviation), since, told)
                break


def _symptom(seen: Seen, name: str, step: int, deviation: float, since: int, told: SentinelConfig) -> Symptom:
    key = PREFIX + name if name in KINDS else "eval/score" if name == EVALUATED else _term(name)
    series = seen.series(key)
    values = dict(zip(series.step.tolist(), series.value.tolist(), strict=True))
    first = [values[s] for s in sorted(values) if s > 0][: told.baseline]
    usual = sorted(first)[len(first) // 2] if first else float("nan")
    what, why = words(name, values.get(step, float("nan")), usual, deviation, since, told)
    return Symptom(
        "pictures-unlike" if name in KINDS else "held-out-apart",
        SUSPICIOUS,
        step,
        key_of(name),
        deviation,
        f"within {told.threshold:g} deviations of the first {told.baseline} steps",
        what,
        why,
        f"a checkpoint from before step {since}; then advantage.kl_beta=0.04, another reward beside it, or a "
        "smaller optim.lr; sentinels.action=rollback does it by itself",
    )


def _term(name: str) -> str:
    return f"reward/{name.removeprefix('reward_')}/mean"


def _is_deviation(key: str) -> bool:
    return key.startswith(PREFIX) and key.endswith(END)


RULES: tuple[Callable[[Seen], Iterator[Symptom]], ...] = (unlike,)
