"""One policy at one size of training step, and the loops that are compared on it.

`rollout` and `update` are the stages as a run calls them, on a DeepSpeed engine. The bare loops make the same
number of model calls of the same shape on a plain copy of the module, from inputs that already lie on the
device, and nothing else: no noise, no records, no log-probability, no clipping, no metrics.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import policies
from rlvis import schema as S
from rlvis.data.prompts import load_prompts
from rlvis.models.policy import Policy
from rlvis.records import Advantages, PriorState, RewardHistory, Trajectories
from rlvis.reward import scorer
from rlvis.runtime.dist import World
from rlvis.runtime.engine import Engine
from rlvis.training import pipeline, sampling
from rlvis.training.parts import Parts


@dataclass(frozen=True)
class Case:
    """prompts x samples rows a step, forwards of micro_batch rows, sampling and optimizer steps, rounds."""

    size: policies.Size
    prompts: int
    samples: int
    micro_batch: int
    steps: int
    updates: int
    repeats: int

    @property
    def rows(self) -> int:
        """Samples of a training step; a whole number of micro-batches in every optimizer step."""
        n = self.prompts * self.samples
        assert n % (self.micro_batch * self.updates) == 0, "padding would make the bare loops too short"
        return n

    def config(self, device: str) -> S.Config:
        """The run that is measured: Flow-GRPO's sampler and advantage, ZeRO stage 0 in float32."""
        return S.Config(
            model=S.ModelConfig(),  # the policy is loaded by `policies.load`
            reward=S.RewardConfig(terms={"coverage": S.RewardTerm(scorer="coverage")}),
            prior=S.PriorConfig(),
            trust=S.TrustConfig(),
            advantage=S.AdvantageConfig(),
            data=S.DataConfig(
                source="shapes", prompts_per_step=self.prompts, samples_per_prompt=self.samples
            ),
            sampler=S.SamplerConfig(steps=self.steps),
            engine=S.EngineConfig(device=S.Device(device)),
            tracker=S.TrackerConfig(),
            optim=S.OptimConfig(
                lr=1e-6
            ),  # the weights stay near where they are, whatever the number of rounds
            train=S.TrainConfig(updates_per_step=self.updates, micro_batch=self.micro_batch),
        )


class Workload:
    """The parts of a run, one rollout of it, and the jobs. `close` when done: DeepSpeed keeps hooks."""

    def __init__(self, case: Case, folder: Path, world: World) -> None:
        self.case, self.device = case, world.device
        self.policy, self.origin = policies.load(case.size, folder, world.device)
        self.bare: nn.Module = copy.deepcopy(self.policy.module)
        self.trained = [p for p in self.bare.parameters() if p.requires_grad]
        config = case.config(world.device.type)
        optim = config.optim
        self.bare_optimizer = torch.optim.AdamW(
            self.trained, lr=optim.lr, betas=(0.9, 0.999), eps=optim.eps, weight_decay=optim.weight_decay
        )
        self.engine = Engine(self.policy.module, config.engine, optim, S.Dtype.float32, world)
        self.parts = Parts(
            config=config,
            world=world,
            prompts=load_prompts(config.data),
            terms=scorer.build(config.reward),
            policy=self.policy,
            engine=self.engine,
            ema=None,
        )
        self.prompts = policies.prompts(self.policy, case.size, case.prompts)
        self.trajectories: Trajectories = self.rollout()
        assert self.trajectories.media is not None
        self.media: Tensor = self.trajectories.media
        self.advantages = Advantages(
            term=torch.linspace(-1, 1, case.rows, dtype=torch.float64).view(1, case.prompts, case.samples),
            coef=torch.ones(1, dtype=torch.float64),
            names=("grpo",),
            keep=torch.ones(case.prompts, case.samples, dtype=torch.bool),
        )
        self.undecoded = copy.copy(self.policy)
        self.undecoded.decode = lambda latents: self.media[: len(latents)]  # type: ignore[method-assign]
        self.inputs = self._inputs()
        self.decode_rows = _decode_rows(self.policy)
        self.latents = torch.randn(case.rows, *self.policy.latent_shape, device=self.device)

    def close(self) -> None:
        """Let go of DeepSpeed's hooks."""
        self.engine.close()

    def _inputs(self) -> dict[str, Any]:
        b = self.case.micro_batch
        chosen = torch.arange(b) % self.case.prompts
        embeds = {k: v[chosen].to(self.device) for k, v in self.prompts.embeds.items()}
        c, _, h, w = self.policy.latent_shape
        return {
            "hidden_states": torch.randn(b, c, h, w, device=self.device),
            "timestep": torch.full((b,), 500.0, device=self.device),
            "encoder_hidden_states": embeds["prompt_embeds"],
            "pooled_projections": embeds["pooled_prompt_embeds"],
            "return_dict": False,
        }

    # The stages of a run.

    def rollout(self) -> Trajectories:
        """Stage 1, with decoding."""
        [shard] = sampling.local_shards(self.parts)
        return sampling.rollout_shard(self.parts, self.prompts, shard, 0)

    def rollout_undecoded(self) -> Trajectories:
        """Stage 1 with an autoencoder that costs nothing."""
        [shard] = sampling.local_shards(self.parts)
        return sampling.rollout_shard(replace(self.parts, policy=self.undecoded), self.prompts, shard, 0)

    def update(self) -> None:
        """Stage 5."""
        pipeline.update(self.parts, self.prompts, self.trajectories, self.advantages)

    def whole_step(self, samples: int) -> None:
        """All five stages on groups of `samples`."""
        config = self.parts.config
        data = replace(config.data, samples_per_prompt=samples)
        parts = replace(self.parts, config=replace(config, data=data))
        [shard] = sampling.local_shards(parts)
        piece = sampling.rollout_shard(parts, self.prompts, shard, 0)
        scores = [sampling.score_shard(parts.config, parts.terms, self.prompts, piece)]
        piece = piece.replace(media=None)
        rewards = pipeline.score(parts.config, parts.terms, self.prompts, piece, scores)
        trust, _ = pipeline.weigh(parts.config, self.prompts, rewards, PriorState(kind="none"))
        advantages, _ = pipeline.build(parts.config, self.prompts, rewards, trust, RewardHistory())
        pipeline.update(parts, self.prompts, piece, advantages)

    # The bare loops.

    @torch.no_grad()
    def forwards(self) -> None:
        """The model calls of a rollout."""
        for _ in range(self.case.rows // self.case.micro_batch * self.case.steps):
            self.bare(**self.inputs)

    @torch.no_grad()
    def decodes(self) -> None:
        """The autoencoder calls of a rollout, in the policy's chunks."""
        for part in torch.split(self.latents, self.case.micro_batch):
            for chunk in torch.split(part, self.decode_rows):
                self.policy.pipe.vae.decode(chunk.squeeze(2), return_dict=False)

    def bare_update(self) -> None:
        """The forwards, backwards and optimizer steps of an update, in plain torch."""
        for _ in range(self.case.updates):
            for _ in range(self._passes()):
                self.bare(**self.inputs)[0].square().mean().backward()
            self.bare_optimizer.step()
            self.bare_optimizer.zero_grad()

    def engine_update(self) -> None:
        """The same through the engine of a run: what DeepSpeed alone adds."""
        for _ in range(self.case.updates):
            passes = self._passes()
            for i in range(passes):
                loss = self.engine(**self.inputs)[0].square().mean()
                self.engine.backward(loss, last=i == passes - 1)
            self.engine.step()

    def _passes(self) -> int:
        """Forward and backward passes of one optimizer step: micro-batches x trained transitions (T - 1)."""
        return self.case.rows // self.case.updates // self.case.micro_batch * (self.case.steps - 1)


def _decode_rows(policy: Policy) -> int:
    """Rows that the policy decodes at once (it pads the last chunk, so one row shows it)."""
    chunks: list[int] = []
    stock = policy.decode_chunk

    def watched(latents: Tensor) -> Tensor:
        chunks.append(len(latents))
        return stock(latents)

    policy.decode_chunk = watched  # type: ignore[method-assign]
    policy.decode(torch.zeros(1, *policy.latent_shape))
    del policy.decode_chunk
    return chunks[0]
