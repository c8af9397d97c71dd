"""The `build` stage: Rewards and Trust become Advantages.

The order is the same for every method: raw rewards -> validity -> objectives and the contrasted reward ->
group z-score per term and objective -> times the trust weight -> transforms -> clamp -> (the map multiplies
in the loss). A method adds terms, never a branch: a contrasted reward (BPGO's CRT) is one more term under the
same ratio, because the clipped loss is not additive. A contrast in a group without spread counts nothing
(Trust.contrast_share). With apply_to=reward (ViPO's ablation, arXiv 2511.18719)
the map multiplies the rewards instead, and the same steps run once more at each position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rlvis.advantage import combine
from rlvis.advantage.normalise import RULES, Rule, contrast_zscore, group_zscore, history_zscore
from rlvis.advantage.transform import transformed, transforms_of
from rlvis.records import Advantages, RewardHistory, Rewards, Trust
from rlvis.schema import AdvantageConfig, ApplyTo, Combine, StdScope


def build(
    rewards: Rewards,
    trust: Trust,
    config: AdvantageConfig,
    prompt_index: Tensor,
    history: RewardHistory,
    *,
    contrast_coef: float = 0.0,
    weigh_contrast: bool = False,
    map: Tensor | None = None,
    rows: range | None = None,
    gather: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Advantages, RewardHistory]:
    """Scalar advantages [A, P, K] in float64, with the map (local rows) passed through or, with
    apply_to=reward, used up in a field of advantages [A, N, F, H, W].

    prompt_index: [P] int64, the key of `history`, which only the `ddpo` preset reads and extends. A term's
    coefficient is 1, or the reward's weight with `separate_terms`; a negative weight turns the term's sign
    instead, since the clipped loss bounds the update only under a coefficient >= 0. If trust has a contrast
    and it does not replace the reward, it becomes further terms with a z-score in their own group whatever
    the preset, their coefficients times `contrast_coef`, unweighted by trust unless `weigh_contrast`.
    Transforms (rlvis/advantage/transform.py) follow, then best-of-N; `config.sign` multiplies last. Samples
    that are not valid get 0 and keep=False, and influence nothing.
    rows, gather: needed by apply_to=reward; which of the P * K rows `map` holds, and what joins all ranks'
    maps in the order of their rows (every rank calls it).
    Raises ValueError for settings that contradict each other or the shapes.
    """
    settings = _settings(rewards, config)
    values, names = combine.objectives(rewards, config.combine)
    if trust.weight.shape != (values.shape[0], values.shape[2]):
        raise ValueError(
            f"Trust.weight: wanted shape [P={values.shape[0]}, Q={values.shape[2]}], because "
            f"advantage.combine={config.combine} has {values.shape[2]} objectives, got "
            f"{list(trust.weight.shape)}; run weigh and build with the same advantage.combine"
        )
    weight = trust.weight
    share = torch.ones_like(weight) if trust.contrast_share is None else trust.contrast_share
    if trust.contrast is not None and trust.contrast_replaces:
        values = trust.contrast
        if not settings.rule.history:  # a group of one, or of equal rewards, is compared with its past there
            weight = weight * share
    term, history = _terms(values, weight, names, settings, prompt_index, history)
    coef, label = settings.coefficients(), settings.labels(names)
    compared = [_Compared(values, weight, partial(group_zscore, std_scope=settings.std_scope))]
    if trust.contrast is not None and not trust.contrast_replaces and contrast_coef != 0.0:
        weight = trust.weight * share if weigh_contrast else share
        more = _contrasts(trust.contrast, weight, settings)
        compared.append(_Compared(trust.contrast, weight, contrast_zscore))
        term = torch.cat([term, more])
        label += tuple(f"{name}_contrast" for name in label)
        coef = torch.cat([coef, coef * contrast_coef])
    turned = torch.where(coef < 0, -1.0, 1.0)[:, None, None].to(term)
    term, coef, keep = _transformed(turned * term, coef.abs(), label, rewards, trust, config)
    if config.best_of_n is not None:
        keep = combine.best_and_worst((coef[:, None, None] * term).sum(0), keep, config.best_of_n)

    def finished(z: Tensor) -> Tensor:
        return z.clamp(-config.adv_clip, config.adv_clip) * config.sign

    field = None
    if config.map.apply_to is ApplyTo.reward:
        field = _field(map, rows, gather, compared, settings, lambda z: finished(turned * z))
        map = None
    return Advantages(term=finished(term), coef=coef, names=label, keep=keep, map=map, field=field), history


def _transformed(
    term: Tensor,
    coef: Tensor,
    names: tuple[str, ...],
    rewards: Rewards,
    trust: Trust,
    config: AdvantageConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """Terms, coefficients and which samples are kept, after advantage.transform."""
    if not config.transform:
        return term, coef, rewards.valid
    if config.map.apply_to is ApplyTo.reward:
        raise ValueError(
            f"advantage.transform=[{','.join(config.transform)}] changes one advantage a sample, and "
            "advantage.map.apply_to=reward trains with one at each position, made from the rewards; type "
            "advantage.map.apply_to=advantage"
        )
    before = Advantages(term=term, coef=coef, names=names, keep=rewards.valid)
    after = transformed(before, rewards, trust, transforms_of(config))
    return after.term, after.coef, after.keep


@dataclass(frozen=True, slots=True)
class _Settings:
    """What every term of a step is normalised with."""

    rule: Rule
    std_scope: StdScope
    combine: Combine
    weights: tuple[float, ...]
    valid: Tensor

    def coefficients(self) -> Tensor:
        """Coefficient of each base term: [R] with separate terms, [1] otherwise."""
        return combine.weight_tensor(self.weights if self.combine is Combine.separate_terms else [1.0])

    def labels(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Name of each base term."""
        return ("gdpo",) if self.combine is Combine.gdpo else names


def _settings(rewards: Rewards, config: AdvantageConfig) -> _Settings:
    rule = RULES[config.preset]
    if rule.history and config.std_scope is not None:
        raise ValueError(
            f"advantage.std_scope={config.std_scope} means nothing with "
            f"advantage.preset={config.preset}, whose statistics come from the prompt's history; "
            "type advantage.std_scope=null or advantage.preset=flow_grpo"
        )
    if config.std_scope is StdScope.none and config.combine is Combine.gdpo:
        raise ValueError(
            "advantage.std_scope=none with advantage.combine=gdpo, which divides by standard deviations; "
            "type advantage.std_scope=null or advantage.combine=weighted_sum"
        )
    if not config.adv_clip > 0:
        raise ValueError(f"advantage.adv_clip={config.adv_clip}: wanted a number above 0; the papers use 5")
    scope = config.std_scope or StdScope.group
    return _Settings(rule, scope, config.combine, rewards.weights, rewards.valid)


def _terms(
    values: Tensor,
    weight: Tensor,
    names: tuple[str, ...],
    settings: _Settings,
    prompt_index: Tensor,
    history: RewardHistory,
) -> tuple[Tensor, RewardHistory]:
    """z-scores of [P, K, Q] times trust [P, Q]: [Q, P, K], or [1, P, K] where GDPO joins them."""
    z = []
    for q, name in enumerate(names):
        if settings.rule.history:
            # The plain sum of rewards is remembered under the bare prompt index.
            key = "" if name == "grpo" and settings.combine is Combine.weighted_sum else name
            scored, history = history_zscore(
                values[..., q], settings.valid, settings.rule, prompt_index, history, name=key
            )
        else:
            scored = group_zscore(values[..., q], settings.valid, settings.rule, settings.std_scope)
        z.append(scored * weight[:, q, None])
    return _joined(z, settings), history


def _contrasts(values: Tensor, weight: Tensor, settings: _Settings) -> Tensor:
    """As `_terms`, for contrasted rewards: they have no past, and no unit to share with other groups."""
    z = [
        contrast_zscore(values[..., q], settings.valid, settings.rule) * weight[:, q, None]
        for q in range(values.shape[2])
    ]
    return _joined(z, settings)


@dataclass(frozen=True, slots=True)
class _Compared:
    """Quantities [P, K, Q] with their weights [P, Q], and what compares them inside groups."""

    values: Tensor
    weight: Tensor
    zscore: Callable[[Tensor, Tensor, Rule], Tensor]

    def at(self, maps: Tensor, p: int, settings: _Settings) -> list[Tensor]:
        """z-scores of maps times values at every position of group p, times the weight: [L, K] for each q.

        maps: [L, K] float64, those of the group's samples. Equal rewards under different maps do differ.
        """
        valid = settings.valid[p].expand_as(maps)
        return [
            self.zscore(maps * self.values[p, :, q], valid, settings.rule) * self.weight[p, q]
            for q in range(self.values.shape[2])
        ]


def _field(
    map: Tensor | None,
    rows: range | None,
    gather: Callable[[Tensor], Tensor] | None,
    compared: list[_Compared],
    settings: _Settings,
    finished: Callable[[Tensor], Tensor],
) -> Tensor:
    """Advantages at each position of this rank's rows, [A, N, F, H, W] float32: as the scalar ones, of map
    times reward. A group at a time, and only groups that have a row here.
    """
    if map is None or rows is None or gather is None:
        raise ValueError(
            "advantage.map.apply_to=reward multiplies rewards by maps, and there are none; "
            "type advantage.map.source=psm, or advantage.map.apply_to=advantage"
        )
    group_rule = not settings.rule.history and settings.std_scope is not StdScope.batch
    if not group_rule or settings.combine is Combine.gdpo:
        raise ValueError(
            "advantage.map.apply_to=reward compares samples at each position inside their group only; type "
            "advantage.preset=flow_grpo advantage.std_scope=null advantage.combine=weighted_sum, or "
            "advantage.map.apply_to=advantage"
        )
    everyone, (groups, size) = gather(map), settings.valid.shape
    assert len(rows) == len(map) > 0, f"{len(map)} maps for {len(rows)} rows"
    assert len(everyone) == groups * size, f"{len(everyone)} maps of all ranks for {groups} x {size} samples"
    pieces = []
    for p in range(rows.start // size, -(-rows.stop // size)):
        maps = everyone[p * size : (p + 1) * size].double().flatten(1).T
        z = finished(torch.stack([z for one in compared for z in one.at(maps, p, settings)]))
        samples = range(max(rows.start - p * size, 0), min(rows.stop - p * size, size))
        pieces.append(z[..., samples.start : samples.stop].transpose(1, 2).float())
    field = torch.cat(pieces, 1)
    return field.view(len(field), *map.shape)


def _joined(z: list[Tensor], settings: _Settings) -> Tensor:
    stacked = torch.stack(z)
    if settings.combine is Combine.gdpo:
        return combine.gdpo(stacked, settings.weights, settings.valid)[None]
    return stacked
