"""What must hold between the values of a configuration, checked before anything heavy loads.

Types and names are the schema's business; here stand the rules that tie several keys together, each with its
numbers, its reason and what to type. Every rule is a pure function of the configuration; `files.py` looks at
the disk. An option that would do nothing is refused: that is how silent mistakes reach a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from rlvis.checks import data as data_checks
from rlvis.checks import evaluation as eval_checks
from rlvis.checks import maps as map_checks
from rlvis.checks import media as media_checks
from rlvis.checks import reward as reward_checks
from rlvis.checks import sampler as sampler_checks
from rlvis.checks import sentinels as sentinel_checks
from rlvis.checks import sequence as sequence_checks
from rlvis.checks import trust as trust_checks
from rlvis.checks.plan import plan_mistakes
from rlvis.schema import (
    AdvantageConfig,
    AdvantagePreset,
    CfgGrad,
    Config,
    Dtype,
    LogProbForm,
    ModelConfig,
    RatioScope,
    Reduction,
    SamplerConfig,
    Stage,
)


def check(config: Config, world_size: int = 1) -> list[str]:
    """All contradictions between the values of `config` on `world_size` processes, one message each; empty
    when it can run.
    """
    rules: list[Callable[[], Iterator[str]]] = [
        lambda: sequence_checks.sequence_mistakes(config, world_size),
        lambda: _step(config, sequence_checks.groups(config, world_size)),
        lambda: data_checks.data_mistakes(config.data),
        lambda: data_checks.clip_mistakes(config.model, config.data.source),
        lambda: _advantage(config.advantage, config.sampler),
        lambda: _clip_range(config.advantage.clip_range),
        lambda: sampler_checks.kernel_mistakes(config.sampler, config.model),
        lambda: sampler_checks.window_mistakes(config.sampler, config.train.steps),
        lambda: trust_checks.trust_mistakes(config),
        lambda: map_checks.map_mistakes(config),
        lambda: eval_checks.eval_mistakes(config),
        lambda: sentinel_checks.sentinel_mistakes(config),
        lambda: reward_checks.reward_mistakes(config, sequence_checks.groups(config, world_size)),
        lambda: _model(config.model),
        lambda: _engine(config),
        lambda: _optim(config),
        lambda: _run(config),
        lambda: media_checks.media_mistakes(config),
        lambda: plan_mistakes(config),
    ]
    return [message for rule in rules for message in rule()]


def check_evaluation(config: Config) -> list[str]:
    """The same for `rlvis eval`, which trains nothing: prompts, model, engine.device and `eval` alone."""
    found = [
        *data_checks.data_mistakes(config.data),
        *data_checks.clip_mistakes(config.model, config.data.source),
        *_model(config.model),
        *eval_checks.eval_mistakes(config, alone=True),
    ]
    if config.train.micro_batch < 1:
        found.append(f"train.micro_batch={config.train.micro_batch}: wanted at least 1")
    return found


def _step(config: Config, shares: int) -> Iterator[str]:
    """shares: processes, or groups of them that share the tokens of a sample."""
    data, train = config.data, config.train
    p, k = data.prompts_per_step, data.samples_per_prompt
    for key, value, least in (
        ("data.prompts_per_step", p, 1),
        ("train.steps", train.steps, 1),
        ("train.updates_per_step", train.updates_per_step, 1),
        ("train.micro_batch", train.micro_batch, 1),
        ("train.save_every", train.save_every, 0),
        ("train.keep", train.keep, 1),
        ("train.shard", train.shard, 0),
        ("train.score_retries", train.score_retries, 0),
    ):
        if value < least:
            yield f"{key}={value}: wanted at least {least}; type {key}={least}"
    if k < 2:
        yield (
            f"data.samples_per_prompt={k}: an advantage compares samples of the same prompt, so a group "
            "needs at least 2; "
            "type data.samples_per_prompt=8"
        )
    best = config.advantage.best_of_n
    if best is not None and (best < 2 or best % 2 or best > k):
        yield (
            f"advantage.best_of_n={best} with data.samples_per_prompt={k}: it trains the best and the worst "
            "n//2 of each group, so "
            f"it must be even and between 2 and {k}; type advantage.best_of_n={max(2, k // 2 // 2 * 2)} or "
            "advantage.best_of_n=null"
        )
    rows = p * (k if best is None else min(best, k))
    if train.updates_per_step > rows >= 1:
        yield (
            f"train.updates_per_step={train.updates_per_step}, but a step trains {rows} samples and every "
            "update needs one; "
            f"type train.updates_per_step={rows} or fewer"
        )
    together = sequence_checks.degree(config)
    unit = "processes" if together == 1 else f"groups of {together} processes"
    if 1 <= p * k < shares:
        yield (
            f"data.prompts_per_step * data.samples_per_prompt = {p} * {k} = {p * k} samples cannot be spread "
            f"over {shares} {unit}: each needs one; start at most {p * k * max(together, 1)} processes; "
            f"type data.prompts_per_step={math.ceil(shares / k)}"
        )


def _advantage(advantage: AdvantageConfig, sampler: SamplerConfig) -> Iterator[str]:
    if advantage.guard is not None and advantage.ratio_scope is not RatioScope.sample:
        yield (
            "advantage.guard normalises the ratio of a whole sample, but "
            f"advantage.ratio_scope={advantage.ratio_scope.value}; "
            "type advantage.ratio_scope=sample or advantage.guard=null"
        )
    if advantage.guard is not None and sampler.logprob is LogProbForm.squared:
        yield (
            "advantage.guard is derived for Gaussian log-probs, but sampler.logprob=squared has no variance "
            "to normalise by; "
            "type sampler.logprob=gaussian or advantage.guard=null"
        )
    if advantage.guard is not None and advantage.map.channel_reduction is Reduction.sum:
        yield (
            "advantage.guard is derived for log-probs averaged over channels, but "
            "advantage.map.channel_reduction=sum; type advantage.map.channel_reduction=mean or "
            "advantage.guard=null"
        )
    if advantage.preset is AdvantagePreset.ddpo and advantage.std_scope is not None:
        yield (
            f"advantage.std_scope={advantage.std_scope.value} does nothing with advantage.preset=ddpo, whose "
            "statistics come from "
            "the prompt's history; type advantage.std_scope=null or advantage.preset=flow_grpo"
        )
    if not advantage.adv_clip > 0:
        yield (
            f"advantage.adv_clip={advantage.adv_clip}: wanted a number above 0; the papers use 5; type "
            "advantage.adv_clip=5"
        )
    if not 0 <= advantage.kl_beta < math.inf:
        yield (
            f"advantage.kl_beta={advantage.kl_beta}: wanted 0 (no KL) or a positive number; type "
            "advantage.kl_beta=0.01"
        )
    if advantage.sign not in (1.0, -1.0):
        yield (
            f"advantage.sign={advantage.sign}: wanted 1, or -1 to train against the reward; type "
            "advantage.sign=1"
        )


def _clip_range(value: Any) -> Iterator[str]:
    def positive(x: Any) -> bool:
        return isinstance(x, (int, float)) and not isinstance(x, bool) and 0 < x < math.inf

    pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(positive(x) for x in value)
    if not (value is None or positive(value) or pair):
        yield (
            f"advantage.clip_range={value}: wanted null (1e-4 or its equivalent), a positive number, or two "
            "for below and above 1; "
            "type advantage.clip_range=1e-4 or advantage.clip_range=[1e-4,2e-4]"
        )
    below = value[0] if pair else value
    if positive(below) and below >= 1:
        yield (
            f"advantage.clip_range={value} lets the ratio fall to {1 - below:g}, and a ratio is above 0; "
            "log-probs are means over all values of a latent, so the papers use 1e-5 to 1e-3; type "
            "advantage.clip_range=1e-4"
        )


def _model(model: ModelConfig) -> Iterator[str]:
    for key, value in (("height", model.height), ("width", model.width), ("frames", model.frames)):
        if value < 1:
            yield f"model.{key}={value}: wanted at least 1; type model.{key}={1 if key == 'frames' else 512}"
    if not 1 <= model.cfg < math.inf:
        yield f"model.cfg={model.cfg}: wanted 1 (no guidance) or more; type model.cfg=4.5"
    if model.cfg == 1.0 and model.negative_prompt:
        yield (
            f"model.negative_prompt={model.negative_prompt!r} does nothing with model.cfg=1, which runs no "
            "second branch; "
            "type model.cfg=4.5 or model.negative_prompt=''"
        )
    if model.cfg == 1.0 and model.cfg_grad is not CfgGrad.both:
        yield (
            f"model.cfg_grad={model.cfg_grad.value} does nothing with model.cfg=1, which runs no second "
            "branch; "
            "type model.cfg=4.5 or model.cfg_grad=both"
        )
    if model.lora is not None and (model.lora.rank < 1 or model.lora.alpha < 1):
        yield (
            f"model.lora.rank={model.lora.rank}, model.lora.alpha={model.lora.alpha}: both must be at least "
            "1; "
            "type 'model.lora={rank: 32, alpha: 64}', or model.lora=null to train all weights"
        )
    if model.ema is not None and (not 0 < model.ema.decay < 1 or model.ema.every < 1):
        yield (
            f"model.ema.decay={model.ema.decay}, model.ema.every={model.ema.every}: wanted a decay between 0 "
            "and 1 and every >= 1; "
            "type 'model.ema={decay: 0.9, every: 8}', or model.ema=null for no average"
        )


def _engine(config: Config) -> Iterator[str]:
    engine, dtype = config.engine, config.model.dtype
    if engine.stage not in (0, 1, 2, 3):
        yield f"engine.stage={engine.stage}: ZeRO has the stages 0, 1, 2 and 3; type engine.stage=2"
    if engine.device not in ("auto", "cpu", "cuda"):
        yield f"engine.device={engine.device}: wanted auto, cpu or cuda; type engine.device=auto"
    if engine.config is None and engine.stage == 0 and dtype is Dtype.bfloat16:
        yield (
            "model.dtype=bfloat16 with engine.stage=0: DeepSpeed then lets AdamW take a hidden first step "
            "with zero gradients; "
            "type engine=zero1 (or zero2, zero3), or model.dtype=float32"
        )


def _optim(config: Config) -> Iterator[str]:
    optim = config.optim
    if not 0 < optim.lr < math.inf:
        yield f"optim.lr={optim.lr}: wanted a positive number; type optim.lr=3e-4"
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        yield f"optim.betas={list(optim.betas)}: wanted two numbers in [0, 1); type optim.betas=[0.9,0.999]"
    if not 0 < optim.grad_norm < math.inf:
        yield (
            f"optim.grad_norm={optim.grad_norm}: wanted a positive number, the norm that gradients are "
            "clipped to; type optim.grad_norm=1"
        )


def _run(config: Config) -> Iterator[str]:
    stage = config.stage.value
    if config.stage not in (Stage.all, Stage.reference) and config.records is None:
        which = "to write to" if config.stage is Stage.rollout else "that another stage or run wrote"
        yield f"stage={stage} runs alone on saved records and needs a folder {which}; type records=DIR"
    if config.stage is Stage.reference and config.records is not None:
        yield (
            f"records={config.records} does nothing with stage=reference, which keeps its scores in "
            "prior.cache; type records=null"
        )
    if config.stage is Stage.all and config.records is not None:
        yield (
            f"records={config.records} does nothing with stage=all; type stage=score (or rollout, weigh, "
            "build, update), or "
            "train.save_records=true to keep the records of a run"
        )
    if config.stage is not Stage.all and config.resume is not None:
        yield (
            f"resume={config.resume} goes on with a whole run, but stage={stage} runs one "
            "stage; type resume=null"
        )
    if config.resume_allow and config.resume is None:
        yield (
            f"resume_allow=[{','.join(config.resume_allow)}] does nothing in a new run; type resume=RUN_DIR "
            "with it, or leave it out"
        )
    if config.run_dir is not None and config.resume is not None:
        yield (
            f"run_dir={config.run_dir} and resume={config.resume}: a resumed run stays in its folder; type "
            f"resume={config.run_dir} "
            "alone, or run_dir alone for a new run"
        )
    if not config.name or config.name in (".", "..") or "/" in config.name or "\\" in config.name:
        yield (
            f"name={config.name!r} names a folder below outputs/: wanted text without a slash; type "
            "name=my_run"
        )
    if config.threads is not None and config.threads < 1:
        yield f"threads={config.threads}: wanted null or at least 1; type threads=1"
    if not config.reward.terms:
        yield "the reward has no terms, so there is nothing to train on; type reward=coverage or reward=jpeg"
