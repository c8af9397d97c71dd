"""Whether every term of the loss reaches the trained parameters: advantage terms and KL, each taken alone.

`update` runs on one micro-batch of the probe with all terms but one at coefficient 0, over the bare module;
gradients are read by torch.autograd.grad and go nowhere. The KL is at its minimum where the policy is the
reference, so it is measured with the policy's output moved a little: a detached KL stays at 0 there too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlvis.doctor.diagnosis import failure, ok, warning
from rlvis.doctor.probe import Probe
from rlvis.findings import Finding, Number
from rlvis.records import Advantages, Trajectories
from rlvis.runtime import dist
from rlvis.runtime.dist import World
from rlvis.schema import Dtype
from rlvis.update.stage import NonFiniteLossError, UpdateSettings, update

MOVED = 1e-2  # of the output, for the KL
UNTOUCHED = 0.1  # share of trained values without a gradient that is worth a word
NAMES = 4
SCALES = (2.0**16, 2.0**8, 1.0)  # of the loss with float16, as DeepSpeed would scale it


class Collecting:
    """The engine's contract over the bare module: backward reads each parameter's largest gradient."""

    def __init__(
        self, module: Callable[..., Any], parameters: list[Tensor], moved: float, scale: float
    ) -> None:
        self.module, self.parameters, self.moved, self.scale = module, parameters, moved, scale
        self.reached = [False] * len(parameters)
        self.largest = [torch.zeros((), device=p.device) for p in parameters]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward; moved where gradients are on, that is not under the reference."""
        out = self.module(*args, **kwargs)
        if not (self.moved and torch.is_grad_enabled()):
            return out
        return (out[0] + self.moved, *out[1:]) if isinstance(out, tuple) else out + self.moved

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Largest |gradient| of each parameter; nothing is accumulated anywhere."""
        if not loss.requires_grad:
            return
        gradients = torch.autograd.grad(self.scale * loss, self.parameters, allow_unused=True)
        for i, gradient in enumerate(gradients):
            if gradient is not None and gradient.numel():
                self.reached[i] = True
                top = gradient.detach().abs().amax().float() / self.scale
                self.largest[i] = torch.maximum(self.largest[i], top)

    def step(self) -> float:
        """No step."""
        return 0.0

    def layers(self, *, pending: bool = False) -> dict[str, float]:
        """Blocks have no gradients: they were read and dropped."""
        return {}


@dataclass(frozen=True)
class Reach:
    """Of one term: which parameters its graph reaches, and each one's largest |gradient| (over all ranks)."""

    reached: Tensor
    largest: Tensor

    @property
    def finite(self) -> bool:
        """Whether no gradient is NaN or infinite."""
        return bool(torch.isfinite(self.largest).all())


def gradient(probe: Probe) -> list[Finding]:
    """A finding for each term, and one for parameters that no term reaches; a collective."""
    parts = probe.parts
    if parts.engine.stage == 3:
        what = "not looked at: with ZeRO-3 no rank has whole parameters to differentiate"
        return [ok("gradient", what)]
    named = parts.policy.trainable()
    records, few = _few(probe)
    reaches, findings = [], []
    for a, name in enumerate(few.names):
        if float(few.coef[a]) == 0:
            findings.append(ok(f"gradient {name}", "its coefficient is 0: scored, not trained on"))
            continue
        alone = _alone(few, a)
        reach = _measure(probe, records, alone, beta=0.0, moved=0.0)
        reaches.append(reach)
        findings.append(_judge_reach(f"gradient {name}", f"the advantage term {name}", reach, named))
    beta = parts.config.advantage.kl_beta
    if beta > 0:
        silent = few.replace(coef=torch.zeros_like(few.coef))
        reach = _measure(probe, records, silent, beta=beta, moved=MOVED)
        reaches.append(reach)
        findings.append(
            _judge_reach(
                "gradient kl", f"the KL term (kl_beta={beta:g}, output moved by {MOVED:g})", reach, named
            )
        )
    return [*findings, *_judge_untouched(reaches, named)]


def _few(probe: Probe) -> tuple[Trajectories, Advantages]:
    """The probe with its first and last trained transitions, and a micro-batch of kept rows a rank."""
    t, world = probe.trajectories, probe.parts.world
    ends = sorted({0, t.step.shape[1] - 1})
    kept = probe.advantages.keep.flatten().clone()
    for rank in range(world.data_size):
        rank_rows = World(rank, world.data_size).rows(kept.numel())
        kept_rows = [row for row in rank_rows if kept[row]]
        kept[kept_rows[probe.parts.config.train.micro_batch :]] = False
    records = t.replace(at=t.at[:, ends], step=t.step[:, ends], logprob=t.logprob[:, ends])
    return records, probe.advantages.replace(keep=kept.reshape(probe.advantages.keep.shape))


def _alone(advantages: Advantages, a: int) -> Advantages:
    """Term a alone; where all its kept advantages are 0 (equal rewards), 1 and -1 in their place."""
    coef = torch.zeros_like(advantages.coef)
    coef[a] = advantages.coef[a]
    if advantages.field is not None or bool((advantages.term[a][advantages.keep] != 0).any()):
        return advantages.replace(coef=coef)
    term = advantages.term.clone()
    flat = torch.arange(term[a].numel()) % 2 * 2.0 - 1.0
    term[a] = flat.to(term).reshape(term[a].shape)
    return advantages.replace(coef=coef, term=term)


def _measure(
    probe: Probe, records: Trajectories, advantages: Advantages, *, beta: float, moved: float
) -> Reach:
    parts, config = probe.parts, probe.parts.config
    settings = UpdateSettings(
        replace(config.advantage, kl_beta=beta), config.sampler, replace(config.train, updates_per_step=1)
    )
    parameters: list[Tensor] = [p for _, p in parts.policy.trainable()]
    reach = Reach(torch.zeros(len(parameters)), torch.full((len(parameters),), torch.inf))
    for scale in SCALES if config.model.dtype is Dtype.float16 else (1.0,):
        engine = Collecting(parts.policy.module, parameters, moved, scale)
        try:
            update(parts.policy, engine, probe.prompts, records, advantages, settings, parts.world)
        except NonFiniteLossError:
            continue
        # A maximum with NaN in it depends on the order of the ranks.
        tops = torch.nan_to_num(torch.stack(engine.largest).double(), nan=torch.inf, posinf=torch.inf)
        reach = Reach(
            dist.all_reduce(torch.tensor(engine.reached, dtype=torch.float64), "max"),
            dist.all_reduce(tops, "max"),
        )
        if reach.finite:
            break
    return reach


def _judge_reach(check: str, term: str, reach: Reach, named: list[tuple[str, Any]]) -> Finding:
    total, touched = len(named), int((reach.largest > 0).sum())
    top = float(reach.largest.max())
    numbers: dict[str, Number] = {"parameters": total, "touched": touched, "largest": top}
    what = f"{term} moves {touched} of {total} trained parameters, largest gradient {top:.3g}"
    if not reach.finite:
        first = named[int((~torch.isfinite(reach.largest)).nonzero()[0])][0]
        what = f"{term} gives gradients that are not finite, the first at {first}"
        why = "the first optimizer step would spoil the weights, or never be taken"
        return failure(check, what, numbers, why=why, type="model.dtype=float32, or the term switched off")
    if touched == 0:
        inside = int(reach.reached.sum())
        what = f"{term} gives no trained parameter a gradient ({inside} of {total} are in its graph)"
        why = "the term is computed and changes nothing: it is detached from the policy somewhere"
        kind = (
            "advantage.kl_beta=0" if check == "gradient kl" else "advantage=grpo, to see whether that moves"
        )
        return failure(check, what, numbers, why=why, type=kind)
    return ok(check, what, numbers)


def _judge_untouched(reaches: list[Reach], named: list[tuple[str, Any]]) -> list[Finding]:
    """Parameters that are in the graph of no term at all."""
    if not reaches:
        return []
    reached = torch.stack([reach.reached for reach in reaches]).amax(0) > 0
    lost = [(name, p.numel()) for (name, p), hit in zip(named, reached.tolist(), strict=True) if not hit]
    values, total = sum(n for _, n in lost), sum(p.numel() for _, p in named)
    numbers: dict[str, Number] = {"without": len(lost), "share": round(values / total, 4)}
    if not lost:
        return [ok("trained", f"every one of {len(named)} trained parameters is in the loss", numbers)]
    some = ", ".join(name for name, _ in lost[:NAMES]) + (", ..." if len(lost) > NAMES else "")
    what = f"{len(lost)} of {len(named)} trained parameters ({values / total:.1%} of the values) are in no "
    what += f"term's graph: {some}"
    numbers["names"] = some
    if values <= UNTOUCHED * total or len(lost) == len(named):  # the latter is said by every term
        return [ok("trained", what, numbers)]
    why = "they are never trained, and take memory in the optimizer"
    kind = "model.lora.targets=[...] without them, or another sampler.window that passes them"
    return [warning("trained", what, numbers, why=why, type=kind)]
