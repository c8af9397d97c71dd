"""Bytes of one training step by part, counted on the real tensors of a run after one update.

Activations are what autograd keeps for the backward of one trained transition: every storage that passes
`saved_tensors_hooks`, once, parameters left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from benchmarks.workload import Workload
from rlvis.flow import configured
from rlvis.flow.transition import table
from rlvis.update.replay import Batch, replay


def of_step(work: Workload) -> dict[str, int]:
    """Part -> bytes. Gradients and activations are those of one micro-batch of the update, which runs here.

    On a GPU also the most that torch had allocated at a time during a whole update.
    """
    t, media = work.trajectories, work.media
    sampler = work.parts.config.sampler
    batch = Batch(work.policy, work.prompts, t, torch.arange(work.case.micro_batch))
    steps = table(configured.kernel(sampler, work.policy.prediction), t.schedule)
    weights = list(work.policy.module.parameters())
    known = {w.untyped_storage().data_ptr() for w in weights}
    kept: dict[int, int] = {}

    def count(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        loss = replay(work.engine, batch, 0, steps, sampler.logprob).logprob.mean()
    activations = sum(kept.values())  # before the backward frees them
    work.engine.backward(loss, last=True)
    gradients = _bytes(w.grad for w in weights if w.grad is not None)
    work.engine.step()
    state = work.engine.optimizer.state
    parts = {
        "weights": _bytes(weights),
        "of them trained": _bytes(w for w in weights if w.requires_grad),
        "gradients": gradients,
        "optimizer state": _bytes(v for entry in state.values() for v in entry.values()),
        "activations of one micro-batch": activations,
        "states kept": _bytes([t.states]),
        "log-probs kept": _bytes([t.logprob]),
        "decoded media": _bytes([media]),
        "text conditions": _bytes(work.prompts.embeds.values()),
    }
    if work.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(work.device)
        work.update()
        parts["most allocated in an update"] = torch.cuda.max_memory_allocated(work.device)
    return parts


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors if isinstance(x, Tensor))
