"""reward.executor: which scorers a run gets, and its message when they are not there."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch

from rlvis.reward import scorer
from rlvis.reward.cache import Cached
from rlvis.reward.frames import Chosen
from rlvis.reward.function import Function
from rlvis.reward.serving.client import Remote
from rlvis.schema import Executor, RewardConfig, RewardTerm
from tests.reward.serving.places import TOKEN, served

MEDIA = torch.randint(0, 256, (3, 2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
CALL = MEDIA, ["a red circle"] * 3, [{}] * 3
JPEG = RewardTerm(scorer="jpeg_compressibility", weight=0.5, kwargs={"scale": 1.0})
NOISY = RewardTerm(scorer="noisy", kwargs={"scorer": "checker"})


def close(term: object) -> None:
    while not isinstance(term, Remote):
        term = getattr(term, "scorer", None) or term.function  # type: ignore[attr-defined]
    term.close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    terms = scorer.build(RewardConfig(terms={"size": JPEG, "noise": NOISY}))
    names = {"size": "jpeg_compressibility", "noise": "noisy"}
    with served(terms, scorers=names) as address:
        yield address


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLVIS_TOKEN", TOKEN)


def test_http_asks_the_servers_and_loads_no_scorer(url: str, caplog: pytest.LogCaptureFixture) -> None:
    missing = RewardTerm(scorer="not.installed.here", weight=0.25)
    config = RewardConfig(terms={"size": missing}, executor=Executor.http, servers=[url])
    [term] = scorer.build(config)
    assert (term.name, term.weight) == ("size", 0.25)
    assert isinstance(term.scorer, Remote)
    [local] = scorer.build(RewardConfig(terms={"size": JPEG}))
    assert torch.equal(term.scorer(*CALL).value, local.scorer(*CALL).value)  # bit for bit
    assert "scorer=not.installed.here here, and jpeg_compressibility at the servers" in caplog.text
    close(term)


def test_frames_are_chosen_before_they_are_sent(url: str) -> None:
    terms = {"size": RewardTerm(scorer="jpeg_compressibility", frames="last")}
    [term] = scorer.build(RewardConfig(terms=terms, executor=Executor.http, servers=[url]))
    assert isinstance(term.scorer, Chosen)
    [local] = scorer.build(RewardConfig(terms={"size": JPEG}))
    assert torch.equal(term.scorer(*CALL).value, local.scorer(MEDIA[:, 1:], *CALL[1:]).value)
    close(term)


def test_a_term_that_no_server_has(url: str) -> None:
    config = RewardConfig(terms={"clip": JPEG}, executor=Executor.http, servers=[url])
    with pytest.raises(ValueError, match="no term 'clip' at the reward servers; they score size, noise"):
        scorer.build(config)


def test_one_remote_term_among_local_ones(url: str) -> None:
    far = RewardTerm(scorer="remote", kwargs={"urls": [url], "term": "size"})
    terms = scorer.build(RewardConfig(terms={"far": far, "size": JPEG}))
    assert isinstance(terms[0].scorer, Function)
    assert torch.equal(*(term.scorer(*CALL).value for term in terms))
    close(terms[0])


def test_the_cache_stands_before_the_servers_but_not_before_scores_drawn_anew(
    url: str, tmp_path: object, caplog: pytest.LogCaptureFixture
) -> None:
    terms = {"size": JPEG, "noise": NOISY}
    config = RewardConfig(terms=terms, executor=Executor.http, servers=[url], cache=str(tmp_path))
    size, noise = scorer.build(config)
    assert isinstance(size.scorer, Cached)
    assert isinstance(noise.scorer, Remote)
    assert "scores of noise are not kept" in caplog.text
    close(size)
    close(noise)


def test_ray_without_ray_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"needs Ray.*pip install 'rlvis\[ray\]'"):
        scorer.build(RewardConfig(terms={"size": JPEG}, executor=Executor.ray))
