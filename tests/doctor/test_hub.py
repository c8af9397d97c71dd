"""The hub: what is asked for, and what is said when it cannot be had. No network is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from rlvis import schema as S
from rlvis.doctor import hub
from rlvis.reward.facts import SCORERS, facts
from tests import setting
from tests.reward.needed import needed


@pytest.fixture
def remote(tmp_path: Path) -> S.Config:
    vipo = S.MapConfig(source=S.MapSource.psm)
    config = setting.config(tmp_path, advantage={"map": vipo}, model={"path": "owner/name", "revision": "v1"})
    clip = S.RewardTerm(scorer="clip", kwargs={"path": "hf-hub:owner/judge"})
    config.reward.terms["judge"] = clip
    return config


def answer(monkeypatch: pytest.MonkeyPatch, error: Exception | None, token: str | None = None) -> list[Any]:
    """Online, with nothing cached: every question for a file's head is answered like this."""
    asked: list[Any] = []

    def head(url: str, **kwargs: Any) -> None:
        asked.append((url, kwargs["timeout"]))
        if error is not None:
            raise error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", head)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    return asked


def hub_error(kind: type[Exception]) -> Exception:
    """An error of the hub without its response."""
    error = kind.__new__(kind)
    Exception.__init__(error, "no")
    return error


def test_nothing_is_asked_where_nothing_comes_from_the_hub(tmp_path: Path) -> None:
    (finding,) = hub.hub(setting.config(tmp_path))
    assert (finding.severity, finding.numbers) == ("ok", {"repositories": 0})


def test_every_repository_is_asked_for_once_with_a_time_limit(
    remote: S.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answer(monkeypatch, None)
    assert [f.severity for f in hub.hub(remote)] == ["ok"]
    assert len(asked) == 3
    assert "owner/name" in asked[0][0]
    assert "/v1/" in asked[0][0]
    assert "facebook/dinov2-large" in asked[1][0]
    assert "owner/judge" in asked[2][0]
    assert all(seconds <= 10 for _, seconds in asked)


def test_every_judge_s_repositories_are_asked_for_at_their_commits(tmp_path: Path) -> None:
    config = setting.config(tmp_path)
    terms = {name: S.RewardTerm(scorer=name, kwargs=needed(name)) for name in SCORERS.names()}
    terms["noisy"].kwargs["scorer"] = "videoclip"
    config.reward.terms = terms
    repositories = {one.key.removeprefix("reward.terms."): one for one in hub.wanted(config)}
    assert repositories["pickscore.kwargs.path"].repository == "yuvalkirstain/PickScore_v1"
    assert repositories["hpsv3.kwargs.base"].repository == "Qwen/Qwen2-VL-7B-Instruct"
    assert repositories["noisy.kwargs.kwargs.path"].repository == "alibaba-pai/VideoCLIP-XL"
    stated = [one for term in terms.values() for one in facts(term.scorer, term.kwargs).repositories]
    assert {(one.repository, one.file, one.revision) for one in repositories.values()} == {
        (one.name, one.file, one.revision) for one in stated if "/" in one.name
    }
    config.reward.executor = S.Executor.http
    assert hub.wanted(config) == []


def test_what_is_cached_is_not_asked_for(remote: S.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer(monkeypatch, errors.OfflineModeIsEnabled("no"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: "/a/file")
    assert [f.severity for f in hub.hub(remote)] == ["ok"]
    assert not asked


def test_offline_without_a_copy_is_a_failure_that_names_the_way(
    remote: S.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answer(monkeypatch, None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    findings = hub.hub(remote)
    assert [f.severity for f in findings] == ["failure"] * 3
    assert "model.path=owner/name: it is not in the cache" in str(findings[0])
    assert "hf download owner/name" in findings[0].type
    assert not asked


@pytest.mark.parametrize(
    ("error", "token", "words"),
    [
        (errors.GatedRepoError, None, ("gated", "no token is set", "hf auth login")),
        (
            errors.GatedRepoError,
            "hf_x",
            ("gated", "your token has no access", "https://huggingface.co/owner"),
        ),
        (errors.RepositoryNotFoundError, None, ("is not there", "model.path=OWNER/NAME")),
        (errors.RevisionNotFoundError, None, ("no revision v1",)),
        (TimeoutError, None, ("does not answer (TimeoutError: no)", "hf download")),
    ],
)
def test_what_stands_in_the_way_is_named(
    error: type[Exception],
    token: str | None,
    words: tuple[str, ...],
    remote: S.Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer(monkeypatch, hub_error(error), token)
    finding = hub.hub(remote)[0]
    assert finding.severity == "failure"
    for word in words:
        assert word in str(finding)
    assert "hf_x" not in str(finding)
