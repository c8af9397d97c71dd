"""DeepSpeed computes what plain AdamW with clipping does, at any stage, on any number of ranks or passes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlvis.runtime import dist
from rlvis.runtime.deepspeed_setup import deepspeed_config
from rlvis.runtime.dist import World
from rlvis.runtime.engine import Engine
from rlvis.runtime.snapshot import write
from rlvis.schema import Dtype, EngineConfig, OptimConfig
from tests.distributed.launch import launch

CLIPPED = OptimConfig(lr=1e-2, weight_decay=0.1, betas=[0.8, 0.95], eps=1e-6, grad_norm=0.05)
FREE = OptimConfig(lr=1e-2, weight_decay=0.1, grad_norm=1e6)
STAGES = [0, 1, 2, 3]
STEPS, ROWS = 3, 12
Weights = dict[str, Tensor]


def module() -> nn.Module:
    """8 -> 15 -> 3, sizes that two ranks cannot share evenly; the frozen layer must stay as it is."""
    torch.manual_seed(0)
    frozen = nn.Linear(8, 8).requires_grad_(False)
    return nn.Sequential(frozen, nn.Linear(8, 15), nn.Tanh(), nn.Linear(15, 3))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(ROWS, 8, generator=generator), torch.randn(ROWS, 3, generator=generator)


def loss_sum(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return (model(x).float() - y).square().sum()


def train(
    engine: Engine,
    world: World,
    steps: range = range(STEPS),
    micro: int = ROWS,
    dtype: torch.dtype = torch.float32,
) -> list[float]:
    """Steps on the batch's mean loss from this rank's rows, `micro` at a time; the gradient norms."""
    norms = []
    for step in steps:
        x, y = batch(step)
        mine = list(world.rows(ROWS))
        pieces = [mine[i : i + micro] for i in range(0, len(mine), micro)]
        for i, rows in enumerate(pieces):
            loss = loss_sum(engine, x[rows].to(dtype), y[rows]) / ROWS * world.size
            engine.backward(loss, last=i == len(pieces) - 1)
        norms.append(engine.step())
    return norms


def plain(optim: OptimConfig) -> tuple[Weights, list[float]]:
    """The same steps with torch alone; norms before clipping, from the definition."""
    model = module()
    trained = [p for p in model.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(
        trained,
        lr=optim.lr,
        betas=(optim.betas[0], optim.betas[1]),
        eps=optim.eps,
        weight_decay=optim.weight_decay,
    )
    norms = []
    for step in range(STEPS):
        adamw.zero_grad()
        (loss_sum(model, *batch(step)) / ROWS).backward()
        norms.append(float(torch.cat([p.grad.flatten() for p in trained if p.grad is not None]).norm()))
        nn.utils.clip_grad_norm_(trained, optim.grad_norm)
        adamw.step()
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}, norms


def masters(engine: Engine) -> Weights:
    return {name: value.clone() for name, value in engine.masters()}


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def furthest(a: Weights, b: Weights) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """One process without a launcher; leaving it again lets every test start anew in this process."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    yield dist.start("cpu")
    dist.stop()


def engine_of(world: World, stage: int, optim: OptimConfig = CLIPPED, dtype: Dtype = Dtype.float32) -> Engine:
    model = module().to(getattr(torch, dtype.value))
    return Engine(model, EngineConfig(stage=stage), optim, dtype, world)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("optim", [CLIPPED, FREE], ids=["clipped", "free"])
def test_a_stage_computes_what_plain_adamw_with_clipping_does(
    world: World, stage: int, optim: OptimConfig
) -> None:
    weights, norms = plain(optim)
    engine = engine_of(world, stage, optim)
    got = train(engine, world)
    assert furthest(masters(engine), weights) < 1e-6
    assert got == pytest.approx(norms, rel=1e-5)
    assert min(norms) > 0.1  # so 0.05 clips every step, and the returned norm is the one before
    if stage < 3:  # at 3 it is sharded
        assert torch.equal(engine.module.state_dict()["0.weight"], module().state_dict()["0.weight"])
    engine.close()


@pytest.mark.parametrize("stage", STAGES)
def test_several_backward_passes_are_one_summed_loss(world: World, stage: int) -> None:
    whole, parts = engine_of(world, stage), engine_of(world, stage)
    norms = train(whole, world)
    assert train(parts, world, micro=5) == pytest.approx(norms, rel=1e-5)  # 5 + 5 + 2 rows
    assert furthest(masters(whole), masters(parts)) < 1e-6
    whole.close()
    parts.close()


@pytest.mark.parametrize("stage", STAGES)
def test_set_masters_changes_what_the_forward_computes_and_back(world: World, stage: int) -> None:
    engine = engine_of(world, stage)
    train(engine, world)
    x, _ = batch(9)
    before, out = masters(engine), engine(x).detach()
    assert {name: tuple(v.shape) for name, v in before.items()} == {
        name: tuple(p.shape) for name, p in module().named_parameters() if p.requires_grad
    }
    assert all(v.dtype == torch.float32 for v in before.values())
    start = {name: p.detach() for name, p in module().named_parameters() if p.requires_grad}
    engine.set_masters(start.__getitem__)
    assert same(masters(engine), start)
    torch.testing.assert_close(engine(x), module()(x))
    engine.set_masters(before.__getitem__)
    assert same(masters(engine), before)
    assert torch.equal(engine(x), out)
    # What was set is what the next step starts from: the swap leaves no trace.
    unswapped = engine_of(world, stage)
    train(unswapped, world)
    train(engine, world, range(3, 4))
    train(unswapped, world, range(3, 4))
    assert same(masters(engine), masters(unswapped))
    engine.close()
    unswapped.close()


@pytest.mark.parametrize(
    ("stage", "dtype"),
    [(0, Dtype.float32), (2, Dtype.float32), (3, Dtype.float32), (1, Dtype.bfloat16)],
    ids=lambda value: getattr(value, "value", value),
)
def test_a_loaded_engine_goes_on_bit_for_bit(world: World, tmp_path: Path, stage: int, dtype: Dtype) -> None:
    kind = getattr(torch, dtype.value)
    first = engine_of(world, stage, dtype=dtype)
    train(first, world, range(2), dtype=kind)
    write(first.snapshot("step_2"), tmp_path)
    saved = masters(first)
    norms = train(first, world, range(2, 5), dtype=kind)

    other = engine_of(world, stage, dtype=dtype)
    train(other, world, range(7, 8), dtype=kind)  # whatever it holds is replaced
    other.load(tmp_path, "step_2")
    assert same(masters(other), saved)
    assert train(other, world, range(2, 5), dtype=kind) == norms
    assert same(masters(other), masters(first))
    assert not same(masters(other), saved)
    first.close()
    other.close()


def test_loading_a_step_that_was_not_saved_says_where_it_looked(world: World, tmp_path: Path) -> None:
    engine = engine_of(world, 0)
    with pytest.raises(FileNotFoundError, match=r"no DeepSpeed state under .*step_9"):
        engine.load(tmp_path, "step_9")
    engine.close()


def test_bfloat16_trains_float32_masters_from_the_first_step(world: World) -> None:
    """AdamW first moves by lr * sign(g) and decay: lr within rounding, not 0.744 lr (a hidden first step)."""
    engine = engine_of(world, 1, FREE, Dtype.bfloat16)
    before = masters(engine)
    norms = train(engine, world, range(1), micro=4, dtype=torch.bfloat16)
    after = masters(engine)
    assert norms == pytest.approx(plain(FREE)[1][:1], rel=2e-2)  # bfloat16 gradients: 8 bits, 2^-8 a value
    for name, value in after.items():
        assert value.dtype == torch.float32
        moved = (value - before[name] * (1 - FREE.lr * FREE.weight_decay)).abs() / FREE.lr
        torch.testing.assert_close(moved, torch.ones_like(moved), rtol=0, atol=1e-3)
    named = dict(engine.module.named_parameters())
    assert all(named[name].dtype == torch.bfloat16 for name in after)
    assert all(torch.equal(named[name], value.bfloat16()) for name, value in after.items())
    assert any(not torch.equal(value, value.bfloat16().float()) for value in after.values())
    engine.close()


def test_a_module_without_trainable_parameters_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match=r"no trainable parameter; set model\.lora"):
        Engine(module().requires_grad_(False), EngineConfig(), CLIPPED, Dtype.float32, world)


def test_the_configuration_always_writes_batch_and_clipping(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(
        json.dumps({"zero_optimization": {"stage": 2, "reduce_bucket_size": 7}, "steps_per_print": 3})
    )
    config = deepspeed_config(EngineConfig(stage=0, config=str(file)), CLIPPED, Dtype.bfloat16)
    assert config["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 7}
    assert config["steps_per_print"] == 3
    assert config["bf16"] == {"enabled": True}
    assert config["gradient_clipping"] == 0.05
    assert config["gradient_accumulation_steps"] == config["train_micro_batch_size_per_gpu"] == 1
    bare = deepspeed_config(EngineConfig(stage=1), FREE, Dtype.float32)
    assert bare["zero_optimization"] == {"stage": 1}
    assert bare["gradient_clipping"] == 1e6
    assert not {"bf16", "fp16", "optimizer", "scheduler"} & set(bare)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"engine\.config=.*mine\.json cannot be read as JSON: .*No such file"),
        ("{'stage': 2}", r"engine\.config=.*mine\.json cannot be read as JSON"),
        (
            '{"train_batch_size": 4, "optimizer": {}}',
            r"mine\.json sets optimizer, train_batch_size: remove them",
        ),
        ('{"gradient_clipping": 1.0}', r"mine\.json sets gradient_clipping: remove"),
        ('{"bf16": {"enabled": true}}', r"mine\.json sets bf16: remove them; optim\.\*, model\.dtype"),
        (
            '{"fp16": {"enabled": true}}',
            r"mine\.json enables fp16 but model\.dtype=float32; type model\.dtype=",
        ),
        ("[1]", r"engine\.config=.*mine\.json holds a list, wanted a JSON object"),
    ],
)
def test_a_bad_file_of_ones_own_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "mine.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=message):
        deepspeed_config(EngineConfig(config=str(file)), CLIPPED, Dtype.float32)


def test_float16_scales_its_loss_and_takes_the_scale_from_ones_own_file(tmp_path: Path) -> None:
    bare = deepspeed_config(EngineConfig(stage=1), CLIPPED, Dtype.float16)
    assert bare["fp16"] == {"enabled": True, "initial_scale_power": 16}
    file = tmp_path / "mine.json"
    file.write_text('{"fp16": {"initial_scale_power": 8}}')
    settings = deepspeed_config(EngineConfig(config=str(file)), CLIPPED, Dtype.float16)
    assert settings["fp16"] == {"enabled": True, "initial_scale_power": 8}


def test_bfloat16_at_stage_0_is_refused_however_the_stage_was_set(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text("{}")
    for config in (EngineConfig(stage=0), EngineConfig(stage=2, config=str(file))):
        with pytest.raises(ValueError, match=r"hidden first step with zero gradients; type engine=zero1"):
            deepspeed_config(config, CLIPPED, Dtype.bfloat16)


def run_stages(world: World, folder: str) -> dict[int, Any]:
    """On each of two ranks: every stage for three steps in unequal pieces, and the collectives of masters."""
    results = {}
    for stage in (0, 2, 3):
        engine = engine_of(world, stage)
        norms = train(engine, world, micro=4)  # 6 rows a rank: 4 + 2
        trained = masters(engine)
        start = {name: p.detach() for name, p in module().named_parameters() if p.requires_grad}
        engine.set_masters(start.__getitem__)
        swapped = same(masters(engine), start), engine(batch(9)[0]).detach()
        engine.set_masters(trained.__getitem__)
        write(engine.snapshot(f"stage {stage}"), Path(folder))
        train(engine, world, range(3, 4))
        further = masters(engine)
        engine.load(Path(folder), f"stage {stage}")
        train(engine, world, range(3, 4))
        results[stage] = {
            "norms": norms,
            "masters": trained,
            "swapped": swapped,
            "resumed": same(masters(engine), further),
        }
        engine.close()
    return results


def test_two_ranks_are_one_rank(tmp_path: Path) -> None:
    weights, norms = plain(CLIPPED)
    ranks = launch(run_stages, 2, str(tmp_path))
    for stage in (0, 2, 3):
        for got in (rank[stage] for rank in ranks):
            assert got["norms"] == pytest.approx(norms, rel=1e-5)
            # AdamW amplifies rounding where gradients are nearly 0: single weights may move further.
            difference = torch.cat(
                [(got["masters"][name] - value).abs().flatten() for name, value in weights.items()]
            )
            assert difference.max() < 1e-4
            assert difference.mean() < 1e-7
            right, out = got["swapped"]
            assert right
            torch.testing.assert_close(out, module()(batch(9)[0]))
            assert got["resumed"]
        assert same(ranks[0][stage]["masters"], ranks[1][stage]["masters"])
