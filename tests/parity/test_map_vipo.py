"""Maps, log-probs and losses of ViPO against its two releases (vipo_official.npz, vipo_teleboost.npz).

Features are given: a look-up takes the backbone's place. The official map has scikit-learn's signs, which
are our `max_abs_loading`; TeleBoost's has those of numpy's SVD, which follow no rule, so its maps start from
its components.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from rlvis.advantage.maps import pca, spatial
from rlvis.advantage.maps.psm import PerceptualMap
from rlvis.flow import schedules
from rlvis.flow.kernel import Kernel
from rlvis.flow.logprob import log_prob
from rlvis.flow.transition import table, transition
from rlvis.schema import Aggregation, MapConfig, PcaFit, PcaSign, RatioScope
from rlvis.update.loss import policy_loss

FOLDER = Path(__file__).parent / "data"
OFFICIAL, TELEBOOST = (np.load(FOLDER / f"vipo_{name}.npz") for name in ("official", "teleboost"))
ONE = torch.ones(1, dtype=torch.float64)


def array(name, data=OFFICIAL):
    return torch.from_numpy(data[name])


def close(got, want, bound=1e-5):
    error = (got.double() - want.double().reshape(got.shape)).abs().max() / want.double().abs().max()
    print(f"{float(error):.1e}")
    assert error <= bound


def released(feature, frames, grid, latent, **settings):
    """Our map of one sample whose tokens are `feature`, with the settings of the official release."""
    config = MapConfig(pca_fit=PcaFit.frame, pca_sign=PcaSign.max_abs_loading, **settings)
    psm = PerceptualMap(lambda _: (feature, grid), config, torch.device("cpu"))
    media = torch.zeros(1, frames, 3, 28, 42, dtype=torch.uint8)
    return psm(media, torch.ones(latent), (16, *latent))[0]


@pytest.mark.parametrize("how", list(Aggregation))
def test_image_map_of_the_official_release(how):
    got = released(array("feat_img"), 1, (2, 3), (1, 4, 6), aggregation=how)
    close(got, array(f"map_img_{how}"))


def test_components_of_the_official_release():
    parts = pca.components(array("feat_img"), 3)
    close(parts.scores[0], array("pca_img"))
    close(parts.explained[0], array("evr_img"))


def test_map_of_a_larger_grid():
    parts = pca.components(array("feat_big")[None], 3)
    structure = spatial.aggregate(parts.scores, parts.explained, Aggregation.weighted)
    close(spatial.to_latent(spatial.smooth(structure.view(1, 6, 10), 1.0), (8, 12)), array("map_big"))


def test_video_map_of_the_official_release():
    """Five frames to two latent ones, Gaussian in time, one min-max over the clip."""
    close(released(array("feat_vid"), 5, (2, 3), (2, 4, 6)), array("map_vid"))


@pytest.mark.parametrize("how", list(Aggregation))
def test_teleboost_from_its_components(how):
    """Its shares are of the top three components' variance; no Gaussian in time."""
    value = spatial.aggregate(array("pca", TELEBOOST), array("explained", TELEBOOST), how)
    close(value, array(f"sem_{how.value}", TELEBOOST))
    grids = value.view(4, 2, 3)
    if how is Aggregation.weighted:
        close(spatial.smooth(grids, 1.0), array("smooth", TELEBOOST))
        close(spatial.smooth(grids, 0.0), array("smooth0", TELEBOOST))
    frames = spatial.to_latent(spatial.smooth(grids, 1.0), (4, 6))
    close(spatial.in_time(frames[None], 2, 0.0), array(f"map_{how.value}", TELEBOOST))


def test_teleboost_components_up_to_signs_and_total():
    parts = pca.components(array("feat", TELEBOOST), 3)
    scores, shares = array("pca", TELEBOOST), array("explained", TELEBOOST)
    sign = torch.where((parts.scores * scores).sum(1, keepdim=True) < 0, -1.0, 1.0)
    close(parts.scores * sign, scores)
    close(parts.explained / parts.explained.sum(1, keepdim=True), shares)


def test_teleboost_spreads_an_advantage_alike():
    maps = array("batch_map", TELEBOOST)
    assert torch.equal(maps[0], maps[1])
    dense = array("adv", TELEBOOST).view(-1, 1, 1, 1) * maps
    close(dense, array("dense", TELEBOOST))


def test_wan_log_prob_sums_over_channels():
    """Relative to each step's largest value: a position's is the difference of terms that large.

    It takes log(std + 1e-8) in each of 16 channels, which is put back here: 5e-6 at the first step.
    """
    x, v, given = (array(name)[None] for name in ("x", "v", "given"))
    grid = schedules.flow_schedule(array("sigmas"))
    steps = table(Kernel("sde", "dance", 0.25), grid, deterministic_last=False)
    got = []
    for i in range(8):
        mean, std = transition(steps, torch.tensor([i]), torch.tensor([True]), x, v)
        score = log_prob(given, mean, std, channel_reduction="sum")
        got.append(score.double() - 16 * torch.log1p(1e-8 / std[0].double()))
    want = array("wan_logp")
    error = ((torch.cat(got) - want).abs() / want.abs().amax((1, 2, 3), keepdim=True)).max()
    print(f"{float(error):.1e}")
    assert error <= 1e-6


def test_flux_log_prob_is_one_scalar_a_sample():
    """The release drops the constants; ours hold them, and no ratio sees them."""
    x, v, given = (array(f"tok_{name}").movedim(-1, 1)[:, :, None, None] for name in ("x", "v", "given"))
    grid = schedules.flow_schedule(array("sigmas"))
    steps = table(Kernel("sde", "dance", 0.3), grid, deterministic_last=False)
    got = []
    for i in range(8):
        mean, std = transition(steps, torch.full((2,), i), torch.ones(2, dtype=torch.bool), x, v)
        constants = std.flatten().log() + 0.5 * np.log(2 * np.pi)
        got.append(log_prob(given, mean, std).mean((1, 2, 3)) + constants)
    want = array("flux_logp")
    error = ((torch.stack(got) - want).abs() / want.abs().clamp(min=1)).max()
    print(f"{float(error):.1e}")
    assert error <= 2e-6  # the constants, up to 4, are added and taken off again in float32


def test_wan_loss_is_ours_per_position():
    """VQ and MQ are clipped each for itself, per position, on log-probs summed over channels."""
    dlogp = (array("wl_lp_new") - array("wl_lp_old"))[None]
    free = torch.ones(dlogp.shape[1:])
    loss = 0.0
    for weight, name in zip(array("wl_coef"), ("wl_adv_vq", "wl_adv_mq"), strict=True):
        dense = array(name)[None].clamp(-5, 5)
        loss = loss + float(weight) * signed_loss(dlogp, free, dense)
    close(loss / (4 * 3), array("wan_loss"))


def signed_loss(dlogp, free, dense):
    """The loss of an advantage [1,F,H,W] that has both signs: its positive and negative part as maps under
    +1, -1.
    """
    parts = [(1.0, dense.clamp(min=0)), (-1.0, (-dense).clamp(min=0))]
    return sum(
        policy_loss(
            dlogp, free, torch.full((1, 1), sign).double(), ONE, (1e-4, 1e-4), RatioScope.position, part
        )[0].sum()
        for sign, part in parts
    )


def test_the_released_flux_loss_has_no_spatial_effect_and_ours_has():
    """There one ratio a sample meets the map, so only the map's mean counts; here its shape does at every
    scope, at `sample` with the same push in all and the release's loss.
    """
    map_ = array("loss_map")[None]
    free = torch.ones(map_.shape[1:])
    base = (array("loss_lp_new") - array("loss_lp_old")).view(1, 1, 1, 1)
    turned = map_.flip(-1)

    def gradient(scope, maps, advantage=-1.0):
        """d loss / d dlogp at every position, and the loss."""
        dlogp = base.expand_as(map_).clone().requires_grad_()
        a = torch.full((1, 1), advantage, dtype=torch.float64)
        loss, _ = policy_loss(dlogp, free, a, ONE, (1e-4, 1e-4), scope, maps)
        return torch.autograd.grad(loss.sum(), dlogp)[0], loss.detach()

    published = array("flux_loss")[None] * (4 * 3)
    close(gradient(RatioScope.sample, map_, 1.0)[1], published)
    plain, plain_loss = gradient(RatioScope.sample, None)
    close(map_.mean() * gradient(RatioScope.sample, None, 1.0)[1], published)
    scalar = map_.mean() * plain  # the release's: flat
    led, led_loss = gradient(RatioScope.sample, map_)
    close(led / led.sum(), map_ / map_.sum())
    close(led.sum()[None], scalar.sum()[None])
    torch.testing.assert_close(led_loss, map_.mean() * plain_loss)
    local, _ = gradient(RatioScope.position, map_)
    close(local / local.sum(), map_ / map_.sum())
    close(gradient(RatioScope.position, turned)[0].flip(-1), local)
    close(local.sum()[None], scalar.sum()[None])  # the same push in all, differently spread
