"""The ratio before any update, as it enters the loss: rollout and update must agree on the same weights.

`update` itself runs on the probe under an engine that never steps: at the configured micro-batch, rows dealt
as for optimizer steps, with guard, scope, map and recomputation. In exact
arithmetic the ratio is 1; what is left is noise that clipping would take for a change of the policy.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlvis.doctor.diagnosis import failure, ok
from rlvis.doctor.probe import Probe
from rlvis.findings import Finding, Number
from rlvis.schema import Config, Dtype, OldLogProb
from rlvis.update import loss as losses
from rlvis.update.stage import NonFiniteLossError, UpdateSettings, update

SHARE = 0.25  # of the clip range that noise may fill
DEALT = 2  # optimizer steps that rows are dealt to at most: enough to move them to other places of a batch


class Still:
    """The engine's contract without an optimizer: forwards as in training, and nothing after them."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        # Hooks that a sharded forward leaves for its backward would wait for ever.
        self.guard = torch.no_grad if engine.stage == 3 else nullcontext

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The engine's forward."""
        with self.guard():
            return self.engine(*args, **kwargs)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """The graph is dropped."""

    def step(self) -> float:
        """No gradient, no step."""
        return 0.0

    def layers(self, *, pending: bool = False) -> dict[str, float]:
        """No gradient of any block."""
        return {}


@dataclass(frozen=True)
class Transition:
    """One trained transition.

    sigma: mean noise level before it. deviation: largest |ratio - 1| in the loss. floor: largest
    |new - old log-prob| at the ratio's scope, without guard.
    """

    sigma: float
    deviation: float
    floor: float


def transitions(probe: Probe) -> list[Transition]:
    """Every trained transition, replayed; a collective. Infinite where the loss is not finite."""
    guard = probe.parts.config.advantage.guard
    in_loss = _replay(probe, guarded=True)
    plain = in_loss if guard is None else _replay(probe, guarded=False)
    records = probe.trajectories
    measured = []
    for s in range(records.step.shape[1]):
        key = f"transition/{s}/ratio_max_deviation"
        deviation, raw = in_loss.get(key, math.inf), plain.get(key, math.inf)
        sigma = float(records.schedule.sigma[records.step[:, s]].mean())
        measured.append(Transition(sigma, deviation, math.log1p(raw)))
    return measured


def _replay(probe: Probe, *, guarded: bool) -> dict[str, float]:
    """What an update tells of every transition; nothing where its loss is not finite."""
    parts = probe.parts
    config = parts.config
    # Without the KL term, whose forwards do not enter the ratio.
    advantage = replace(config.advantage, kl_beta=0.0)
    if not guarded:
        advantage = replace(advantage, guard=None)
    train = replace(config.train, updates_per_step=min(DEALT, config.train.updates_per_step))
    settings = UpdateSettings(advantage, config.sampler, train)
    records = probe.prompts, probe.trajectories, probe.advantages
    try:
        return update(parts.policy, Still(parts.engine), *records, settings, parts.world).details
    except NonFiniteLossError:
        return {}


def ratio(probe: Probe) -> list[Finding]:
    """The largest |ratio - 1| against the clip range, and the log-prob noise floor of every transition."""
    config, policy = probe.parts.config, probe.parts.policy
    replayed = transitions(probe)
    worst = max(replayed, key=lambda t: t.deviation)
    advantage = config.advantage
    clip = min(
        losses.resolve_clip(
            advantage.clip_range,
            advantage.ratio_scope,
            policy.latent_shape,
            advantage.map.channel_reduction,
        )
    )
    types = _types(config)
    what = (
        f"largest |ratio - 1| before any update {worst.deviation:.3g} at sigma {worst.sigma:.3f}, clip range "
        f"{clip:.3g} ({types})"
    )
    numbers: dict[str, Number] = {
        "max_deviation": worst.deviation,
        "clip_range": clip,
        "limit": SHARE * clip,
        "scope": str(advantage.ratio_scope),
        "types": types,
    }
    if probe.parts.engine.stage == 3:
        what += "; ZeRO-3: replayed without gradients, kernels that differ with them were not looked at"
    floors = ", ".join(f"{t.floor:.2g} at {t.sigma:.3f}" for t in replayed)
    noise = ok(
        "noise floor",
        f"largest |new - old log-prob| by sigma: {floors}",
        {f"sigma {t.sigma:.4f}": t.floor for t in replayed},
    )
    if worst.deviation <= SHARE * clip:
        return [ok("ratio", what, numbers), noise]
    return [
        failure("ratio", what, numbers, why=_why(probe, worst), type=_type(probe, worst)),
        noise,
    ]


def _types(config: Config) -> str:
    return (
        f"forward {config.model.dtype}, states {config.sampler.storage}, log-prob float32, "
        f"old log-probs {config.advantage.old_logprob.value}"
    )


def _why(probe: Probe, worst: Transition) -> str:
    if not math.isfinite(worst.deviation):
        return "the loss of the first step is not finite already"
    sentence = (
        "the same weights give the same transition another log-prob in the update than in the rollout, and "
        f"clipping acts on that noise (wanted at most {SHARE:.0%} of the clip range)"
    )
    if active := _random_layers(probe):
        sentence += f"; {active} dropout layers are in training mode"
    return sentence


def _type(probe: Probe, worst: Transition) -> str:
    config, options = probe.parts.config, []
    if config.model.dtype is not Dtype.float32:
        options.append("model.dtype=float32")
    if config.advantage.old_logprob is OldLogProb.rollout:
        options.append("advantage.old_logprob=recompute")
    if math.isfinite(worst.deviation):
        options.append(f"advantage.clip_range={2 * worst.deviation / SHARE:.1g} or more")
    return ", or ".join(options) or "advantage=grpo sampler=flow_fast, to see which setting it comes from"


def _random_layers(probe: Probe) -> int:
    """Layers of the trained module that draw random numbers in training mode, and are in it."""
    drop = torch.nn.modules.dropout._DropoutNd
    return sum(isinstance(m, drop) and m.training and m.p > 0 for m in probe.parts.policy.module.modules())
