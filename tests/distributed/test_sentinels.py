"""Two ranks see the same samples as one, raise the same alarm, and roll back together (ZeRO-2, average)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlvis import schema as S
from rlvis.observe import sentinels, step_statistics
from rlvis.runtime.dist import World
from rlvis.training import guard as guarding
from rlvis.training import loop
from tests import setting
from tests.distributed.launch import launch


def config(folder: str, run_dir: Path) -> S.Config:
    """One prompt of 6 samples, of which two ranks own three each; an alarm at step 8, back to step 6."""
    settings = setting.config(
        Path(folder),
        model={"ema": S.EmaConfig()},
        train={"steps": 9, "micro_batch": 3, "updates_per_step": 1, "save_every": 2, "keep": 3, "shard": 2},
        data={"prompts_per_step": 1, "samples_per_prompt": 6},
        sampler={"steps": 3},
        engine={"stage": 2},
    )
    settings.sentinels = replace(settings.sentinels, action=S.SentinelAction.rollback, baseline=5, patience=2)
    settings.run_dir = str(run_dir)
    return settings


def ran(folder: str, run_dir: Path) -> dict[str, Any]:
    """A run in which saturation is called unusual from step 7 on; its metrics and what is left in memory."""
    real, judged, history = sentinels.judge, step_statistics.means, []

    def odd(watch: Any, shown: Any, step: int, settings: Any) -> Any:
        value = 0.9 if 6 < step < 9 else shown.pictures["saturation"]
        return real(watch, replace(shown, pictures={"saturation": value}), step, settings)

    def means(*args: Any) -> dict[str, float]:
        history.append(judged(*args))
        return history[-1]

    sentinels.judge, step_statistics.means = odd, means
    weights = []
    applied = guarding.Guard.apply

    def watched(self: Any, parts: Any, memory: Any) -> Any:
        if memory.sentinels.rollbacks:
            whole = b"".join(v.cpu().numpy().tobytes() for _, v in parts.engine.masters())
            weights.append((hashlib.sha256(whole).hexdigest(), memory.sentinels.rollbacks))
        return applied(self, parts, memory)

    guarding.Guard.apply = watched  # type: ignore[method-assign]
    try:
        code = loop.train(config(folder, run_dir), []).exit_code
    finally:
        sentinels.judge, step_statistics.means = real, judged
        guarding.Guard.apply = applied  # type: ignore[method-assign]
    return {"code": code, "means": history, "weights": weights}


def running(world: World, folder: str, run_dir: str) -> dict[str, Any]:
    return ran(folder, Path(run_dir))


@pytest.mark.slow
def test_two_ranks_decide_as_one(sd3_folder: Path, tmp_path: Path) -> None:
    one = ran(str(sd3_folder), tmp_path / "one")
    two = launch(running, 2, str(sd3_folder), str(tmp_path / "two"))
    assert [each["code"] for each in (one, *two)] == [0, 0, 0]
    assert two[0]["means"] == two[1]["means"]
    assert two[0]["means"][0] == pytest.approx(one["means"][0], abs=1e-6)
    assert two[0]["weights"] == two[1]["weights"]
    assert len(two[0]["weights"]) == len(one["weights"]) == 1
    for run in ("one", "two"):
        [alarm] = [json.loads(line) for line in (tmp_path / run / "alarms.jsonl").read_text().splitlines()]
        assert (alarm["step"], alarm["since"]) == (8, 7)
        assert alarm["done"].startswith("the weights are those after step 6 again")
