"""A gradient for every loss term: each is measured alone, a detached one is found, nothing is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis import schema as S
from rlvis.doctor.gradient import gradient
from rlvis.update import loss as losses
from tests.doctor import cases

BPGO: dict[str, Any] = {
    "trust": {"kind": "ras", "crt": S.CrtConfig(form=S.CrtForm.exp)},
    "prior": {"kind": "constant", "value": 0.4},
}
KL = {"kl_beta": 0.01}


@pytest.mark.parametrize(
    "groups",
    [
        {"advantage": KL, **BPGO},
        {"advantage": KL, **BPGO, "model": {"lora": S.LoraConfig(rank=4, alpha=8), "cfg": 2.0}},
        {"advantage": KL, **BPGO, "model": {"gradient_checkpointing": True}},
        {"advantage": KL | {"kl_dt": S.KlDt.none}, **BPGO, "model": {"dtype": S.Dtype.bfloat16}},
    ],
)
def test_every_term_reaches_the_parameters_and_leaves_no_gradient(
    sd3_folder: Path, groups: dict[str, Any]
) -> None:
    parts = cases.make(sd3_folder, **groups)
    findings = gradient(cases.probed(parts))
    assert [f.name for f in findings] == [
        "gradient grpo",
        "gradient grpo_contrast",
        "gradient kl",
        "trained",
    ]
    assert [f.severity for f in findings] == ["ok"] * 4, [str(f) for f in findings]
    for finding in findings[:3]:
        assert finding.numbers["touched"] > 0  # type: ignore[operator]
        assert finding.numbers["largest"] > 0  # type: ignore[operator]
    assert all(p.grad is None for p in parts.policy.module.parameters())


def test_a_detached_kl_is_found(sd3_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the reference its gradient is 0 in any case, so it is measured beside it."""
    right = losses.kl
    monkeypatch.setattr(losses, "kl", lambda *args: right(*args).detach())
    findings = gradient(cases.probed(cases.make(sd3_folder, advantage=KL)))
    assert cases.one(findings, "gradient grpo").severity == "ok"
    finding = cases.one(findings, "gradient kl")
    assert finding.severity == "failure"
    assert "gives no trained parameter a gradient" in finding.what


def test_a_detached_policy_term_is_found_beside_a_sound_kl(
    sd3_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = losses.policy_loss
    monkeypatch.setattr(losses, "policy_loss", lambda d, *args: right(d.detach(), *args))
    findings = gradient(cases.probed(cases.make(sd3_folder, advantage=KL)))
    assert cases.one(findings, "gradient grpo").severity == "failure"
    assert cases.one(findings, "gradient kl").severity == "ok"
    alone = gradient(cases.probed(cases.make(sd3_folder)))
    assert cases.one(alone, "gradient grpo").severity == "failure"
    assert cases.one(alone, "trained").numbers["share"] == 1.0


def test_a_gradient_that_is_not_finite_is_found(sd3_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = cases.make(sd3_folder)
    name, weight = parts.policy.trainable()[-1]
    probe = cases.probed(parts)
    weight.register_hook(lambda g: g * torch.inf)
    finding = cases.one(gradient(probe), "gradient grpo")
    assert finding.severity == "failure"
    assert name in finding.what


def test_parameters_outside_the_loss_are_named(sd3_folder: Path) -> None:
    parts = cases.make(sd3_folder)
    idle = torch.nn.Parameter(torch.zeros(10**6))
    parts.policy.module.register_parameter("idle", idle)
    finding = cases.one(gradient(cases.probed(parts)), "trained")
    assert finding.severity == "warning"
    assert "idle" in finding.what


def test_equal_rewards_do_not_hide_a_gradient(sd3_folder: Path) -> None:
    """Advantages are all 0 then; the term's graph is still there to be seen."""
    parts = cases.make(sd3_folder, [cases.term(lambda images, prompts, metadata: [0.5] * len(images))])
    assert cases.one(gradient(cases.probed(parts)), "gradient grpo").severity == "ok"


def test_sharded_parameters_are_said_not_to_be_looked_at(sd3_folder: Path) -> None:
    parts = cases.make(sd3_folder)
    parts.engine.stage = 3
    (finding,) = gradient(cases.probed(parts))
    assert finding.severity == "ok"
    assert "ZeRO-3" in finding.what
