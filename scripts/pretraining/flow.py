"""Rectified flow (Liu et al. 2022, arXiv:2209.03003) of a policy, its average, and samples without guidance.

x_s = (1 - s) x + s noise, the transformer predicts noise - x; s is logit-normal (Esser et al. 2024,
arXiv:2403.03206, section 3.1).
"""

from __future__ import annotations

import argparse
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pretraining.phases import Phase, train
from pretraining.state import State

log = logging.getLogger("pretraining")

EMPTY_SHARE = 0.1  # prompts replaced by "" for classifier-free guidance
EMA_DECAY = 0.999
SDE_NOISE = 0.7  # of the samples in the cards


def train_flow(
    live: nn.Module,
    average: nn.Module,
    loss: Callable[[int], Tensor],
    measure: Callable[[], dict[str, float]],
    state: State,
    args: argparse.Namespace,
) -> None:
    """AdamW with 200 warming steps; the average follows each, and is measured every `measure_every`."""

    def after(step: int) -> None:
        update_average(average, live, step, EMA_DECAY)
        if step % args.measure_every == 0:
            log.info("flow step %d %s", step, measure())

    phase = Phase(
        name="flow",
        models={"flow": live, "average": average},
        optimizer=torch.optim.AdamW(live.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01),
        steps=args.steps_flow,
        loss=loss,
        rate=lambda step: args.lr * min(1.0, (step + 1) / 200),
        after=after,
        minutes=args.minutes_flow,
    )
    train(phase, state)


@torch.no_grad()
def update_average(average: nn.Module, live: nn.Module, step: int, decay: float) -> None:
    """Exponential moving average of the parameters, faster in the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    for kept, new in zip(average.parameters(), live.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)


def draw_length(shares: Mapping[int, float], random: torch.Generator) -> int:
    """A number of text tokens, with the chance that is its share."""
    chances = torch.tensor(list(shares.values()))
    return list(shares)[int(torch.multinomial(chances, 1, generator=random))]


def weighted_error(velocity: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error of [B, C, ...], each position weighed by [B, 1, ...]."""
    error = (velocity - target).square().mean(dim=1, keepdim=True)
    return (error * weight).sum() / weight.sum()


def integrate(
    velocity: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigmas: Sequence[float],
    noise: float,
    random: torch.Generator,
    pin: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """From noise [B, ...] to samples: Euler steps, or the SDE of Flow-GRPO for noise > 0.

    velocity: of a state at times 1000 sigma [B]. pin: puts back what is given, before every step and at the
    end. The SDE (Liu et al. 2025, arXiv:2505.05470) has deviation noise * sqrt(s / (1 - s)), where s = 1 in
    the denominator is replaced by the next sigma; its last step is deterministic.
    """
    for i, (now, following) in enumerate(itertools.pairwise(sigmas)):
        x = pin(x)
        v, dt = velocity(x, torch.full((len(x),), 1000 * now)), following - now
        if noise == 0 or i == len(sigmas) - 2:
            x = x + dt * v
            continue
        deviation = noise * (now / (1 - (sigmas[1] if now == 1 else now))) ** 0.5
        drift = v + deviation**2 / (2 * now) * (x + (1 - now) * v)
        x = x + dt * drift + deviation * (-dt) ** 0.5 * torch.randn(x.shape, generator=random)
    return pin(x)
