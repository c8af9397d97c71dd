"""A tiny run for the doctor: assembled without DeepSpeed, with scorers that are right or wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvis import schema as S
from rlvis.data.prompts import load_prompts
from rlvis.doctor.probe import Probe, probe
from rlvis.findings import Finding
from rlvis.records import PriorState, RewardHistory
from rlvis.reward.contract import Term
from rlvis.reward.function import Function
from rlvis.runtime.dist import World
from rlvis.training.assemble import build_map
from rlvis.training.parts import Memory, Parts
from tests import setting


class Engine(setting.PlainEngine):
    """The plain engine, not sharded."""

    stage = 0


def make(folder: Path, terms: list[Term] | None = None, **groups: Any) -> Parts:
    """The parts of a tiny run; `terms` in place of brightness, all others as `setting.config` has them."""
    config = setting.config(folder, **groups)
    config.doctor = S.Doctor.warn
    policy = setting.policy(config, keep_reference=config.model.lora is None)
    terms = terms or [term(brightness)]
    psm = build_map(config, World())
    return Parts(config, World(), load_prompts(config.data), terms, policy, Engine(policy.module), None, psm)


def probed(parts: Parts) -> Probe:
    """The probe of a first step."""
    result = probe(parts, memory(parts.config), 0)
    assert isinstance(result, Probe), result
    return result


def memory(config: S.Config) -> Memory:
    """Before the first step."""
    return Memory(PriorState(kind=config.prior.kind), RewardHistory())


def term(function: Callable[..., Any], name: str = "own", weight: float = 1.0) -> Term:
    """A function as a reward."""
    return Term(name, Function(function), weight)


def brightness(images: Tensor, prompts: list[str], metadata: list[Any]) -> Tensor:
    """Mean level of each sample, plus a trifle for the prompt's length."""
    length = torch.tensor([len(p) for p in prompts], dtype=torch.float64)
    return images.double().mean((1, 2, 3, 4)) / 255 + 1e-3 * length


def one(findings: list[Finding], check: str) -> Finding:
    """The finding of a check."""
    (match,) = [f for f in findings if f.name == check]
    return match


def replaced(parts: Parts, **groups: Any) -> Parts:
    """The same parts with single values of the configuration changed."""
    changed = {name: replace(getattr(parts.config, name), **values) for name, values in groups.items()}
    return replace(parts, config=replace(parts.config, **changed))


def moody(images: Tensor, prompts: list[str], metadata: list[Any]) -> Tensor:
    """Brightness, with noise from the global generator."""
    return brightness(images, prompts, metadata) + 0.01 * torch.rand(len(images))


def flat(images: Tensor, prompts: list[str], metadata: list[Any]) -> list[float]:
    """The same of every sample."""
    return [0.5] * len(images)
