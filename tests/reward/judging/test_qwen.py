"""What judges on Qwen2-VL share: names of published weights, LoRA, sizes of pictures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from rlvis.reward.judging import qwen


def test_names_of_all_layouts_are_those_of_the_model_today() -> None:
    old = ("visual.patch_embed.proj.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight")
    new = ("model.visual.patch_embed.proj.weight", "model.language_model.layers.0.mlp.up_proj.weight")
    expected = {"visual.patch_embed.proj.weight", "language_model.layers.0.mlp.up_proj.weight"}
    for names in (old, new, tuple("base_model.model." + name for name in old)):
        prefix = "base_model.model." if names[0].startswith("base") else ""
        state = {name: torch.zeros(1) for name in (*names, prefix + "rm_head.0.bias")}
        trunk, head = qwen.split(state)
        assert set(trunk) == expected
        assert set(head) == {"0.bias"}


@pytest.mark.parametrize("rslora", [False, True])
def test_lora_is_added_to_its_weight(rslora: bool) -> None:
    weight, down, up = torch.randn(4, 6), torch.randn(2, 6), torch.randn(4, 2)
    state = {
        "q.base_layer.weight": weight,
        "q.base_layer.bias": torch.ones(4),
        "q.lora_A.default.weight": down,
        "q.lora_B.default.weight": up,
        "norm.weight": torch.ones(3),
    }
    merged = qwen.merge(state, rank=2, alpha=8, rslora=rslora)
    assert set(merged) == {"q.weight", "q.bias", "norm.weight"}
    scale = 8 / math.sqrt(2) if rslora else 4
    torch.testing.assert_close(merged["q.weight"], weight + scale * up @ down)
    with pytest.raises(ValueError, match="a rank other than 3"):
        qwen.merge(state, rank=3, alpha=8)
    del state["q.lora_B.default.weight"]
    with pytest.raises(ValueError, match="no partner"):
        qwen.merge(state, rank=2, alpha=8)


@pytest.mark.parametrize("size", [(448, 448), (512, 512), (720, 1280), (480, 832), (300, 100), (32, 32)])
def test_sizes_are_multiples_of_28_between_the_limits(size: tuple[int, int]) -> None:
    y, x = qwen.fit(*size, 100352, 200704)
    assert y % 28 == x % 28 == 0
    assert 100352 <= y * x <= 200704
    assert math.isclose(y / x, size[0] / size[1], rel_tol=0.15)


def test_the_newest_checkpoint_is_by_number(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-100", "checkpoint-best"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.pth").touch()
    assert qwen.newest(tmp_path, "checkpoint-*/model.pth") == tmp_path / "checkpoint-100" / "model.pth"
    assert qwen.newest(tmp_path, "checkpoint-*/other") is None
