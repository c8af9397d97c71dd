"""Transforms of advantages: where they stand in the order, what they see and may return."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis.advantage.stage import build
from rlvis.advantage.transform import TRANSFORMS, transforms_of
from rlvis.checks.config import check
from rlvis.compose.command import compose
from rlvis.findings import ConfigError
from rlvis.records import Advantages, RewardHistory, Rewards, Trust
from rlvis.schema import AdvantageConfig, ApplyTo, Combine, MapConfig

P, K = 2, 4
MODULE = """
import torch

SEEN = []

def double(advantages, rewards, trust, factor=2.0):
    SEEN.append(advantages)
    return advantages.replace(term=factor * advantages.term)

def plus_one(advantages, rewards, trust):
    return advantages.replace(term=torch.where(rewards.valid, advantages.term + 1, 0.0))

def first_half(advantages, rewards, trust):
    keep = advantages.keep.clone()
    keep[:, 2:] = False
    return advantages.replace(keep=keep)

def wrong(advantages, rewards, trust, what=""):
    return eval(what, {"a": advantages, "torch": torch})

def short(advantages):
    return advantages
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_transforms.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_transforms", None)


def make(weights: tuple[float, ...] = (1.0,)) -> Rewards:
    term = torch.randn(P, K, len(weights), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(P, K, dtype=torch.bool)
    valid[1, 3] = False
    term[1, 3] = torch.nan
    names, latency = tuple("ab"[: len(weights)]), (0.0,) * len(weights)
    return Rewards(term=term, names=names, weights=weights, valid=valid, latency=latency)


def built(*names: str, rewards: Rewards | None = None, kwargs: Any = None, **more: Any) -> Advantages:
    rewards = rewards or make()
    q = 1 if more.get("combine", Combine.weighted_sum) is Combine.weighted_sum else rewards.term.shape[2]
    trust = Trust(weight=torch.full((P, q), 2.0, dtype=torch.float64), contrast_replaces=False)
    config = AdvantageConfig(
        transform=[f"own_transforms.{name}" for name in names], transform_kwargs=kwargs or {}, **more
    )
    return build(rewards, trust, config, torch.arange(P), RewardHistory())[0]


def test_transforms_follow_trust_in_their_order_and_precede_clamp_and_sign() -> None:
    plain = built(adv_clip=100.0)
    both = built("double", "plus_one", kwargs={"double": {"factor": 3.0}}, adv_clip=100.0)
    valid = make().valid
    assert torch.equal(both.term, torch.where(valid, 3 * plain.term + 1, 0.0))
    other = built("plus_one", "double", adv_clip=100.0)
    assert torch.equal(other.term, torch.where(valid, 2 * (plain.term + 1), 0.0))
    clipped = built("double", adv_clip=1.5, sign=-1.0)
    assert torch.equal(clipped.term, -(2 * plain.term).clamp(-1.5, 1.5))


def test_a_negative_weight_has_turned_its_term_before() -> None:
    from own_transforms import SEEN  # type: ignore[import-not-found]

    rewards = make((1.0, -0.5))
    out = built("double", rewards=rewards, combine=Combine.separate_terms, adv_clip=100.0)
    seen = SEEN[-1]
    assert seen.coef.tolist() == out.coef.tolist() == [1.0, 0.5]
    best = rewards.term[0, :, 1].argmin()
    assert seen.term[1, 0].argmax() == best


def test_best_of_n_chooses_among_what_is_kept() -> None:
    out = built("first_half")
    assert out.keep.tolist() == [[True, True, False, False]] * 2
    out = built("first_half", best_of_n=2)
    assert out.keep.sum(-1).tolist() == [2, 2]
    assert not out.keep[:, 2:].any()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("None", "it returns a NoneType, no Advantages"),
        ("a.replace(term=a.term[:, :1], keep=a.keep[:1])", r"terms \[1, 1, 4\] named grpo, for \[1, 2, 4\]"),
        ("a.replace(term=a.term / 0)", "it raises ValueError: .*some values are not finite"),
        ("a.replace(term=a.term + 1)", r"terms that are not 0 where not rewards\.valid"),
        ("a.replace(keep=torch.ones_like(a.keep))", "samples in keep that were left out before"),
        ("a.replace(coef=-a.coef)", r"the coefficients \[-1\.0\]"),
        ("a.replace(map=torch.ones(1, 1, 2, 2))", "a map or a field"),
        ("a.replace(term=a.term.float())", "it raises ValueError"),
    ],
)
def test_what_a_transform_may_not_return(what: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        built("wrong", kwargs={"wrong": {"what": what}})
    assert "advantage.transform=own_transforms.wrong: it" in str(raised.value)
    assert TRANSFORMS.contract in str(raised.value)


@pytest.mark.parametrize(
    ("names", "kwargs", "message"),
    [
        (["own_transforms.short"], {}, r"takes 1 positional arguments; .*\nwanted def|def my_transform"),
        (
            ["own_transforms.double"],
            {"double": {"factors": 1}},
            "has no argument 'factors'; did you mean factor",
        ),
        (["own_transforms.double"], {"twice": {"factor": 1}}, r"transform_kwargs\.twice belongs to none of"),
        (["own_transforms.double"], {"double": 2}, r"transform_kwargs\.double=2: wanted keywords"),
        (["halve"], {}, r"advantage\.transform=halve: .*one of your own is given as MODULE\.NAME"),
    ],
)
def test_what_is_no_transform(names: list[str], kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        transforms_of(AdvantageConfig(transform=names, transform_kwargs=kwargs))


def test_a_map_on_the_reward_leaves_it_nothing_to_change() -> None:
    message = "advantage.transform=[own_transforms.double] changes one advantage a sample"
    with pytest.raises(ValueError, match=re.escape(message)):
        built("double", map=MapConfig(apply_to=ApplyTo.reward))
    on_reward = ["advantage.ratio_scope=position", "advantage.map.apply_to=reward"]
    words = ["advantage=vipo", *on_reward, "advantage.transform=[own_transforms.double]"]
    (error,) = check(compose(words).typed())
    assert error.what.startswith(message)
    assert check(compose([*words, error.type.partition(",")[0]]).typed()) == []
