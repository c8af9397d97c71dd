"""The update on a real (tiny) policy: ratio 1 at first, accumulation changes nothing, masks and failures act
as promised.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis import schema as S
from rlvis.records import Advantages, PolicyUpdate, Trajectories
from rlvis.rollout import plan
from rlvis.rollout.stage import rollout
from rlvis.runtime.dist import World
from rlvis.update.stage import NonFiniteLossError, UpdateSettings, update
from tests import setting

LORA = {"lora": S.LoraConfig(rank=4, alpha=8)}
PER_SAMPLE = S.WindowConfig(kind=S.WindowKind.random_subset, per_sample=True)


class Case:
    """A policy, one rollout of it and plausible advantages."""

    def __init__(self, folder: Path, **groups: Any) -> None:
        self.config = setting.config(folder, **groups)
        self.policy = setting.policy(self.config, keep_reference=self.config.model.lora is None)
        self.prompts = setting.prompts(self.policy)
        steps = plan.make(self.policy, self.config, step=0)
        self.trajectories = rollout(self.policy, self.policy.module, self.prompts, range(12), steps).replace(
            media=None
        )
        term = torch.linspace(-1.5, 1.5, 12, dtype=torch.float64).view(1, 3, 4).flip(-1)
        ones = torch.ones(3, 4, dtype=torch.bool)
        self.advantages = Advantages(
            term=term, coef=torch.ones(1, dtype=torch.float64), names=("grpo",), keep=ones
        )
        self.engine = setting.PlainEngine(self.policy.module)
        self.start = self.weights()

    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten().clone() for _, p in self.policy.trainable()])

    def run(self, *, train: dict[str, Any] | None = None, **changes: Any) -> PolicyUpdate:
        from dataclasses import replace

        settings = UpdateSettings(
            replace(self.config.advantage, **changes.pop("advantage", {})),
            self.config.sampler,
            replace(self.config.train, **(train or {})),
        )
        trajectories: Trajectories = changes.get("trajectories", self.trajectories)
        advantages: Advantages = changes.get("advantages", self.advantages)
        return update(self.policy, self.engine, self.prompts, trajectories, advantages, settings, World())


@pytest.mark.parametrize(
    "groups",
    [
        {},
        {"model": LORA | {"cfg": 2.0}},
        {"model": {"cfg": 2.0, "cfg_grad": S.CfgGrad.conditional}},
        {"sampler": {"storage": S.Dtype.bfloat16}},
        {"sampler": {"window": PER_SAMPLE, "timestep_fraction": 0.6}},
        {"sampler": {"kernel": "cps", "logprob": S.LogProbForm.squared}},
        {"sampler": {"noise": S.NoiseName.dance, "eta": 0.3, "grid": "linear"}},
        {"advantage": {"ratio_scope": S.RatioScope.position}},
        {"advantage": {"old_logprob": S.OldLogProb.recompute}},
    ],
    ids=[
        "plain",
        "lora_cfg",
        "cfg_grad",
        "bf16_storage",
        "own_steps",
        "cps",
        "dance",
        "position",
        "recompute",
    ],
)
def test_the_ratio_is_exactly_one_before_the_first_update(sd3_folder: Path, groups: dict[str, Any]) -> None:
    case = Case(sd3_folder, **groups)
    metrics = case.run().metrics
    assert metrics["ratio/max_deviation_first"] == 0.0
    assert metrics["ratio/max_deviation"] > 0.0  # the second optimizer step sees a policy that has moved
    assert metrics["update/optimizer_steps"] == 2


def test_guard_starts_at_one_to_rounding(sd3_folder: Path) -> None:
    """Guard adds a bias computed from the redrawn noise: zero to rounding, far below the clip."""
    case = Case(sd3_folder)
    metrics = case.run(advantage={"guard": S.GuardConfig(), "clip_range": 2e-6}).metrics
    assert metrics["ratio/max_deviation_first"] < 2e-6 / 4


@pytest.mark.parametrize("size", [1, 3, 8, 16])
def test_other_shapes_stay_below_a_quarter_of_the_clip(sd3_folder: Path, size: int) -> None:
    case = Case(sd3_folder)
    metrics = case.run(train={"micro_batch": size}).metrics
    assert metrics["ratio/max_deviation_first"] < 1e-4 / 4


def test_accumulation_changes_nothing(sd3_folder: Path) -> None:
    weights = []
    for size in (2, 4, 12):
        case = Case(sd3_folder)
        case.run(train={"micro_batch": size, "updates_per_step": 1})
        weights.append(case.weights())
    assert not torch.equal(weights[0], case.start)
    for other in weights[1:]:
        # Adam's first step is lr * sign(g) where g is tiny: compare in units of lr = 1e-3, on average.
        assert (weights[0] - other).abs().mean() < 1e-3 * 1e-3


def test_every_transition_is_one_backward(sd3_folder: Path) -> None:
    case = Case(sd3_folder)
    case.run()
    assert case.engine.backwards == 2 * 2 * 4  # optimizer steps x micro-batches (6 rows of 4) x transitions


def test_zero_advantages_leave_the_weights(sd3_folder: Path) -> None:
    case = Case(sd3_folder)
    case.run(advantages=case.advantages.replace(term=torch.zeros_like(case.advantages.term)))
    assert torch.equal(case.weights(), case.start)


def test_a_masked_sample_has_no_effect_whatever_it_holds(sd3_folder: Path) -> None:
    keep = torch.ones(3, 4, dtype=torch.bool)
    keep[1, 2] = False
    weights = []
    for value in (0.0, float("nan")):
        case = Case(sd3_folder)
        logprob = case.trajectories.logprob.clone()
        logprob[6] = value
        case.run(
            advantages=case.advantages.replace(keep=keep),
            trajectories=case.trajectories.replace(logprob=logprob),
        )
        weights.append(case.weights())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], case.start)


def test_nothing_kept_is_no_update(sd3_folder: Path) -> None:
    case = Case(sd3_folder)
    done = case.run(advantages=case.advantages.replace(keep=torch.zeros(3, 4, dtype=torch.bool)))
    assert done.metrics == {}
    assert torch.equal(case.weights(), case.start)


def test_a_loss_that_is_not_finite_stops_before_the_optimizer(sd3_folder: Path) -> None:
    case = Case(sd3_folder)
    logprob = case.trajectories.logprob.clone()
    logprob[4, 1, 0, 3, 3] = float("nan")
    with pytest.raises(NonFiniteLossError, match="training step 0"):
        case.run(train={"updates_per_step": 1}, trajectories=case.trajectories.replace(logprob=logprob))
    assert torch.equal(case.weights(), case.start)


@pytest.mark.parametrize("model", [LORA, {}], ids=["lora", "full"])
def test_kl_pulls_back_to_the_reference(sd3_folder: Path, model: dict[str, Any]) -> None:
    """With no advantage and a moved policy, only the KL term has a gradient, and it lowers the KL."""
    case = Case(sd3_folder, model=model)
    case.run()
    case.engine = setting.PlainEngine(case.policy.module, lr=1e-4)  # without the momentum of the first steps
    none = case.advantages.replace(term=torch.zeros_like(case.advantages.term))
    divergence = [
        case.run(advantage={"kl_beta": 1.0}, advantages=none, train={"updates_per_step": 1}).metrics[
            "kl/reference"
        ]
        for _ in range(6)
    ]
    assert 0 < divergence[-1] < divergence[0]


def test_kl_starts_at_zero(sd3_folder: Path) -> None:
    case = Case(sd3_folder)
    metrics = case.run(advantage={"kl_beta": 0.1}, train={"updates_per_step": 1}).metrics
    assert metrics["kl/reference"] == 0.0


def test_the_map_decides_where_the_gradient_goes(sd3_folder: Path) -> None:
    """A map of ones is no map, bit for bit; another map is not."""
    weights = {}
    for name, map_ in {
        "none": None,
        "ones": torch.ones(12, 1, 8, 8),
        "left": torch.cat([torch.ones(12, 1, 8, 4), torch.zeros(12, 1, 8, 4)], -1),
    }.items():
        case = Case(sd3_folder)
        case.run(
            advantage={"ratio_scope": S.RatioScope.position}, advantages=case.advantages.replace(map=map_)
        )
        weights[name] = case.weights()
    assert torch.equal(weights["none"], weights["ones"])
    assert not torch.equal(weights["none"], weights["left"])


@pytest.mark.parametrize("mapped", [False, True])
def test_one_optimizer_step_is_the_same_at_sample_and_position(sd3_folder: Path, mapped: bool) -> None:
    """Scopes differ in what they clip only, and before the first optimizer step all ratios are 1."""
    gradients = []
    for scope in (S.RatioScope.sample, S.RatioScope.position):
        case = Case(sd3_folder)
        shape = (12, *case.policy.latent_shape[1:])
        maps = torch.rand(shape, generator=torch.Generator().manual_seed(3)) if mapped else None
        case.run(
            train={"updates_per_step": 1},
            advantage={"ratio_scope": scope, "clip_range": 1e-4},
            advantages=case.advantages.replace(map=maps),
        )
        states = case.engine.optimizer.state.values()  # first moment after one step: g / 10
        gradients.append(torch.cat([state["exp_avg"].flatten() for state in states]))
    assert gradients[0].norm() > 0
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5 * float(gradients[0].abs().max()))


def test_a_field_takes_the_place_of_the_scalar_advantages(sd3_folder: Path) -> None:
    """The scalar ones everywhere give the same weights bit for bit, others do not, and zeros move nothing."""
    position = {"ratio_scope": S.RatioScope.position}
    weights, start = {}, None
    for name, scale in {"none": None, "same": 1.0, "zero": 0.0}.items():
        case = Case(sd3_folder)
        start = case.start
        flat = case.advantages.term.flatten(1).float()[..., None, None, None]
        field = None if scale is None else (scale * flat).expand(-1, -1, 1, 8, 8).contiguous()
        case.run(advantage=position, advantages=case.advantages.replace(field=field))
        weights[name] = case.weights()
    assert torch.equal(weights["none"], weights["same"])
    assert not torch.equal(weights["none"], start)
    assert torch.equal(weights["zero"], start)


def test_records_that_do_not_belong_together_are_refused(sd3_folder: Path) -> None:
    case = Case(sd3_folder)
    with pytest.raises(ValueError, match="owns 12 of 12 rows, but was given 5"):
        case.run(trajectories=case.trajectories.take(range(5)))


def test_details_by_transition_are_what_the_metrics_are_made_of(sd3_folder: Path) -> None:
    case = Case(sd3_folder)
    done = case.run(advantage={"kl_beta": 0.1})
    kinds = ("sigma", "ratio_max_deviation", "clip_fraction", "loss", "kl")
    by = {kind: [done.details[f"transition/{s}/{kind}"] for s in range(4)] for kind in kinds}
    metrics = done.metrics
    assert max(by["ratio_max_deviation"]) == metrics["ratio/max_deviation"]
    assert sum(by["loss"]) / 4 == pytest.approx(metrics["update/loss"], abs=1e-7)  # of terms around 1
    assert sum(by["kl"]) / 4 == pytest.approx(metrics["kl/reference"], rel=1e-5)
    clipped = metrics["clip/fraction_high"] + metrics["clip/fraction_low"]
    assert sum(by["clip_fraction"]) / 4 == pytest.approx(clipped, rel=1e-5)
    assert by["sigma"] == pytest.approx(case.trajectories.schedule.sigma[:4].tolist())
    assert not any(key.startswith("transition/") for key in metrics)


def test_a_broken_loss_says_where(sd3_folder: Path) -> None:
    """Infinite old log-probs of one sample at one transition: that row is named, and the forward is sound."""
    case = Case(sd3_folder)
    logprob = case.trajectories.logprob.clone()
    logprob[6, 2] = -float("inf")
    with pytest.raises(
        NonFiniteLossError, match=r"inf first at transition 2 .* of prompt 7, sample 2"
    ) as caught:
        case.run(train={"updates_per_step": 1}, trajectories=case.trajectories.replace(logprob=logprob))
    place = caught.value.where
    (row,) = place.rows
    assert (row["prompt"], row["sample"], row["at"], row["value"]) == (7, 2, 2, "inf")
    assert row["text"] == setting.TEXTS[1]
    assert row["sigma"] == pytest.approx(float(case.trajectories.schedule.sigma[2]))
    assert (place.module, place.optimizer_step) == (None, 0)


def test_a_broken_layer_is_named(sd3_folder: Path) -> None:
    case = Case(sd3_folder)
    case.policy.module.transformer_blocks[1].ff.register_forward_hook(lambda m, a, out: out * float("nan"))
    with pytest.raises(NonFiniteLossError, match=r"from transformer_blocks\.1\.ff on") as caught:
        case.run()
    place = caught.value.where
    assert place.module == "transformer_blocks.1.ff"
    assert not place.weights
    assert "transformer_blocks.1" in place.layers
    assert len(place.rows) == 20  # the first 20 of 6 rows x 4 transitions
    assert torch.equal(case.weights(), case.start)


def test_spoiled_weights_are_named_as_such(sd3_folder: Path) -> None:
    case = Case(sd3_folder)
    with torch.no_grad():
        case.policy.module.proj_out.bias[0] = float("nan")
    with pytest.raises(NonFiniteLossError, match=r"from proj_out \(its weights\) on"):
        case.run()
