"""Updates of clip policies: ratio exactly 1 at first, and nothing of the loss comes from a given frame."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis import schema as S
from rlvis.flow import configured
from rlvis.flow.transition import table
from rlvis.records import Advantages, PolicyUpdate
from rlvis.rollout import plan
from rlvis.rollout.stage import rollout
from rlvis.runtime.dist import World
from rlvis.update.replay import Batch, replay
from rlvis.update.stage import UpdateSettings, update
from tests import setting

CLIPS: dict[str, Any] = {"family": "wan", "frames": 9, "max_tokens": 8}
GIVEN = CLIPS | {"condition": S.Condition.first_frame}


class Case:
    """A clip policy, one rollout of it and plausible advantages."""

    def __init__(self, folder: Path, model: dict[str, Any], **groups: Any) -> None:
        groups = {"sampler": {"steps": 3}, **groups}
        self.config = setting.config(folder, model=model, **groups)
        self.policy = setting.policy(self.config, keep_reference=self.config.model.lora is None)
        self.prompts = setting.prompts(self.policy)
        steps = plan.make(self.policy, self.config, step=0)
        whole = rollout(self.policy, self.policy.module, self.prompts, range(12), steps)
        self.trajectories = whole.replace(media=None)
        self.advantages = Advantages(
            term=torch.linspace(-1.5, 1.5, 12, dtype=torch.float64).view(1, 3, 4).flip(-1),
            coef=torch.ones(1, dtype=torch.float64),
            names=("grpo",),
            keep=torch.ones(3, 4, dtype=torch.bool),
        )
        self.engine = setting.PlainEngine(self.policy.module)

    def run(self, **changes: Any) -> PolicyUpdate:
        c = self.config
        settings = UpdateSettings(replace(c.advantage, **changes), c.sampler, c.train)
        given = self.policy, self.engine, self.prompts, self.trajectories, self.advantages
        return update(*given, settings, World())


@pytest.mark.parametrize(
    ("model", "groups"),
    [
        (CLIPS, {}),
        (GIVEN, {}),
        (GIVEN | {"lora": S.LoraConfig(rank=4, alpha=8), "cfg": 2.0}, {}),
        (GIVEN, {"sampler": {"steps": 3, "storage": S.Dtype.bfloat16}}),
        (GIVEN, {"advantage": {"ratio_scope": S.RatioScope.position}}),
        (GIVEN, {"sampler": {"steps": 3, "kernel": "cps", "logprob": S.LogProbForm.squared}}),
    ],
    ids=["text", "frame", "frame_lora_cfg", "frame_bf16", "frame_position", "frame_cps"],
)
def test_the_first_ratio_is_exactly_one(
    wan_folder: Path, model: dict[str, Any], groups: dict[str, Any]
) -> None:
    metrics = Case(wan_folder, model, **groups).run().metrics
    assert metrics["ratio/max_deviation_first"] == 0
    assert metrics["ratio/max_deviation"] > 0
    assert metrics["update/grad_norm"] > 0


def test_a_given_position_has_no_gradient_and_no_ratio_under_any_weights(wan_folder: Path) -> None:
    case = Case(wan_folder, GIVEN)
    config, t = case.config, case.trajectories
    steps = table(configured.kernel(config.sampler, "flow"), t.schedule)
    with torch.no_grad():
        for _, parameter in case.policy.trainable():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    batch = Batch(case.policy, case.prompts, t, torch.arange(4))
    new = replay(case.policy.module, batch, 1, steps, config.sampler.logprob)
    difference = new.logprob - batch.old_logprob[:, 1]
    assert bool((difference[:, 0] == 0).all())
    assert bool((difference[:, 1:] != 0).any())
    assert torch.equal(new.mean[:, :, 0], new.taken[:, :, 0])
    parameters = [p for _, p in case.policy.trainable()]
    for part in (new.logprob[:, 0], new.mean[:, :, 0]):
        grads = torch.autograd.grad(part.sum(), parameters, retain_graph=True)
        assert all(bool((g == 0).all()) for g in grads)
    moved = torch.autograd.grad(new.logprob[:, 1:].sum(), parameters)
    assert any(bool((g != 0).any()) for g in moved)


@pytest.mark.parametrize("scope", list(S.RatioScope))
def test_what_stands_at_a_given_position_does_not_reach_the_weights(
    wan_folder: Path, scope: S.RatioScope
) -> None:
    weights = []
    for spoil in (0.0, 1e3):
        case = Case(wan_folder, GIVEN)
        logprob = case.trajectories.logprob.clone()
        logprob[:, :, 0] += spoil
        case.trajectories = case.trajectories.replace(logprob=logprob)
        map_ = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(2))
        map_[:, 0] = spoil
        if scope is not S.RatioScope.sample:
            case.advantages = case.advantages.replace(map=map_)
        case.run(ratio_scope=scope, kl_beta=0.01)
        weights.append(torch.cat([p.detach().flatten() for _, p in case.policy.trainable()]))
    assert torch.equal(*weights)


def test_guard_and_kl_leave_given_positions_out(wan_folder: Path) -> None:
    metrics = Case(wan_folder, GIVEN).run(guard=S.GuardConfig(), kl_beta=0.1).metrics
    assert metrics["ratio/max_deviation_first"] < 1e-6  # noise is subtracted and added again
    assert metrics["kl/reference"] > 0


def test_trajectories_of_another_condition_are_refused(wan_folder: Path) -> None:
    case = Case(wan_folder, CLIPS)
    other = setting.policy(setting.config(wan_folder, model=GIVEN))
    settings = UpdateSettings(case.config.advantage, case.config.sampler, case.config.train)
    with pytest.raises(ValueError, match=r"move 192 of 192 positions .* the policy moves 128 of"):
        update(other, case.engine, case.prompts, case.trajectories, case.advantages, settings, World())
