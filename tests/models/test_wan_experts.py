"""Wan2.2-A14B's two experts as one policy: against the stock pipeline, in updates that meet one or both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlvis import schema as S
from rlvis.models import lora
from rlvis.models.policy import Policy
from rlvis.records import Advantages, PolicyUpdate
from rlvis.rollout import plan
from rlvis.rollout.stage import rollout
from rlvis.runtime.dist import World
from rlvis.update.stage import UpdateSettings, update
from tests import kit, setting, sides, tiny, tiny_wan
from tests.family import holds, policy_of
from tests.two_steps import two_steps

GIVEN = {"condition": S.Condition.first_frame}
SIZE: dict[str, Any] = {"height": 32, "width": 48, "frames": 5, "max_tokens": 16}
FIRST = "transformer."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At shift 3 and 3 steps: the first step belongs to the first expert, two to the second."""
    return tiny_wan.experts(tmp_path_factory.mktemp("experts"))


def policy(folder: Path, **changes: Any) -> Policy:
    return policy_of("wan", folder, **(SIZE | changes))


def grads(p: Policy) -> dict[bool, float]:
    """Sum of the gradient's magnitudes: True of the first expert, False of the second."""
    sums = {True: 0.0, False: 0.0}
    for name, weight in p.trainable():
        sums[name.startswith(FIRST)] += 0.0 if weight.grad is None else float(weight.grad.abs().sum())
    return sums


def test_they_do_what_the_stock_pipeline_does(folder: Path) -> None:
    assert holds(kit.check("wan", folder, frames=5, max_tokens=16, cfg_2=2.7))


@pytest.mark.slow
def test_from_a_frame(tmp_path: Path) -> None:
    checkpoint = tiny_wan.experts(tmp_path, frame=True)
    assert holds(kit.check("wan", checkpoint, frames=9, max_tokens=16, cfg_2=2.7, **GIVEN))


def test_a_step_at_the_boundary_belongs_to_the_first(tmp_path: Path) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(3)
    ratio = float(scheduler.timesteps[1]) / 1000
    p = policy(tiny_wan.experts(tmp_path, boundary=ratio), cfg=3.0, cfg_2=2.0)
    assert (p.schedule(3).time >= 1000 * ratio).tolist() == [True, True, False]
    x = sides.noise(p)
    theirs = sides.stock(p, sides.open_stock(p), x, "latent")
    assert (sides.ode(p, x, sides.embedded(p)[0]) - theirs).abs().max() <= 1e-5


def test_every_row_gets_its_expert(folder: Path) -> None:
    p = policy(folder, cfg=2.0, cfg_2=3.0)
    embeds, _ = p.encode(sides.TEXTS)
    x = sides.noise(p)
    high, low = torch.full((3,), 1000.0), torch.full((3,), 500.0)
    with torch.no_grad():
        outs = [p.predict(p.module, x, time, embeds) for time in (high, low)]
        mixed = p.predict(p.module, x, torch.tensor([500.0, 1000.0, 500.0]), embeds)
        # As where another rank has rows of both: the same numbers.
        again = p.predict(p.module, x, high, embeds, mixed=True)
    assert torch.equal(mixed, torch.stack([outs[1][0], outs[0][1], outs[1][2]]))
    assert torch.equal(again, outs[0])
    assert (outs[0] - outs[1]).abs().max() > 1e-2
    other = policy(folder, cfg=2.0)
    with torch.no_grad():
        assert torch.equal(other.predict(other.module, x, high, embeds), outs[0])
        assert not torch.equal(other.predict(other.module, x, low, embeds), outs[1])


@pytest.mark.parametrize("mixed", [False, True])
def test_only_the_expert_that_ran_gets_a_gradient(folder: Path, mixed: bool) -> None:
    p = policy(folder)
    sides.train_a_little(p)
    embeds, _ = p.encode(sides.TEXTS)
    out = p.predict(p.module, sides.noise(p), torch.full((3,), 1000.0), embeds, mixed=mixed)
    torch.autograd.backward(out.square().mean())
    sums = grads(p)
    assert sums[True] > 0
    assert sums[False] == 0
    # Of zeros where both ran, so that every rank has as many gradients to reduce; of nothing otherwise.
    assert {w.grad is None for name, w in p.trainable() if not name.startswith(FIRST)} == {not mixed}


@pytest.mark.parametrize("adapters", [S.LoraConfig(4, 8), None])
def test_reference_and_checkpointing(folder: Path, adapters: S.LoraConfig | None) -> None:
    p = policy(folder, lora=adapters, keep_reference=True, gradient_checkpointing=True, cfg=2.0, cfg_2=1.5)
    plain = policy(folder, lora=adapters, cfg=2.0, cfg_2=1.5)
    embeds, _ = p.encode(sides.TEXTS)
    before = sides.one_step(p, embeds).detach()
    runs = []
    for q in (p, plain):
        sides.train_a_little(q, 0.02)
        out = sides.one_step(q, embeds)
        torch.autograd.backward(out.square().mean())
        runs.append([out.detach(), *(w.grad for _, w in q.trainable())])
    with p.reference():
        assert torch.equal(sides.one_step(p, embeds), before)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert min(grads(p).values()) > 0
    assert (runs[0][0] - before).abs().max() > 1e-3


class Case:
    """A rollout of two experts over four steps, of which two belong to the first, and its update."""

    def __init__(self, folder: Path, window: S.WindowConfig, **model: Any) -> None:
        sizes = SIZE | {"width": 32, "lora": S.LoraConfig(4, 8), "family": "wan"} | model
        self.config = setting.config(folder, model=sizes, sampler={"steps": 5, "window": window})
        self.policy = setting.policy(self.config, keep_reference=True)
        self.engine = setting.PlainEngine(self.policy.module)

    def run(self, prompts: int = 3) -> tuple[PolicyUpdate, dict[bool, float]]:
        """The update, and how far the weights of the two experts moved."""
        given = setting.prompts(self.policy, setting.TEXTS[:prompts])
        batch = plan.make(self.policy, self.config, step=0)
        whole = rollout(self.policy, self.policy.module, given, range(4 * prompts), batch)
        advantages = Advantages(
            term=torch.linspace(-1.5, 1.5, 4 * prompts, dtype=torch.float64).view(1, prompts, 4),
            coef=torch.ones(1, dtype=torch.float64),
            names=("grpo",),
            keep=torch.ones(prompts, 4, dtype=torch.bool),
        )
        before = {name: w.detach().clone() for name, w in self.policy.trainable()}
        settings = UpdateSettings(self.config.advantage, self.config.sampler, self.config.train)
        records = whole.replace(media=None)
        result = update(self.policy, self.engine, given, records, advantages, settings, World())
        moved = {True: 0.0, False: 0.0}
        for name, weight in self.policy.trainable():
            moved[name.startswith(FIRST)] += float((weight - before[name]).abs().sum().detach())
        return result, moved


def window(kind: str, **more: Any) -> S.WindowConfig:
    return S.WindowConfig(kind=S.WindowKind[kind], **more)


@pytest.mark.parametrize(("start", "first"), [(0, True), (3, False)])
def test_a_window_that_meets_one_expert_trains_it_alone(folder: Path, start: int, first: bool) -> None:
    case = Case(folder, window("fixed", start=start, size=1))
    times = case.policy.schedule(5).time
    assert (times >= 875).tolist() == [True, True, False, False, False]
    result, moved = case.run()
    assert result.metrics["ratio/max_deviation_first"] == 0
    assert moved[first] > 0
    assert moved[not first] == 0


def test_samples_with_steps_of_their_own_need_both(folder: Path) -> None:
    case = Case(folder, window("random_window", size=2, per_sample=True), cfg=2.0, cfg_2=1.5)
    calls: list[bool] = []
    case.policy.module.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(bool(kwargs.get("mixed"))), with_kwargs=True
    )
    result, moved = case.run()
    assert result.metrics["ratio/max_deviation_first"] == 0
    assert min(moved.values()) > 0
    assert calls == [False] * 5 * 3 + [True] * 2 * 4  # rollout: 3 micro-batches; update: 2 steps x 2 x 2


def test_exports_open_again(folder: Path, tmp_path: Path) -> None:
    p = policy(folder, cfg=3.0, cfg_2=2.0)
    sides.train_a_little(p)
    p.export(tmp_path)
    files = [load_file(tmp_path / name) for name in lora.FILES]
    assert [len(file) for file in files] == [32, 32]
    assert all(name.startswith(FIRST) for file in files for name in file)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f'weight_name="{lora.FILES[1]}", load_into_transformer_2=True)' in card.replace("'", '"')
    assert "guidance_scale=3.0, max_sequence_length=16, num_frames=5, guidance_scale_2=2.0" in card
    again = policy(folder)
    again.load_lora(tmp_path)
    for (name, ours), (_, theirs) in zip(p.trainable(), again.trainable(), strict=True):
        assert torch.equal(ours, theirs), name
    load = load_file(tmp_path / lora.FILES[1])
    name = next(iter(load))
    (tmp_path / lora.FILES[1]).unlink()
    save_file({k: v for k, v in load.items() if k != name}, tmp_path / lora.FILES[1])
    with pytest.raises(ValueError, match=r"weights_2.*1 are missing"):
        again.load_lora(tmp_path)


def test_a_whole_export_keeps_the_boundary(folder: Path, tmp_path: Path) -> None:
    p = policy(folder, lora=None)
    sides.train_a_little(p, 0.02)
    p.export(tmp_path, {name: w.detach() * 2 for name, w in p.trainable()})
    index = json.loads((tmp_path / "model_index.json").read_text(encoding="utf-8"))
    assert index["boundary_ratio"] == tiny_wan.BOUNDARY
    again = policy(tmp_path, lora=None)
    pairs = zip(p.trainable(), again.trainable(), strict=True)
    assert all(torch.equal(2 * ours, theirs) for (_, ours), (_, theirs) in pairs)


def test_two_steps_through_the_command_line(folder: Path, tmp_path: Path) -> None:
    words = ["model=wan22", f"model.path={folder}", "model.height=32", "model.width=32", "model.frames=5"]
    words += ["model.max_tokens=16", "model.lora.rank=4", "model.lora.alpha=8"]
    # One branch a forward: with two, the CPU's last bits depend on a row's place among the six.
    words += ["model.cfg_grad=conditional", "model.gradient_checkpointing=false"]
    advantages = two_steps(words, tmp_path / "run")
    assert advantages.map is not None
    assert advantages.map.shape[-3:] == (2, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (GIVEN, "makes clips from text alone"),
        ({"cfg": 1.0, "cfg_2": 3.0}, "cfg above 1, since the stock pipeline guides both experts or none"),
        ({"cfg": 4.0, "cfg_2": 0.5}, "wanted cfg_2 of at least 1"),
        ({"lora": S.LoraConfig(4, 4, ["attn9.to_q"])}, r"\['attn9.to_q'\].*attn1.to_q"),
    ],
)
def test_errors_say_what_to_do(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy(folder, **changes)


def test_one_denoiser_has_no_second_guidance_and_no_boundary(tmp_path: Path) -> None:
    single = tiny.wan(tmp_path)
    with pytest.raises(ValueError, match=r"has one denoiser; type model.cfg_2=null"):
        policy(single, cfg=4.0, cfg_2=3.0)
    index = json.loads((single / "model_index.json").read_text(encoding="utf-8"))
    index["boundary_ratio"] = 0.9
    (single / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ValueError, match=r"boundary_ratio=0.9 and transformer_2=.*two experts need both"):
        policy(single)


def test_a_module_without_weights_runs_one_expert() -> None:
    """As a plan of the memory does: there are no times to look at."""
    from rlvis.models.wan_experts import Experts

    class Half(torch.nn.Module):
        def forward(self, timestep: Tensor, x: Tensor) -> tuple[Tensor]:
            return (x / 2,)

    both = Experts(Half(), Half(), 500.0)
    out = both(timestep=torch.ones(2, device="meta"), x=torch.ones(2, 3, device="meta"))[0]
    assert out.shape == (2, 3)
