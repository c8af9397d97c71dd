"""Policy loss and KL, with gradients, against seven published training scripts (losses.npz).

The scripts hold a scalar log-prob per sample; here it is the same at every position, whose mean is the scalar
again, so the reduction over positions is part of the test. A script's division by accumulation counts is done
here, as in the update stage.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from rlvis.schema import RatioScope
from rlvis.update.loss import kl, policy_loss

DATA = np.load(Path(__file__).parent / "data" / "losses.npz")
ONE = torch.ones(1, dtype=torch.float64)


def array(name):
    return torch.from_numpy(DATA[name])


def close(value, name, tolerance=1e-5):
    expected = array(name).reshape(value.shape)
    error = ((value - expected).abs().max() / expected.abs().max()).item()
    print(f"{name}: {error:.2e}")
    assert error <= tolerance


def policy(lp_new, clip=1e-4, adv_clip=5.0, advantage=None, coef=ONE, size=(1, 3, 5)):
    """Per-row loss and metrics of the shared scalar log-probs, spread over the positions of a latent."""
    advantage = array("adv")[None] if advantage is None else advantage
    dlogp = (lp_new - array("lp_old"))[:, None, None, None].expand(-1, *size)
    advantage = advantage.double().clamp(-adv_clip, adv_clip)
    return policy_loss(dlogp, torch.ones(size), advantage, coef, (clip, clip), RatioScope.sample)


def packed(x):
    """What flow_grpo's FLUX script saw as (B, 12, 5) tokens, as images: the same numbers."""
    return x.reshape(6, 4, 1, 3, 5)


@pytest.mark.parametrize(
    ("peer", "clip", "beta", "prefix"),
    [("fg_sd3", 1e-4, 0.04, ""), ("fg_flux", 1e-4, 0.04, ""), ("fg_wan", 1e-3, 0.004, "vid_")],
)
def test_flow_grpo(peer, clip, beta, prefix):
    """SD3 and FLUX divide the KL by the level without sqrt(dt) (kl_dt=none), Wan by the step's std (dt)."""
    lp, mu = array("lp_new").requires_grad_(), array(f"{prefix}mu").requires_grad_()
    std = array("std").flatten() * (array("sqrt_dt").flatten() if peer == "fg_wan" else 1)
    new, reference = (mu, array(f"{prefix}mu_ref")) if prefix else (packed(mu), packed(array("mu_ref")))
    loss, _ = policy(lp, clip)
    divergence = kl(new, reference, std, torch.ones(new.shape[2:])).mean()
    total = loss.mean() + beta * divergence
    close(loss.mean(), f"{peer}_policy")
    close(divergence, f"{peer}_kl")
    close(total, f"{peer}_loss")
    by_lp, by_mu = torch.autograd.grad(total, [lp, mu])
    close(by_lp, f"{peer}_grad_lp")
    close(by_mu.reshape(array(f"{peer}_grad_mu").shape), f"{peer}_grad_mu")


def test_flow_grpo_metrics():
    _, metrics = policy(array("lp_new"))
    close(metrics["approx_kl"].mean(), "approx_kl")
    close((metrics["clip_high"] + metrics["clip_low"]).mean(), "clipfrac")


def test_dance_grpo():
    lp = array("lp_new").requires_grad_()
    loss = policy(lp)[0].mean() / (4 * 9)
    close(loss, "dance_loss")
    close(torch.autograd.grad(loss, lp)[0], "dance_grad_lp")


def test_dance_grpo_video_clips_each_reward_for_itself():
    """Its Hunyuan script: VQ and MQ as separate terms with coefficients 1 and 0.5."""
    advantage = torch.stack([array("adv"), array("hy_adv_mq")])
    coef = torch.tensor([1.0, 0.5], dtype=torch.float64)
    close(policy(array("lp_new"), advantage=advantage, coef=coef)[0].mean() / (4 * 9), "hy_loss")
    merged = (advantage.double().clamp(-5, 5) * coef[:, None]).sum(0, keepdim=True)
    one_term = policy(array("lp_new"), adv_clip=100.0, advantage=merged)[0].mean() / (4 * 9)
    assert abs(one_term - array("hy_loss")) > 1e-4 * abs(array("hy_loss"))  # ten times the tolerance


def test_mix_grpo():
    close(policy(array("lp_new"))[0].mean() / (3 * 4), "mix_policy")


def test_ddpo():
    close(policy(array("lp_new"), adv_clip=10.0)[0].mean(), "ddpo_loss")


def test_verl_omni():
    close(policy(array("lp_new"))[0].mean(), "omni_loss")
