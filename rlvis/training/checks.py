"""What must hold between the values of a configuration, checked before anything heavy loads.

Types and names are the schema's business; here stand the rules that tie several keys together, each with its
numbers, its reason and what to type. Every rule is a pure function of the configuration; `files.py` looks at
the disk. An option that would do nothing is refused: that is how silent mistakes reach a run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from rlvis.schema import (
    AdvantageConfig,
    AdvantagePreset,
    CfgGrad,
    Config,
    DataConfig,
    Dtype,
    KernelName,
    LogProbForm,
    ModelConfig,
    NoiseName,
    RatioScope,
    SamplerConfig,
    Stage,
    WindowConfig,
    WindowKind,
)

# Which keys of sampler.window each kind reads; another one that is set would do nothing.
WINDOW_KEYS: dict[WindowKind, set[str]] = {
    WindowKind.all: set(),
    WindowKind.random_subset: {"per_sample"},
    WindowKind.fixed: {"start", "size"},
    WindowKind.random_window: {"size", "low", "high", "per_sample"},
    WindowKind.progressive: {"size", "high", "iters_per_group", "stride", "roll_back"},
}
SOURCES = ("shapes", "txt", "jsonl", "csv", "parquet", "hub")
FLOW_FAMILIES = {
    "sd3"
}  # families whose denoiser predicts a velocity of the straight path; DDIM has no formula for it


class ConfigError(ValueError):
    """A configuration that cannot run: one message for the user, exit code 2, no traceback."""


def check(config: Config, world_size: int = 1) -> list[str]:
    """All contradictions between the values of `config` on `world_size` processes, one message each; empty
    when it can run.
    """
    rules: list[Callable[[], Iterator[str]]] = [
        lambda: _step(config, world_size),
        lambda: _data(config.data),
        lambda: _advantage(config.advantage, config.sampler),
        lambda: _clip_range(config.advantage.clip_range),
        lambda: _sampler(config.sampler, config.model),
        lambda: _window(config.sampler, config.train.steps),
        lambda: _model(config.model),
        lambda: _engine(config),
        lambda: _optim(config),
        lambda: _run(config),
    ]
    return [message for rule in rules for message in rule()]


def trained_transitions(sampler: SamplerConfig) -> int:
    """How many of the T transitions a full window trains; the last one never is. 0 or less when the window is
    empty.
    """
    trainable = sampler.steps - 1
    window = sampler.window
    if window.kind is WindowKind.all:
        return trainable
    if window.kind is WindowKind.random_subset:
        return int(trainable * sampler.timestep_fraction + 1e-9)  # .29 * 100 is 28.999...
    if window.kind is WindowKind.progressive:
        return min(window.size, _high(sampler))
    return window.size


def _high(sampler: SamplerConfig) -> int:
    """One past the last transition that a moving window may hold."""
    return sampler.steps - 1 if sampler.window.high is None else sampler.window.high


def _step(config: Config, world_size: int) -> Iterator[str]:
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
    if 1 <= p * k < world_size:
        yield (
            f"data.prompts_per_step * data.samples_per_prompt = {p} * {k} = {p * k} samples cannot be spread "
            f"over {world_size} "
            f"processes: each needs one; start at most {p * k} processes or raise data.prompts_per_step"
        )


def _data(data: DataConfig) -> Iterator[str]:
    if data.source not in SOURCES:
        yield f"data.source={data.source}: wanted one of {', '.join(SOURCES)}; type data=NAME, which sets it"
    elif data.source == "shapes" and data.path is not None:
        yield (
            f"data.path={data.path} does nothing with data.source=shapes, which needs no file; type data=txt "
            "(or jsonl, csv, ...)"
        )
    elif data.source != "shapes" and not data.path:
        what = "OWNER/NAME" if data.source == "hub" else "FILE"
        yield (
            f"data.path is not set, and data.source={data.source} reads its prompts from it; type "
            f"data.path={what}"
        )
    if data.source in ("shapes", "txt") and data.column != "prompt":
        yield (
            f"data.column={data.column} does nothing with data.source={data.source}, which has no columns; "
            "type data.column=prompt"
        )


def _advantage(advantage: AdvantageConfig, sampler: SamplerConfig) -> Iterator[str]:
    if advantage.ratio_scope is RatioScope.pooled:
        yield (
            "advantage.ratio_scope=pooled weights positions by a map, and this version has no source of "
            "maps; "
            "type advantage.ratio_scope=sample or advantage.ratio_scope=position"
        )
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
    if advantage.preset is AdvantagePreset.ddpo and advantage.std_scope is not None:
        yield (
            f"advantage.std_scope={advantage.std_scope.value} does nothing with advantage.preset=ddpo, whose "
            "statistics come from "
            "the prompt's history; type advantage.std_scope=null or advantage.preset=flow_grpo"
        )
    if not advantage.adv_clip > 0:
        yield (
            f"advantage.adv_clip={advantage.adv_clip}: wanted a number above 0; the papers use 5: type "
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
            "log-probs are means over all values of a latent, so the papers use 1e-5 to 1e-3: type "
            "advantage.clip_range=1e-4"
        )


def _sampler(sampler: SamplerConfig, model: ModelConfig) -> Iterator[str]:
    kernel = sampler.kernel
    if kernel is KernelName.ode:
        yield (
            "sampler.kernel=ode is deterministic: its steps have no log-prob, so nothing can be trained; "
            "type sampler=flow_sde, sampler=dance_sde or sampler=cps"
        )
    if sampler.steps < 2:
        yield (
            f"sampler.steps={sampler.steps}: the last step is deterministic and never trained, so at least 2 "
            "are needed; "
            "type sampler.steps=8"
        )
    if kernel is not KernelName.ode and not 0 < sampler.eta < math.inf:
        yield (
            f"sampler.eta={sampler.eta} adds no noise, so there is no log-prob to train; type sampler.eta=0.7"
        )
    elif kernel is KernelName.cps and sampler.eta >= 1:
        yield (
            f"sampler.eta={sampler.eta} with sampler.kernel=cps: the noise is sigma_next * sin(eta * pi / "
            "2), so eta must be below 1; "
            "type sampler.eta=0.8"
        )
    if kernel is not KernelName.sde and sampler.noise is not NoiseName.flow:
        yield (
            f"sampler.noise={sampler.noise.value} does nothing with sampler.kernel={kernel.value}, whose "
            "noise has one form; "
            "type sampler.noise=flow or sampler.kernel=sde"
        )
    if kernel is KernelName.ddim and model.family in FLOW_FAMILIES:
        yield (
            "sampler.kernel=ddim is for models that predict noise, velocity or samples of a diffusion; "
            f"model.family={model.family} "
            "predicts a flow: type sampler=flow_sde"
        )
    if sampler.grid not in ("model", "linear"):
        yield f"sampler.grid={sampler.grid}: wanted model or linear; type sampler.grid=model"
    if sampler.shift is not None and not 0 < sampler.shift < math.inf:
        yield (
            f"sampler.shift={sampler.shift}: wanted null (the checkpoint's own) or a positive number; type "
            "sampler.shift=3"
        )


def _window(sampler: SamplerConfig, train_steps: int) -> Iterator[str]:
    window, last = sampler.window, sampler.steps - 1
    if last < 1:
        return  # reported as too few steps
    kind = window.kind.value
    for field in dataclasses.fields(WindowConfig):
        value = getattr(window, field.name)
        if field.name != "kind" and field.name not in WINDOW_KEYS[window.kind] and value != field.default:
            default = "null" if field.default is None else str(field.default).lower()
            yield (
                f"sampler.window.{field.name}={value} does nothing with sampler.window.kind={kind}; "
                f"type sampler.window.{field.name}={default} or another sampler.window.kind"
            )
    if window.kind is not WindowKind.random_subset and sampler.timestep_fraction != 1.0:
        yield (
            f"sampler.timestep_fraction={sampler.timestep_fraction} does nothing with "
            f"sampler.window.kind={kind}; "
            "type sampler.window.kind=random_subset or sampler.timestep_fraction=1"
        )
    ends = f"the last of sampler.steps={sampler.steps} transitions is never trained"
    high = _high(sampler)
    if window.kind is WindowKind.random_subset and not 1 <= trained_transitions(sampler) <= last:
        yield (
            f"sampler.timestep_fraction={sampler.timestep_fraction} of {last} trainable transitions is "
            f"{trained_transitions(sampler)}; {ends}: type a fraction between {1 / last:.3g} and 1"
        )
    elif window.kind is WindowKind.fixed and (
        window.start < 0 or window.size < 1 or window.start + window.size > last
    ):
        yield (
            f"a fixed window of sampler.window.size={window.size} from sampler.window.start={window.start} "
            "ends at "
            f"{window.start + window.size}; {ends}, so start + size must be at most {last}: type "
            "sampler.window.size="
            f"{max(1, last - max(window.start, 0))} or fewer"
        )
    elif window.kind is WindowKind.random_window and not (
        window.size >= 1 and window.low >= 0 and high <= last and window.size <= high - window.low
    ):
        yield (
            f"a random window of sampler.window.size={window.size} does not fit between "
            f"sampler.window.low={window.low} and "
            f"high={high}; {ends}: high must be at most {last} and high - low at least size: type "
            "sampler.window.size="
            f"{max(1, min(high, last) - max(window.low, 0))} sampler.window.high={min(high, last)}"
        )
    elif window.kind is WindowKind.progressive:
        yield from _progressive(window, high, last, train_steps)


def _progressive(window: WindowConfig, high: int, last: int, train_steps: int) -> Iterator[str]:
    if min(window.size, window.iters_per_group, window.stride, high) < 1 or max(high, window.size) > last:
        yield (
            "a progressive window needs size, iters_per_group, stride and high of at least 1 and size and "
            f"high of at most {last} "
            f"(the last transition is never trained), got size={window.size}, "
            f"iters_per_group={window.iters_per_group}, "
            f"stride={window.stride}, high={high}: type sampler.window.size={min(2, last)} "
            "sampler.window.high=null"
        )
        return
    empty = first_empty(window, high)
    if empty is not None and train_steps > empty:
        yield (
            f"the progressive window has moved past its last transition after {empty} training steps and "
            "would train nothing, but "
            f"train.steps={train_steps}; type train.steps={empty}, or raise sampler.window.iters_per_group "
            "to "
            f"{math.ceil(window.iters_per_group * train_steps / empty)}"
        )


def first_empty(window: WindowConfig, high: int) -> int | None:
    """First training step at which a progressive window starts at `high`, so holds nothing; None if it rolls
    back before.
    """
    if window.roll_back and high % window.stride:
        return None
    return window.iters_per_group * math.ceil(high / window.stride)


def _model(model: ModelConfig) -> Iterator[str]:
    for key, value in (("height", model.height), ("width", model.width), ("frames", model.frames)):
        if value < 1:
            yield f"model.{key}={value}: wanted at least 1"
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
        yield f"engine.stage={engine.stage}: ZeRO has the stages 0, 1, 2 and 3; type engine=zero2"
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
            "clipped to; type 1.0"
        )


def _run(config: Config) -> Iterator[str]:
    stage = config.stage.value
    if config.stage is not Stage.all and config.records is None:
        which = "to write to" if config.stage is Stage.rollout else "that another stage or run wrote"
        yield f"stage={stage} runs alone on saved records and needs a folder {which}; type records=DIR"
    if config.stage is Stage.all and config.records is not None:
        yield (
            f"records={config.records} does nothing with stage=all; type stage=score (or rollout, weigh, "
            "build, update), or "
            "train.save_records=true to keep the records of a run"
        )
    if config.stage is not Stage.all and config.resume is not None:
        yield (
            f"resume={config.resume} goes on with a whole run, but stage={stage} runs one stage; leave one "
            "of them out"
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
