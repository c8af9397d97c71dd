"""Sample trajectories: x' = mean + std * noise, rounded to storage, then scored. One function; images and
clips alike.

What is unusual: the log-prob is kept per position; rounding comes before scoring (so the ratio of the first
update is exactly 1 whatever the storage dtype); every micro-batch has the same shape, the last one padded,
for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlvis.flow import noise
from rlvis.flow.logprob import draw, log_prob
from rlvis.models.policy import Policy
from rlvis.records import PromptBatch, Trajectories
from rlvis.rollout.plan import RowSteps, SamplingPlan, kept_points


class NonFiniteStateError(FloatingPointError):
    """Samples that are not finite, which can be neither decoded nor trained.

    rows: (global row, first sampling step after which it was not finite). micro_batch: the rows that were
    sampled together with the first of them.
    """

    def __init__(self, message: str, rows: list[tuple[int, int]], micro_batch: list[int]) -> None:
        super().__init__(message)
        self.rows, self.micro_batch = rows, micro_batch


def rollout(
    policy: Policy,
    module: Callable[..., Any],
    prompts: PromptBatch,
    rows: Sequence[int],
    plan: SamplingPlan,
    *,
    passes: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Trajectories:
    """Sample the given rows; row n is sample n % K of prompt n // K.

    Args:
        policy: predict, decode, latent shape. module: the trained module as predict calls it (a DeepSpeed
        engine, or the bare module). prompts: P prompts with `embeds`. rows: global rows, any order; those of
        this rank, or a shard of them. plan: grid, kernel, window, seed. passes: micro-batches to run, at
        least what the rows need; ranks with fewer rows must run as many as the others. advance: called after
        every forward (progress).

    Returns:
        Trajectories of N = len(rows), with media [N,M,3,Y,X].

    Raises:
        NonFiniteStateError: after all forwards, so that other ranks do not wait for one.
    """
    size, pieces, finals = plan.micro_batch, [], []
    bad: dict[int, int] = {}
    culprit: list[int] = []
    needed = -(-len(rows) // size)
    for number in range(needed if passes is None else passes):
        part = list(rows[number * size : (number + 1) * size])
        padded = part + [part[-1] if part else 0] * (size - len(part))
        piece, final, since = _micro_batch(policy, module, prompts, padded, plan, advance)
        pieces.append(piece)
        finals.append(final.cpu())  # a shard of clips would fill the device; decoding takes them in chunks
        broken = {row: t for row, t in zip(padded, since, strict=True) if t >= 0}
        culprit = culprit or (part if broken else [])
        bad |= broken
    if bad:
        raise _diverged(bad, len(rows), culprit, prompts, plan)
    # Decoded together: the policy pads to chunks of its own, which costs once and not in every micro-batch.
    whole = Trajectories.concatenate(pieces).replace(media=policy.decode(torch.cat(finals)))
    return whole if whole.rows == len(rows) else whole.take(range(len(rows)))


@torch.no_grad()
def _micro_batch(
    policy: Policy,
    module: Callable[..., Any],
    prompts: PromptBatch,
    rows: list[int],
    plan: SamplingPlan,
    advance: Callable[[], None],
) -> tuple[Trajectories, Tensor, list[int]]:
    """Trajectories without media, the final latents [B,C,F,H,W] float32, and for each row the first step
    after which it was not finite, -1 for a good one.
    """
    prompt = torch.tensor([r // plan.samples_per_prompt for r in rows])
    sample = torch.tensor([r % plan.samples_per_prompt for r in rows])
    index = prompts.index[prompt].tolist()
    window = plan.steps_of(index, sample.tolist())
    points, at = kept_points(window.trained, plan.schedule.steps, shared=not plan.per_sample_steps)
    embeds = {name: value[prompt].to(policy.device) for name, value in prompts.embeds.items()}
    redraw = torch.full_like(sample, plan.redraw)
    path = _walk(policy, module, embeds, (index, noise.names(sample, redraw)), window, points, plan, advance)
    trajectories = Trajectories(
        prompt=prompt,
        sample=sample,
        redraw=redraw,
        states=_gather(path.states, points),
        at=at,
        step=window.trained.clone(),
        logprob=_gather(path.logprob, window.trained),
        free=policy.free.cpu(),
        schedule=plan.schedule,
        channel_reduction=plan.channel_reduction,
        seed=plan.seed,
        policy_step=plan.step,
    )
    return trajectories, path.final, path.since.tolist()


class _Path(NamedTuple):
    """By sampling step: kept states [B,C,F,H,W] and log-probs [B,F,H,W], on the CPU. final: float32 latents
    on the device. since [B]: the first step after which a row was not finite, -1 for none.
    """

    states: dict[int, Tensor]
    logprob: dict[int, Tensor]
    final: Tensor
    since: Tensor


def _walk(
    policy: Policy,
    module: Callable[..., Any],
    embeds: dict[str, Tensor],
    names: tuple[list[int], list[int]],
    window: RowSteps,
    points: Tensor,
    plan: SamplingPlan,
    advance: Callable[[], None],
) -> _Path:
    """All sampling steps of one micro-batch. names: (prompts, samples) that the noise is drawn as."""
    steps, form = plan.schedule.steps, plan.sampler.logprob
    time = plan.schedule.time.to(policy.device)
    drawn = partial(noise.of_transition, policy.latent_shape)
    keys = {"prompts": names[0], "samples": names[1]}
    start = noise.initial(
        policy.latent_shape, seed=plan.seed, step=plan.step, **keys, share=plan.sampler.share_noise
    )
    x = policy.start(start.to(policy.device), embeds).to(plan.storage)
    kept = set(points.flatten().tolist())
    states: dict[int, Tensor] = {}
    scored: dict[int, Tensor] = {}
    final = x.float()
    since = torch.full((len(x),), -1, device=x.device)
    for t in range(steps):
        if t in kept:
            states[t] = x.cpu()
        out = policy.predict(module, x, time[t].expand(len(x)), embeds)
        noisy = window.stochastic[:, t]
        mean, std = policy.transition(plan.table, torch.full((len(x),), t), noisy, x, out)
        if bool(noisy.any()):
            eps = drawn(t, seed=plan.seed, step=plan.step, **keys)
            x = policy.hold(draw(mean, std, eps.to(policy.device), plan.storage), x)
        else:
            final = mean
            x = mean.to(plan.storage)
        # Looked at on the device and read once at the end: no step waits for it.
        since = torch.where((since < 0) & ~torch.isfinite(x).flatten(1).all(1), t, since)
        if bool((window.trained == t).any()):
            safe = std.masked_fill(~noisy.to(std.device).view(-1, 1, 1, 1, 1), 1.0)
            scored[t] = log_prob(x, mean, safe, form, plan.channel_reduction).cpu()
        advance()
    final = policy.start(final, embeds)  # given positions as they were before rounding to storage
    since = torch.where((since < 0) & ~torch.isfinite(final).flatten(1).all(1), steps - 1, since)
    if steps in kept:
        states[steps] = x.cpu()
    return _Path(states, scored, final, since)


def _diverged(
    bad: dict[int, int], count: int, micro_batch: list[int], prompts: PromptBatch, plan: SamplingPlan
) -> NonFiniteStateError:
    row = min(bad, key=lambda r: (bad[r], r))
    p, k = divmod(row, plan.samples_per_prompt)
    t = bad[row]
    return NonFiniteStateError(
        f"{len(bad)} of {count} samples of training step {plan.step} are not finite: first sample {k} of "
        f"prompt {int(prompts.index[p])} ({prompts.texts[p]!r}), after sampling step {t} of "
        f"{plan.schedule.steps} (sigma {float(plan.schedule.sigma[t]):.3f}); the policy has diverged, or "
        "model.dtype is too narrow: lower optim.lr, or type model.dtype=float32",
        sorted(bad.items()),
        micro_batch,
    )


def _gather(by_step: dict[int, Tensor], wanted: Tensor) -> Tensor:
    """[n, ...] per step and wanted steps [n, m] -> [n, m, ...]."""
    if bool((wanted == wanted[:1]).all()):
        return torch.stack([by_step[int(t)] for t in wanted[0]], dim=1)
    return torch.stack([torch.stack([by_step[int(t)][i] for t in row]) for i, row in enumerate(wanted)])
