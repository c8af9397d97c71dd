"""The hub without the hub: pinned commits, failures in words, files at an address with pinned content."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from rlvis.reward import hub, weights


def response(status: int) -> Any:
    import httpx

    return httpx.Response(status, request=httpx.Request("GET", "https://example.org"))


FAILURES = [
    (
        lambda: errors.GatedRepoError("no", response=response(403)),
        "is gated: accept its terms at https://hug",
    ),
    (lambda: errors.RepositoryNotFoundError("no", response=response(404)), "the hub has no such repository"),
    (lambda: errors.RevisionNotFoundError("no", response=response(404)), "has no revision 'abc'"),
    (lambda: errors.RemoteEntryNotFoundError("no", response=response(404)), r"has no w\.pt; give the repos"),
    (lambda: errors.LocalEntryNotFoundError("no network"), "the hub does not answer: no network -- without"),
    (
        lambda: errors.OfflineModeIsEnabled("offline"),
        r"run `hf download some/where --revision abc w\.pt --local",
    ),
]


@pytest.mark.parametrize(("make", "words"), FAILURES)
def test_failures_are_said_in_one_line(
    make: Callable[[], Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **kwargs: Any) -> str:
        raise make()

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(ValueError, match=words) as error:
        weights.file("some/where", "w.pt", "abc")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="some/where"):
        weights.folder("some/where", "abc", ["w.pt"])


def test_the_second_name_is_asked_for_when_the_first_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def serve(repo: str, name: str, revision: str | None) -> str:
        asked.append((name, revision))
        if name.endswith(".safetensors"):
            raise errors.RemoteEntryNotFoundError("no", response=response(404))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", serve)
    assert weights.file("some/where", ("a.safetensors", "a.pt"), "main") == tmp_path / "a.pt"
    assert asked == [("a.safetensors", "main"), ("a.pt", "main")]
    weights.file("some/where", "a.pt")
    assert asked[2:] == [("a.pt", None)]


def test_without_network_the_second_name_may_be_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def cached(repo: str, name: str, revision: str | None) -> str:
        if name != "a.pt":
            raise errors.LocalEntryNotFoundError("no network")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    assert weights.file("some/where", ("a.safetensors", "a.pt")) == tmp_path / "a.pt"
    with pytest.raises(ValueError, match=r"run `hf download some/where b\.pt --local-dir FOLDER` elsewhere"):
        weights.file("some/where", ("b.safetensors", "b.pt"))
    assert "--include '*.json' --include 'x'" in hub.failure("a/b", ["*.json", "x"], None, OSError("no"))


def test_a_download_is_kept_and_its_content_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    source = tmp_path / "head.pth"
    source.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    kept = hub.download(source.as_uri(), digest)
    assert kept.read_bytes() == b"weights"
    source.unlink()
    assert hub.download(source.as_uri(), digest) == kept  # not fetched again
    other = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(ValueError, match=r"cannot be fetched: .*; fetch file:.* where there is network"):
        hub.download(source.as_uri(), other)
    source.write_bytes(b"weights")
    with pytest.raises(ValueError, match=f"has changed: its sha256 is {digest}, not {other}"):
        hub.download(source.as_uri(), other)
    assert [p.name for p in kept.parent.iterdir()] == [digest]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE forbids"):
        hub.download(source.as_uri(), other)
