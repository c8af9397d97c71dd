"""The page "rewards of your own": its modules and commands are taken as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rlvis.checks.config import check
from rlvis.compose.command import compose
from rlvis.reward import stage
from rlvis.reward.scorer import build

PAGE = (Path(__file__).parents[2] / "docs" / "rewards_of_your_own.md").read_text(encoding="utf-8")
COMMANDS = [
    line.removeprefix("python train.py ")
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    for line in block.replace("\\\n", "").splitlines()
]
IMAGES = torch.stack([torch.full((5, 3, 8, 8), level, dtype=torch.uint8) for level in (0, 51, 255)])
TEXTS = ["a red circle"] * 3
METADATA = [{"frames": 5}, {"frames": 3}, {}]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's modules and the files that its commands name."""
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        (tmp_path / code.splitlines()[0].removeprefix("# ")).write_text(code, encoding="utf-8")
    save_file({"weight": torch.tensor([1.0, 0, 0]), "bias": torch.tensor(0.5)}, tmp_path / "head.safetensors")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a", "frames": 5}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes_and_scores(here: Path, command: str) -> None:
    config = compose(shlex.split(command)).typed()
    assert check(config) == []
    if "reward=vlm" in command:
        return  # it asks an endpoint; see scorers/test_vlm.py
    terms = [term for term in build(config.reward) if term.name != "checker"]  # which knows its own size only
    local = stage.score(terms, TEXTS, METADATA, IMAGES)
    value = local.value[:, 0]
    if "my_rewards" in command:
        torch.testing.assert_close(value, torch.tensor([0, 0.2, 1], dtype=torch.float64), atol=1e-6, rtol=0)
    elif "marked_rewards" in command:
        torch.testing.assert_close(value, torch.tensor([0, 0.04, 1], dtype=torch.float64), atol=1e-6, rtol=0)
    elif "length_rewards" in command:
        assert value[:2].tolist() == [0, -2]
        assert local.valid.tolist() == [True, True, False]
    elif "unsure_rewards" in command:
        assert local.noise_var is not None
        assert local.noise_dof is not None
        assert local.noise_dof[:, 0].tolist() == [2.0] * 3
    else:
        torch.testing.assert_close(
            value, torch.tensor([0.5, 0.7, 1.5], dtype=torch.float64), atol=1e-6, rtol=0
        )


def test_the_commands_were_found() -> None:
    assert len(COMMANDS) == 10
