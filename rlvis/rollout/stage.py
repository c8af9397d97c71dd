"""Sample trajectories: x' = mean + std * noise, rounded to storage, then scored. One function; images and
clips alike.

What is unusual: the log-prob is kept per position; rounding comes before scoring (so the ratio of the first
update is exactly 1 whatever the storage dtype); every micro-batch has the same shape, the last one padded,
for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlvis.flow import noise
from rlvis.flow.logprob import draw, log_prob
from rlvis.models.policy import Policy
from rlvis.records import PromptBatch, Trajectories
from rlvis.rollout.plan import SamplingPlan, kept_points


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
    """
    size, pieces, finals = plan.micro_batch, [], []
    needed = -(-len(rows) // size)
    for number in range(needed if passes is None else passes):
        part = list(rows[number * size : (number + 1) * size])
        padded = part + [part[-1] if part else 0] * (size - len(part))
        piece, final = _micro_batch(policy, module, prompts, padded, plan, advance)
        pieces.append(piece)
        finals.append(final)
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
) -> tuple[Trajectories, Tensor]:
    """Trajectories without media, and the final latents [B,C,F,H,W] float32."""
    prompt = torch.tensor([r // plan.samples_per_prompt for r in rows])
    sample = torch.tensor([r % plan.samples_per_prompt for r in rows])
    index = prompts.index[prompt].tolist()
    window = plan.window(index, sample.tolist())
    points, at = kept_points(window.trained, plan.schedule.steps, shared=not plan.own_steps)
    embeds = {name: value[prompt].to(policy.device) for name, value in prompts.embeds.items()}
    time = plan.schedule.time.to(policy.device)

    keys = {"seed": plan.seed, "step": plan.step, "prompts": index, "samples": sample.tolist()}
    first = noise.initial(policy.latent_shape, **keys, share=plan.sampler.share_noise)
    x = policy.start(first.to(policy.device), embeds).to(plan.storage)
    kept = set(points.flatten().tolist())
    states: dict[int, Tensor] = {}
    scored: dict[int, Tensor] = {}
    final = x.float()
    for t in range(plan.schedule.steps):
        if t in kept:
            states[t] = x.cpu()
        out = policy.predict(module, x, time[t].expand(len(rows)), embeds)
        noisy = window.stochastic[:, t]
        mean, std = policy.transition(plan.table, torch.full((len(rows),), t), noisy, x, out)
        if bool(noisy.any()):
            drawn = noise.of_transition(policy.latent_shape, t, **keys)
            x = policy.hold(draw(mean, std, drawn.to(policy.device), plan.storage), x)
        else:
            final = mean
            x = mean.to(plan.storage)
        if bool((window.trained == t).any()):
            safe = std.masked_fill(~noisy.to(std.device).view(-1, 1, 1, 1, 1), 1.0)
            scored[t] = log_prob(x, mean, safe, plan.sampler.logprob.value, plan.channel_reduction).cpu()  # type: ignore[arg-type]
        advance()
    final = policy.start(final, embeds)  # given positions as they were before rounding to storage
    _require_finite(final, rows, plan.step)
    if plan.schedule.steps in kept:
        states[plan.schedule.steps] = x.cpu()
    made = Trajectories(
        prompt=prompt,
        sample=sample,
        states=_gather(states, points),
        at=at,
        step=window.trained.clone(),
        logprob=_gather(scored, window.trained),
        free=policy.free.cpu(),
        schedule=plan.schedule,
        channel_reduction=plan.channel_reduction,
        seed=plan.seed,
        policy_step=plan.step,
    )
    return made, final


def _require_finite(latents: Tensor, rows: Sequence[int], step: int) -> None:
    good = torch.isfinite(latents).flatten(1).all(1).tolist()
    bad = {row for row, fine in zip(rows, good, strict=True) if not fine}
    if bad:
        raise FloatingPointError(
            f"{len(bad)} of {len(set(rows))} samples of training step {step} are not finite "
            f"(row {min(bad)} first): the policy has diverged, or model.dtype is too narrow; "
            "lower optim.lr, or type model.dtype=float32"
        )


def _gather(by_step: dict[int, Tensor], wanted: Tensor) -> Tensor:
    """[n, ...] per step and wanted steps [n, m] -> [n, m, ...]."""
    if bool((wanted == wanted[:1]).all()):
        return torch.stack([by_step[int(t)] for t in wanted[0]], dim=1)
    return torch.stack([torch.stack([by_step[int(t)][i] for t in row]) for i, row in enumerate(wanted)])
