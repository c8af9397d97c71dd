"""What the tests of several families share: a small policy, and claims that hold for every one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rlvis.models.load import load_policy
from rlvis.models.policy import Policy
from rlvis.schema import CfgGrad, LoraConfig, ModelConfig
from tests import kit, sides


def policy_of(family: str, folder: Path, **changes: Any) -> Policy:
    """A policy of 16 x 24 pixels with a LoRA of rank 4 and alpha 8; changes are of `ModelConfig`."""
    config = ModelConfig(family=family, path=str(folder), height=16, width=24, lora=LoraConfig(4, 8))
    options = {k: changes.pop(k) for k in ("keep_reference",) if k in changes}
    return load_policy(dataclasses.replace(config, **changes), "cpu", **options)


def holds(results: list[kit.Result]) -> bool:
    """Whether every claim of the parity kit holds; otherwise the failing ones are printed."""
    failed = [r for r in results if not r.ok]
    if failed:
        print(kit.table(failed))
    return not failed


def reference_and_checkpointing(make: Callable[..., Policy], **changes: Any) -> None:
    """The reference is the policy before training, and gradient checkpointing changes nothing."""
    runs = []
    for checkpointing in (False, True):
        p = make(gradient_checkpointing=checkpointing, keep_reference=True, **changes)
        embeds, _ = p.encode(sides.TEXTS)
        before = sides.one_step(p, embeds).detach()
        sides.train_a_little(p, 0.02)
        out = sides.one_step(p, embeds)
        with p.reference():
            assert torch.equal(sides.one_step(p, embeds), before)
        assert torch.equal(sides.one_step(p, embeds), out)
        torch.autograd.backward(out.square().mean())
        runs.append([out.detach(), *(w.grad for _, w in p.trainable() if w.grad is not None)])
        assert (out - before).abs().max() > 1e-3
    assert len(runs[0]) == len(runs[1]) > 8
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def both_kinds_of_guidance(make: Callable[..., Policy]) -> None:
    """cfg_grad changes gradients and no values."""
    outs, grads = [], []
    for cut in CfgGrad:
        p = make(cfg=2.0, cfg_grad=cut)
        sides.train_a_little(p)
        out = sides.one_step(p, p.encode(sides.TEXTS)[0])
        torch.autograd.backward((out * sides.noise(p)).mean())
        outs.append(out.detach())
        grads.append(torch.cat([w.grad.flatten() for _, w in p.trainable() if w.grad is not None]))
    assert (outs[0] - outs[1]).abs().max() <= 1e-4  # one batch of 6 rows or two of 3
    assert (grads[0] - grads[1]).norm() > 1e-2 * grads[0].norm()


def another_size(small: Policy, large: Policy) -> None:
    """`at` is what a policy loaded at that size is, and leaves the one that is trained as it was."""
    shape = small.latent_shape
    other = small.at(large.config)
    assert (other.latent_shape, small.latent_shape) == (large.latent_shape, shape)
    assert shape != large.latent_shape
    for p in (other, large):
        assert p.schedule(3).sigma.tolist() == large.schedule(3).sigma.tolist()
    assert torch.equal(*(sides.one_step(p, p.encode(sides.TEXTS)[0]).detach() for p in (other, large)))
    assert other.trainable()[0][1] is small.trainable()[0][1]
    assert small.at(small.config) is small
