"""The ratio before any update: exactly 1 for what is healthy, a failure with its number for what is not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis import schema as S
from rlvis.doctor.ratio import Still, ratio, transitions
from rlvis.update import loss as losses
from tests.doctor import cases

LORA = {"lora": S.LoraConfig(rank=4, alpha=8)}
TINY_MAP = S.MapConfig(source=S.MapSource.psm, backbone="tiny")


@pytest.mark.parametrize(
    "groups",
    [
        {},
        {"model": LORA | {"cfg": 2.0}, "advantage": {"kl_beta": 0.01}},
        {"sampler": {"storage": S.Dtype.bfloat16}},
        {"advantage": {"ratio_scope": S.RatioScope.position, "map": TINY_MAP}},
        {"advantage": {"old_logprob": S.OldLogProb.recompute}},
        {"sampler": {"window": S.WindowConfig(kind=S.WindowKind.random_subset, per_sample=True)}},
    ],
)
def test_a_healthy_ratio_is_one(sd3_folder: Path, groups: dict[str, Any]) -> None:
    findings = ratio(cases.probed(cases.make(sd3_folder, **groups)))
    finding = cases.one(findings, "ratio")
    assert (finding.severity, finding.numbers["max_deviation"]) == ("ok", 0.0), str(finding)
    floors = cases.one(findings, "noise floor").numbers
    assert set(floors.values()) == {0.0}


def test_every_trained_transition_has_its_floor(sd3_folder: Path) -> None:
    probe = cases.probed(cases.make(sd3_folder))
    sigmas = [t.sigma for t in transitions(probe)]
    assert sigmas == pytest.approx(probe.trajectories.schedule.sigma[:4].tolist())


def test_guard_is_measured_with_and_without_its_scale(sd3_folder: Path) -> None:
    parts = cases.make(sd3_folder, advantage={"guard": S.GuardConfig(), "clip_range": 2e-6})
    _disturb(parts.policy, 1e-3)
    for t in transitions(cases.probed(parts)):
        assert min(t.floor, t.deviation) > 0
        assert abs(t.floor - t.deviation) > 0.05 * t.floor


def _disturb(policy: Any, size: float) -> None:
    """A forward that is never the same twice."""
    drawn = torch.Generator().manual_seed(0)

    def disturbed(module: Any, args: Any, out: Any) -> Any:
        return (out[0] + size * torch.randn(out[0].shape, generator=drawn), *out[1:])

    policy.module.register_forward_hook(disturbed)


def test_dropout_that_is_on_is_a_failure_with_its_number(sd3_folder: Path) -> None:
    parts = cases.make(sd3_folder)
    drops = [m for m in parts.policy.module.modules() if isinstance(m, torch.nn.Dropout)]
    assert drops
    for layer in drops:
        layer.p = 0.1
        layer.train()
    finding = cases.one(ratio(cases.probed(parts)), "ratio")
    assert finding.severity == "failure"
    assert finding.numbers["max_deviation"] > finding.numbers["clip_range"]  # type: ignore[operator]
    assert f"{finding.numbers['max_deviation']:.3g}" in finding.what
    assert f"{len(drops)} dropout layers" in finding.why
    assert "old_logprob=recompute" in finding.type


def test_a_quarter_of_the_clip_range_is_the_limit(sd3_folder: Path) -> None:
    """As where the kernels of training round otherwise: refused below four times the effect."""
    parts = cases.make(sd3_folder)

    def other_kernel(module: Any, args: Any, out: Any) -> Any:
        return (out[0] * (1 + 1e-5 * torch.is_grad_enabled()), *out[1:])

    parts.policy.module.register_forward_hook(other_kernel)
    probe = cases.probed(parts)
    worst = max(t.deviation for t in transitions(probe))
    assert 0 < worst < 0.1
    for factor, level in ((3.9, "failure"), (4.1, "ok")):
        for clip in (factor * worst, [factor * worst, 1.0]):  # of a pair the smaller side
            advantage = {"clip_range": clip}
            finding = ratio(_with(probe, cases.replaced(parts, advantage=advantage)))[0]
            assert finding.severity == level, str(finding)


def _with(probe: Any, parts: Any) -> Any:
    from dataclasses import replace

    return replace(probe, parts=parts)


def test_a_loss_that_is_not_finite_is_a_failure(sd3_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recomputed = {"old_logprob": S.OldLogProb.recompute}
    probe = cases.probed(cases.make(sd3_folder, advantage=recomputed))
    right = losses.policy_loss

    def wrong(*args: Any, **kwargs: Any) -> Any:
        loss, metrics = right(*args, **kwargs)
        return loss * math.nan, metrics

    monkeypatch.setattr(losses, "policy_loss", wrong)
    finding = ratio(probe)[0]
    assert finding.severity == "failure"
    assert "not finite" in finding.why
    assert "sampler=flow_fast" in finding.type  # float32 and recomputed already


def test_the_engine_never_steps(sd3_folder: Path) -> None:
    parts = cases.make(sd3_folder)
    before = [p.detach().clone() for _, p in parts.policy.trainable()]
    ratio(cases.probed(parts))
    assert Still(parts.engine).step() == 0.0
    assert parts.engine.backwards == 0  # type: ignore[attr-defined]
    for (_, p), old in zip(parts.policy.trainable(), before, strict=True):
        assert p.grad is None
        assert torch.equal(p, old)
