"""The page "add a model in one file": its adapter is run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from rlvis.models.load import load_policy
from rlvis.schema import ModelConfig
from tests import kit, tiny
from tests.family import holds

PAGE = Path(__file__).parents[2] / "docs" / "add_a_model.md"


def aura_flow(folder: Path) -> Path:
    """Save an AuraFlowPipeline: 4 latent channels, autoencoder factor 4, sides to 64 pixels."""
    from diffusers import (
        AuraFlowPipeline,
        AuraFlowTransformer2DModel,
        FlowMatchEulerDiscreteScheduler,
    )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = AuraFlowTransformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=tiny.WIDTH,
            caption_projection_dim=32,
            pos_embed_max_size=64,
        )
        vae = tiny.autoencoder()
        pipe = AuraFlowPipeline(
            tokenizer=tiny.word_tokenizer(),
            text_encoder=tiny.umt5_encoder(),
            vae=tiny.rough(vae),
            transformer=tiny.rough(transformer),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
        )
    pipe.save_pretrained(folder)
    return folder


def test_the_adapter_of_the_page_does_what_the_stock_pipeline_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (tmp_path / "models_of_the_page.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    family, folder = "models_of_the_page:AuraFlow", aura_flow(tmp_path / "aura")
    assert holds(kit.check(family, folder, max_tokens=16))
    config = ModelConfig(family=family, path=str(folder), height=20, width=32)
    with pytest.raises(ValueError, match=r"height=20.*multiples of 8 pixels"):
        load_policy(config, "cpu")


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("nothing", r"model.family=nothing: there are .*sd3.*; one of your own is given as MODULE.NAME"),
        ("sdxxl", r"model.family=sdxxl: did you mean sdxl\?"),
        ("no_such_module.Thing", r"there is no module 'no_such_module' on Python's path"),
        ("pathlib:Thing", r"pathlib has nothing called Thing; write class NAME\(rlvis.models.policy.Policy"),
        ("pathlib.Path", r"pathlib.Path: it is no subclass of Policy; wanted class NAME\(rlvis.models"),
        (
            "rlvis.models.policy.Policy",
            r"it has no pipeline_name, lora_targets, decode_chunk, denoise, embed",
        ),
    ],
)
def test_what_is_no_family_is_refused(family: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_policy(ModelConfig(family=family, path="x", height=8, width=8), "cpu")


def test_every_hook_of_the_page_exists() -> None:
    from rlvis.models import policy

    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]*) \| [^|]* \| (`[^|]*) \|$", page.split("## What else")[1], re.M)
    assert len(rows) > 6
    models = Path(policy.__file__).parent
    for hooks, files in rows:
        assert all(
            hasattr(policy.Policy, name) or name == "lora_targets" for name in re.findall(r"`(\w+)`", hooks)
        )
        assert all((models / "families" / name).is_file() for name in re.findall(r"`([\w.]+)`", files))
