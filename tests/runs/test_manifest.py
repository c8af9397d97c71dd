"""manifest.json: enough to run again, nothing private."""

from __future__ import annotations

import getpass
import json
import platform
import subprocess
from pathlib import Path

import pytest

from rlvis.compose.command import compose
from rlvis.runs import manifest


def test_it_says_what_ran_and_on_what(tmp_path: Path) -> None:
    config = compose(["seed=11"]).typed()
    path = manifest.write(tmp_path, config, ["rlvis", "train", "seed=11", "name=two words"], 2, "cpu")
    content = json.loads(path.read_text())
    assert content["command"] == "rlvis train seed=11 'name=two words'"
    assert content["seed"] == 11
    assert (content["hardware"]["processes"], content["hardware"]["device"]) == (2, "cpu")
    assert content["versions"]["python"] == platform.python_version()
    assert {"rlvis", "torch", "diffusers", "hydra-core"} <= set(content["versions"])
    assert content["hardware"]["threads"] >= 1
    assert content["started"].endswith("+00:00")


def test_it_holds_nothing_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_VARIABLE", "a-value-from-the-environment")
    words = [
        "rlvis",
        "train",
        "reward.terms.judge.kwargs.api_key=abc123",
        "sampler.steps=5",
        "a={b: 1, token: xyz987}",
    ]
    text = manifest.write(tmp_path, compose([]).typed(), words, 1, "cpu").read_text()
    assert "api_key=***" in json.loads(text)["command"].replace("'", "")
    assert "sampler.steps=5" in text
    assert "abc123" not in text
    assert "xyz987" not in text
    assert "{b: 1, token: ***}" in text
    assert "a-value-from-the-environment" not in text
    assert f'"{platform.node()}"' not in text
    assert f"/{getpass.getuser()}/" not in text


def test_a_resumed_run_keeps_the_earlier_starts(tmp_path: Path) -> None:
    config = compose([]).typed()
    for word in ("a", "b", "c"):
        manifest.write(tmp_path, config, [word], 1, "cpu")
    content = json.loads((tmp_path / "manifest.json").read_text())
    assert content["command"] == "c"
    assert [earlier["command"] for earlier in content["earlier"]] == ["a", "b"]


def test_the_commit_is_that_of_a_checkout_only(tmp_path: Path) -> None:
    package = tmp_path / "package" / "__init__.py"
    package.parent.mkdir()
    package.touch()
    assert manifest.git(package) is None

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(
            ["git", *who, "-C", str(tmp_path), *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "somebody's own repository")
    assert manifest.git(package) is None  # installed inside it, but not of it
    git("add", ".")
    git("commit", "-q", "-m", "a checkout")
    assert manifest.git(package) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    package.write_text("changed = True\n")
    assert manifest.git(package) == {"commit": git("rev-parse", "HEAD"), "dirty": True}


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "PACKAGES", ("torch", "no-such-package-at-all"))
    assert set(manifest.versions()) == {"python", "rlvis", "torch"}
