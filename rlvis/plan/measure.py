"""What a policy allocates and computes in each phase of a step, counted on the meta device.

The functions are those that a run calls (encode, predict, transition, log-prob, loss, decode), on tensors
without memory, so the numbers follow the configured geometry and the installed libraries, not a formula.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rlvis.flow import configured
from rlvis.flow.logprob import log_prob
from rlvis.flow.transition import table
from rlvis.models.load import load_policy
from rlvis.models.policy import Policy
from rlvis.plan.bridge import bridge
from rlvis.plan.count import Counter, fused_attention
from rlvis.schema import Config, Dtype
from rlvis.update import loss as losses

LONG = " ".join(["a"] * 2000)  # fills every text encoder up to its limit


@dataclass(frozen=True)
class Pass:
    """One piece of work: most bytes beyond what stood before, bytes kept for the backward, operations."""

    peak: int
    kept: int = 0
    flops: float = 0.0


@dataclass(frozen=True)
class Measured:
    """The phases of a step, each once: a prompt, a micro-batch sampled or trained, a chunk decoded."""

    encode: Pass  # one prompt, with its condition frame and the negative prompt
    sample: Pass  # one forward of a micro-batch without gradients, both guidance branches
    train: Pass  # forward, loss, reference and backward of a micro-batch
    decode: Pass  # one chunk of `decode_rows` samples
    decode_rows: int


@dataclass(frozen=True)
class Shapes:
    """A policy on the meta device, with what does not depend on the micro-batch.

    embeds: conditions of one prompt, zeros [1, ...] on the CPU.
    """

    policy: Policy
    embeds: dict[str, Tensor]
    encode: Pass
    decode: Pass


def shapes(config: Config) -> Shapes:
    """The policy of `config` without weights, its parameters in the dtypes of a run.

    Raises ValueError as loading does, except for what only weights would show.
    """
    # Its zeros must never be kept as encoded prompts.
    policy = load_policy(replace(config.model, embed_cache=None), "meta")
    if config.model.dtype is not Dtype.float32:
        for parameter in policy.module.parameters():  # as DeepSpeed does, whatever diffusers kept in float32
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(policy.dtype)
    encode, embeds = encoding(policy)
    return Shapes(policy, embeds, encode, decoding(policy))


def measure(skeleton: Shapes, config: Config) -> Measured:
    """Count the phases of a micro-batch of `config`, whose model is that of `skeleton` up to
    checkpointing.
    """
    policy, size = skeleton.policy, config.train.micro_batch
    set_checkpointing(policy, config.model.gradient_checkpointing)
    embeds = {
        name: torch.empty((size, *value.shape[1:]), dtype=value.dtype, device="meta")
        for name, value in skeleton.embeds.items()
    }
    return Measured(
        encode=skeleton.encode,
        sample=sampling(policy, embeds, config),
        train=training(policy, embeds, config),
        decode=skeleton.decode,
        decode_rows=policy.decode_rows,
    )


def set_checkpointing(policy: Policy, on: bool) -> None:
    """Turn gradient checkpointing of every denoiser on or off."""
    for denoiser in policy.denoisers().values():
        denoiser.enable_gradient_checkpointing() if on else denoiser.disable_gradient_checkpointing()


@contextmanager
def counting(policy: Policy, kind: str = "meta", *extra: Tensor) -> Iterator[Counter]:
    """A Counter around work of the policy: its weights, and `extra`, stand already."""
    standing = list(extra)
    for part in policy.pipe.components.values():
        if isinstance(part, nn.Module):
            standing += [*part.parameters(), *part.buffers()]
    standing += [p.grad for p in policy.module.parameters() if p.grad is not None]
    with Counter(kind, standing) as counter, fused_attention(counter):
        yield counter


def encoding(policy: Policy) -> tuple[Pass, dict[str, Tensor]]:
    """The longest prompt through the text encoders; and its conditions, zeros [1, ...] on the CPU."""
    frames = None
    if policy.conditioned:
        frames = torch.zeros(1, 3, policy.config.height, policy.config.width, dtype=torch.uint8)
    with counting(policy) as counted, bridge(policy):
        embeds, _ = policy.encode([LONG], frames)
    return Pass(counted.peak, flops=counted.flops), embeds


def sampling(policy: Policy, embeds: dict[str, Tensor], config: Config) -> Pass:
    """One forward and one stochastic step of a micro-batch, without gradients."""
    x, time = _states(policy, embeds)
    standing = (x, time, *embeds.values())
    with counting(policy, "meta", *standing) as counted, torch.no_grad():
        _replay(policy, x, time, embeds, config)
    return Pass(counted.peak, flops=counted.flops)


def training(policy: Policy, embeds: dict[str, Tensor], config: Config, kind: str = "meta") -> Pass:
    """Forward, loss and backward of a micro-batch; gradients of trained weights stand already, as they do
    from the second transition on.
    """
    x, time = _states(policy, embeds, kind)
    for _, parameter in policy.trainable():
        parameter.grad = torch.zeros_like(parameter)
    policy.module.train()
    try:
        with counting(policy, kind, x, time, *embeds.values()) as counted:
            loss = _loss(policy, x, time, embeds, config)
            kept = counted.live
            loss.backward()  # type: ignore[no-untyped-call]
            del loss
    finally:
        policy.module.eval()
        for _, parameter in policy.trainable():
            parameter.grad = None
    return Pass(counted.peak, kept, counted.flops)


def decoding(policy: Policy) -> Pass:
    """One chunk through the autoencoder."""
    latents = torch.empty((policy.decode_rows, *policy.latent_shape), device="meta")
    with counting(policy, "meta", latents) as counted, torch.no_grad():
        (policy.decode_chunk(latents).float() * 255).round().to(torch.uint8)
    return Pass(counted.peak, flops=counted.flops)


def _states(policy: Policy, embeds: dict[str, Tensor], kind: str = "meta") -> tuple[Tensor, Tensor]:
    rows = next(iter(embeds.values())).shape[0]
    x = torch.zeros((rows, *policy.latent_shape), device=kind)
    return x, torch.full((rows,), 500.0, device=kind)


def _replay(
    policy: Policy, x: Tensor, time: Tensor, embeds: dict[str, Tensor], config: Config
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, std and log-prob per position of staying at x in a trained step, as rollout and update do."""
    sampler, rows = config.sampler, len(x)
    schedule = policy.schedule(sampler.steps, sampler.shift, sampler.grid)
    steps = table(configured.kernel(sampler, policy.prediction), schedule)
    stochastic = torch.ones(rows, dtype=torch.bool)
    out = policy.predict(policy.module, x, time, embeds)
    step = torch.full((rows,), 1 if sampler.steps > 2 else 0)
    mean, std = policy.transition(steps, step, stochastic, x, out)
    return mean, std, log_prob(x, mean, std, sampler.logprob, config.advantage.map.channel_reduction)


def _loss(policy: Policy, x: Tensor, time: Tensor, embeds: dict[str, Tensor], config: Config) -> Tensor:
    """The loss of a micro-batch with advantage 1 and without a map, which is small beside the denoiser."""
    mean, std, score = _replay(policy, x, time, embeds, config)
    free = policy.free.to(x.device)
    ones = torch.ones(1, len(x), device=x.device)
    scope = config.advantage.ratio_scope
    loss, _ = losses.policy_loss(score - score.detach(), free, ones, ones[0, :1], (1e-4, 1e-4), scope)
    if config.advantage.kl_beta > 0:
        adapters = policy.config.lora is not None  # else a copy of the denoiser runs: the same sizes
        with policy.reference() if adapters else torch.no_grad():
            base, _, _ = _replay(policy, x, time, embeds, config)
        loss = loss + losses.kl(mean, base, std.flatten(), free)
    return loss.sum()
