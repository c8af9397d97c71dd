"""`rlvis doctor`: what it prints, how it ends, that it writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlvis.cli import doctor
from rlvis.doctor import run as doctor_run
from rlvis.doctor.diagnosis import Diagnosis, failure, ok, warning
from rlvis.findings import ConfigError, Finding
from rlvis.schema import Config
from rlvis.schema import Doctor as Mode
from tests.cli.helpers import examples, write_prompts

FINE = ok("disk", "room enough")
SO_SO = warning("gpu", "7 of 8 idle", why="they wait", type="torchrun ...")
BAD = failure("ratio", "0.1 off", why="noise", type="model.dtype=float32")


class Looks:
    """In the place of `doctor.run.diagnose`: what was looked at, all with the same findings."""

    def __init__(self) -> None:
        self.configs: list[Config] = []
        self.findings: tuple[Finding, ...] = ()

    def diagnose(self, config: Config) -> Diagnosis:
        """Nothing is assembled."""
        self.configs.append(config)
        return Diagnosis(config.doctor, self.findings, 0.1)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    looks = Looks()
    monkeypatch.setattr(doctor_run, "diagnose", looks.diagnose)
    return looks


@pytest.mark.parametrize(
    ("mode", "findings", "code"),
    [
        ("warn", [FINE], 0),
        ("warn", [FINE, SO_SO], 0),
        ("warn", [FINE, SO_SO, BAD], 1),
        ("strict", [FINE, SO_SO], 1),
        ("off", [FINE, SO_SO, BAD], 0),
    ],
)
def test_it_ends_as_the_training_would(
    mode: str, findings: list[Finding], code: int, looks: Looks, capsys: Any
) -> None:
    looks.findings = tuple(findings)
    assert doctor.run([f"doctor={mode}", "optim.lr=1e-4"]) == code
    out = capsys.readouterr().out
    stopping = ", ".join(f.name for f in (BAD, SO_SO) if f in findings and (f is BAD or mode == "strict"))
    assert (f"this training would not start ({stopping})" in out) == (code == 1)
    assert f"doctor={mode}" in out
    assert ("why: noise" in out) == ("type: model.dtype=float32" in out) == (BAD in findings)
    assert [(config.doctor, config.optim.lr) for config in looks.configs] == [(Mode(mode), 1e-4)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "seed=1,2"], "--multirun belongs to rlvis train"),
        (["stage=score", "records=."], "type stage=all"),
        (["sampler.kernel=ode"], "type sampler.kernel=sde"),
    ],
)
def test_mistakes_are_refused(words: list[str], message: str, looks: Looks, elsewhere: Path) -> None:
    (elsewhere / "step_000000").mkdir()
    with pytest.raises(ConfigError, match=message):
        doctor.run(words)
    assert not looks.configs


def test_every_example_of_the_help_is_accepted(looks: Looks, elsewhere: Path, capsys: Any) -> None:
    assert doctor.run(["--help"]) == 0
    text = capsys.readouterr().out
    write_prompts(elsewhere / "prompts.txt")
    for words in examples(text, "rlvis doctor"):
        assert doctor.run(words) == 0, words
    assert len(looks.configs) >= 6


def test_a_real_look_finds_the_default_well_and_writes_nothing(elsewhere: Path, capsys: Any) -> None:
    assert doctor.run(["debug=tiny", "doctor=strict"]) == 0
    out = capsys.readouterr().out
    for check in ("versions", "disk", "geometry", "parameters", "ratio", "gradient grpo", "reward checker"):
        assert f"ok  {check}" in out
    assert "all well" in out
    assert list(elsewhere.iterdir()) == []
    assert doctor.run(["debug=tiny", "run_dir=there"]) == 0
    assert [p.name for p in (elsewhere / "there").iterdir()] == ["doctor.json"]
