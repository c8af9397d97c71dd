"""Bytes of one GPU and of one process's host memory, by part, under DeepSpeed as this engine sets it up.

What stands all the time is weights, masters, optimizer state, gradients and DeepSpeed's buffers; on top comes
the largest phase, since sampling, training, decoding and the optimizer step follow one another. The formulas
of sharding are read from DeepSpeed 0.19.8; docs/plan.md lists them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from rlvis.checks.sentinels import needs_reference
from rlvis.flow.windows import trained_transitions
from rlvis.models.policy import Policy
from rlvis.plan.count import size
from rlvis.plan.judges import Judges
from rlvis.plan.measure import Measured
from rlvis.plan.sharding import Sharding
from rlvis.runtime.deepspeed_setup import BUCKET
from rlvis.schema import Config, Dtype

GIB = 2**30
CONTEXT = GIB  # assumed: what CUDA and NCCL take before the first tensor
SLACK = 0.05  # assumed: share of the sum that the allocator cannot use
MASTER, MOMENTS = 4, 8  # bytes a trained weight: float32 master, Adam's two moments in float32


@dataclass(frozen=True)
class Part:
    """Bytes under one name, with what the number rests on."""

    name: str
    bytes: int
    note: str = ""


@dataclass(frozen=True)
class Memory:
    """standing: all the time on the GPU. phases: one after the other on top. host: of one process, on the
    CPU. uncounted: what is not in these numbers.
    """

    standing: tuple[Part, ...]
    phases: tuple[Part, ...]
    host: tuple[Part, ...]
    uncounted: tuple[str, ...] = ()

    @property
    def largest(self) -> Part:
        """The phase that decides."""
        return max(self.phases, key=lambda part: part.bytes)

    @property
    def total(self) -> int:
        """Bytes of GPU memory that a run needs, with the assumed context and slack."""
        tensors = sum(part.bytes for part in self.standing) + self.largest.bytes
        return CONTEXT + math.ceil(tensors * (1 + SLACK))


def memory(
    policy: Policy,
    config: Config,
    cut: Sharding,
    measured: Measured,
    judges: Judges | None = None,
    other: int | None = None,
) -> Memory:
    """The parts of one GPU.

    Args:
        policy: of `measure.shapes`.
        cut: how DeepSpeed shares it out.
        measured: its phases.
        judges: weights of reward models and of the map's backbone; None for none.
        other: peak of the same micro-batch with gradient checkpointing the other way round, for a note.
    """
    weights, held = _weights(policy, config, cut)
    waiting = _waiting(policy, config)
    engine, buffers, spilled = _engine(policy, config, cut)
    phases = [
        Part("set up", _set_up(policy, cut), "before weights are shared out or made one buffer"),
        Part(
            "encode a prompt",
            measured.encode.peak + waiting,
            "text encoders come for prompts that model.embed_cache lacks" if waiting else "",
        ),
        Part("sample a micro-batch", measured.sample.peak + held),
        Part("train a micro-batch", measured.train.peak + held + buffers, _how(config, buffers, other)),
        Part(f"decode {measured.decode_rows} at once", measured.decode.peak),
        Part("optimizer step", _optimizer_step(policy, config, cut), "gradients in float32, AdamW's scratch"),
    ]
    judges = judges or Judges((), ())
    standing = (*weights, *(Part(name, count) for name, count in judges.weights), *engine)
    host = (*_host(policy, config, cut.gpus), *spilled)
    return Memory(standing, tuple(phases), host, judges.uncounted)


def trained_count(policy: Policy) -> int:
    """Trained weights, in numbers."""
    return sum(p.numel() for _, p in policy.trainable())


def width(config: Config) -> int:
    """Bytes of a weight in the forward pass."""
    return 4 if config.model.dtype is Dtype.float32 else 2


def _weights(policy: Policy, config: Config, cut: Sharding) -> tuple[list[Part], int]:
    """Weights that stand, and bytes that a forward gathers beyond them."""
    module = policy.module
    trained = sum(size([p]) for _, p in policy.trainable())
    frozen = size([*module.parameters(), *module.buffers()]) - trained
    whole = frozen + trained
    pieces = cut.gpus if cut.stage == 3 else 1
    note = f"1/{pieces} of {_gib(whole)}" if pieces > 1 else ""
    if cut.stage == 3 and cut.offload_weights:
        pieces, note = 0, "offloaded to the CPU"
    held = min(whole, cut.gathered * width(config)) if cut.stage == 3 and cut.gpus > 1 else 0
    if cut.stage == 3 and cut.offload_weights:
        held = min(whole, cut.gathered * width(config))
    parts = [
        Part("frozen weights", frozen // pieces if pieces else 0, note),
        Part("trained weights", trained // pieces if pieces else 0, note),
    ]
    if config.model.lora is None and needs_reference(config):
        parts.append(Part("KL reference copy", whole, "of the whole denoiser, not sharded"))
    for name, part in policy.pipe.components.items():
        waits = config.model.embed_cache is not None and name in policy.text_encoders
        if isinstance(part, nn.Module) and not _inside(part, module) and not waits:
            parts.append(Part(name.replace("_", " "), size([*part.parameters(), *part.buffers()])))
    return parts, held


def _waiting(policy: Policy, config: Config) -> int:
    """Bytes of the text encoders, where they are on the GPU only while prompts are encoded."""
    if config.model.embed_cache is None:
        return 0
    texts = [part for name, part in policy.pipe.components.items() if name in policy.text_encoders and part]
    return sum(size([*part.parameters(), *part.buffers()]) for part in texts)


def _set_up(policy: Policy, cut: Sharding) -> int:
    """Beyond what stands later: the whole denoiser at stage 3, trained weights twice at stages 1 and 2."""
    module = policy.module
    if cut.stage == 3:
        whole = size([*module.parameters(), *module.buffers()])
        return whole if cut.offload_weights else whole - whole // cut.gpus
    return size([p for _, p in policy.trainable()]) if cut.stage else 0


def _inside(part: nn.Module, module: nn.Module) -> bool:
    """Whether a component is the trained module or a part of it (experts that are trained together)."""
    return any(part is other for other in module.modules())


def _engine(policy: Policy, config: Config, cut: Sharding) -> tuple[list[Part], int, list[Part]]:
    """Masters, optimizer state and gradients; buffers of the backward pass; what is offloaded."""
    trained, wide = trained_count(policy), width(config)
    share = math.ceil(trained / cut.parts)
    note = f"1/{cut.parts}" if cut.parts > 1 else ""
    plain = cut.stage == 0 and config.model.dtype is Dtype.float32  # AdamW steps on the weights themselves
    state = [
        Part("masters", 0 if plain else MASTER * share, note or ("the weights themselves" if plain else "")),
        Part("optimizer state", MOMENTS * share, note),
    ]
    gradients = Part(
        "gradients", wide * (share if cut.stage >= 2 else trained), note if cut.stage >= 2 else ""
    )
    weights = min(BUCKET, trained) if cut.bucket is None else cut.bucket
    bucket = wide * weights * (2 if cut.double_bucket else 1)
    spilled: list[Part] = []
    if cut.offload_optimizer:
        spilled = [Part(f"offloaded {part.name}", part.bytes) for part in state]
        state = []
    if cut.stage == 3:
        state.append(Part("DeepSpeed's reduce bucket", bucket, f"{weights:g} weights, stands at stage 3"))
        return [*state, gradients], 0, spilled
    return [*state, gradients], bucket if cut.stage in (1, 2) else 0, spilled


def _optimizer_step(policy: Policy, config: Config, cut: Sharding) -> int:
    """Gradients in float32 where they were not, and one temporary as large (AdamW over all at once)."""
    if cut.offload_optimizer:
        return 0
    share = math.ceil(trained_count(policy) / cut.parts)
    copies = 1 if cut.stage == 0 and config.model.dtype is Dtype.float32 else 2
    return 4 * share * copies


def _host(policy: Policy, config: Config, gpus: int) -> list[Part]:
    """Memory of one process on the CPU: average, states of the rollout, frames of a shard."""
    data, sampler = config.data, config.sampler
    rows = math.ceil(data.prompts_per_step * data.samples_per_prompt / gpus)
    transitions = max(trained_transitions(sampler), 0)
    kept = min(2 * transitions if sampler.window.per_sample else transitions + 1, sampler.steps + 1)
    c, f, h, w = policy.latent_shape
    stored = 4 if sampler.storage is Dtype.float32 else 2
    states = rows * (kept * c * stored + transitions * 4) * f * h * w
    shard = min(config.train.shard or rows, rows)
    model = config.model
    parts = [
        Part(
            "rollout states and log-probs", states, f"{rows} samples, {kept} states, {transitions} log-probs"
        ),
        Part("decoded frames", shard * model.frames * 3 * model.height * model.width, f"{shard} samples"),
    ]
    if model.ema is not None:
        parts.append(Part("EMA", 4 * trained_count(policy), "float32, on every process"))
    return parts


def _how(config: Config, buffers: int, other: int | None) -> str:
    rows = config.train.micro_batch * (2 if config.model.cfg > 1 else 1)
    kind, against = ("with", "without") if config.model.gradient_checkpointing else ("without", "with")
    note = f"{rows} row{'' if rows == 1 else 's'}, {kind} gradient checkpointing"
    if other is not None:
        note += f" ({against}: {_gib(other + buffers)})"
    return note + (f", {_gib(buffers)} of it DeepSpeed's reduce bucket" if buffers else "")


def _gib(count: float) -> str:
    return f"{count / GIB:.2f} GiB"
