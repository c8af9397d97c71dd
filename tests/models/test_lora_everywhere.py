"""An exported LoRA of every family: the stock pipeline's whole life with it, and its file for ComfyUI."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from rlvis.models import comfy, lora
from rlvis.models.families import flux, wan
from rlvis.models.policy import Policy
from rlvis.schema import Condition, LoraConfig
from tests import sides, tiny, tiny_flux, tiny_flux2, tiny_qwen_image, tiny_sd, tiny_video, tiny_wan
from tests import tiny_z_image as z
from tests.family import policy_of
from tests.models.comfy_names import NAMES

ROUNDING = 1e-4  # of outputs that training moved by more than 1e-2, when weights are fused


@dataclass(frozen=True)
class Case:
    """A family, or a variant of one: what saves its checkpoint, and `model` options."""

    name: str
    build: Callable[[Path], Any]
    options: dict[str, Any] = field(default_factory=dict)
    family: str = ""


CLIP: dict[str, Any] = {"frames": 5, "max_tokens": 16, "height": 32, "width": 64}
FRAME = {"condition": Condition.first_frame, "frames": 5, "height": 32, "width": 48}
CASES = [
    Case("sd3", tiny.sd3, {"max_tokens": 16}),
    Case("flux", tiny_flux.flux, {"max_tokens": 16}),
    Case("flux2", partial(tiny_flux2.flux2, klein=True), {"max_tokens": 16}),
    Case("qwen_image", tiny_qwen_image.qwen_image, {"max_tokens": 24}),
    Case("z_image", z.z_image, {"max_tokens": 32}),
    Case("sd15", tiny_sd.sd15),
    Case("sdxl", tiny_sd.sdxl),
    Case("cogvideox", tiny_video.cogvideox, {"frames": 5}),
    Case("hunyuan_video", tiny_video.hunyuan_video, CLIP),
    Case("ltx", tiny_video.ltx, CLIP),
    Case("wan", tiny.wan, CLIP),
    Case("wan22", tiny_wan.experts, CLIP, "wan"),
    Case("wan_i2v", tiny_wan.reading, FRAME, "wan"),
]


@dataclass(frozen=True)
class Exported:
    """A policy with a trained LoRA, its export, inputs, and its outputs before and after."""

    case: Case
    policy: Policy
    folder: Path
    embeds: dict[str, Tensor]
    before: Tensor
    after: Tensor


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    case, folder = request.param, tmp_path_factory.mktemp(request.param.name)
    case.build(folder / "model")
    with torch.no_grad():
        policy = policy_of(case.family or case.name, folder / "model", **case.options)
        embeds, _ = sides.embedded(policy)
        before = sides.one_step(policy, embeds)
        sides.train_a_little(policy)
        after = sides.one_step(policy, embeds)
    distance = policy.export(folder / "lora")
    assert 1e-3 < distance < 10
    assert (after - before).abs().max() > 1e-2
    return Exported(case, policy, folder / "lora", embeds, before, after)


@torch.no_grad()
def test_it_lives_in_the_stock_pipeline(exported: Exported) -> None:
    """Loaded, scaled, fused, unfused, deleted, loaded again, unloaded."""
    policy, before, after = exported.policy, exported.before, exported.after
    pipe = sides.open_stock(policy)
    calls = policy.lora_settings()
    names = [f"rl_{i}" for i in range(len(calls))]
    parts = list(policy.denoisers())

    def load() -> None:
        for name, call in zip(names, calls, strict=True):
            pipe.load_lora_weights(exported.folder, adapter_name=name, **call)

    def drawn() -> Tensor:
        return sides.one_step(policy, exported.embeds, policy.stock_module(pipe))

    def scaled(strength: float) -> Tensor:
        for part, name in zip(parts, names, strict=True):
            getattr(pipe, part).set_adapters([name], [strength])
        return drawn()

    load()
    assert torch.equal(drawn(), after)
    assert {s for part in parts for s in _scales(getattr(pipe, part))} == {1.0}
    assert (scaled(0) - before).abs().max() <= ROUNDING
    half = scaled(0.5)
    assert min((half - before).abs().max(), (half - after).abs().max()) > 1e-3
    assert torch.equal(scaled(1), after)
    pipe.fuse_lora(components=parts)
    assert (drawn() - after).abs().max() <= ROUNDING
    pipe.unfuse_lora(components=parts)
    assert (drawn() - after).abs().max() <= ROUNDING
    pipe.delete_adapters(names)
    assert (drawn() - before).abs().max() <= ROUNDING
    load()
    assert (drawn() - after).abs().max() <= ROUNDING
    pipe.unload_lora_weights()
    assert (drawn() - before).abs().max() <= ROUNDING


def test_its_metadata_is_what_every_peft_knows(exported: Exported) -> None:
    prefix = exported.policy.denoiser_name
    for file in lora.FILES[: len(exported.policy.denoisers())]:
        with safe_open(exported.folder / file, framework="pt") as content:
            said = json.loads(content.metadata()[lora.METADATA])
        assert set(said) == {f"{prefix}.{key}" for key in PEFT_0_14}
        assert (said[f"{prefix}.r"], said[f"{prefix}.lora_alpha"]) == (4, 4)


# Fields of LoraConfig in peft 0.14.0.
PEFT_0_14 = (
    *("alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "lora_dropout", "peft_type", "r"),
    *("rank_pattern", "target_modules", "use_dora", "use_rslora"),
)


def test_comfyui_gets_the_same_weights_under_its_names(exported: Exported) -> None:
    """Every layer has the name that ComfyUI gives it, and the product of its factors is what was trained."""
    denoisers = exported.policy.denoisers()
    for (part, denoiser), file in zip(denoisers.items(), comfy.FILES, strict=False):
        tensors = load_file(exported.folder / file)
        halves = {name: re.sub(r"\.lora_(A|B|down|up)\.weight$", "", name) for name in tensors}
        stems = set(halves.values())
        assert len(tensors) == 2 * len(stems)
        trained = dict(exported.policy.by_denoiser(dict(exported.policy.trainable()))[part])
        known, seen = set(), 0
        for name, ours in NAMES[exported.case.name].items():
            for numbers, stem in _blocks(name, stems):
                known.add(stem)
                layers = [_fill(layer, numbers) for layer in ours]
                deltas = [_trained(trained, denoiser, layer) for layer in layers]
                down, up = sorted(key for key in tensors if halves[key] == stem)
                got = tensors[up] @ tensors[down]
                assert torch.allclose(got, torch.cat(deltas), atol=1e-6), stem
                seen += sum(f"{layer}.lora_A.default.weight" in trained for layer in layers)
        assert known == stems
        assert 2 * seen == len(trained)
    assert len(list(exported.folder.glob("comfyui*"))) == len(denoisers)


def test_the_card_says_what_opens_it(exported: Exported) -> None:
    card = " ".join((exported.folder / "README.md").read_text(encoding="utf-8").split())
    assert 'weight_name="pytorch_lora_weights.safetensors"' in card.replace("'", '"')
    assert "Strength 1 is what was trained" in card
    assert "ComfyUI takes comfyui.safetensors" in card
    assert "of their norm from where they began" in card


def test_an_odd_alpha_is_right_to_an_ulp(tmp_path: Path) -> None:
    """alpha / rank of 1.375: the weights are rounded once more."""
    tiny.sd3(tmp_path / "model")
    with torch.no_grad():
        policy = policy_of("sd3", tmp_path / "model", max_tokens=16, lora=LoraConfig(4, 5.5))
        sides.train_a_little(policy)
        embeds, _ = sides.embedded(policy)
        policy.export(tmp_path / "lora")
        pipe = sides.open_stock(policy)
        pipe.load_lora_weights(tmp_path / "lora", **policy.lora_settings()[0])
        ours = sides.one_step(policy, embeds)
        theirs = sides.one_step(policy, embeds, policy.stock_module(pipe))
        assert (ours - theirs).abs().max() <= 1e-5
        again = policy_of("sd3", tmp_path / "model", max_tokens=16, lora=LoraConfig(4, 5.5))
        again.load_lora(tmp_path / "lora")
    for (name, a), (_, b) in zip(policy.trainable(), again.trainable(), strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=0), name


def test_a_layer_without_a_place_in_comfyui_refuses_the_file(tmp_path: Path) -> None:
    (tmp_path / comfy.FILES[0]).write_text("of an earlier export")
    factors = {f"{layer}.lora_{half}.weight": torch.ones(2, 2) for layer in KNOWN for half in "AB"}
    why = comfy.write(flux.ENTRY.comfy_names, {tmp_path / comfy.FILES[0]: (factors, lambda layer: 2)})
    assert why == "1 of its 2 layers have no known place there, the first is norm_out.linear"
    assert list(tmp_path.iterdir()) == []
    assert "not known" in comfy.write(None, {tmp_path / comfy.FILES[0]: (factors, lambda layer: 2)})


KNOWN = ("transformer_blocks.3.attn.to_q", "norm_out.linear")


def test_part_of_a_fused_layer_leaves_the_rest_as_it_is() -> None:
    names = comfy.Names({"b.*.qkv": ("a.*.q", "a.*.k", "a.*.v")})
    factors = {"a.7.k.lora_A.weight": torch.ones(2, 3), "a.7.k.lora_B.weight": torch.full((4, 2), 2.0)}
    done = comfy.named(names, factors, lambda layer: {"a.7.q": 5, "a.7.k": 4, "a.7.v": 1}[layer])
    assert set(done) == {"diffusion_model.b.7.qkv.lora_A.weight", "diffusion_model.b.7.qkv.lora_B.weight"}
    product = done["diffusion_model.b.7.qkv.lora_B.weight"] @ done["diffusion_model.b.7.qkv.lora_A.weight"]
    assert product.sum(1).tolist() == [0.0] * 5 + [12.0] * 4 + [0.0]


def test_all_linear_and_a_fraction(tmp_path: Path) -> None:
    tiny.wan(tmp_path / "model")
    policy = policy_of("wan", tmp_path / "model", **CLIP, lora=LoraConfig(4, 2.5, "all-linear"))
    linear = [name for name, m in policy.module.named_modules() if name.endswith(".base_layer")]
    assert {name.split(".")[0] for name in linear} == {"blocks", "condition_embedder", "proj_out"}
    assert 2 * len(linear) == len(policy.trainable())
    policy.export(tmp_path / "lora")
    assert len(load_file(tmp_path / "lora" / comfy.FILES[0])) == len(policy.trainable())
    assert wan.ENTRY.comfy_names is not None


def _scales(denoiser: Any) -> set[float]:
    return {s for m in denoiser.modules() for s in getattr(m, "scaling", {}).values()}


def _blocks(name: str, stems: set[str]) -> list[tuple[tuple[str, ...], str]]:
    """(numbers, stem) of all stems that are `name` in some block."""
    pattern = re.escape(name).replace(r"\*", r"(\d+)")
    return [(match.groups(), stem) for stem in stems if (match := re.fullmatch(pattern, stem))]


def _fill(pattern: str, numbers: tuple[str, ...]) -> str:
    for number in numbers:
        pattern = pattern.replace("*", number, 1)
    return pattern


def _trained(trained: dict[str, Any], denoiser: Any, layer: str) -> Tensor:
    """What training adds to a layer's weight: alpha / rank = 2."""
    shape = denoiser.get_submodule(layer).weight.shape
    if f"{layer}.lora_A.default.weight" not in trained:
        return torch.zeros(shape)
    a, b = (trained[f"{layer}.lora_{half}.default.weight"].detach() for half in "AB")
    product: Tensor = 2 * b @ a
    return product
