"""What only a checkpoint's files know of a LoRA, asked before anything loads."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from rlvis.checks.files import files
from rlvis.checks.model import adapter_errors, path_errors
from rlvis.compose.command import compose
from rlvis.schema import LoraConfig, ModelConfig

TINY = ModelConfig(family="sd3", path="asset:tiny_image", height=32, width=32)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (None, ""),
        (LoraConfig(8, 2.5), ""),
        (LoraConfig(96, 96, "all-linear"), ""),
        (LoraConfig(97, 97), "model.lora.rank=97: none of the .* type model.lora.rank=96 or less"),
        (LoraConfig(8, 8, ["to_qq"]), r"model.lora.targets=\['to_qq'\] match no layer of SD3Transformer"),
    ],
)
def test_a_dry_run_holds_the_lora_to_the_layers(lora: LoraConfig | None, message: str) -> None:
    found = list(adapter_errors(replace(TINY, lora=lora)))
    assert len(found) == bool(message)
    if message:
        assert re.search(message, str(found[0].what) + str(found[0].type))


def test_a_checkpoint_elsewhere_is_not_asked() -> None:
    assert list(adapter_errors(replace(TINY, path="owner/name", lora=LoraConfig(9999, 1)))) == []


def test_only_a_dry_run_asks_the_files() -> None:
    config = replace(compose([]).typed(), model=replace(TINY, lora=LoraConfig(97, 97)))
    assert files(config) == []
    assert len(files(replace(config, dry_run=True))) == 1


@pytest.mark.parametrize(
    "name", ["pytorch_lora_weights.safetensors", "adapter_config.json", "my_lora.safetensors"]
)
def test_a_lora_is_no_model(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    (found,) = path_errors(str(tmp_path))
    assert name in found.what
    assert "model.path=BASE" in found.type
    (tmp_path / "model_index.json").touch()
    assert list(path_errors(str(tmp_path))) == []
