"""Sizes: padding counted by hand, groups, prompts that repeat or are cut."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlvis.doctor import geometry
from rlvis.runtime.dist import World
from tests import setting

LATENT = (4, 1, 8, 8)


@pytest.mark.parametrize(
    ("world", "train", "sampling", "training"),
    [
        (1, {}, 0.0, 1 - 12 / 16),  # 12 rows in fours; 2 updates of 6 rows: 8 + 8 forwarded
        (1, {"updates_per_step": 1}, 0.0, 0.0),
        (1, {"updates_per_step": 1, "micro_batch": 5}, 1 - 12 / 15, 1 - 12 / 15),
        (2, {"updates_per_step": 1}, 1 - 12 / 16, 1 - 12 / 16),  # 6 rows a rank, 8 forwarded
        (1, {"updates_per_step": 1, "shard": 6}, 1 - 12 / 16, 0.0),
    ],
)
def test_padding_is_counted(world: int, train: dict[str, Any], sampling: float, training: float) -> None:
    assert geometry.padding(setting.config(Path("x"), train=train), world) == (sampling, training)


def test_a_wasteful_micro_batch_is_told_with_a_better_one() -> None:
    config = setting.config(Path("x"), train={"micro_batch": 10, "updates_per_step": 1})
    (finding,) = geometry.geometry(config, World(), LATENT)
    assert finding.severity == "warning"
    assert "40% of the rows of sampling" in finding.what
    assert "train.micro_batch=6 (0%)" in finding.type
    fine = setting.config(Path("x"), train={"micro_batch": 6, "updates_per_step": 1})
    assert geometry.geometry(fine, World(), LATENT)[0].severity == "ok"


@pytest.mark.parametrize(
    ("data", "steps", "level"),
    [
        ({"samples_per_prompt": 3}, 100, "warning"),
        ({"samples_per_prompt": 3}, 2, "ok"),  # a try
        ({"samples_per_prompt": 8}, 100, "ok"),
    ],
)
def test_small_groups_are_told_to_real_runs(data: dict[str, Any], steps: int, level: str) -> None:
    config = setting.config(Path("x"), data=data, train={"steps": steps})
    assert geometry.groups(config)[0].severity == level


def test_one_deviation_over_few_prompts_is_told() -> None:
    from rlvis.schema import StdScope

    advantage = {"std_scope": StdScope.batch}
    config = setting.config(Path("x"), advantage=advantage, train={"steps": 100})
    assert "rests on 3 prompts" in geometry.groups(config)[0].why
    many = setting.config(Path("x"), advantage=advantage, train={"steps": 100}, data={"prompts_per_step": 16})
    assert geometry.groups(many)[0].severity == "ok"


class Reader:
    """A policy that reads 20 letters."""

    def truncated(self, text: str) -> bool:
        return len(text) > 20


@pytest.mark.parametrize(
    ("texts", "duplicates", "words"),
    [
        (["a", "b", "c"], 0, ""),
        (["a", "b", "x" * 30], 0, "never sees their ends"),
        (["a", "b", "a"], 0, "drawn n times"),
        (["a", "b", "c"], 2, ""),  # equal rows do no harm: each is drawn once
    ],
)
def test_prompts_that_are_cut_or_repeat(texts: list[str], duplicates: int, words: str) -> None:
    prompt_set = SimpleNamespace(texts=tuple(texts), duplicates=duplicates)
    (finding,) = geometry.prompts(setting.config(Path("x")), prompt_set, Reader())  # type: ignore[arg-type]
    assert finding.severity == ("warning" if words else "ok")
    assert words in finding.why


def test_a_missing_file_is_a_failure(sd3_folder: Path) -> None:
    config = setting.config(sd3_folder)
    assert geometry.files(config)[0].severity == "ok"
    config.model.path = "/nowhere"
    (finding,) = geometry.files(config)
    assert finding.severity == "failure"
    assert "/nowhere" in finding.what
