"""The loss alone: closed forms at every scope, a map of ones, gradients, KL, Guard, clip ranges."""

import math

import pytest
import torch

from rlvis.flow.logprob import reduce_positions
from rlvis.schema import DEFAULT_CLIP_RANGE, GuardBias, RatioScope, Reduction
from rlvis.update.loss import allowed_share, guard_ratio, kl, policy_loss, rare, ratio, resolve_clip

B, C, F, H, W = 4, 3, 2, 3, 5
SCOPES = list(RatioScope)
CLIP = (0.1, 0.2)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def inputs(spread=0.3, terms=2, seed=0):
    """dlogp around the clip range at every scope, all positions free, advantages and coefficients."""
    dlogp = spread * (randn(B, 1, 1, 1, seed=seed) + 0.5 * randn(B, F, H, W, seed=seed + 1))
    advantage = randn(terms, B, seed=seed + 2, dtype=torch.float64)
    coef = torch.tensor([1.0, 0.3], dtype=torch.float64)[:terms]
    return dlogp.requires_grad_(), torch.ones(F, H, W), advantage, coef


def given_first_frame():
    """A free mask as image-to-video has it: the first latent frame is not moved."""
    free = torch.ones(F, H, W)
    free[0] = 0
    return free


def gradient(value, of):
    return torch.autograd.grad(value.sum(), of)[0]


def ppo(r, a):
    """max(-A r, -A clip(r)) by cases, in plain Python."""
    low, high = 1 - CLIP[0], 1 + CLIP[1]
    if a >= 0:
        return -a * min(r, high)
    return -a * max(r, low)


def test_ratios_by_hand():
    dlogp = torch.tensor([0.1, 0.3, float("nan")]).reshape(1, 1, 1, 3)
    free = torch.tensor([1.0, 1.0, 0.0]).reshape(1, 1, 3)
    weight = torch.tensor([0.5, 1.5, 9.0]).reshape(1, 1, 1, 3)
    assert ratio(dlogp, free, RatioScope.sample).shape == (1, 1, 1, 1)
    assert ratio(dlogp, free, RatioScope.sample).item() == pytest.approx(math.exp(0.2), rel=1e-6)
    assert ratio(dlogp, free, RatioScope.pooled, weight).item() == pytest.approx(math.exp(0.25), rel=1e-6)
    at = ratio(dlogp, free, RatioScope.position).flatten().tolist()
    assert at == pytest.approx([math.exp(0.1), math.exp(0.3), 1.0], rel=1e-6)


@pytest.mark.parametrize("scope", SCOPES)
def test_no_change_of_policy_is_ratio_exactly_one(scope):
    dlogp, free, advantage, coef = inputs()
    weight = torch.rand(B, F, H, W)
    zero = torch.zeros_like(dlogp)
    assert ratio(zero, free, scope, weight).eq(1.0).all()
    _, metrics = policy_loss(zero, free, advantage, coef, CLIP, scope, weight)
    assert metrics["ratio_max_dev"].eq(0).all()


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("masked", [False, True])
def test_loss_against_plain_python(scope, masked):
    dlogp, free, advantage, coef = inputs()
    free = given_first_frame() if masked else free
    weight = torch.rand(B, F, H, W, generator=torch.Generator().manual_seed(9))
    value, _ = policy_loss(dlogp, free, advantage, coef, CLIP, scope, weight)
    at = free.flatten().nonzero().flatten().tolist()
    for b in range(B):
        d = [dlogp[b].flatten()[p].item() for p in at]
        m = [weight[b].flatten()[p].item() for p in at]
        expected = 0.0
        for a, c in zip(advantage[:, b].tolist(), coef.tolist(), strict=True):
            if scope is RatioScope.sample:
                row = sum(m) / len(m) * ppo(math.exp(sum(d) / len(d)), a)
            elif scope is RatioScope.pooled:
                row = ppo(math.exp(sum(x * y for x, y in zip(d, m, strict=True)) / len(d)), a)
            else:
                row = sum(y * ppo(math.exp(x), a) for x, y in zip(d, m, strict=True)) / len(d)
            expected += c * row
        assert value[b].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("size", [(1, 3, 5), (2, 3, 5), (13, 30, 52)])
@pytest.mark.parametrize("masked", [False, True])
def test_a_map_of_ones_is_no_map_bit_for_bit(scope, size, masked):
    free = torch.ones(size)
    if masked:
        free[:, 0] = 0
    dlogp = (0.1 * randn(B, *size, seed=3)).requires_grad_()
    advantage = randn(2, B, seed=4, dtype=torch.float64)
    coef = torch.tensor([1.0, 0.3], dtype=torch.float64)
    plain, plain_metrics = policy_loss(dlogp, free, advantage, coef, CLIP, scope)
    mapped, metrics = policy_loss(dlogp, free, advantage, coef, CLIP, scope, torch.ones(B, *size))
    assert torch.equal(plain, mapped)
    assert torch.equal(gradient(plain, dlogp), gradient(mapped, dlogp))
    assert all(torch.equal(plain_metrics[k], metrics[k]) for k in metrics)


def test_first_gradient_is_the_same_at_every_scope():
    """On policy, d loss / d dlogp_p = -A/n at each position, whatever the scope."""
    _, free, advantage, coef = inputs(terms=1)
    for scope in SCOPES:
        dlogp = torch.zeros(B, F, H, W, requires_grad=True)
        value, _ = policy_loss(dlogp, free, advantage, coef, CLIP, scope)
        expected = (-advantage[0].float() / free.sum())[:, None, None, None].expand_as(dlogp)
        torch.testing.assert_close(gradient(value, dlogp), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scope", [RatioScope.sample, RatioScope.position])
def test_a_constant_map_scales_the_loss(scope):
    dlogp, free, advantage, coef = inputs()
    one, _ = policy_loss(dlogp, free, advantage, coef, CLIP, scope)
    half, _ = policy_loss(dlogp, free, advantage, coef, CLIP, scope, torch.full((B, F, H, W), 0.5))
    torch.testing.assert_close(half, 0.5 * one, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scope", SCOPES)
def test_zero_advantage_has_zero_gradient(scope):
    dlogp, free, advantage, coef = inputs()
    value, _ = policy_loss(dlogp, free, 0 * advantage, coef, CLIP, scope)
    assert value.eq(0).all()
    assert gradient(value, dlogp).eq(0).all()


@pytest.mark.parametrize("scope", SCOPES)
def test_positively_homogeneous_but_not_additive(scope):
    dlogp, free, advantage, _ = inputs(spread=0.6)
    one = torch.ones(1, dtype=torch.float64)

    def loss(a):
        return policy_loss(dlogp, free, a[None], one, CLIP, scope)[0]

    first, second = advantage
    torch.testing.assert_close(loss(2.5 * first), 2.5 * loss(first), rtol=1e-5, atol=1e-6)
    both, _ = policy_loss(dlogp, free, advantage, torch.ones(2), CLIP, scope)
    torch.testing.assert_close(both, loss(first) + loss(second), rtol=1e-5, atol=1e-6)
    opposite = torch.stack([first, -first])
    kept, _ = policy_loss(dlogp, free, opposite, torch.ones(2), CLIP, scope)
    assert (kept > 1e-3).any()  # their sum is an advantage of 0, whose loss is 0
    assert loss(first - first).eq(0).all()


@pytest.mark.parametrize("scope", SCOPES)
def test_positions_that_are_not_free_do_not_matter(scope):
    dlogp, _, advantage, coef = inputs()
    free = given_first_frame()
    weight = torch.rand(B, F, H, W)
    value, metrics = policy_loss(dlogp, free, advantage, coef, CLIP, scope, weight)
    spoiled = dlogp.detach().clone()
    spoiled[:, 0] = float("nan")
    spoiled.requires_grad_()
    other, others = policy_loss(spoiled, free, advantage, coef, CLIP, scope, weight)
    assert torch.equal(value, other)
    assert all(torch.equal(metrics[k], others[k]) for k in metrics)
    assert gradient(value, dlogp)[:, 0].eq(0).all()


def test_the_same_advantage_at_every_position_is_the_scalar_one_bit_for_bit():
    dlogp, free, advantage, coef = inputs()
    field = advantage[:, :, None, None, None].expand(-1, -1, F, H, W)
    one, metrics = policy_loss(dlogp, free, advantage, coef, CLIP, RatioScope.position)
    two, others = policy_loss(dlogp, free, field, coef, CLIP, RatioScope.position)
    assert torch.equal(one, two)
    assert torch.equal(gradient(one, dlogp), gradient(two, dlogp))
    assert all(torch.equal(metrics[k], others[k]) for k in metrics)


def test_an_advantage_per_position_against_plain_python():
    dlogp, _, _, coef = inputs()
    free, field = given_first_frame(), randn(2, B, F, H, W, seed=7)
    value, _ = policy_loss(dlogp, free, field, coef, CLIP, RatioScope.position)
    at = free.flatten().nonzero().flatten().tolist()
    for b in range(B):
        expected = sum(
            c * ppo(math.exp(dlogp[b].flatten()[p].item()), field[a, b].flatten()[p].item()) / len(at)
            for a, c in enumerate(coef.tolist())
            for p in at
        )
        assert value[b].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_no_gradient_where_an_advantage_per_position_is_zero():
    dlogp, free, _, coef = inputs(spread=0.01)  # inside the clip range, where nothing else stops it
    field = randn(2, B, F, H, W, seed=7)
    field[..., :2] = 0
    value, _ = policy_loss(dlogp, free, field, coef, CLIP, RatioScope.position)
    moved = gradient(value, dlogp)
    assert moved[..., :2].eq(0).all()
    assert moved[..., 2:].ne(0).all()


@pytest.mark.parametrize("masked", [False, True])
def test_at_sample_the_ratio_decides_and_the_gradient_follows_the_map(masked):
    dlogp, free, _, _ = inputs()
    free = given_first_frame() if masked else free
    weight = torch.rand(B, F, H, W, generator=torch.Generator().manual_seed(2))
    one, coef = torch.ones(1, B, dtype=torch.float64), torch.ones(1)
    value, _ = policy_loss(dlogp, free, one, coef, (9.0, 9.0), RatioScope.sample, weight)
    r = ratio(dlogp.detach(), free, RatioScope.sample)
    torch.testing.assert_close(gradient(value, dlogp), -r * free * weight / free.sum())
    beyond = (dlogp.detach() + 2).requires_grad_()  # every ratio is, in the direction of the advantage
    value, metrics = policy_loss(beyond, free, one, coef, CLIP, RatioScope.sample, weight)
    assert metrics["clip_high"].eq(1).all()
    assert gradient(value, beyond).eq(0).all()


def test_a_map_of_zeros_at_sample_moves_nothing():
    dlogp, free, advantage, coef = inputs()
    value, _ = policy_loss(dlogp, free, advantage, coef, CLIP, RatioScope.sample, torch.zeros(B, F, H, W))
    assert value.eq(0).all()
    assert gradient(value, dlogp).eq(0).all()


@pytest.mark.parametrize("scope", [RatioScope.sample, RatioScope.pooled])
def test_an_advantage_per_position_needs_a_ratio_per_position(scope):
    dlogp, free, _, coef = inputs()
    with pytest.raises(ValueError, match=r"type advantage\.ratio_scope=position"):
        policy_loss(dlogp, free, randn(2, B, F, H, W), coef, CLIP, scope)


@pytest.mark.parametrize("scope", SCOPES)
def test_float32_stays_and_gradients_match_float64(scope):
    dlogp, free, advantage, coef = inputs()
    value, metrics = policy_loss(dlogp, free, advantage, coef, CLIP, scope)
    assert {value.dtype, *(m.dtype for m in metrics.values())} == {torch.float32}
    assert not any(m.requires_grad for m in metrics.values())
    exact = dlogp.detach().double().requires_grad_()
    reference, _ = policy_loss(exact, free.double(), advantage, coef, CLIP, scope)
    torch.testing.assert_close(value.double(), reference, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        gradient(value, dlogp).double(), gradient(reference, exact), rtol=1e-5, atol=1e-6
    )


def test_metrics_by_hand():
    dlogp = torch.tensor([[math.log(1.3), math.log(0.8)], [0.0, math.log(1.15)]]).reshape(2, 1, 1, 2)
    free, a, c = torch.ones(1, 1, 2), torch.ones(1, 2), torch.ones(1)
    _, m = policy_loss(dlogp, free, a, c, CLIP, RatioScope.position)
    assert m["ratio_mean"].tolist() == pytest.approx([1.05, 1.075], rel=1e-6)
    assert m["ratio_max_dev"].tolist() == pytest.approx([0.3, 0.15], rel=1e-5)
    assert m["clip_high"].tolist() == [0.5, 0.0]
    assert m["clip_low"].tolist() == [0.5, 0.0]
    squares = (math.log(1.3) ** 2 + math.log(0.8) ** 2) / 4
    assert m["approx_kl"][0].item() == pytest.approx(squares, rel=1e-6)
    _, m = policy_loss(dlogp, free, a, c, CLIP, RatioScope.sample)
    mean = (math.log(1.3) + math.log(0.8)) / 2
    assert m["approx_kl"][0].item() == pytest.approx(0.5 * mean**2, rel=1e-5)
    assert m["clip_high"].tolist() == m["clip_low"].tolist() == [0.0, 0.0]


def test_kl_by_hand_over_free_positions():
    mean, reference = torch.zeros(2, C, F, H, W), torch.full((2, C, F, H, W), 0.5)
    reference[:, :, 0] = float("nan")
    std = torch.tensor([1.0, 0.25])
    torch.testing.assert_close(kl(mean, reference, std, given_first_frame()), torch.tensor([0.125, 2.0]))
    torch.testing.assert_close(
        kl(mean, mean + 1, std, torch.ones(F, H, W)), 1 / (2 * std.square()), rtol=1e-6, atol=0
    )


def test_the_mean_counts_free_positions_only():
    x = torch.arange(30.0).reshape(1, F, H, W)
    assert reduce_positions(x, given_first_frame()).item() == pytest.approx(22.0)


class TestGuard:
    free = torch.ones(F, H, W)

    def step(self, rows=B):
        old = randn(rows, C, F, H, W, seed=1)
        new = old + 0.05 * randn(rows, C, F, H, W, seed=2)
        noise = randn(rows, C, F, H, W, seed=3)
        level, sqrt_dt = torch.linspace(0.5, 1.2, rows), torch.linspace(0.1, 0.4, rows)
        std = (level * sqrt_dt)[:, None, None, None, None]
        taken = old + std * noise
        dlogp = (noise.square() - ((taken - new) / std).square()).div(2).mean((1, 2, 3, 4))
        return dlogp, new, old, level, sqrt_dt, noise

    def test_log_ratio_is_noise_times_shift(self):
        """The identity behind it: (dlogp + b) sc = mean(noise * (mean - mean_old)), free of the drift."""
        dlogp, new, old, level, sqrt_dt, noise = self.step()
        r, scale = guard_ratio(
            dlogp, new, old, level, sqrt_dt, self.free, GuardBias.sample, RatioScope.sample
        )
        expected = (noise * (new - old)).mean((1, 2, 3, 4))
        torch.testing.assert_close(r.log(), expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(scale, 1 / sqrt_dt.square(), rtol=1e-6, atol=0)

    def test_sample_bias_does_not_depend_on_the_company(self):
        *arguments, _ = self.step()
        whole = guard_ratio(*arguments, self.free, GuardBias.sample, RatioScope.sample)
        for b in range(B):
            alone = guard_ratio(
                *(x[b : b + 1] for x in arguments), self.free, GuardBias.sample, RatioScope.sample
            )
            for x, y in zip(whole, alone, strict=True):
                torch.testing.assert_close(x[b : b + 1], y, rtol=1e-6, atol=0)
        batch, _ = guard_ratio(*arguments, self.free, GuardBias.batch, RatioScope.sample)
        assert (batch - whole[0]).abs().max() > 1e-3

    def test_both_agree_on_one_row(self):
        arguments = [x[:1] for x in self.step()[:5]]
        one, two = (guard_ratio(*arguments, self.free, bias, RatioScope.sample) for bias in GuardBias)
        for x, y in zip(one, two, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-6, atol=0)

    def test_it_replaces_the_ratio_in_the_loss(self):
        dlogp, free, advantage, coef = inputs()
        guarded = torch.tensor([0.5, 0.95, 1.1, 1.5])
        value, metrics = policy_loss(dlogp, free, advantage, coef, CLIP, RatioScope.sample, guarded=guarded)
        expected = [
            sum(c * ppo(r, a) for c, a in zip(coef.tolist(), advantage[:, b].tolist(), strict=True))
            for b, r in enumerate(guarded.tolist())
        ]
        assert value.tolist() == pytest.approx(expected, rel=1e-5)
        assert metrics["ratio_mean"].tolist() == guarded.tolist()

    @pytest.mark.parametrize("scope", [RatioScope.position, RatioScope.pooled])
    def test_other_scopes_are_errors(self, scope):
        *arguments, _ = self.step()
        with pytest.raises(ValueError, match=r"type advantage\.ratio_scope=sample"):
            guard_ratio(*arguments, self.free, GuardBias.sample, scope)
        dlogp, free, advantage, coef = inputs()
        with pytest.raises(ValueError, match="one ratio per sample"):
            policy_loss(dlogp, free, advantage, coef, CLIP, scope, guarded=torch.ones(B))


class TestClip:
    shape = (16, 9, 30, 52)

    @pytest.mark.parametrize("scope", [RatioScope.sample, RatioScope.pooled])
    @pytest.mark.parametrize("reduction", list(Reduction))
    def test_default_of_one_ratio(self, scope, reduction):
        assert resolve_clip(None, scope, self.shape, reduction) == (DEFAULT_CLIP_RANGE, DEFAULT_CLIP_RANGE)

    def test_default_of_a_ratio_per_position(self):
        further = rare(9 * 30 * 52) / rare(1)
        low, high = resolve_clip(None, RatioScope.position, self.shape, Reduction.mean)
        assert low == high == pytest.approx(DEFAULT_CLIP_RANGE * math.sqrt(9 * 30 * 52) * further)
        low, high = resolve_clip(None, RatioScope.position, self.shape, Reduction.sum)
        assert low == high == pytest.approx(DEFAULT_CLIP_RANGE * math.sqrt(16 * 16 * 9 * 30 * 52) * further)

    @pytest.mark.parametrize(("positions", "share"), [(1, 0.1), (64, 8e-3), (1024, 1.7e-3), (4096, 8e-4)])
    def test_positions_may_bind_as_rarely_as_pulls_no_harder(self, positions, share):
        assert allowed_share(positions) == pytest.approx(share, rel=0.05)
        density = math.exp(-(rare(positions) ** 2) / 2)  # sqrt(P) phi(z) is the same for every P
        assert math.sqrt(positions) * density == pytest.approx(math.exp(-(rare(1) ** 2) / 2))

    @pytest.mark.parametrize("reduction", list(Reduction))
    def test_position_default_lies_at_its_deviation_of_the_noise(self, reduction):
        """Independent noise per element: the scalar's clip at 1.28 of its deviations, this at `rare`."""
        c, f, h, w = shape = (4, 1, 32, 32)
        noise = randn(256, c, f, h, w)
        scalar = noise.mean((1, 2, 3, 4)).std() / DEFAULT_CLIP_RANGE
        at = noise.mean(1) if reduction is Reduction.mean else noise.sum(1)
        relative = at.std() / resolve_clip(None, RatioScope.position, shape, reduction)[0]
        relative *= rare(h * w) / rare(1)
        # 256 samples know the scalar's spread to 1/sqrt(512) = 4.4 %; the tolerance is four of these.
        assert relative.item() == pytest.approx(scalar.item(), rel=0.18)

    def test_given_values_are_taken_as_they_are(self):
        for scope in SCOPES:
            assert resolve_clip(0.2, scope, self.shape, Reduction.mean) == (0.2, 0.2)
            assert resolve_clip([1e-5, 3], scope, self.shape, Reduction.mean) == (1e-5, 3.0)

    @pytest.mark.parametrize("bad", [0, -1e-4, [0.1], [0.1, 0.2, 0.3], "small", [1.5, 0.1], math.inf, True])
    def test_anything_else_is_an_error(self, bad):
        with pytest.raises(ValueError, match="wanted null, a number above 0"):
            resolve_clip(bad, RatioScope.sample, self.shape, Reduction.mean)
