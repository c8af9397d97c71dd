"""Canaries: equal scores pass, a drift names both values, noise and failures are not taken for one."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvis.reward.cache import Cached, Store
from rlvis.reward.canaries.drift import load
from rlvis.reward.canaries.watch import Canaries
from rlvis.reward.contract import Scores, Term

MEDIA = torch.randint(0, 256, (4, 1, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
PROMPTS = ("a", "b", "c", "d")
METADATA = tuple({"number": i} for i in range(4))


class Judge:
    """Mean level, plus a shift and noise of known or estimated variance; fails for some prompts."""

    def __init__(self, std: float = 0.0, repeats: int = 0) -> None:
        self.shift, self.fails, self.std, self.repeats = 0.0, (), std, repeats
        self.random = torch.Generator().manual_seed(1)

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        value = images.double().mean((1, 2, 3, 4)) + self.shift
        var = dof = None
        if self.std:
            draws = self.std * torch.randn(
                max(1, self.repeats), len(value), dtype=torch.float64, generator=self.random
            )
            value = value + draws.mean(0)
            var = torch.full_like(value, self.std**2)
            if self.repeats:
                var = draws.var(0) / self.repeats
                dof = torch.full_like(value, self.repeats - 1.0)
        value[[p in self.fails for p in prompts]] = math.nan
        return Scores(value, value.isfinite(), var, dof)


def kept(folder: Path, judge: Judge, tolerance: float = 1e-3) -> Canaries:
    canaries = Canaries(folder, [Term("steady", Judge(), 1.0), Term("judge", judge, 1.0)], tolerance, 0)
    canaries.begin(MEDIA, PROMPTS, METADATA)
    return canaries


def test_an_unchanged_scorer_passes_and_is_kept_for_a_resumed_run(tmp_path: Path) -> None:
    judge = Judge()
    first = kept(tmp_path, judge)
    assert first.look(5) is None
    again = Canaries(tmp_path, first.terms, 1e-3, 0)
    assert again.kept is not None
    assert torch.equal(again.kept.media, MEDIA)
    assert (again.kept.prompts, again.kept.metadata) == (PROMPTS, METADATA)
    assert again.look(10) is None
    judge.shift = 1.0
    assert again.look(15) is not None


def test_a_drift_names_term_sample_and_both_values(tmp_path: Path) -> None:
    judge = Judge()
    canaries = kept(tmp_path, judge)
    assert canaries.kept is not None
    before = canaries.kept.value[:, 1]
    judge.shift = 0.5
    message = canaries.look(20)
    assert message is not None
    assert "after training step 20 the reward judge has drifted" in message
    i = PROMPTS.index(message.split("('")[1][0])
    assert f"scored {float(before[i]):.8g} at first and scores {float(before[i]) + 0.5:.8g} now" in message
    assert "4 of 4 canaries" in message
    assert f"resume={tmp_path}" in message


def test_the_tolerance_is_in_units_of_the_spread(tmp_path: Path) -> None:
    judge = Judge()
    canaries = kept(tmp_path, judge, tolerance=0.1)
    spread = float(MEDIA.double().mean((1, 2, 3, 4)).std(correction=0))
    judge.shift = 0.099 * spread
    assert canaries.look(1) is None
    judge.shift = 0.101 * spread
    assert canaries.look(1) is not None


def test_equal_scores_have_the_floor(tmp_path: Path) -> None:
    def constant(value: float) -> Any:
        return lambda images, prompts, metadata: Scores(
            torch.full((len(images),), value, dtype=torch.float64), torch.ones(len(images), dtype=torch.bool)
        )

    canaries = Canaries(tmp_path, [Term("t", constant(20.0), 1.0)], 1e-3, 0)
    canaries.begin(MEDIA, PROMPTS, METADATA)
    for value, drifted in ((20.000019, False), (20.000021, True)):
        canaries.terms = [Term("t", constant(value), 1.0)]
        assert (canaries.look(1) is not None) is drifted


@pytest.mark.parametrize("repeats", [0, 3])
def test_stated_noise_widens_the_tolerance(tmp_path: Path, repeats: int) -> None:
    """No alarm in 300 looks of an unchanged noisy judge, and one at a shift of some ten deviations."""
    judge = Judge(std=2.0, repeats=repeats)
    canaries = kept(tmp_path, judge)
    assert all(canaries.look(i) is None for i in range(300))
    judge.shift = 60.0
    message = canaries.look(300)
    assert message is not None
    assert "by the noise that it states" in message


def test_a_failure_is_no_drift_and_a_late_score_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judge = Judge()
    judge.fails = ("b",)
    canaries = kept(tmp_path, judge)
    judge.fails = ("b", "c")
    with caplog.at_level(logging.WARNING):
        assert canaries.look(1) is None
    assert "canaries: 2 of 4 have no score now" in caplog.text
    judge.fails = ()
    assert canaries.look(2) is None
    loaded = load(tmp_path)
    assert loaded is not None
    assert bool(loaded.value.isfinite().all())


def test_a_cache_does_not_hide_a_drift(tmp_path: Path) -> None:
    judge = Judge()
    term = Term("judge", Cached(judge, Store(tmp_path), "judge"), 1.0)
    canaries = Canaries(tmp_path, [term], 1e-3, 0)
    canaries.begin(MEDIA, PROMPTS, METADATA)
    judge.shift = 1.0
    assert canaries.look(1) is not None


def test_other_terms_start_anew_and_damage_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept(tmp_path, Judge())
    assert Canaries(tmp_path, [Term("other", Judge(), 1.0)], 1e-3, 0).kept is None
    assert "were scored by steady, judge and the run now has other" in caplog.text
    (tmp_path / "canary.npz").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"canary\.npz.*cannot be read.*remove .*canary\.json"):
        Canaries(tmp_path, [Term("other", Judge(), 1.0)], 1e-3, 0)
