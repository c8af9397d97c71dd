"""A run whose steps train nothing ends by itself: when, with which code, and what it says."""

from __future__ import annotations

import importlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis import schema as S
from rlvis.checkpoints import files
from rlvis.report import folder as report_folder
from rlvis.report.judge import judge
from rlvis.reward.contract import Term
from rlvis.reward.function import Function
from rlvis.runtime.dist import World
from rlvis.training import escalation, loop
from rlvis.training.escalation import Escalation
from tests import setting
from tests.distributed.launch import launch

GOOD = {
    "reward/valid_fraction": 0.5,
    "update/optimizer_steps": 2.0,
    "update/grad_norm": 0.1,
    "advantage/kept_fraction": 0.5,
    "advantage/max": 1.0,
    "group/zero_variance_fraction": 0.0,
}
DEAD = GOOD | {"reward/valid_fraction": 0.0, "update/optimizer_steps": 0.0}


def watch(most: int = 3) -> Escalation:
    config = setting.config(Path("x"), reward={"max_invalid_steps": most})
    mine = Term("mine", Function(len), 1.0)
    mine.boundary.reason = "OSError: gone"
    return Escalation(config, [mine], Path("run"), True)


def ends(rows: list[dict[str, float]], most: int = 3) -> list[str | None]:
    lasting = watch(most)
    return [lasting.look(row, step) for step, row in enumerate(rows, 1)]


def test_it_ends_at_the_third_step_in_a_row() -> None:
    came = ends([DEAD, DEAD, GOOD, DEAD, DEAD, DEAD])
    assert came[:5] == [None] * 5
    assert came[5] is not None
    assert came[5].startswith(
        "in 3 training steps in a row no sample had a valid reward (mine: OSError: gone)"
    )


def test_never_with_0() -> None:
    assert ends([DEAD] * 20, most=0) == [None] * 20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"update/optimizer_steps": 0.0}, "no sample with a valid reward was trained"),
        ({"advantage/kept_fraction": 0.0}, "no sample with a valid reward was trained"),
        ({"update/grad_norm": 0.0}, "the gradient was exactly 0"),
        ({"map/failed": 12.0}, "no sample had a map"),
    ],
)
def test_each_condition_has_its_end(change: dict[str, float], words: str) -> None:
    came = ends([GOOD | change] * 2, most=2)
    assert came[0] is None
    assert words in str(came[1])


@pytest.mark.parametrize("change", [{"map/failed": 11.0}, {"update/grad_norm": 0.0, "advantage/max": 0.0}])
def test_what_is_no_reason_to_end(change: dict[str, float]) -> None:
    assert ends([GOOD | change] * 9) == [None] * 9


def test_equal_rewards_are_said_once_a_spell(caplog: pytest.LogCaptureFixture) -> None:
    flat = GOOD | {"group/zero_variance_fraction": 1.0, "advantage/max": 0.0, "update/grad_norm": 0.0}
    assert ends([flat] * 7 + [GOOD] + [flat] * 3) == [None] * 11
    assert [r.getMessage()[:8] for r in caplog.records] == ["step 3: ", "step 11:"]


calls = [0]


def dies(images: torch.Tensor, prompts: list[str], metadata: list[Any], after: int) -> list[float]:
    """Mean brightness of the first calls."""
    calls[0] += 1
    if calls[0] > after:
        raise OSError("no weights")
    return (images.float().mean((1, 2, 3, 4)) / 255).tolist()


def config(folder: Path, run_dir: Path, after: int, steps: int, **reward: Any) -> S.Config:
    term = S.RewardTerm(scorer="tests.training.test_escalation.dies", kwargs={"after": after})
    made = setting.config(
        folder,
        reward={"terms": {"mine": term}} | reward,
        train={"steps": steps, "score_retries": 0, "updates_per_step": 1},
        sampler={"steps": 3},
    )
    made.run_dir = str(run_dir)
    calls[0] = 0
    return made


def test_a_scorer_that_dies_ends_the_run(
    sd3_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    with caplog.at_level(logging.WARNING):
        done = loop.train(config(sd3_folder, run, after=1, steps=9, max_invalid_steps=2), [])
    assert (done.exit_code, done.remark) == (3, "")
    assert files.choose(run).name == "step_000003"
    assert not (run / "model").exists()
    ended = json.loads((run / "exit.json").read_text())
    assert (ended["code"], ended["error"]) == (3, "NothingTrained")
    assert "(mine: OSError: no weights)" in ended["message"]
    assert ended["message"] in caplog.messages
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("reward/mine/alone") for line in lines] == [None, 12.0, 12.0]
    assert "time/recovery" in lines[-1]
    judged = judge(report_folder.read(run))
    assert judged.verdict == "broken"
    assert any(
        reason.what.startswith("NothingTrained: stopped after step 3 of 9") for reason in judged.reasons
    )


def test_one_that_dies_at_the_end_leaves_its_weights(sd3_folder: Path, tmp_path: Path) -> None:
    done = loop.train(config(sd3_folder, tmp_path / "run", after=1, steps=2, max_invalid_steps=1), [])
    assert done.exit_code == 3
    assert (tmp_path / "run" / "model").is_dir()


def test_a_run_with_few_valid_rewards_says_so_last(sd3_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = loop.train(config(sd3_folder, run, after=1, steps=3, max_invalid_steps=0), [])
    assert done.exit_code == 0
    assert done.remark.startswith("only 1 of 3 training steps had a valid reward")
    assert json.loads((run / "exit.json").read_text())["message"] == done.remark
    reasons = [reason.what for reason in judge(report_folder.read(run)).reasons]
    assert any("2 of 3 steps had no valid reward at all" in what for what in reasons)


def test_half_of_the_steps_is_enough(tmp_path: Path) -> None:
    rows = [{"step": 0, "eval/score": 1.0}]
    rows += [{"step": i, "reward/valid_fraction": float(i % 2)} for i in range(1, 5)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text)
    assert escalation.remark(tmp_path) == ""
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 5, "reward/valid_fraction": 0.0}\n')
    assert escalation.remark(tmp_path).startswith("only 2 of 5 training steps")


def on_two(world: World, folder: str, run_dir: str) -> tuple[int, str]:
    """A scorer that never works on rank 0, and on rank 1 for two steps."""
    made = config(Path(folder), Path(run_dir), after=2, steps=9, max_invalid_steps=2)
    module = importlib.import_module("tests.training.test_escalation")  # a launch loads this file by its path
    module.calls[0] = 0 if world.rank else 2
    done = loop.train(made, [])
    return done.exit_code, str(done.run_dir)


def test_two_ranks_end_in_the_same_step(sd3_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert launch(on_two, 2, str(sd3_folder), str(run)) == [(3, str(run))] * 2
    assert files.choose(run).name == "step_000004"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["reward/valid_fraction"] for row in rows] == [0.5, 0.5, 0.0, 0.0]
    assert [row["reward/mine/alone"] for row in rows] == [6.0, 6.0, 12.0, 12.0]  # of both ranks
