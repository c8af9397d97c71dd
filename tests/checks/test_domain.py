"""The domain of every key: stated for every number, and one line for a value outside of it."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from rlvis.checks.config import check
from rlvis.checks.domain import domain_errors
from rlvis.compose.command import compose
from rlvis.compose.names import required
from rlvis.findings import ConfigError
from rlvis.schema import Config
from rlvis.schema.key import Key, key_of


def _leaves(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any, Key | None]]:
    """(dotted key, bare type, mark) of every key of the schema, below open mappings as NAME."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        bare, mark = key_of(hints[field.name])
        bare, name = required(bare), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(bare):
            yield from _leaves(bare, f"{name}.")
            continue
        if typing.get_origin(bare) is dict and dataclasses.is_dataclass(inner := typing.get_args(bare)[1]):
            yield from _leaves(inner, f"{name}.NAME.")
        yield name, bare, mark


LEAVES = list(_leaves(Config))


def test_every_key_says_what_it_is() -> None:
    assert len(LEAVES) > 150
    assert [name for name, _, mark in LEAVES if mark is None or not mark.about] == []


def test_every_number_has_a_domain() -> None:
    numbers = (int, float, list[int], list[float])
    assert [name for name, kind, mark in LEAVES if kind in numbers and not (mark and mark.bounded)] == []


def test_conditions_name_keys_that_exist() -> None:
    known = {name for name, _, _ in LEAVES} | {f.name for f in dataclasses.fields(Config)}
    sections = {name.rsplit(".", n)[0] for name in known for n in range(1, name.count(".") + 1)}
    named = {c.partition("=")[0] for _, _, mark in LEAVES if mark for c in mark.only}
    assert named - known - sections == set()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("threads=100000", "threads=100000: wanted at most 1024 (threads); type threads=1"),
        ("optim.weight_decay=-1", "optim.weight_decay=-1: wanted at least 0; type optim.weight_decay=0.0001"),
        ("optim.eps=inf", "optim.eps=inf: wanted a finite number"),
        ("optim.betas=[.9]", "optim.betas=[0.9]: wanted a list of 2, each at least 0 and below 1"),
        ("optim.betas=[.9,1]", "wanted a list of 2, each below 1"),
        ("engine.stage=4", "engine.stage=4: wanted one of 0, 1, 2, 3; type engine.stage=2"),
        (f"seed={10**23}", "wanted at most 9.22337e+18"),
        (f"model.height={10**22}", f"model.height={10**22}: wanted at most"),
        ("train.steps=0", "train.steps=0: wanted at least 1 (training steps)"),
        ("run_dir=''", "run_dir='': wanted text that is not empty and has no line breaks"),
        ("run_dir='a\nb'", "wanted text that is not empty and has no line breaks"),
        (
            "tracker.project=mine",
            "does nothing with tracker.wandb=false; type tracker.wandb=true, or tracker.project",
        ),
        ("plan_gib=80", "plan_gib=80 does nothing with plan=false; type plan=true, or plan_gib=null"),
        ("resume_allow=[optim.lr]", "does nothing with resume=null; type resume=auto, or resume_allow=[]"),
    ],
)
def test_a_value_outside_is_one_line(word: str, message: str) -> None:
    (error,) = check(compose([word]).typed())
    assert message in str(error)


def test_two_is_not_true() -> None:
    with pytest.raises(ConfigError, match="wanted true or false"):
        compose(["dry_run=2"])


def test_only_the_sections_asked_for_are_looked_at() -> None:
    config = compose(["tracker.samples=0", "train.steps=0"]).typed()
    assert [f.what.split(":")[0] for f in domain_errors(config, ("train",))] == ["train.steps=0"]
