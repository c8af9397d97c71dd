"""GRPO-Guard against flow_grpo's script and verl-omni (guard.npz).

`bias=batch` is flow_grpo's: its mean over no dimensions makes one bias of the whole batch. `bias=sample` is
verl-omni's where all rows are at one step. Where they are not, verl-omni still takes the scale from the means
of the batch; ours takes each row's own, so that a row's loss does not depend on its company, and the numbers
differ by design.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from rlvis.schema import GuardBias, RatioScope
from rlvis.update.loss import guard_ratio, policy_loss

DATA = np.load(Path(__file__).parent / "data" / "guard.npz")
CLIP = (2e-6, 2e-6)
SCOPE = RatioScope.sample


def array(name):
    return torch.from_numpy(DATA[name])


def close(value, name, tolerance=1e-5):
    expected = array(name).reshape(value.shape)
    error = ((value - expected).abs().max() / expected.abs().max()).item()
    print(f"{name}: {error:.2e}")
    assert error <= tolerance


def run(bias, mixed="", lp_new=None, mu_new=None):
    """(ratio [B], mean loss) on the shared tensors; (B, 4, 3, 5) images become (B, 4, 1, 3, 5)."""
    lp_new = array(f"lp_new{mixed}") if lp_new is None else lp_new
    mu_new = array("mu_new") if mu_new is None else mu_new
    dlogp, free = lp_new - array(f"lp_old{mixed}"), torch.ones(1, 3, 5)
    level, sqrt_dt = array(f"std{mixed}").flatten(), array(f"sqrt_dt{mixed}").flatten()
    r, scale = guard_ratio(
        dlogp, mu_new[:, :, None], array("mu_old")[:, :, None], level, sqrt_dt, free, bias, SCOPE
    )
    advantage = array("adv").clamp(-5, 5)[None]
    per_position = dlogp[:, None, None, None].expand(-1, 1, 3, 5)
    loss, _ = policy_loss(per_position, free, advantage, torch.ones(1), CLIP, SCOPE, guarded=r)
    return r, (loss * scale).mean()


@pytest.mark.parametrize("mixed", ["", "_mixed"])
def test_flow_grpo_ratio_and_loss(mixed):
    r, loss = run(GuardBias.batch, mixed)
    close(r, f"fg_ratio{mixed}")
    close(loss, f"fg_loss{mixed}")


def test_flow_grpo_gradients():
    lp, mu = array("lp_new").requires_grad_(), array("mu_new").requires_grad_()
    _, loss = run(GuardBias.batch, "", lp, mu)
    by_lp, by_mu = torch.autograd.grad(loss, [lp, mu])
    close(by_lp, "fg_grad_lp")
    close(by_mu, "fg_grad_mu")


def test_flow_grpo_without_guard():
    dlogp = (array("lp_new") - array("lp_old"))[:, None, None, None]
    advantage = array("adv").clamp(-5, 5)[None]
    loss, metrics = policy_loss(dlogp, torch.ones(1, 1, 1), advantage, torch.ones(1), CLIP, SCOPE)
    close(metrics["ratio_mean"], "fg_off_ratio")
    close(loss.mean(), "fg_off_loss")


def test_omni_at_one_step():
    close(run(GuardBias.sample)[1], "omni_loss")


def test_omni_at_mixed_steps_is_where_we_depart():
    ours = run(GuardBias.sample, "_mixed")[1]
    assert abs(ours - array("omni_loss_mixed")) > 0.01 * abs(array("omni_loss_mixed"))
    # The published form, from ours: scale of the batch, bias of the sample.
    dlogp = array("lp_new_mixed") - array("lp_old_mixed")
    sc = array("sqrt_dt_mixed").mean() * array("std_mixed").mean()
    bias = (array("mu_new") - array("mu_old")).square().mean((1, 2, 3)) / (2 * sc**2)
    r = ((dlogp + bias) * sc).exp()
    advantage = array("adv").clamp(-5, 5)[None]
    loss, _ = policy_loss(
        dlogp[:, None, None, None], torch.ones(1, 1, 1), advantage, torch.ones(1), CLIP, SCOPE, guarded=r
    )
    close(loss.mean() / array("sqrt_dt_mixed").mean() ** 2, "omni_loss_mixed")
