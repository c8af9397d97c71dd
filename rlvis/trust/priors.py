"""What a group's mean reward is compared with: mean, variance and count per prompt and objective, and a
memory.

A step's priors come from the memory before it, and the memory is extended once, after: neither the order of
prompts nor their placement on ranks can matter, bit for bit. A prior that has seen nothing yet has count 0,
and the weight of its group is then 1.
T2V, I2V and T2I priors of arXiv 2511.18919 are `reference`, `first_frame` and `moving_average`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlvis.records import PriorState, PromptBatch
from rlvis.schema import PriorConfig, PriorKind, PriorScope
from rlvis.trust.groups import Groups, moments
from rlvis.trust.ras import VAR_FLOOR

Memory = dict[str, Tensor]
CACHED = (PriorKind.reference, PriorKind.first_frame)


@dataclass(frozen=True, slots=True)
class Prior:
    """mean, var [P, Q], and count [P, Q] of samples or groups that the mean rests on; 0: nothing yet."""

    mean: Tensor
    var: Tensor
    count: Tensor


def priors(
    groups: Groups,
    config: PriorConfig,
    memory: Mapping[str, Tensor],
    prompts: PromptBatch,
    reference: Groups | None,
) -> tuple[Prior | None, Memory]:
    """The priors of a step (None for `none`) and the memory after it; what is passed in is unchanged.

    reference: scores of the reference policy's samples, or of condition frames, for the same prompts.
    Raises ValueError for values that are missing or no numbers.
    """
    kinds: dict[PriorKind, Callable[[], tuple[Prior | None, Memory]]] = {
        PriorKind.none: lambda: (None, {}),
        PriorKind.constant: lambda: (_constant(groups, config), {}),
        PriorKind.record: lambda: (_record(groups, config, prompts), {}),
        PriorKind.reference: lambda: _cached(groups, config, memory, prompts, reference),
        PriorKind.first_frame: lambda: _cached(groups, config, memory, prompts, reference),
        PriorKind.moving_average: lambda: _moving_average(groups, config, memory, prompts),
        PriorKind.hierarchical: lambda: _hierarchical(groups, config, memory, prompts),
    }
    return kinds[config.kind]()


def unknown(state: PriorState, config: PriorConfig, prompts: PromptBatch) -> list[int]:
    """Positions of the prompts whose reference scores are not remembered: `reference` is needed for these."""
    if config.kind not in CACHED:
        return []
    return [p for p, i in enumerate(prompts.index.tolist()) if _key(i) not in state.values]


def _key(index: int) -> str:
    return f"prompt/{index}"


def _constant(groups: Groups, config: PriorConfig) -> Prior:
    size = groups.mean.shape[1]
    mean = torch.tensor(_numbers(config.value, size, "prior.value"), dtype=torch.float64)
    return _fixed(mean.expand_as(groups.mean).clone())


def _record(groups: Groups, config: PriorConfig, prompts: PromptBatch) -> Prior:
    name, size = config.field, groups.mean.shape[1]
    if not name:
        raise ValueError("prior.kind=record reads a metadata field of the prompts; type prior.field=NAME")
    rows = []
    for index, metadata in zip(prompts.index.tolist(), prompts.metadata, strict=True):
        if name not in metadata:
            has = ", ".join(sorted(metadata)) or "no fields"
            raise ValueError(
                f"prior.kind=record: prompt {index} has no metadata field {name!r} (it has {has}); "
                "type prior.field=NAME of one that every prompt has"
            )
        rows.append(_numbers(metadata[name], size, f"metadata field {name!r} of prompt {index}"))
    return _fixed(torch.tensor(rows, dtype=torch.float64).reshape(-1, size))


def _numbers(value: Any, size: int, what: str) -> list[float]:
    """One finite number for each of the `size` objectives, or one for all of them."""
    entries = list(value) if isinstance(value, (list, tuple)) else [value] * size
    good = all(isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in entries)
    if not good or len(entries) != size:
        raise ValueError(
            f"{what} is {value!r}: wanted a finite number, or a list of {size}, one for each objective; "
            "type prior.value=NUMBER or correct the field"
        )
    return [float(x) for x in entries]


def _fixed(mean: Tensor) -> Prior:
    return Prior(mean, torch.zeros_like(mean), torch.ones_like(mean))


def _cached(
    groups: Groups,
    config: PriorConfig,
    memory: Mapping[str, Tensor],
    prompts: PromptBatch,
    reference: Groups | None,
) -> tuple[Prior, Memory]:
    """Scores of other samples of the same prompts, remembered from a prompt's first step on.

    A prompt none of whose reference samples could be scored has count 0 and its own group's mean, so that
    nothing is made up.
    """
    kept = dict(memory)
    for p, index in enumerate(prompts.index.tolist()):
        if _key(index) in kept:
            continue
        if reference is None:
            raise ValueError(
                f"prior.kind={config.kind.value} needs scores of prompt {index} from elsewhere, and none "
                "were handed in; type prior=moving_average, which needs none"
            )
        if reference.mean.shape != groups.mean.shape:
            raise ValueError(
                f"reference rewards: wanted [P, Q] = {list(groups.mean.shape)}, the step's, got "
                f"{list(reference.mean.shape)}; score the same prompts with the same reward terms"
            )
        count = reference.count[p].expand_as(reference.mean[p])
        mean = torch.where(count > 0, reference.mean[p], groups.mean[p])
        if bool(count[0] > 0):
            kept[_key(index)] = torch.stack([mean, reference.var[p], count])
    entries = [kept.get(_key(index)) for index in prompts.index.tolist()]
    zero = torch.zeros_like(groups.mean[0])
    rows = [
        torch.stack([groups.mean[p], zero, zero]) if row is None else row for p, row in enumerate(entries)
    ]
    return _stacked(rows), kept


def _stacked(rows: list[Tensor]) -> Prior:
    """From one [3, Q] tensor (mean, var, count) a prompt."""
    mean, var, count = torch.stack(rows, 1)
    return Prior(mean, var, count)


def _moving_average(
    groups: Groups, config: PriorConfig, memory: Mapping[str, Tensor], prompts: PromptBatch
) -> tuple[Prior, Memory]:
    """Exponential mean of group means, and the variance of group means around it.

    Before the first step (of the run, or of a prompt) it is that step's own mean with count 0.
    """
    per_prompt = config.scope is PriorScope.prompt
    keys = [_key(i) if per_prompt else "all" for i in prompts.index.tolist()]
    scored = groups.count[:, 0] > 0
    after, before = dict(memory), {}
    for key in sorted(set(keys)):
        members = torch.tensor([k == key for k in keys]) & scored
        past = memory.get(key)
        now = _summary(groups.mean[members])
        if past is not None:
            before[key] = past
            after[key] = past if now is None else _blend(past, now, config.decay)
        elif now is None:  # no sample of it could be scored: nothing to start from
            before[key] = torch.zeros(3, groups.mean.shape[1], dtype=torch.float64)
        else:
            before[key] = torch.stack([now[0], now[1], torch.zeros_like(now[2])])
            after[key] = now
    return _stacked([before[key] for key in keys]), after


def _summary(means: Tensor) -> Tensor | None:
    """[3, Q]: mean, variance and number of the group means [n, Q]; None when there are none."""
    if len(means) == 0:
        return None
    mean, var = moments(means)
    return torch.stack([mean, var, torch.full_like(mean, float(len(means)))])


def _blend(past: Tensor, now: Tensor, decay: float) -> Tensor:
    """past with weight decay and now with 1 - decay, as moments of the mixture; counts add up."""
    (mean, var, count), (new_mean, new_var, new_count) = past, now
    gap = new_mean - mean
    blended = mean + (1 - decay) * gap
    return torch.stack(
        [blended, decay * (var + (1 - decay) * gap.square()) + (1 - decay) * new_var, count + new_count]
    )


def _hierarchical(
    groups: Groups, config: PriorConfig, memory: Mapping[str, Tensor], prompts: PromptBatch
) -> tuple[Prior, Memory]:
    """Each prompt's posterior under P_i ~ N(mu, t2), group mean ~ N(P_i, s^2 / n), from past groups alone.

    mu and t2 are moments over the window of recent groups, t2 = max(0, var of group means - mean s^2 / n).
    Groups with fewer than two valid samples have no s^2 and are left out. Before the first step the mean is
    that step's own with count 0.
    """
    usable = groups.count[:, 0] >= 2
    error = (groups.var + VAR_FLOOR) / groups.count.clamp(min=1)  # s^2 / n [P, Q]
    fresh = _ordered(torch.stack([groups.mean, error], 1)[usable])  # [n, 2, Q]
    past = memory.get("window")
    after = {**memory}
    if len(fresh):
        after["window"] = (fresh if past is None else torch.cat([past, fresh]))[-config.window :]
    indices = prompts.index.tolist()
    for index in sorted(set(indices)):
        members = torch.tensor([i == index for i in indices]) & usable
        if bool(members.any()):
            after[_key(index)] = _accumulated(memory.get(_key(index)), groups.mean[members], error[members])
    if past is None:
        start = _summary(groups.mean[groups.count[:, 0] > 0])
        if start is None:
            start = torch.zeros(3, groups.mean.shape[1], dtype=torch.float64)
        rows = [torch.stack([start[0], start[1], torch.zeros_like(start[2])])] * len(indices)
        return _stacked(rows), after
    return _stacked([_shrunk(past, memory.get(_key(index))) for index in indices]), after


def _ordered(rows: Tensor) -> Tensor:
    """Rows [n, ...] in lexicographic order, so that the window does not depend on the order of prompts."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].flatten().tolist())
    return rows[order]


def _accumulated(past: Tensor | None, means: Tensor, errors: Tensor) -> Tensor:
    """[3, Q]: precision-weighted mean, precision and number of a prompt's groups, [n, Q] more of them."""
    rows = _ordered(torch.stack([means, errors], 1))
    weight = 1 / rows[:, 1]
    mean, precision = (weight * rows[:, 0]).sum(0) / weight.sum(0), weight.sum(0)
    count = torch.full_like(mean, float(len(rows)))
    if past is None:
        return torch.stack([mean, precision, count])
    total = past[1] + precision
    return torch.stack([past[0] + precision / total * (mean - past[0]), total, past[2] + count])


def _shrunk(window: Tensor, past: Tensor | None) -> Tensor:
    """[3, Q]: a prompt's mean, variance and count from the window [n, 2, Q] and its own past groups."""
    mu, spread = moments(window[:, 0])
    n = len(window)
    noise = moments(window[:, 1])[0]
    t2 = (spread * n / (n - 1) - noise).clamp(min=0) if n > 1 else torch.zeros_like(mu)
    count = torch.full_like(mu, float(n))
    if past is None:
        return torch.stack([mu, t2, count])
    mean, precision, groups = past
    # Written so that t2 = 0 (prompts do not differ beyond noise) gives mu.
    var = t2 / (t2 * precision + 1)
    return torch.stack([mu + var * precision * (mean - mu), var, torch.maximum(count, groups)])
