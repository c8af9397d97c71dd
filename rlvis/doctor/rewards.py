"""What the scorers say of the probe: finite, not constant, of comparable size, and how long they take."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlvis.doctor.diagnosis import failure, ok, warning
from rlvis.doctor.probe import Probe
from rlvis.findings import Finding, Number
from rlvis.observe.health.trust_maps import INVERTED
from rlvis.observe.metrics import trust_metrics
from rlvis.records import Rewards
from rlvis.runtime import dist
from rlvis.schema import Combine, CrtForm
from rlvis.trust.groups import Groups, statistics

ENOUGH = 16  # samples from which a constant reward is no accident
EQUAL = 0.5  # share of groups without a difference that is worth a word
DOMINATES = 0.95  # of the weighted spread inside groups
SLOW = 0.8  # of a step that scoring may take,
PATIENCE = 20.0  # in seconds, before it is worth a word


def rewards(probe: Probe) -> list[Finding]:
    """A finding for each term, for the reward they make and what a contrast makes of it, and one for the time
    they take; a collective.
    """
    scores = probe.rewards
    terms = [_term(scores, i, term.boundary.reason) for i, term in enumerate(probe.parts.terms)]
    return [*terms, *_together(probe), *_order(probe), _latency(probe)]


def spread(values: Groups) -> Tensor:
    """Standard deviation inside groups, [Q]: root of the mean variance over groups that have one."""
    several = values.count[:, 0] >= 2
    return values.var[several].mean(0).sqrt() if bool(several.any()) else torch.zeros(values.var.shape[1])


def _term(scores: Rewards, i: int, reason: str) -> Finding:
    name, weight = scores.names[i], scores.weights[i]
    column, total = scores.term[..., i], scores.valid.numel()
    good = torch.isfinite(column)
    values, bad = column[good], int((~good).sum())
    check = f"reward {name}"
    numbers: dict[str, Number] = {"samples": total, "invalid": bad, "weight": weight}
    if bad:
        what = f"{bad} of {total} samples have no score{f' ({reason})' if reason else ''}"
        why = "such samples are masked: they are paid for and teach nothing"
        if bad == total:
            why = "no sample could be scored, so nothing can be trained"
        kind = f"reward.terms.{name}.kwargs that mend it, or another reward.terms.{name}.scorer"
        return (failure if bad > total / 2 else warning)(check, what, numbers, why=why, type=kind)
    groups = statistics(column[..., None], good)
    inside = float(spread(groups))
    low, high = float(values.min()), float(values.max())
    flat = int((groups.var[:, 0] == 0).sum())
    numbers |= {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "within": inside,
        "equal_groups": flat,
    }
    what = (
        f"{total} scores from {low:.4g} to {high:.4g}, mean {float(values.mean()):.4g}, std {inside:.3g} "
        f"inside groups; {flat} of {len(groups.var)} groups have equal scores"
    )
    if low == high:
        why = "a scorer that says the same of every sample teaches nothing"
        kind = f"another reward.terms.{name}.scorer, or reward.terms.{name}.kwargs that tell samples apart"
        alone = weight != 0 and sum(w != 0 for w in scores.weights) == 1 and total >= ENOUGH
        return (failure if alone else warning)(check, what, numbers, why=why, type=kind)
    return ok(check, what, numbers)


def _together(probe: Probe) -> list[Finding]:
    """The weighted reward of the samples, and whether one term decides it alone."""
    scores, config = probe.rewards, probe.parts.config
    weights = torch.tensor(scores.weights, dtype=torch.float64)
    if not bool(scores.valid.any()):
        return []
    terms = statistics(torch.where(scores.valid[..., None], scores.term, 0.0), scores.valid)
    whole = statistics(terms.values @ weights[:, None], scores.valid)
    flat, groups = int((whole.var[:, 0] == 0).sum()), len(whole.var)
    findings = []
    numbers: dict[str, Number] = {"groups": groups, "equal_groups": flat}
    if flat == groups or (flat > EQUAL * groups and groups >= 4):
        what = f"{flat} of {groups} groups have no two unequal rewards"
        why = "an advantage compares samples of a group, so these groups are sampled for nothing"
        kind = "data.samples_per_prompt=16, a reward with more levels, or a larger sampler.eta"
        findings.append(warning("reward groups", what, numbers, why=why, type=kind))
    sizes = (weights * spread(terms)).abs()
    shares = sizes / sizes.sum().clamp(min=1e-300)
    active = int((weights != 0).sum())
    if active < 2 or config.advantage.combine is not Combine.weighted_sum:
        return findings
    top = int(shares.argmax())
    percentages = ", ".join(f"{n} {float(s):.0%}" for n, s in zip(scores.names, shares, strict=True))
    numbers = {name: float(share) for name, share in zip(scores.names, shares, strict=True)}
    what = f"share of the weighted spread inside groups: {percentages}"
    if float(shares[top]) <= DOMINATES:
        return [*findings, ok("reward scale", what, numbers)]
    name, small = scores.names[top], sizes.masked_fill(weights == 0, math.inf).argmin()
    factor = scores.weights[top] * float(sizes[small] / sizes[top])
    why = f"the advantages are those of {name}; the others are scored and have no say"
    kind = f"advantage.combine=gdpo, or reward.terms.{name}.weight={factor:.2g} for equal shares"
    if not math.isfinite(factor) or factor == 0:
        kind = "advantage.combine=gdpo"
    return [
        *findings,
        warning("reward scale", what, numbers, why=why, type=kind),
    ]


def _order(probe: Probe) -> list[Finding]:
    """Whether the contrast keeps the order of samples, if there is one."""
    config, scores = probe.parts.config, probe.rewards
    share = trust_metrics(probe.trust, scores, config.advantage.combine).get("trust/inverted_fraction")
    if share is None:
        return []
    gated = config.trust.crt.form is CrtForm.gated
    what = f"the contrast turns the order of {share:.1%} of the pairs of samples around"
    numbers: dict[str, Number] = {"inverted": share}
    if share <= (0 if gated else INVERTED):
        return [ok("reward order", what, numbers)]
    why = "samples further below the prior than one unit are pushed up, and the worse of two wins"
    kind = "trust.crt.monotone=true, or trust.scale=running_std"
    if gated:
        why = "gated multiplies by the reward: of two below about half the prior the worse one wins"
        kind = "trust.crt.form=exp, or a reward that stays above half its prior"
    return [warning("reward order", what, numbers, why=why, type=kind)]


def _latency(probe: Probe) -> Finding:
    """Seconds of a whole training step in the scorers and in the sampler, from those of the probe."""
    parts, scores = probe.parts, probe.rewards
    factor = -(-probe.samples_of_a_step // parts.world.data_size) / max(1, probe.trajectories.rows)
    scoring, sampling = probe.seconds["score"] * factor, probe.seconds["rollout"] * factor
    slowest = dist.all_reduce(torch.tensor([scoring, sampling]), "max").tolist()
    scoring, sampling = slowest
    each = ", ".join(f"{n} {s * factor:.2f} s" for n, s in zip(scores.names, scores.latency, strict=True))
    what = f"about {scoring:.1f} s a step in the scorers ({each}), {sampling:.1f} s to sample"
    numbers: dict[str, Number] = {"score_seconds": scoring, "rollout_seconds": sampling}
    if scoring > PATIENCE and scoring > SLOW * (scoring + 2 * sampling):
        hours = parts.config.train.steps * scoring / 3600
        why = f"most of every step is spent waiting for scores: {hours:.1f} h of the run"
        kind = "reward.terms.NAME.kwargs with a larger batch or a GPU, or a smaller scorer"
        return warning("reward time", what, numbers, why=why, type=kind)
    return ok("reward time", what, numbers)
