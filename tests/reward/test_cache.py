"""The score cache: what it keeps, what it never keeps, and what damage costs."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvis.reward import cache, scorer, stage
from rlvis.reward.cache import Cached, Store
from rlvis.reward.contract import Scores
from rlvis.reward.scorer import build
from rlvis.schema import RewardConfig, RewardTerm

IMAGES = torch.randint(0, 256, (4, 2, 3, 8, 6), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
PROMPTS = ["a", "a", "b", "c"]
METADATA: list[dict[str, Any]] = [{}, {"n": 1}, {}, {}]


class Counting:
    """Mean brightness; counts the samples it was asked for. The prompt "c" fails; variances with `noise`."""

    def __init__(self, noise: bool = False, broken: bool = False) -> None:
        self.asked: list[int] = []
        self.noise, self.broken = noise, broken

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        self.asked.append(len(images))
        value = images.double().mean((1, 2, 3, 4))
        value[[p == "c" for p in prompts]] = math.nan
        var = 2 * value if self.noise else None
        return Scores(value[1:] if self.broken else value, value.isfinite(), var, var)


def test_what_was_scored_once_is_not_scored_again(tmp_path: Path) -> None:
    inner = Counting(noise=True)
    first = Cached(inner, Store(tmp_path), "it")(IMAGES, PROMPTS, METADATA)
    second = Cached(inner, Store(tmp_path), "it")(IMAGES, PROMPTS, METADATA)  # as another process would
    assert inner.asked == [4, 1]  # the failed one again
    for scores in (first, second):
        assert scores.value[:3].tolist() == IMAGES.double().mean((1, 2, 3, 4))[:3].tolist()
        assert scores.valid.tolist() == [True, True, True, False]
        assert scores.noise_var is not None
        assert scores.noise_dof is not None
        assert scores.noise_var[:3].tolist() == (2 * scores.value[:3]).tolist()
    assert bool(second.value[3].isnan())


@pytest.mark.parametrize("change", ["pixel", "shape", "prompt", "metadata", "identity"])
def test_the_key_is_all_that_a_score_depends_on(tmp_path: Path, change: str) -> None:
    inner = Counting()
    Cached(inner, Store(tmp_path), "it")(IMAGES[:1], ["a"], [{"n": 1}])
    image = IMAGES[:1].clone()
    if change == "pixel":
        image[0, 1, 2, 7, 5] ^= 1
    elif change == "shape":
        image = image.reshape(1, 2, 3, 6, 8)  # the same bytes
    other = Cached(inner, Store(tmp_path), "other" if change == "identity" else "it")
    other(image, ["b" if change == "prompt" else "a"], [{"n": 2 if change == "metadata" else 1}])
    assert inner.asked == [1, 1]


def test_the_scorer_is_asked_for_what_is_missing_alone(tmp_path: Path) -> None:
    inner, store = Counting(), Store(tmp_path)
    cached = Cached(inner, store, "it")
    cached(IMAGES[1:3], PROMPTS[1:3], METADATA[1:3])
    scores = cached(IMAGES[:3], PROMPTS[:3], METADATA[:3])
    assert inner.asked == [2, 1]
    assert scores.value.tolist() == IMAGES[:3].double().mean((1, 2, 3, 4)).tolist()
    assert scores.noise_var is None
    assert cached.news() == (5, 2)
    assert cached.news() == (0, 0)


def test_a_wrong_number_of_scores_is_a_failure_as_without_a_cache(tmp_path: Path) -> None:
    store = Store(tmp_path)
    Cached(Counting(), store, "it")(IMAGES[:1], PROMPTS[:1], METADATA[:1])
    broken = scorer.Term("t", Cached(Counting(broken=True), store, "it"), 1.0)
    scores = stage.score([broken], PROMPTS, METADATA, IMAGES)
    assert scores.valid.tolist() == [True, False, False, False]  # the first is known
    assert stage.score([broken], PROMPTS[1:], METADATA[1:], IMAGES[1:]).failures == {"t/shape": 3}


def test_damaged_entries_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inner = Counting()
    cached = Cached(inner, Store(tmp_path), "it")
    cached(IMAGES[:2], PROMPTS[:2], METADATA[:2])
    key = cached.key(IMAGES[0], "a", {})
    with sqlite3.connect(tmp_path / cache.NAME) as file:
        ((content,),) = file.execute("SELECT entry FROM scores WHERE key = ?", (key,)).fetchall()
        number = cache.NUMBERS.unpack(content[cache.SUM :])
        changed = content[: cache.SUM] + cache.NUMBERS.pack(number[0] + 1, *number[1:])
        file.execute("UPDATE scores SET entry = ? WHERE key = ?", (changed, key))
    scores = cached(IMAGES[:2], PROMPTS[:2], METADATA[:2])
    assert inner.asked == [2, 1]
    assert scores.value.tolist() == IMAGES[:2].double().mean((1, 2, 3, 4)).tolist()
    assert "1 damaged entries are left out" in caplog.text


def test_a_damaged_file_costs_hits_and_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / cache.NAME).write_bytes(b"not a database, but long enough to be taken for one" * 20)
    inner = Counting()
    cached = Cached(inner, Store(tmp_path), "it")
    assert cached(IMAGES[:2], PROMPTS[:2], METADATA[:2]).valid.all()
    assert cached(IMAGES[:2], PROMPTS[:2], METADATA[:2]).valid.all()
    assert inner.asked == [2, 2]
    assert "not a database" in caplog.text
    assert caplog.text.count("are not kept") == 1


def _write(folder: str, start: int) -> None:
    store = Store(folder)
    for i in range(start, start + 40):
        store.put({i.to_bytes(4, "big"): (float(i), math.nan, math.nan)})


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(str(tmp_path), 40 * i)) for i in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    entries = Store(tmp_path).get([i.to_bytes(4, "big") for i in range(120)])
    assert [entry[0] for entry in entries.values()] == [float(i) for i in range(120)]


def terms(folder: Path, **kwargs: Any) -> list[scorer.Term]:
    term = RewardTerm("jpeg_compressibility", frames="first", kwargs=kwargs)
    return build(RewardConfig(terms={"jpeg": term}, cache=str(folder)))


def test_a_run_s_terms_are_cached_by_the_frames_they_see(tmp_path: Path) -> None:
    built = terms(tmp_path)
    first = built[0].scorer(IMAGES, PROMPTS, METADATA)
    changed = IMAGES.clone()
    changed[:, 1] = 0  # a frame that the scorer does not see
    again = terms(tmp_path)
    assert torch.equal(again[0].scorer(changed, PROMPTS, METADATA).value, first.value)
    assert cache.metrics(built) == {"reward/jpeg/cached": 0.0}
    assert cache.metrics(again) == {"reward/jpeg/cached": 1.0}
    assert cache.metrics(again) == {}
    other = terms(tmp_path, quality=50)
    other[0].scorer(IMAGES, PROMPTS, METADATA)
    assert cache.metrics(other) == {"reward/jpeg/cached": 0.0}


def test_bare_terms_ask_the_scorer(tmp_path: Path) -> None:
    cached = terms(tmp_path)
    cached[0].scorer(IMAGES, PROMPTS, METADATA)
    bare = cache.bare(cached)
    assert torch.equal(
        bare[0].scorer(IMAGES, PROMPTS, METADATA).value, cached[0].scorer(IMAGES, PROMPTS, METADATA).value
    )
    assert cache.metrics(bare) == {}
    assert cache.metrics(cached) == {"reward/jpeg/cached": 0.5}


@pytest.mark.parametrize("mode", ["fresh", "frozen"])
def test_fresh_noise_is_not_kept(tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    noisy = {"scorer": "jpeg_compressibility", "mode": mode}
    term = RewardTerm("noisy", kwargs=noisy)
    built = build(RewardConfig(terms={"noisy": term}, cache=str(tmp_path)))
    twice = [built[0].scorer(IMAGES, PROMPTS, METADATA).value for _ in range(2)]
    assert torch.equal(*twice) is (mode == "frozen")
    assert ("scores of noisy are not kept: the noise is drawn anew" in caplog.text) is (mode == "fresh")


def test_a_changed_source_makes_new_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scorer_that_changes.py").write_text("def f(images, prompts, metadata): return [1.0] * 4\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = RewardConfig(terms={"f": RewardTerm("scorer_that_changes.f")}, cache=str(tmp_path))
    assert build(config)[0].scorer(IMAGES, PROMPTS, METADATA).value.tolist() == [1.0] * 4
    before = cache.identity("scorer_that_changes.f", {})
    monkeypatch.setattr(cache.inspect, "getsource", lambda module: "something else")
    assert cache.identity("scorer_that_changes.f", {}) != before
    assert json.loads(cache.identity("not_here.f", {"a": 1}))[2] == {"a": 1}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"reward\.cache=.*file.*type reward\.cache=FOLDER"):
        Store(tmp_path / "file" / "x")


def test_an_empty_folder_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert not Store(tmp_path).get([b"unknown"])
    assert caplog.text == ""
