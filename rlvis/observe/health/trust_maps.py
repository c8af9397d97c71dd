"""Rules on trust and maps: they shift the update, and do not switch it off."""

from __future__ import annotations

from collections.abc import Iterator

from rlvis.findings import Finding
from rlvis.observe.health.symptom import WINDOW, counted, mean_above, mean_below, symptom
from rlvis.observe.history import RunHistory, Series

EFFECTIVE = 0.25  # of the prompts of a step
INVERTED = 0.3
ENTROPY = 0.5


def weights_constant(history: RunHistory) -> Iterator[Finding]:
    """A trust tells groups apart."""
    kind, series = history.setting("trust.kind", "none"), history.series("trust/weight_std").finite
    if kind == "none" or len(series) < WINDOW or series.value.any():
        return
    yield symptom(
        series,
        WINDOW - 1,
        what=f"all groups have the same weight in all {len(series)} steps, although trust.kind={kind}",
        wanted="above 0 with a trust",
        why="the trust changes nothing: its prior knows nothing, its slope is too small for this reward's "
        "scale, or every weight stands at its bound",
        type="trust.scale=running_std, or another prior (prior=moving_average)",
    )


def few_groups(history: RunHistory) -> Iterator[Finding]:
    """A trust leaves most groups a say."""
    prompts = history.setting("data.prompts_per_step")
    if history.setting("trust.kind", "none") == "none" or not prompts:
        return
    groups = history.series("trust/effective_groups").finite
    under = mean_below(Series(groups.step, groups.value / float(prompts)), EFFECTIVE)
    if under is None:
        return
    at, share = under
    yield symptom(
        groups,
        at,
        value=share * float(prompts),
        what=f"{share * float(prompts):.1f} of {prompts} groups carry the update (mean of {WINDOW} steps)",
        wanted=f"at least {EFFECTIVE:.0%} of the {prompts} prompts of a step",
        why="weights are spread so far that a few groups decide everything",
        type="trust.scale=running_std, or narrower bounds (trust.ras.alpha, trust.posterior.w_max)",
    )


def order(history: RunHistory) -> Iterator[Finding]:
    """The contrast keeps the order of most samples."""
    series = history.series("trust/inverted_fraction").finite
    if (over := mean_above(series, INVERTED)) is None:
        return
    at, share = over
    gated = history.setting("trust.crt.form", "none") == "gated"
    yield symptom(
        series,
        at,
        value=share,
        what=f"{share:.0%} of the pairs of samples in a group change their order by the contrast (mean of "
        f"{WINDOW} steps)",
        wanted=f"below {INVERTED:g}",
        why="of two rewards below about half the prior the gated contrast puts the worse one on top"
        if gated
        else "samples far below the prior are pushed up: the contrast is too steep for this reward's scale",
        type="trust.crt.form=exp" if gated else "trust.crt.monotone=true, or trust.scale=running_std",
    )


def maps_failed(history: RunHistory) -> Iterator[Finding]:
    """Every sample gets a map."""
    yield from counted(
        history.series("map/failed").finite,
        "{total} samples in {steps} steps got a map of ones",
        why="the backbone's features are not finite for them: its dtype is too narrow or pictures are broken",
        type="advantage.map.backbone_dtype=float32",
    )


def map_narrow(history: RunHistory) -> Iterator[Finding]:
    """Maps do not put everything on a few positions."""
    series = history.series("map/entropy").finite
    if (under := mean_below(series, ENTROPY)) is None:
        return
    at, entropy = under
    yield symptom(
        series,
        at,
        value=entropy,
        what=f"the maps have {entropy:.2f} of the entropy of a uniform one (mean of {WINDOW} steps)",
        wanted=f"above {ENTROPY:g}",
        why="nearly all of the loss falls on a few positions: the map follows single outliers among the "
        "tokens",
        type="advantage.map.sigma: more, or advantage.map.aggregation=average",
    )
