"""What a map does in the loss: ones are GRPO bit for bit, a constant scales, a zero advantage has no
gradient.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlvis import schema as S
from rlvis.records import Advantages
from rlvis.rollout import plan
from rlvis.rollout.stage import rollout
from rlvis.runtime.dist import World
from rlvis.update.loss import policy_loss
from rlvis.update.stage import UpdateSettings, update
from tests import setting

ONE = torch.ones(1, dtype=torch.float64)


def updated(folder: Path, scope: S.RatioScope, maps: Tensor | None, updates: int) -> Tensor:
    """Weights after 10 rollouts of 6 samples with `updates` optimizer steps each."""
    config = setting.config(
        folder,
        advantage={"ratio_scope": scope},
        sampler={"steps": 3},
        data={"prompts_per_step": 3, "samples_per_prompt": 2},
        train={"updates_per_step": updates, "micro_batch": 2},
    )
    policy = setting.policy(config)
    engine, prompts = setting.PlainEngine(policy.module), setting.prompts(policy)
    for step in range(10):
        steps = plan.make(policy, config, step)
        trajectories = rollout(policy, policy.module, prompts, range(6), steps).replace(media=None)
        term = torch.linspace(-1.5, 1.2, 6, dtype=torch.float64).view(1, 3, 2).roll(step)
        advantages = Advantages(
            term=term, coef=ONE, names=("grpo",), keep=torch.ones(3, 2, dtype=torch.bool), map=maps
        )
        chosen = UpdateSettings(config.advantage, config.sampler, config.train)
        update(policy, engine, prompts, trajectories, advantages, chosen, World())
    return torch.cat([p.detach().flatten() for _, p in policy.trainable()])


@pytest.mark.parametrize("scope", [S.RatioScope.position, S.RatioScope.sample])
def test_a_map_of_ones_is_grpo_bit_for_bit_over_60_updates(sd3_folder: Path, scope: S.RatioScope) -> None:
    shape = setting.policy(setting.config(sd3_folder)).latent_shape[1:]
    plain = updated(sd3_folder, scope, None, 6)
    assert torch.equal(plain, updated(sd3_folder, scope, torch.ones(6, *shape), 6))
    tilted = torch.linspace(0, 1, shape[-1]).expand(6, *shape).contiguous()
    assert not torch.equal(plain, updated(sd3_folder, scope, tilted, 6))


def drawn(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    dlogp = 3e-4 * torch.randn(3, 2, 4, 5, generator=generator)
    return dlogp, torch.rand(3, 2, 4, 5, generator=generator), torch.randn(1, 3, generator=generator).double()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), scope=st.sampled_from(S.RatioScope), exponent=st.integers(-3, 3))
def test_a_constant_factor_of_the_map_scales_the_loss(seed: int, scope: S.RatioScope, exponent: int) -> None:
    """Exactly, for powers of two; not at `pooled`, where the map is in the ratio."""
    dlogp, map_, advantage = drawn(seed)
    free = torch.ones(2, 4, 5)
    clip = (1e-4, 1e-4)
    base, _ = policy_loss(dlogp, free, advantage, ONE, clip, scope, map_)
    scaled, _ = policy_loss(dlogp, free, advantage, ONE, clip, scope, map_ * 2.0**exponent)
    if scope is not S.RatioScope.pooled:
        assert torch.equal(scaled, base * 2.0**exponent)
    plain, _ = policy_loss(dlogp, free, advantage, ONE, clip, scope)
    ones, _ = policy_loss(dlogp, free, advantage, ONE, clip, scope, torch.ones_like(map_))
    assert torch.equal(plain, ones)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), scope=st.sampled_from(S.RatioScope))
def test_no_advantage_no_gradient(seed: int, scope: S.RatioScope) -> None:
    dlogp, map_, advantage = drawn(seed)
    dlogp.requires_grad_()
    loss, _ = policy_loss(dlogp, torch.ones(2, 4, 5), 0 * advantage, ONE, (1e-4, 1e-4), scope, map_)
    assert float(torch.autograd.grad(loss.sum(), dlogp)[0].abs().max()) == 0.0


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_the_sign_of_an_advantage_never_flips_inside_a_sample(seed: int) -> None:
    dlogp, map_, advantage = drawn(seed)
    dlogp = torch.zeros_like(dlogp).requires_grad_()
    scope = S.RatioScope.position
    loss, _ = policy_loss(dlogp, torch.ones(2, 4, 5), advantage, ONE, (1e-4, 1e-4), scope, map_)
    slope = torch.autograd.grad(loss.sum(), dlogp)[0]
    assert bool((slope * advantage[0].view(3, 1, 1, 1).sign() <= 0).all())


def test_across_scopes_ones_agree_in_gradient_before_an_update() -> None:
    dlogp, _, advantage = drawn(0)
    slopes = []
    for scope in S.RatioScope:
        at = torch.zeros_like(dlogp).requires_grad_()
        ones = torch.ones_like(dlogp)
        loss, _ = policy_loss(at, torch.ones(2, 4, 5), advantage, ONE, (1e-4, 1e-4), scope, ones)
        slopes.append(torch.autograd.grad(loss.sum(), at)[0])
    torch.testing.assert_close(slopes[0], slopes[1])
    torch.testing.assert_close(slopes[0], slopes[2])
