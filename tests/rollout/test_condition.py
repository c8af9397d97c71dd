"""Clips that start from a given frame: it never moves, and everything else is sampled as without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvis import schema as S
from rlvis.record_base import equal
from rlvis.records import PromptBatch, Trajectories
from rlvis.rollout import plan
from rlvis.rollout.stage import rollout
from tests import setting

CLIPS: dict[str, Any] = {"family": "wan", "frames": 9, "max_tokens": 8}
GIVEN = CLIPS | {"condition": S.Condition.first_frame}


def run(folder: Path, model: dict[str, Any] = GIVEN, **groups: Any) -> tuple[Any, PromptBatch, Trajectories]:
    config = setting.config(folder, model=model, **groups)
    policy = setting.policy(config)
    prompts = setting.prompts(policy)
    steps = plan.make(policy, config, step=3)
    return policy, prompts, rollout(policy, policy.module, prompts, range(12), steps)


def given(t: Trajectories, prompts: PromptBatch) -> Tensor:
    return prompts.embeds["condition"][t.prompt]


@pytest.mark.parametrize("storage", [S.Dtype.float32, S.Dtype.bfloat16])
def test_the_given_frame_never_moves(wan_folder: Path, storage: S.Dtype) -> None:
    policy, prompts, t = run(wan_folder, sampler={"storage": storage})
    assert policy.latent_shape == (4, 3, 8, 8)
    assert t.free.sum((1, 2)).tolist() == [0, 64, 64]
    for v in range(t.states.shape[1]):
        assert torch.equal(t.states[:, v, :, :1], given(t, prompts).to(t.states.dtype))
    moved = (t.states[:, 1:, :, 1:] - t.states[:, :-1, :, 1:]).abs().flatten(2).amax(2)
    assert bool((moved > 0.1).all())
    assert t.media is not None
    assert t.media.shape == (12, 9, 3, 32, 32)
    # What is decoded starts from the frame as it was, not as it was stored; the others of a group share it.
    whole = policy.decode(given(t, prompts).expand(-1, -1, 3, -1, -1))
    assert (t.media[:, 0].int() - whole[:, 0].int()).abs().max() <= 1
    assert bool((t.media[0, 8] != t.media[1, 8]).any())


def test_steps_without_noise_do_not_move_it_either(wan_folder: Path) -> None:
    window = S.WindowConfig(kind=S.WindowKind.fixed, start=1, size=2)
    _, prompts, t = run(wan_folder, sampler={"window": window})
    assert t.states.shape[1] == 3
    assert all(torch.equal(t.states[:, v, :, :1], given(t, prompts)) for v in range(3))


def test_the_frame_decides_what_follows(wan_folder: Path) -> None:
    policy, prompts, t = run(wan_folder)
    config = setting.config(wan_folder, model=GIVEN)
    assert prompts.frames is not None
    other = prompts.replace(embeds=policy.encode(prompts.texts, prompts.frames.flip(-1))[0])
    again = rollout(policy, policy.module, prompts, range(12), plan.make(policy, config, step=3))
    assert equal(again, t)
    changed = rollout(policy, policy.module, other, range(12), plan.make(policy, config, step=3))
    assert torch.equal(changed.states[:, 0, :, 1:], t.states[:, 0, :, 1:])  # the same noise
    assert (changed.states[:, -1, :, 1:] - t.states[:, -1, :, 1:]).abs().max() > 1e-3


def test_without_a_condition_the_same_policy_moves_everything(wan_folder: Path) -> None:
    _, prompts, t = run(wan_folder, CLIPS)
    assert "condition" not in prompts.embeds
    assert bool((t.free == 1).all())
    assert (t.states[:, 1, :, :1] - t.states[:, 0, :, :1]).abs().max() > 0.1


def test_records_keep_the_frame(wan_folder: Path, tmp_path: Path) -> None:
    _, prompts, _ = run(wan_folder, sampler={"steps": 2})
    prompts.save(tmp_path / "prompts")
    assert equal(PromptBatch.load(tmp_path / "prompts"), prompts)
    with pytest.raises(ValueError, match="frames"):
        replace(prompts, frames=torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
