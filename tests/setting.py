"""Small configurations and a plain-torch engine, so that tests of the stages need neither Hydra nor
DeepSpeed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlvis import schema as S
from rlvis.models.load import load_policy
from rlvis.models.policy import Policy
from rlvis.records import PromptBatch
from rlvis.runtime import blocks

TEXTS = ("a red circle", "a blue square", "a green triangle")


def config(folder: Path, *, model: dict[str, Any] | None = None, **groups: dict[str, Any]) -> S.Config:
    """3 prompts x 4 samples of 32 x 32 pixels in micro-batches of 4, 5 sampling steps; groups change single
    fields.
    """
    base: dict[str, Any] = {
        "model": S.ModelConfig(family="sd3", path=str(folder), height=32, width=32, max_tokens=8),
        "reward": S.RewardConfig(terms={"jpeg": S.RewardTerm(scorer="jpeg_compressibility")}),
        "prior": S.PriorConfig(),
        "trust": S.TrustConfig(),
        "advantage": S.AdvantageConfig(),
        "data": S.DataConfig(source="shapes", prompts_per_step=3, samples_per_prompt=4),
        "sampler": S.SamplerConfig(steps=5),
        "engine": S.EngineConfig(device="cpu"),
        "tracker": S.TrackerConfig(samples_every=0),
        "train": S.TrainConfig(steps=2, updates_per_step=2, micro_batch=4),
        "optim": S.OptimConfig(lr=1e-3),
    }
    changes = {"model": model or {}, **groups}
    return S.Config(
        **{name: replace(node, **changes.get(name, {})) for name, node in base.items()},
        name="test",
        doctor=S.Doctor.off,  # it has tests of its own, and would double the time of every tiny run
        threads=1,
    )


class PlainEngine:
    """The engine's contract in plain torch: AdamW, clipping, one process."""

    def __init__(self, module: nn.Module, lr: float = 1e-3) -> None:
        self.module = module
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=lr, weight_decay=0.0)
        self.backwards = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self.backwards += 1
        loss.backward()

    def step(self) -> float:
        norm = float(nn.utils.clip_grad_norm_(self.parameters, 1.0))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def set_learning_rate(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def layers(self, *, pending: bool = False) -> dict[str, float]:
        grads = [(name, p.grad) for name, p in self.module.named_parameters() if p.grad is not None]
        return blocks.norms((name, float(grad.norm())) for name, grad in grads)


def policy(settings: S.Config, **kwargs: Any) -> Policy:
    """The policy of a configuration, on the CPU."""
    return load_policy(settings.model, "cpu", **kwargs)


def prompts(policy: Policy, texts: tuple[str, ...] = TEXTS) -> PromptBatch:
    """A batch of prompts with embeddings; positions in the data set that are not those in the batch.
    Condition frames, where the policy starts from one, are noise.
    """
    frames = None
    if policy.conditioned:
        size = len(texts), 3, policy.config.height, policy.config.width
        frames = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(4)).to(torch.uint8)
    return PromptBatch(
        index=torch.arange(len(texts)) * 5 + 2,
        texts=texts,
        metadata=tuple({} for _ in texts),
        embeds=policy.encode(texts, frames)[0],
        frames=frames,
    )
