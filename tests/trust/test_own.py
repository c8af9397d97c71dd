"""A prior and a trust of the user's own: by dotted path, refused with the signature where they do not fit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis.findings import ConfigError
from rlvis.records import PriorState
from rlvis.schema import PriorConfig, TrustConfig
from rlvis.trust.form import FORMS, form_of
from rlvis.trust.prior import PRIORS, prior_of
from tests.trust.cases import CONSTANT, RAS, ran, rewards

MODULE = '''
import torch
from rlvis.trust.prior import Anchor, Prior

class Last(Prior):
    """The last step's mean; its first is unknown."""
    def __init__(self, shift: float = 0.0):
        self.shift = shift
    def step(self, groups, memory, prompts, reference):
        mean = memory.get("mean", torch.zeros_like(groups.mean)) + self.shift
        known = torch.full_like(mean, float("mean" in memory))
        return Anchor(mean, torch.zeros_like(mean), known), {"mean": groups.mean}

class Spoiling(Last):
    def step(self, groups, memory, prompts, reference):
        for value in memory.values():
            value += 1
        return super().step(groups, memory, prompts, reference)

class Narrow(Prior):
    def step(self, groups, memory):
        return None, memory

class Silent(Prior):
    pass

class Returns(Prior):
    what = None
    def step(self, groups, memory, prompts, reference):
        one = torch.ones_like(groups.mean)
        return eval(self.what, {"one": one, "Anchor": Anchor, "torch": torch})

def spread(groups, anchor, unit, gain=1.0):
    return gain * groups.var

class Spread:
    needs_variance = True
    def __init__(self, gain=1.0):
        self.gain = gain
    def __call__(self, groups, anchor, unit):
        return self.gain * anchor.var

class Uncallable:
    pass

def short(groups):
    return groups.mean

def wrong(groups, anchor, unit, what=""):
    return eval(what, {"groups": groups, "torch": torch})
'''


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_trust.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_trust", None)


def own(name: str, **kwargs: Any) -> PriorConfig:
    return PriorConfig(kind=f"own_trust.{name}", kwargs=kwargs)


def test_a_prior_is_stepped_and_remembers() -> None:
    step = rewards([[0.0, 2.0], [4.0, 6.0]])
    first, state = ran(step, RAS, own("Last", shift=0.5))
    assert first.weight.eq(1).all()
    assert (state.kind, state.values["mean"].flatten().tolist()) == ("own_trust.Last", [1.0, 5.0])
    trust, _ = ran(step, RAS, own("Last", shift=0.5), state)
    assert trust.anchor_mean is not None
    assert trust.anchor_mean.flatten().tolist() == [1.5, 5.5]
    assert (trust.weight < 1).all()


def test_what_a_prior_writes_into_its_memory_stays_there() -> None:
    step = rewards([[0.0, 2.0]])
    _, state = ran(step, RAS, own("Last"))
    state = PriorState(kind="own_trust.Spoiling", values=state.values)
    assert ran(step, RAS, own("Spoiling"), state)[0].anchor_mean.item() == 2.0
    assert state.values["mean"].item() == 1.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Narrow",
            r"takes 3 positional arguments; it is called with self, groups, memory, prompts, reference",
        ),
        ("Silent", r"it has no `step`"),
        ("spread", r"it is no subclass of rlvis\.trust\.prior\.Prior"),
    ],
)
def test_a_prior_of_another_form_is_refused_with_the_signature(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        prior_of(own(name))
    assert PRIORS.contract in str(raised.value)
    assert "def step(self, groups, memory, prompts, reference):" in str(raised.value)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("None", "NoneType"),
        ("(one, {})", r"\(Tensor, dict\)"),
        ("(Anchor(one[0], one, one), {})", r"Anchor\.mean \[1\] float64, for \[P, Q\] = \[2, 1\]"),
        ("(Anchor(one, one.float(), one), {})", r"Anchor\.var \[2, 1\] float32"),
        ("(Anchor(one, one, -one), {})", r"Anchor\.count with values below 0"),
        ("(Anchor(one / 0, one, one), {})", r"Anchor\.mean with values that are not finite"),
        ("(Anchor(one, one, one), [])", "a memory that is a list"),
        ("(Anchor(one, one, one), {'n': 1})", r"memory\['n'\] int, for a tensor of float64"),
        ("(Anchor(one, one, one), {'scale/var': one[0]})", "a memory with the key 'scale/var'"),
    ],
)
def test_what_a_prior_may_not_return(what: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import own_trust  # type: ignore[import-not-found]

    monkeypatch.setattr(own_trust.Returns, "what", what)
    with pytest.raises(ConfigError, match=f"its step returns .*{message}") as raised:
        ran(rewards([[0.0, 2.0], [4.0, 6.0]]), RAS, own("Returns"))
    assert "return Anchor(mean, var, count), memory" in str(raised.value)


def test_a_prior_without_an_anchor_leaves_groups_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import own_trust

    monkeypatch.setattr(own_trust.Returns, "what", "(None, {'seen': one})")
    trust, state = ran(rewards([[0.0, 2.0]]), RAS, own("Returns"))
    assert trust.weight.eq(1).all()
    assert list(state.values) == ["seen"]


def test_a_trust_is_a_function_or_a_class() -> None:
    step = rewards([[0.0, 2.0], [4.0, 4.0]])
    for name in ("spread", "own_trust:spread"):
        kind = name if ":" in name else f"own_trust.{name}"
        trust, _ = ran(step, TrustConfig(kind=kind, kwargs={"gain": 3.0}), CONSTANT)
        assert trust.weight.flatten().tolist() == [6.0, 0.0]
    form = form_of(TrustConfig(kind="own_trust.Spread"))
    assert getattr(form, "needs_variance", False)


@pytest.mark.parametrize(
    ("name", "message"),
    [("short", "takes 1 positional arguments"), ("Uncallable", "a class whose instances cannot be called")],
)
def test_a_trust_of_another_form_is_refused_with_the_signature(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        form_of(TrustConfig(kind=f"own_trust.{name}"))
    assert FORMS.contract in str(raised.value)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("groups.mean[0]", r"it returns \[1\] torch\.float64, for weights \[P, Q\] = \[2, 1\]"),
        ("1.0", "it returns float"),
        ("-groups.mean", r"a weight is -1"),
        ("groups.mean / 0", "a weight is inf"),
    ],
)
def test_what_a_trust_may_not_return(what: str, message: str) -> None:
    trust = TrustConfig(kind="own_trust.wrong", kwargs={"what": what})
    with pytest.raises(ConfigError, match=message) as raised:
        ran(rewards([[0.0, 2.0], [4.0, 6.0]]), trust, CONSTANT)
    assert "def my_trust(groups, anchor, unit, **kwargs):" in str(raised.value)


def test_groups_without_a_score_have_weight_one_whatever_a_trust_says() -> None:
    step = rewards(torch.tensor([[0.0, 2.0], [torch.nan, torch.nan]], dtype=torch.float64))
    trust, _ = ran(step, TrustConfig(kind="own_trust.wrong", kwargs={"what": "groups.mean / groups.count"}))
    assert trust.weight[1].item() == 1.0
