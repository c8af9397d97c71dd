"""Rules on what the samples themselves look like, from the deviations that the sentinels wrote.

The sentinels judge while a run goes on; here the same threshold and patience are read from what they left, so
that report and autopsy name what stayed unusual.
"""

from __future__ import annotations

from collections.abc import Iterator

from rlvis.findings import Finding
from rlvis.observe.health.symptom import Range, symptom
from rlvis.observe.history import RunHistory, Series
from rlvis.observe.sentinel_table import (
    DEVIATION,
    EVALUATED,
    KINDS,
    deviation_key,
    patience,
    unusual,
    within,
    words,
)
from rlvis.observe.step_statistics import PREFIX
from rlvis.schema import SentinelConfig


def settings(history: RunHistory) -> SentinelConfig:
    """The sentinels' numbers of a run; the defaults where it has none."""
    usual = SentinelConfig()
    return SentinelConfig(
        baseline=int(history.setting("sentinels.baseline", usual.baseline)),
        threshold=float(history.setting("sentinels.threshold", usual.threshold)),
        patience=int(history.setting("sentinels.patience", usual.patience)),
    )


def limits(history: RunHistory) -> dict[str, Range]:
    """Metric key -> (lowest, highest) deviation of each statistic of pictures, None where no alarm is."""
    most = settings(history).threshold
    return {
        deviation_key(name): (-most if kind.less else None, most if kind.more else None)
        for name, kind in KINDS.items()
    }


def names_with_deviations(history: RunHistory) -> list[str]:
    """Names of the statistics that have deviations, in the order of their first appearance."""
    keys = [key for key in history.keys if key.startswith(PREFIX) and key.endswith(DEVIATION)]
    return [key.removeprefix(PREFIX).removesuffix(DEVIATION) for key in keys]


def pictures_unlike(history: RunHistory) -> Iterator[Finding]:
    """Samples stay like those of the first steps."""
    for name in names_with_deviations(history):
        if name in KINDS:
            yield from _stays_unusual(history, name)


def held_out_apart(history: RunHistory) -> Iterator[Finding]:
    """Held-out rewards do not fall while the trained one rises."""
    for name in names_with_deviations(history):
        if name not in KINDS:
            yield from _stays_unusual(history, name)


def _stays_unusual(history: RunHistory, name: str) -> Iterator[Finding]:
    """The first time that a statistic is unusual for as long as makes an alarm."""
    config = settings(history)
    series, needed, streak = history.series(deviation_key(name)).finite, patience(name, config), 0
    for at, deviation in enumerate(series.value.tolist()):
        streak = streak + 1 if unusual(name, deviation, config.threshold) else 0
        if streak == needed:
            yield _finding(history, name, series, at, int(series.step[at - needed + 1]), config)
            return


def _finding(
    history: RunHistory, name: str, series: Series, at: int, since: int, config: SentinelConfig
) -> Finding:
    key = PREFIX + name if name in KINDS else "eval/score" if name == EVALUATED else _term(name)
    statistic = history.series(key)
    values = dict(zip(statistic.step.tolist(), statistic.value.tolist(), strict=True))
    first = [values[step] for step in sorted(values) if step > 0][: config.baseline]
    usual = sorted(first)[len(first) // 2] if first else float("nan")
    value = values.get(int(series.step[at]), float("nan"))
    what, why = words(name, value, usual, float(series.value[at]), since, config)
    return symptom(
        series,
        at,
        what=what,
        wanted=within(config),
        why=why,
        type=f"a checkpoint from before step {since}; then advantage.kl_beta=0.04, another reward beside it, "
        "or a smaller optim.lr; sentinels.action=rollback does it by itself",
    )


def _term(name: str) -> str:
    return f"reward/{name.removeprefix('reward_')}/mean"
