"""`rlvis doctor`: what it prints, how it ends, that it writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlvis.cli import doctor
from rlvis.doctor import run as doctor_run
from rlvis.doctor.diagnosis import Diagnosis, Finding
from rlvis.findings import ConfigError
from rlvis.schema import Config
from rlvis.schema import Doctor as Mode

FINE = Finding("disk", "ok", "room enough")
SO_SO = Finding("gpu", "warning", "7 of 8 idle", {}, "they wait", "torchrun ...")
BAD = Finding("ratio", "failure", "0.1 off", {}, "noise", "model.dtype=float32")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Nothing is assembled: a diagnosis is made up, and the configurations are collected."""
    asked: list[Config] = []

    def made(config: Config) -> Diagnosis:
        asked.append(config)
        return Diagnosis(config.doctor, (FINE, SO_SO, BAD)[: len(config.name)], 0.1)

    monkeypatch.setattr(doctor_run, "alone", made)
    return asked


@pytest.mark.parametrize(
    ("mode", "name", "code"),  # the name is as long as there are findings
    [("warn", "a", 0), ("warn", "ab", 0), ("warn", "abc", 1), ("strict", "ab", 1), ("off", "abc", 0)],
)
def test_it_ends_as_the_training_would(
    mode: str, name: str, code: int, seen: list[Config], capsys: Any
) -> None:
    assert doctor.run([f"name={name}", f"doctor={mode}", "optim.lr=1e-4"]) == code
    out = capsys.readouterr().out
    assert ("would not start" in out) == (code == 1)
    assert f"doctor={mode}" in out
    if name == "abc":
        assert "why: noise" in out
        assert "type: model.dtype=float32" in out
    assert (seen[0].doctor, seen[0].optim.lr) == (Mode(mode), 1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "seed=1,2"], "--multirun belongs to rlvis train"),
        (["stage=score", "records=."], "type stage=all"),
        (["sampler.kernel=ode"], "type sampler.kernel=sde"),
    ],
)
def test_mistakes_are_refused(words: list[str], message: str, seen: list[Config], elsewhere: Path) -> None:
    (elsewhere / "step_000000").mkdir()
    with pytest.raises(ConfigError, match=message):
        doctor.run(words)
    assert not seen


def test_every_example_of_the_help_is_accepted(seen: list[Config], elsewhere: Path, capsys: Any) -> None:
    assert doctor.run(["--help"]) == 0
    text = capsys.readouterr().out
    (elsewhere / "prompts.txt").write_text("".join(f"a thing number {i}\n" for i in range(50)))
    lines = [line for line in text.splitlines() if "rlvis doctor " in line and "usage" not in line]
    examples = [line.split("rlvis doctor ", 1)[1].split("  ")[0].split() for line in lines]
    assert len(examples) >= 6
    for words in examples:
        assert doctor.run(words) in (0, 1), words
    assert len(seen) == len(examples)


def test_a_real_look_finds_the_default_well_and_writes_nothing(elsewhere: Path, capsys: Any) -> None:
    assert doctor.run(["debug=tiny", "doctor=strict"]) == 0
    out = capsys.readouterr().out
    for check in ("versions", "disk", "geometry", "parameters", "ratio", "gradient grpo", "reward checker"):
        assert f"ok  {check}" in out
    assert "all well" in out
    assert list(elsewhere.iterdir()) == []
    assert doctor.run(["debug=tiny", "run_dir=there"]) == 0
    assert [p.name for p in (elsewhere / "there").iterdir()] == ["doctor.json"]
