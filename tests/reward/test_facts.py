"""What a scorer says of itself before it is made: the domains of its kwargs, and facts."""

from __future__ import annotations

import importlib
import math
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch

from rlvis.findings import ConfigError
from rlvis.reward import hub
from rlvis.reward.contract import Scores
from rlvis.reward.facts import ARGUMENTS, SCORERS, Facts, facts, fit, repository, states
from rlvis.reward.scorer import build
from rlvis.schema import RewardConfig, RewardTerm
from rlvis.schema.key import Key, argument_marks, text
from tests.reward.needed import needed

TINY = {"path": "asset:tiny_clip"}


def numeric(hint: Any) -> bool:
    """Whether numbers may come in."""
    return hint in (int, float) or any(map(numeric, typing.get_args(hint)))


def outside(mark: Key, whole: bool) -> Iterator[Any]:
    """Values that lie just beyond each bound."""
    if mark.choices is not None:
        yield "another"
    if mark.least is not None:
        yield mark.least - 1 if whole else math.nextafter(mark.least, -math.inf)
    if mark.most is not None:
        yield mark.most + 1 if whole else math.nextafter(mark.most, math.inf)
    yield from (bound for bound in (mark.above, mark.below) if bound is not None)


def edges() -> Iterator[tuple[str, str, Any]]:
    """(scorer, argument, value) for each bound of each argument of what is shipped."""
    for name in SCORERS.names():
        for argument, hint, mark in argument_marks(SCORERS.find(name)):
            many = typing.get_origin(next(iter(typing.get_args(hint)), hint)) is Sequence
            whole = int in (hint, *typing.get_args(hint)) or many
            for value in outside(mark, whole) if mark is not None else ():
                yield name, argument, [value] if many else value


@pytest.mark.parametrize("name", SCORERS.names())
def test_every_argument_that_takes_numbers_says_which(name: str) -> None:
    fit(name, needed(name), "t")
    for argument, hint, mark in argument_marks(SCORERS.find(name)):
        if argument not in (*ARGUMENTS, "transport", "sleep", "loop"):
            assert mark is not None, argument
            assert mark.about
            assert mark.bounded or not numeric(hint), argument


@pytest.mark.parametrize(("name", "argument", "value"), list(edges()))
def test_a_value_beyond_a_bound_is_one_line(name: str, argument: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        fit(name, needed(name) | {argument: value}, "reward.terms.x")
    assert len(caught.value.findings) == 1
    assert str(caught.value).startswith(f"reward.terms.x.kwargs.{argument}={text(value)}: wanted ")


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("ocr", {"every": True}, "kwargs.every=true: wanted a whole number (frames); type t.kwargs.every=4"),
        ("ocr", {"every": 2.5}, "kwargs.every=2.5: wanted a whole number"),
        ("ocr", {"threads": "four"}, "kwargs.threads=four: wanted a whole number or null"),
        ("intact", {"scale": math.nan}, "kwargs.scale=nan: wanted a finite number"),
        ("hpsv3", {"sigma": 1}, "kwargs.sigma=1: wanted true or false; type t.kwargs.sigma=false"),
        ("clip", {"frames": [0, "1"]}, "wanted a list, each a whole number or null"),
        ("pickscore", {"path": ""}, "kwargs.path='': wanted text that is not empty"),
        ("remote", {"urls": "http://a"}, "kwargs.urls=http://a: wanted a list, each text"),
        ("vlm", {"options": [1]}, "wanted a mapping or null"),
    ],
)
def test_types(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fit(name, needed(name) | kwargs, "t")
    assert message in str(caught.value)


def test_repositories_are_pinned_to_whole_commits() -> None:
    for name in SCORERS.names():
        pinned = getattr(importlib.import_module(f"rlvis.reward.scorers.{name}"), "PINNED", {})
        for source, commit in pinned.items():
            assert hub.HUB.fullmatch(source)
            assert len(commit) == 40
            assert set(commit) <= set("0123456789abcdef")
        used = {one.name: one.revision for one in facts(name, needed(name)).repositories}
        assert all(used.get(source, commit) == commit for source, commit in pinned.items())
    (judge, words) = facts("pickscore", {"tokenizer_revision": "main"}).repositories
    assert (judge.kwarg, judge.file, judge.revision) == ("path", "config.json", judge.revision)
    assert judge.revision is not None
    assert (words.kwarg, words.revision) == ("tokenizer", "main")
    assert repository({"path": "hf-hub:a/b"}, "path", "x").name == "a/b"
    assert facts("hpsv2", {"version": "v2.0"}).repositories[0].file == "HPS_v2_compressed.pt"


def test_weights_are_counted_by_who_knows_them() -> None:
    assert facts("hpsv2", {}).gpu_bytes() == 4 * 986_109_441  # amp keeps float32
    assert facts("pickscore", {"precision": "bf16"}).gpu_bytes() == 2 * 986_109_441
    assert facts("jpeg_compressibility", {}).gpu_bytes() == facts("motion", {}).gpu_bytes() == 0
    assert facts("motion", {"measure": "flow", "path": "F"}).gpu_bytes() == "its weights are not counted"
    tiny = facts("clip", TINY).gpu_bytes()
    assert isinstance(tiny, int)
    assert facts("clip", TINY | {"precision": "bf16"}).gpu_bytes() == tiny // 2
    assert "its configuration cannot be read" in str(facts("clip", {"path": "clop"}).gpu_bytes())


def test_noise_around_a_scorer_has_its_facts() -> None:
    judge = {"scorer": "vlm", "kwargs": {"model": "m", "mode": "pairwise", "group": 4}}
    assert facts("noisy", judge).group == ("kwargs.group", 4)
    assert facts("noisy", {"scorer": "checker"}).world
    twice = {"scorer": "noisy", "kwargs": {"scorer": "pickscore", "kwargs": {"path": "a/b"}}}
    (one, _) = facts("noisy", twice).repositories
    assert (one.kwarg, one.name, one.revision) == ("kwargs.kwargs.path", "a/b", None)


def test_who_asks_the_truth_of_the_shapes_world_says_so() -> None:
    world = [name for name in SCORERS.names() if facts(name, needed(name)).world]
    assert world == ["checker", "coverage", "intact", "noisy"]  # noisy: around the checker


# A scorer of one's own, with domains and facts, without a word about it in the package.


@states(Facts(weights=0))
def redness(
    images: torch.Tensor,
    prompts: Sequence[str],
    metadata: Sequence[dict[str, Any]],
    power: Annotated[float, Key("of the red channel", above=0, most=4)] = 1.0,
) -> torch.Tensor:
    return (images[:, :, 0].double().mean((1, 2, 3)) / 255) ** power


class Pairs:
    """Of the most general kind."""

    def __init__(self, path: str, many: Annotated[int, Key("of a group", least=2, most=64)]) -> None:
        if not path:
            raise RuntimeError("nothing is loaded for its facts")

    @staticmethod
    def facts(kwargs: dict[str, Any]) -> Facts:
        if kwargs["many"] % 2:
            raise ValueError(f"many={kwargs['many']}: wanted an even number")
        return Facts((repository(kwargs, "path", "config.json"),), weights=8, group=("many", kwargs["many"]))

    def __call__(self, images: Any, prompts: Any, metadata: Any) -> Scores:
        raise NotImplementedError


def unmarked(images: Any, prompts: Any, metadata: Any, **kwargs: Any) -> list[float]:
    return [0.0] * len(prompts)


class Wrong:
    facts = "none"

    def __call__(self, images: Any, prompts: Any, metadata: Any) -> list[float]:
        return []


def test_a_toy_scorer_is_taken_by_its_dotted_path() -> None:
    toy = f"{__name__}:redness"
    assert facts(toy, {}).gpu_bytes() == 0
    with pytest.raises(ConfigError, match=r"t\.kwargs\.power=0: wanted above 0; type t\.kwargs\.power=1"):
        fit(toy, {"power": 0}, "t")
    (term,) = build(RewardConfig(terms={"red": RewardTerm(toy, kwargs={"power": 2})}))
    pictures = torch.full((2, 1, 3, 4, 4), 51, dtype=torch.uint8)
    assert term.scorer(pictures, ["", ""], [{}, {}]).value.tolist() == pytest.approx([0.04] * 2)


def test_facts_of_one_s_own() -> None:
    pairs = f"{__name__}.Pairs"
    stated = facts(pairs, {"path": "a/b", "many": 4})
    assert (stated.gpu_bytes(), stated.group, stated.repositories[0].name) == (8, ("many", 4), "a/b")
    with pytest.raises(ConfigError, match=r"t\.kwargs: .*Pairs: many=3: wanted an even number"):
        fit(pairs, {"path": "a/b", "many": 3}, "t")
    plain = facts(f"{__name__}.unmarked", {"anything": 1})
    assert plain.gpu_bytes() == "a function of your own may load anything"
    assert (plain.repositories, plain.world, plain.group) == ((), False, None)
    with pytest.raises(ConfigError, match=r"its attribute `facts` is a str; wanted rlvis\.reward\.facts"):
        fit(f"{__name__}.Wrong", {}, "t")


def test_names_are_those_of_the_folder(tmp_path: Path) -> None:
    folder = Path(hub.__file__).parent / "scorers"
    assert SCORERS.names() == tuple(sorted(f.stem for f in folder.glob("[!_]*.py")))
    assert all(callable(SCORERS.find(name)) for name in SCORERS.names())
