"""The page "a method of your own": its modules and commands are taken as they stand there."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlvis.checks.config import check
from rlvis.cli import main, one_run
from rlvis.compose.command import compose
from rlvis.record_base import equal
from rlvis.records import PriorState

PAGE = (Path(__file__).parents[1] / "docs" / "your_own_method.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.S)
COMMANDS = [
    line.removeprefix("python train.py ")
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    for line in block.splitlines()
]
SMALL = [
    "train.steps=2",
    "train.save_every=1",
    "train.micro_batch=8",
    "data.prompts_per_step=2",
    "data.samples_per_prompt=4",
    "sampler.steps=4",
    "tracker.samples_every=0",
    "doctor=off",
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with the page's modules, from which a run starts."""
    files = {code.splitlines()[0].removeprefix("# "): code for code in CODE}
    for name, code in files.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(one_run, "write_report", lambda run_dir: None)
    yield
    for name in files:
        sys.modules.pop(name.removesuffix(".py"), None)


def trained(words: list[str], run_dir: str) -> list[dict[str, float]]:
    """The metrics of a run."""
    assert main(["train", *words, f"run_dir={run_dir}"]) == 0
    lines = Path(run_dir, "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_trains(command: str) -> None:
    words = shlex.split(command)
    lines = trained([*words, *SMALL], "run")
    assert [line["update/grad_norm"] > 0 for line in lines] == [True, True]
    if "trust" in command or "bpgo" in command:
        assert "trust/weight_mean" in lines[1]
    if "vipo" in command:
        assert lines[1]["map/entropy"] < 1


def test_the_commands_were_found() -> None:
    assert len(COMMANDS) == 4


def test_a_resumed_run_goes_on_with_the_memory_bit_for_bit() -> None:
    """Two steps in a row, and two with a stop between them, of the same two prompts."""
    Path("prompts.txt").write_text("a red circle\na blue square\n", encoding="utf-8")
    words = [*shlex.split(COMMANDS[0]), *SMALL, "data=txt", "data.path=prompts.txt", "reward=coverage"]
    whole = trained(words, "whole")
    trained([*words, "train.steps=1"], "parts")
    assert main(["train", "resume=parts", "train.steps=2"]) == 0
    again = [json.loads(line) for line in Path("parts", "metrics.jsonl").read_text().splitlines()]
    assert (
        whole[1]["trust/weight_mean"] != whole[0]["trust/weight_mean"] == 1.0
    )  # nothing was known in the first
    kept = [key for key in whole[1] if not key.startswith(("time/", "throughput/", "checkpoint/"))]
    kept = [key for key in kept if not key.endswith("latency")]
    assert {key: again[1][key] for key in kept} == {key: whole[1][key] for key in kept}
    places = (Path(run, "checkpoints", "step_000002", "memory", "prior") for run in ("whole", "parts"))
    first, second = map(PriorState.load, places)
    assert first.kind == "my_method.Best"
    assert any(key.startswith("prompt/") for key in first.values)
    assert equal(first, second)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prior.kwargs.fade=2"], "prior.kwargs.fade=2: wanted at most 1"),
        (["prior.kwargs.fades=0"], "has no argument 'fades'; did you mean fade?"),
        (["trust.kwargs.range=2"], "has no argument 'range'; it takes reach"),
        (["advantage.transform_kwargs.leaning.below=-1"], "leaning.below=-1: wanted at least 0"),
        (["advantage.transform_kwargs.lean.below=1"], "advantage.transform_kwargs.lean belongs to none of"),
        (["trust.kind=posterior", "trust.posterior.prior_var=null"], "prior.kind=my_method.Best has none"),
        (["prior.decay=0.5"], "prior.decay=0.5 does nothing with prior.kind=my_method.Best"),
        (["prior.kind=my_method.undecided"], "it is no subclass of rlvis.trust.prior.Prior"),
    ],
)
def test_what_cannot_be_is_told_before_anything_loads(words: list[str], message: str) -> None:
    (error,) = check(compose([*shlex.split(COMMANDS[0]), *words]).typed())
    assert message in str(error)
