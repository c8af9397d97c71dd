"""Sharding by hand, and the engine's state against what DeepSpeed really holds."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis.models.load import load_policy
from rlvis.plan import memory
from rlvis.plan.count import size
from rlvis.plan.judges import Judges, judges
from rlvis.plan.measure import Measured, Pass
from rlvis.plan.memory import GIB, Memory, Part
from rlvis.plan.sharding import Sharding, sharding
from rlvis.runtime import dist
from rlvis.runtime.engine import Engine
from rlvis.schema import Config, Dtype, EmaConfig, LoraConfig
from tests import setting

NOTHING = Measured(Pass(1), Pass(2), Pass(3), Pass(4), 1)


def config(folder: Path, model: dict[str, Any] | None = None, **groups: dict[str, Any]) -> Config:
    return setting.config(folder, model=model, **groups)


def parts(needed: Memory) -> dict[str, int]:
    return {part.name: part.bytes for part in (*needed.standing, *needed.phases, *needed.host)}


def planned(settings: Config, cut: Sharding) -> dict[str, int]:
    policy = load_policy(replace(settings.model, embed_cache=None), "meta")
    return parts(memory.memory(policy, settings, cut, NOTHING))


def test_stages_share_out_what_they_should(sd3_folder: Path) -> None:
    settings = config(sd3_folder, {"dtype": Dtype.bfloat16}, advantage={"kl_beta": 0.1})
    n = memory.trained_count(load_policy(settings.model, "meta"))
    quarter = -(-n // 4)
    sizes = {stage: planned(settings, Sharding(stage, 4, bucket=1000)) for stage in (1, 2, 3)}
    for stage in (1, 2, 3):
        assert sizes[stage]["masters"] == 4 * quarter
        assert sizes[stage]["optimizer state"] == 8 * quarter
        assert sizes[stage]["optimizer step"] == 8 * quarter
        assert sizes[stage]["KL reference copy"] > 2 * n - 1
    assert [sizes[stage]["gradients"] for stage in (1, 2, 3)] == [2 * n, 2 * quarter, 2 * quarter]
    assert sizes[3]["trained weights"] == sizes[1]["trained weights"] // 4
    assert sizes[1]["train a micro-batch"] == 3 + 2 * 1000
    assert sizes[3]["train a micro-batch"] == 3 + sizes[1]["trained weights"] + sizes[1]["frozen weights"]
    assert sizes[3]["DeepSpeed's reduce bucket"] == 2000


def test_a_lora_at_stage_0_trains_its_adapters_only(sd3_folder: Path) -> None:
    settings = config(sd3_folder, {"lora": LoraConfig(4, 4), "ema": EmaConfig()}, advantage={"kl_beta": 0.1})
    sizes = planned(settings, Sharding(0, 8))
    n = sizes["trained weights"] // 4
    whole = planned(config(sd3_folder), Sharding(0, 1))
    assert sizes["frozen weights"] == whole["trained weights"] + whole["frozen weights"]
    assert (sizes["masters"], sizes["optimizer state"], sizes["gradients"]) == (0, 8 * n, 4 * n)
    assert sizes["EMA"] == 4 * n
    assert "KL reference copy" not in sizes


def test_host_memory_of_the_rollout(sd3_folder: Path) -> None:
    """3 x 4 samples on 2 processes: 6 each, 5 states of 4 x 8 x 8 and 4 log-probs of 8 x 8, in float32."""
    sizes = planned(config(sd3_folder), Sharding(0, 2))
    assert sizes["rollout states and log-probs"] == 6 * (5 * 4 * 64 * 4 + 4 * 64 * 4)
    assert sizes["decoded frames"] == 6 * 3 * 32 * 32
    few = config(sd3_folder, train={"shard": 2})
    assert planned(few, Sharding(0, 2))["decoded frames"] == 2 * 3 * 32 * 32


def test_only_the_largest_phase_counts() -> None:
    needed = Memory((Part("a", 10 * GIB),), (Part("x", GIB), Part("y", 3 * GIB)), ())
    assert needed.largest.name == "y"
    assert needed.total == GIB + math.ceil(13 * GIB * 1.05)


def test_a_file_of_deepspeed_is_read(tmp_path: Path, sd3_folder: Path) -> None:
    zero = {
        "stage": 3,
        "reduce_bucket_size": 1e6,
        "stage3_max_live_parameters": 2e6,
        "stage3_prefetch_bucket_size": 1e5,
        "offload_optimizer": {"device": "cpu"},
        "offload_param": {"device": "none"},
    }
    (tmp_path / "zero.json").write_text(json.dumps({"zero_optimization": zero}))
    settings = config(sd3_folder, engine={"config": str(tmp_path / "zero.json")})
    cut = sharding(settings, 8)
    assert cut == Sharding(3, 8, 1_000_000, False, 2_100_000, True, False)
    sizes = planned(settings, cut)
    assert "masters" not in sizes
    assert sizes["offloaded optimizer state"] == 2 * sizes["offloaded masters"]


def test_the_bucket_is_no_larger_than_what_is_trained(sd3_folder: Path) -> None:
    settings = config(sd3_folder, {"lora": LoraConfig(4, 4), "dtype": Dtype.bfloat16}, engine={"stage": 3})
    sizes = planned(settings, sharding(settings, 2))
    assert sizes["DeepSpeed's reduce bucket"] == sizes["gradients"] * 2  # of both GPUs' gradients


def test_encoders_of_a_warm_cache_stand_on_no_gpu(sd3_folder: Path, tmp_path: Path) -> None:
    settings = config(sd3_folder)
    cached = config(sd3_folder, {"embed_cache": str(tmp_path)})
    cut = sharding(settings, 1)
    plain, lean = planned(settings, cut), planned(cached, cut)
    encoder = plain["text encoder"] + plain["text encoder 2"]
    assert "text encoder" not in lean
    assert lean["encode a prompt"] == plain["encode a prompt"] + encoder


@pytest.fixture
def alone() -> Iterator[dist.World]:
    yield dist.start("cpu")
    dist.stop()


def held(module: torch.nn.Module) -> int:
    """Bytes of all tensors that Python knows of, gradients among them."""
    gc.collect()
    tensors = [t for t in gc.get_objects() if type(t) in (torch.Tensor, torch.nn.Parameter)]
    tensors += [p.grad for p in module.parameters() if p.grad is not None]
    return size(t for t in tensors if t.device.type == "cpu" and t.is_floating_point())


@pytest.mark.parametrize(
    ("stage", "lora", "dtype"),
    [(0, True, Dtype.float32), (0, False, Dtype.float32), (2, False, Dtype.bfloat16)],
)
def test_the_engine_holds_what_is_planned(
    tmp_path: Path, sd3_folder: Path, alone: dist.World, stage: int, lora: bool, dtype: Dtype
) -> None:
    """Masters, optimizer state and gradients after a step and the first backward of the next."""
    (tmp_path / "zero.json").write_text(
        json.dumps({"zero_optimization": {"stage": stage, "reduce_bucket_size": 1e5}})
    )
    settings = config(
        sd3_folder,
        {"lora": LoraConfig(16, 16) if lora else None, "dtype": dtype},
        engine={"config": str(tmp_path / "zero.json"), "device": "cpu"},
    )
    policy = setting.policy(settings)
    embeds, _ = policy.encode(["a red circle"])
    before = held(policy.module)
    engine = Engine(policy.module, settings.engine, settings.optim, dtype, alone)
    x, time = torch.randn(1, *policy.latent_shape), torch.full((1,), 500.0)
    for last in (True, False):
        engine.backward(policy.predict(engine, x, time, embeds).square().mean(), last=last)
        if last:
            engine.step()
    after = held(policy.module)
    sizes = planned(settings, sharding(settings, 1))
    wanted = sizes.get("masters", 0) + sizes["optimizer state"] + sizes["gradients"]
    assert after - before == pytest.approx(wanted, rel=0.1)
    engine.close()


def mine(images: Any, prompts: Any, metadata: Any) -> list[float]:
    return [0.0] * len(prompts)


def test_judges_that_are_known_and_others(sd3_folder: Path) -> None:
    settings = config(sd3_folder)
    assert judges(settings) == Judges((), ())
    terms = settings.reward.terms
    tiny = replace(terms["jpeg"], scorer="clip", kwargs={"path": "asset:tiny_clip"})
    custom = replace(terms["jpeg"], scorer=f"{__name__}.mine")
    counted = judges(replace(settings, reward=replace(settings.reward, terms={"c": tiny, "mine": custom})))
    assert [name for name, _ in counted.weights] == ["reward c"]
    assert counted.weights[0][1] > 10_000
    assert counted.uncounted[0].startswith(f"reward mine ({__name__}.mine): a function of your own")
