"""Noise on a scorer: its moments, whom it touches, frozen and fresh draws, and the variance it reports."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rlvis.named import Folder
from rlvis.reward.contract import Scores
from rlvis.reward.facts import fit
from rlvis.reward.scorers.noisy import Noisy


def level(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Tensor:
    return images.double().mean(dim=(1, 2, 3, 4)) / 255


class Estimated:
    def __call__(self, images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Scores:
        one = torch.ones(len(prompts), dtype=torch.float64)
        return Scores(one, torch.tensor([True] * (len(prompts) - 1) + [False]), 0.04 * one, 5 * one)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Noisy around a function of this file, whichever name pytest gave the module."""
    scorers = {"level": level, "estimated": Estimated}
    monkeypatch.setattr(Folder, "find", lambda self, name, key="": scorers[name])
    return lambda scorer="level", **kwargs: Noisy(scorer, **kwargs)


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.randint(
        256, (count, 1, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def call(scorer: Noisy, images: Tensor, prompts: list[str] | None = None, clear: bool = False) -> Scores:
    prompts = prompts or ["a red circle"] * len(images)
    return scorer(images, prompts, [{"clear": clear}] * len(prompts))


@pytest.mark.parametrize("replace", [False, True])
def test_mean_and_deviation_are_those_asked_for(make: Any, replace: bool) -> None:
    images = pictures(4000)
    scores = call(make(mean=0.5, std=0.2, replace=replace), images)
    noise = scores.value - (0 if replace else level(images, [], []))
    # Standard errors: 0.2 / sqrt(4000) = 0.0032 of the mean, 0.2 / sqrt(8000) = 0.0022 of the deviation.
    assert float(noise.mean()) == pytest.approx(0.5, abs=4 * 0.0032)
    assert float(noise.std()) == pytest.approx(0.2, abs=4 * 0.0022)
    assert float(((noise - 0.5) / 0.2).pow(3).mean()) == pytest.approx(0, abs=4 * (15 / 4000) ** 0.5)
    assert torch.equal(scores.noise_var, torch.full((4000,), 0.2**2, dtype=torch.float64))
    assert scores.noise_dof is None


def test_frozen_is_a_function_of_seed_pixels_and_prompt(make: Any) -> None:
    images = pictures(6)
    prompts = ["a red circle", "a blue ring"] * 3
    first = call(make(mode="frozen"), images, prompts).value
    other = make(mode="frozen")
    order = torch.tensor([5, 3, 1, 4, 2, 0])
    again = call(other, images[order], [prompts[i] for i in order.tolist()]).value
    assert torch.equal(again, first[order])
    assert torch.equal(call(other, images, prompts).value, first)
    clean = level(images, [], [])
    changed = images.clone()
    changed[:, 0, 0, 0, 0] ^= 1
    for noise in (
        call(make(mode="frozen", seed=1), images, prompts).value - clean,
        call(make(mode="frozen"), images, prompts[1:] + prompts[:1]).value - clean,
        call(make(mode="frozen"), changed, prompts).value - level(changed, [], []),
    ):
        assert ((noise - (first - clean)).abs() > 1e-4).all()


def test_fresh_draws_anew_at_each_scoring_and_the_same_in_another_process(make: Any) -> None:
    one, state = make(), torch.random.get_rng_state()
    twins = pictures(1).expand(4, -1, -1, -1, -1)
    draws = torch.cat([call(one, twins).value, call(one, twins).value])
    assert len(set(draws.tolist())) == 8
    another = make()
    assert torch.equal(torch.cat([call(another, twins[:1]).value for _ in range(8)]), draws)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert float(call(make(mode="frozen"), twins).value.std()) == 0


def test_only_ambiguous_prompts_are_touched(make: Any) -> None:
    images = pictures(4)
    metadata: list[dict[str, Any]] = [{"clear": True}, {"clear": False}, {"clear": True}, {"clear": False}]
    scorer = make(who="ambiguous", mean=5.0, replace=True)
    scores = scorer(images, ["a red circle", "something"] * 2, metadata)
    assert torch.equal(scores.value[::2], level(images, [], [])[::2])
    assert (scores.value[1::2] > 4).all()
    assert scores.noise_var.tolist() == pytest.approx([0, 0.01] * 2)
    with pytest.raises(ValueError, match=r"who=ambiguous needs metadata with clear.*'a red circle' has \[\]"):
        scorer(images[:1], ["a red circle"], [{}])


def test_a_share_of_the_prompts_is_touched_and_always_the_same(make: Any) -> None:
    prompts = [f"prompt {i}" for i in range(2000)]
    scorer = make(who=0.4, std=1.0)
    images = pictures(2000)
    touched = call(scorer, images, prompts).value != level(images, [], [])
    # sqrt(0.4 * 0.6 / 2000) = 0.011
    assert float(touched.double().mean()) == pytest.approx(0.4, abs=4 * 0.011)
    other = pictures(2000, seed=1)
    assert torch.equal(call(make(who=0.4, std=1.0), other, prompts).value != level(other, [], []), touched)
    assert [scorer.noisy(p, {}) for p in prompts] == touched.tolist()


def test_heteroscedastic_deviations_follow_their_law(make: Any) -> None:
    scorer = make(std=0.2, heteroscedastic=0.4)
    prompts = [f"prompt {i}" for i in range(4000)]
    deviation = torch.tensor([scorer.deviation(p) for p in prompts], dtype=torch.float64)
    logs = (deviation / 0.2).log()
    # 0.4 / sqrt(4000) = 0.0063, 0.4 / sqrt(8000) = 0.0045
    assert float(logs.mean()) == pytest.approx(-(0.4**2), abs=4 * 0.0063)
    assert float(logs.std()) == pytest.approx(0.4, abs=4 * 0.0045)
    # The mean of std_p^2 is std^2; relative spread of std_p^2 is sqrt(exp(4 * 0.16) - 1) = 0.95.
    assert float(deviation.square().mean()) == pytest.approx(0.04, rel=4 * 0.95 / 4000**0.5)
    scores = call(scorer, pictures(4000), prompts)
    assert torch.allclose(scores.noise_var, deviation.square())
    standard = (scores.value - level(pictures(4000), [], [])) / deviation
    assert float(standard.std()) == pytest.approx(1, abs=4 / 8000**0.5)


def test_an_inner_estimate_is_combined(make: Any) -> None:
    images, prompts = pictures(3), ["a", "b", "c"]
    added = call(make("estimated", std=0.1), images, prompts)
    assert added.noise_var.tolist() == pytest.approx([0.05] * 3)
    assert added.noise_dof.tolist() == pytest.approx([5 * (0.05 / 0.04) ** 2] * 3)
    assert added.valid.tolist() == [True, True, False]
    replaced = call(make("estimated", std=0.1, replace=True, who="ambiguous"), images, prompts)
    assert replaced.noise_var.tolist() == pytest.approx([0.01] * 3)
    assert replaced.noise_dof.isnan().all()
    clear = call(make("estimated", std=0.1, replace=True, who="ambiguous"), images, prompts, clear=True)
    assert clear.noise_var.tolist() == pytest.approx([0.04] * 3)
    assert clear.noise_dof.tolist() == [5.0] * 3


@pytest.mark.parametrize(
    ("who", "message"),
    [
        ("most", "t.kwargs: noisy: who='most', wanted all or ambiguous, or a share"),
        (1.0, "t.kwargs.who=1: wanted below 1; type t.kwargs.who=all"),
        (True, "t.kwargs.who=true: wanted text or a number"),
    ],
)
def test_the_prompts_are_words_or_a_share(who: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit("noisy", {"scorer": "coverage", "who": who}, "t")


def test_the_inner_scorer_is_checked_by_name_and_kwargs() -> None:
    for kwargs, message in (
        ({"scorer": "jpeg_compresibility"}, r"t\.kwargs\.scorer=jpeg_compresibility: did you mean"),
        ({"kwargs": {"colour": 1}}, r"t\.kwargs\.kwargs: jpeg_compressibility has no argument 'colour'"),
        ({"kwargs": {"quality": 101}}, r"t\.kwargs\.kwargs\.quality=101: wanted at most 100"),
    ):
        with pytest.raises(ValueError, match=message):
            fit("noisy", {"scorer": "jpeg_compressibility"} | kwargs, "t")
    images = pictures(2)
    scorer = Noisy("jpeg_compressibility", std=0.0)
    assert torch.equal(call(scorer, images).value, scorer.inner(images, ["", ""], [{}, {}]).value)
