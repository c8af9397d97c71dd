"""Two ranks that share the tokens of every sample sample, score and train as one rank does.

A rank's gradient is that of its tokens alone, so one optimizer step shows whether the parts add up. Both
families share one launch; further families, ZeRO stages, options and whole runs are slow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rlvis.cli import main
from rlvis.models import sequence
from rlvis.records import PriorState, RewardHistory
from rlvis.runtime import dist
from rlvis.runtime.dist import World
from rlvis.schema import (
    ApplyTo,
    CfgGrad,
    Condition,
    LoraConfig,
    MapConfig,
    MapSource,
    RatioScope,
)
from rlvis.training import pipeline
from rlvis.training.assemble import assemble
from tests import setting, tiny, tiny_flux, tiny_flux2, tiny_qwen_image, tiny_video, tiny_wan
from tests.distributed.launch import launch
from tests.two_steps import METHODS, WORDS

LORA = LoraConfig(4, 8)
FIRST = {"condition": Condition.first_frame}
WAN = {"family": "wan", "frames": 5}
BOTH = {"wan": {"model": WAN | {"lora": LORA}}, "flux": {"model": {"family": "flux"}, "engine": {"stage": 2}}}
# Name of a case: how its folder is made -> what of the configuration it changes.
MORE: dict[str, dict[str, Any]] = {
    "wan guided": {"model": WAN | {"cfg": 2.0, "cfg_grad": CfgGrad.conditional}},
    "wan checkpointing": {"model": WAN | {"lora": LORA, "gradient_checkpointing": True}},
    "wan kl": {"model": WAN, "advantage": {"kl_beta": 0.1}},  # with a frozen copy
    "wan lora kl": {"model": WAN | {"lora": LORA}, "advantage": {"kl_beta": 0.1}},
    "wan stage 1": {"model": WAN | {"lora": LORA}, "engine": {"stage": 1}},
    "wan stage 3": {"model": WAN | {"lora": LORA}, "engine": {"stage": 3}},
    "wan_frame": {"model": {"family": "wan", "frames": 9, **FIRST}, "data": {"source": "shapes_i2v"}},
    "wan_experts": {"model": WAN | {"lora": LORA}, "sampler": {"shift": 3.0}},
    "flux lora": {"model": {"family": "flux", "lora": LORA}},
    "flux2": {"model": {"family": "flux2"}},
    "qwen_image": {"model": {"family": "qwen_image", "cfg": 2.0, "lora": LORA}},
}
MAKERS: dict[str, Any] = {
    "wan": tiny.wan,
    "wan_frame": lambda folder: tiny.wan(folder, expand=True),
    "wan_experts": tiny_wan.experts,
    "flux": tiny_flux.flux,
    "flux2": tiny_flux2.flux2,
    "qwen_image": tiny_qwen_image.qwen_image,
}


def step(world: World, folder: str, changes: dict[str, Any]) -> dict[str, Any]:
    """One training step of one optimizer step, on 2 x 3 samples of 32 x 32 pixels."""
    groups = {
        "data": {"prompts_per_step": 2, "samples_per_prompt": 3},
        "sampler": {"steps": 2},
        "train": {"micro_batch": 2, "updates_per_step": 1},
        "engine": {"device": "cpu", "sequence_parallel": world.sequence},
    }
    for group, values in changes.items():
        groups[group] = groups.get(group, {}) | values
    parts = assemble(setting.config(Path(folder), **groups), world)
    before = _weights(parts)
    memory = pipeline.Memory(PriorState(kind="none"), RewardHistory())
    _, records = pipeline.train_step(parts, memory, 0)
    after = _weights(parts)
    parts.engine.close()
    return {
        "states": records.trajectories.states,
        "reward": records.rewards.term,
        "advantage": records.advantages.term,
        "asked": records.rewards.latency[0] > 0,
        "first": records.update.metrics["ratio/max_deviation_first"],
        "norm": records.update.metrics["update/grad_norm"],
        "before": before,
        "after": after,
    }


def _weights(parts: pipeline.Parts) -> Tensor:
    return torch.cat([value.flatten().clone() for _, value in parts.engine.masters()])


def steps(world: World, root: str, cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    rank = torch.tensor([world.rank])
    counted = (
        dist.all_gather_rows(rank).tolist(),
        dist.all_gather_rows(rank, every_rank=True).tolist(),
        float(dist.all_reduce(rank + 5, "sum")[0]),
    )
    results = {name: step(world, f"{root}/{name.split()[0]}", changes) for name, changes in cases.items()}
    return results | {"counted": counted}


def compare(one: dict[str, Any], ranks: list[dict[str, Any]]) -> None:
    """One rank's step with those of ranks that share tokens."""
    for rank in ranks:
        assert (rank["states"] - one["states"]).abs().max() <= 1e-5  # flux: 5e-7 by another order of sums
        assert torch.equal(rank["states"], ranks[0]["states"])
        assert torch.equal(rank["reward"], one["reward"])
        assert torch.equal(rank["advantage"], one["advantage"])
        assert rank["first"] == 0.0
        assert torch.equal(rank["before"], one["before"])
        assert torch.equal(rank["after"], ranks[0]["after"])
        assert rank["norm"] == pytest.approx(one["norm"], rel=1e-5)
        apart, moved = rank["after"] - one["after"], one["after"] - one["before"]
        assert apart.norm() <= 1e-6 * one["after"].norm()
        assert apart.norm() <= 1e-4 * moved.norm()  # Adam forgets the scale, which norm holds
    assert [rank["asked"] for rank in ranks] == [True, *[False] * (len(ranks) - 1)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def _alone(root: Path, cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The cases on one rank, in this process; makes what folders they need."""
    for name in {name.split()[0] for name in cases}:
        if not (root / name).exists():
            MAKERS[name](root / name)
    world = dist.start("cpu")
    try:
        return steps(world, str(root), cases)
    finally:
        dist.stop()


def test_two_ranks_that_share_tokens_step_as_one(root: Path) -> None:
    one = _alone(root, BOTH)
    two = launch(steps, 2, str(root), BOTH, sequence=2, seconds=250)
    assert [rank["counted"] for rank in two] == [([0], [0, 1], 5.0)] * 2
    for name in BOTH:
        compare(one[name], [rank[name] for rank in two])


@pytest.mark.slow
def test_other_families_stages_and_options_step_as_one(root: Path) -> None:
    one = _alone(root, MORE)
    two = launch(steps, 2, str(root), MORE, sequence=2, seconds=1200)
    for name in MORE:
        compare(one[name], [rank[name] for rank in two])


@pytest.mark.slow
def test_two_groups_of_two_ranks_step_as_two_ranks(root: Path) -> None:
    """3 rows a group, so that the second prompt straddles the groups; maps are joined across them."""
    map_config = MapConfig(source=MapSource.psm, backbone="tiny", apply_to=ApplyTo.reward)
    vipo = {"ratio_scope": RatioScope.position, "map": map_config}
    cases = {"wan": {"model": WAN | {"lora": LORA}, "engine": {"stage": 2}, "advantage": vipo}}
    if not (root / "wan").exists():
        tiny.wan(root / "wan")
    two = [rank["wan"] for rank in launch(steps, 2, str(root), cases, seconds=600)]
    four = [rank["wan"] for rank in launch(steps, 4, str(root), cases, sequence=2, seconds=600)]
    assert [len(rank["states"]) for rank in four] == [3, 3, 3, 3]
    compare(two[0], four[:2])
    compare(two[1], four[2:])
    assert torch.equal(four[0]["after"], four[3]["after"])


@pytest.mark.parametrize(
    ("maker", "changes", "degree", "message"),
    [
        (tiny.sd3, {}, 2, r"cannot share the tokens of model\.family=sd3"),
        (tiny_video.ltx, {"height": 64, "width": 64, "frames": 9}, 2, r"the tokens of model\.family=ltx"),
        (tiny.wan, WAN, 4, r"2 attention heads .*; type engine\.sequence_parallel=2$"),
        (tiny_flux.flux, {"max_tokens": 7}, 2, r"7 tokens of the text.*; type model\.max_tokens=6$"),
        (
            tiny_flux.flux,
            {"width": 40, "height": 40},
            2,
            r"1 x 5 x 5 = 25 .*; the nearest width is 32 or 48; type model\.width=32$",
        ),
    ],
)
def test_what_ranks_cannot_share_is_refused(
    tmp_path: Path, maker: Any, changes: dict[str, Any], degree: int, message: str
) -> None:
    family = {"family": maker.__name__}
    config = setting.config(maker(tmp_path / "model"), model=family | changes)
    with pytest.raises(ValueError, match=message):
        sequence.check(setting.policy(config), degree)


def trained(world: World, words: list[str]) -> int:
    return main(["train", *words])


def prompts(folder: Path) -> Path:
    (folder / "heldout.txt").write_text("a red circle\na blue square\na ring\n", encoding="utf-8")
    return folder / "heldout.txt"


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def exported(run: Path) -> dict[str, Tensor]:
    return load_file(run / "lora" / "pytorch_lora_weights.safetensors")


@pytest.mark.slow
def test_a_whole_run_is_written_once_and_goes_on_where_it_was(root: Path, tmp_path: Path) -> None:
    """Two steps and a resumed third end in the weights of three steps, and the first step is one rank's."""
    folder = MAKERS["wan"](tmp_path / "model")
    words = [
        *WORDS,
        *METHODS["vipo"],
        "model=wan",
        f"model.path={folder}",
        "model.height=32",
        "model.width=32",
        "model.frames=5",
    ]
    words += ["model.lora.rank=4", "model.lora.alpha=8", "model.cfg=1", "model.max_tokens=16", "doctor=warn"]
    words += ["engine=zero2", "tracker.samples_every=1", "tracker.samples=1", "train.save_every=1"]
    words += ["advantage.map.apply_to=reward", "eval.every=1", "eval.path=" + str(prompts(tmp_path))]
    words += ["eval.samples=1", "eval.steps=2", "eval.terms.jpeg.scorer=jpeg_compressibility"]
    shared = [*words, "engine.sequence_parallel=2"]
    run, straight, alone = (tmp_path / name for name in ("run", "straight", "alone"))
    for command in (
        [*shared, f"run_dir={run}"],
        ["train.steps=3", f"resume={run}"],
        [*shared, "train.steps=3", f"run_dir={straight}"],
    ):
        assert launch(trained, 2, command, seconds=600) == [0, 0]
    assert main(["train", *words, f"run_dir={alone}"]) == 0

    assert [line["step"] for line in lines(run)] == [0, 1, 2, 3]  # 0 is the evaluation before training
    for step in range(3):
        folder_of_step = run / "records" / f"step_{step:06d}"
        assert sorted(p.name for p in folder_of_step.glob("trajectories*.json")) == ["trajectories.0of1.json"]
    whole, gone_on = exported(straight), exported(run)
    assert all(torch.equal(gone_on[name], value) for name, value in whole.items())
    assert lines(run)[0]["eval/jpeg"] == lines(alone)[0]["eval/jpeg"]
    for key in ("reward/mean", "ratio/max_deviation_first", "map/failed", "map/mean", "update/grad_norm"):
        assert lines(run)[1][key] == pytest.approx(lines(alone)[1][key], rel=1e-4), key
    pictures = [
        sorted(p.name for p in (run_dir / "groups/step_000001").iterdir()) for run_dir in (run, alone)
    ]
    assert pictures[0] == pictures[1]
    meta = json.loads((run / "checkpoints" / "step_000003" / "meta.json").read_text())
    assert meta["world_size"] == 2
