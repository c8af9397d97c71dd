"""The benchmarks run at a tiny size, compare equal numbers of calls and count bytes rightly; no time here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import memory, overhead, policies, tables, timing
from benchmarks.workload import Case, Workload
from rlvis.runtime import dist

SIZE = policies.Size("test", width=32, layers=1, heads=2, latent=8, tokens=4)
CASE = Case(SIZE, prompts=2, samples=4, micro_batch=2, steps=3, updates=2, repeats=2)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workload]:
    torch.set_num_threads(1)
    world = dist.start("cpu")
    workload = Workload(CASE, tmp_path_factory.mktemp("benchmarks"), world)
    yield workload
    workload.close()
    dist.stop()


def calls(module: nn.Module, job: Callable[[], Any]) -> list[tuple[int, ...]]:
    """Shapes of the latents that `module` was called with."""
    shapes: list[tuple[int, ...]] = []
    hook = module.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["hidden_states"].shape)), with_kwargs=True
    )
    job()
    hook.remove()
    return shapes


def test_bare_loops_call_the_model_as_often_and_in_the_same_shape(work: Workload) -> None:
    module = work.policy.module
    rolled = calls(module, work.rollout)
    assert rolled == [(2, 4, 8, 8)] * 12  # 8 rows in twos, 3 steps
    assert calls(module, work.rollout_undecoded) == rolled == calls(work.bare, work.forwards)
    updated = calls(module, work.update)
    assert updated == [(2, 4, 8, 8)] * 8  # the last transition is not trained
    assert calls(module, work.engine_update) == updated == calls(work.bare, work.bare_update)


def test_bare_loops_touch_the_copy_only(work: Workload) -> None:
    before = [p.detach().clone() for p in work.policy.module.parameters()]
    work.bare_update()
    assert all(torch.equal(a, b) for a, b in zip(before, work.policy.module.parameters(), strict=True))


def test_bytes_are_those_of_the_tensors(work: Workload) -> None:
    parts = memory.of_step(work)
    weights = 4 * sum(p.numel() for p in work.policy.module.parameters())
    assert parts["weights"] == parts["of them trained"] == parts["gradients"] == weights
    steps_taken = 4 * len(list(work.policy.module.parameters()))  # AdamW counts them in one float a parameter
    assert parts["optimizer state"] == 2 * weights + steps_taken
    assert parts["states kept"] == 8 * 3 * 4 * 8 * 8 * 4
    assert parts["log-probs kept"] == 8 * 2 * 8 * 8 * 4
    assert parts["decoded media"] == 8 * 3 * 32 * 32
    assert parts["activations of one micro-batch"] > 0


def test_a_ratio_is_of_the_same_round() -> None:
    laps = {
        "ours": [timing.Lap(2, 4), timing.Lap(6, 9)],
        "a": [timing.Lap(1, 1), timing.Lap(2, 2)],
        "b": [timing.Lap(1, 1), timing.Lap(1, 1)],
    }
    cpu = torch.device("cpu")
    assert timing.ratio(laps, "ours", ["a", "b"], cpu) == {"median": 1.5, "min": 1.0, "max": 2.0, "wall": 2.5}
    assert timing.seconds(laps["ours"], cpu) == 4


def test_every_other_round_runs_backwards() -> None:
    order: list[str] = []
    timing.interleaved({n: partial(order.append, n) for n in "ab"}, 2, torch.device("cpu"))
    assert order == ["a", "b", "a", "b", "b", "a"]


def test_a_run_writes_json_and_its_page(tmp_path: Path) -> None:
    result = overhead.measure([CASE], CASE, (1, 2), "cpu")
    path = overhead.write(result, tmp_path)
    assert path.name == "overhead_cpu"
    stored = json.loads(path.with_suffix(".json").read_text())
    assert stored == result
    [case] = stored["cases"]
    assert case["shape"]["rows"] == 8
    assert all(0 < r["min"] <= r["median"] <= r["max"] for r in case["ratios"])
    assert [g["samples"] for g in stored["growth"]["groups"]] == [4, 8]
    page = path.with_suffix(".md").read_text()
    assert "rollout / bare forwards + bare decode" in page
    assert stored["environment"]["commit"] in page
    tables.show(result)
