"""A file in its folder is all that a prior, a trust, a transform or a backbone of ours needs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rlvis.advantage.maps.backbone import Backbone
from rlvis.advantage.maps.opening import build
from rlvis.advantage.transform import transforms_of
from rlvis.checks.config import check
from rlvis.compose.command import compose
from rlvis.trust.form import form_of
from rlvis.trust.prior import prior_of

FILES = {
    "rlvis.trust.priors": """
from typing import Annotated
import torch
from rlvis.schema.key import Key
from rlvis.trust.prior import Anchor, Prior

class Toy(Prior):
    has_variance = False
    def __init__(self, decay: float, lift: Annotated[float, Key("of it all", least=0, most=1)] = 0.5):
        self.decay, self.lift = decay, lift
    def step(self, groups, memory, prompts, reference):
        one = torch.ones_like(groups.mean)
        return Anchor(groups.mean + self.lift, 0 * one, one), {}

ENTRY = Toy
""",
    "rlvis.trust.forms": """
def toy(groups, anchor, unit, *, gain=1.0):
    return gain * groups.var

ENTRY = toy
""",
    "rlvis.advantage.transforms": """
def toy(advantages, rewards, trust, power=1.0):
    return advantages

ENTRY = toy
""",
    "rlvis.advantage.maps.backbones": """
import torch
from rlvis.advantage.maps.backbone import Backbone, Layout

class Toy(Backbone):
    @classmethod
    def load(cls, config, device):
        return cls(torch.nn.Conv2d(3, 5, 4, 4), device)
    @classmethod
    def skeleton(cls, config):
        return torch.nn.Conv2d(3, 5, 4, 4, device="meta")
    def layout(self):
        return Layout(4)
    def hidden(self, pixels):
        return self.module(pixels)

ENTRY = Toy
""",
}
WORDS = [
    "prior.kind=toy",
    "prior.decay=0.5",
    "prior.kwargs.lift=0.25",
    "trust.kind=toy",
    "trust.kwargs.gain=2.0",
    "advantage=vipo",
    "advantage.transform=[toy]",
    "advantage.map.backbone=toy",
]


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path) -> Iterator[None]:
    """Each folder goes on in one of the test's, which holds toy.py."""
    for package, code in FILES.items():
        folder = tmp_path / package
        folder.mkdir()
        (folder / "toy.py").write_text(code, encoding="utf-8")
        importlib.import_module(package).__path__.append(str(folder))
    yield
    for package in FILES:
        importlib.import_module(package).__path__.pop()
        sys.modules.pop(f"{package}.toy", None)
        vars(sys.modules[package]).pop("toy", None)


def test_one_file_is_enough() -> None:
    config = compose(WORDS).typed()
    assert check(config) == []
    prior = prior_of(config.prior)
    assert (vars(prior), prior.has_variance) == ({"decay": 0.5, "lift": 0.25}, False)
    assert getattr(form_of(config.trust), "keywords", None) == {"gain": 2.0}
    assert [name for name, _ in transforms_of(config.advantage)] == ["toy"]
    found = build(config.advantage.map, torch.device("cpu"), 32, 32)
    assert isinstance(found, Backbone)
    assert found(torch.rand(1, 3, 32, 32))[0].shape == (1, 64, 5)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("prior.kwargs.lift=2", "prior.kwargs.lift=2: wanted at most 1"),
        ("prior.kwargs.decay=0.1", "prior.kwargs.decay=0.1 with prior.kind=toy, which has a key for that"),
        ("prior.window=10", "prior.window=10 does nothing with prior.kind=toy"),
        ("trust.kwargs.gains=2", "has no argument 'gains'; did you mean gain?"),
        ("trust.ras.k=2", "trust.ras.k=2 does nothing with trust.kind=toy"),
        ("advantage.map.backbone=to", "did you mean toy?"),
    ],
)
def test_its_facts_are_known_before_anything_loads(word: str, message: str) -> None:
    (error,) = check(compose([*WORDS, word]).typed())
    assert message in str(error)


def test_ours_take_the_keys_of_their_section_alone() -> None:
    for words, message in (
        (
            ["trust=ras", "prior=moving_average", "prior.kwargs.a=1"],
            "has no argument 'a'; it takes scope, decay",
        ),
        (
            ["trust=ras", "prior=moving_average", "trust.kwargs.k=1"],
            "trust.kwargs.k=1 with trust.kind=ras, which has a section",
        ),
        (["trust.kwargs.k=1"], "does nothing with trust.kind=none"),
        (["prior.kwargs.a=1"], "does nothing with prior.kind=none"),
    ):
        (error,) = check(compose(words).typed())
        assert message in str(error)
