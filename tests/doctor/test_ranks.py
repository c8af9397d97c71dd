"""Two processes: every collective is met, all ranks leave with the same findings, and different weights are
named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis import schema as S
from rlvis.doctor import examine
from rlvis.doctor.parameters import parameters
from rlvis.findings import ConfigError
from rlvis.runtime.dist import World
from rlvis.training.assemble import assemble
from tests import setting
from tests.distributed.launch import launch
from tests.doctor import cases


def run(world: World, folder: str, out: str) -> dict[str, Any]:
    """A healthy examination, then one with another weight on rank 1."""
    config = setting.config(
        Path(folder), data={"kinds": ["single"]}, train={"micro_batch": 3, "updates_per_step": 1}
    )
    config.doctor = S.Doctor.warn
    config.advantage.kl_beta = 0.01
    parts = assemble(config, world)
    memory = cases.memory(config)
    findings = examine.examine(parts, memory, 0, None).findings
    result: dict[str, Any] = {"healthy": [str(f) for f in findings], "levels": [f.severity for f in findings]}
    weight = parts.policy.trainable()[3][1]
    if world.rank == 1:
        with torch.no_grad():
            weight.view(-1)[0] += 1e-3
    result["differing"] = str(parameters(parts)[0])
    try:
        examine.admit(parts, memory, 0, Path(out))
    except ConfigError as error:
        result["refused"] = str(error)
    parts.engine.close()
    return result


@pytest.fixture(scope="module")
def ranks(sd3_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return launch(run, 2, str(sd3_folder), str(tmp_path_factory.mktemp("run")), seconds=240)


def test_ranks_agree_and_are_well(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["healthy"] == ranks[1]["healthy"]
    assert set(ranks[0]["levels"]) == {"ok"}, ranks[0]["healthy"]
    assert any("bit for bit the same on 2 ranks" in line for line in ranks[0]["healthy"])


def test_other_weights_on_a_rank_are_named_and_refused_everywhere(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert "1 of" in rank["differing"]
        assert "differ between ranks" in rank["differing"]
        assert "differ between ranks" in rank["refused"]
