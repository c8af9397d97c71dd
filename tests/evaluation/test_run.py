"""Sampling for an evaluation: fixed noise, any number of ranks, columns of suite and scorers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvis import schema as S
from rlvis.evaluation.drawn import Drawn
from rlvis.evaluation.prompts import encode, prepare
from rlvis.evaluation.run import _gather, evaluate, ode_steps
from rlvis.models.policy import Policy
from rlvis.rollout import plan as sampling
from rlvis.rollout.generate import FIXED
from rlvis.runtime.dist import World
from tests import setting
from tests.distributed.launch import launch

ROWS = 4  # of a forward


def config(folder: Path, **eval: Any) -> S.Config:
    settings = setting.config(folder)
    settings.eval = S.EvalConfig(**{"suite": "shapes", "prompts": 5, "samples": 2, "steps": 2, **eval})
    settings.eval.terms["jpeg"] = S.RewardTerm("jpeg_compressibility")
    return settings


@pytest.fixture(scope="module")
def policy(sd3_folder: Path) -> Policy:
    return setting.policy(setting.config(sd3_folder))


def run(policy: Policy, settings: S.Config, world: World | None = None) -> dict[str, Tensor]:
    held = encode(prepare(settings), policy)
    return evaluate(policy, policy.module, held, settings.sampler, micro_batch=ROWS, world=world or World())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k].nan_to_num(-9), b[k].nan_to_num(-9)) for k in a)


def test_columns_of_suite_and_scorers_in_the_order_prompt_sample(sd3_folder: Path, policy: Policy) -> None:
    columns = run(policy, config(sd3_folder))
    assert {"score", "hard", "degree/colour", "right/colour", "term/jpeg"} <= set(columns)
    assert all(column.shape == (10,) and column.dtype == torch.float64 for column in columns.values())
    assert bool(columns["term/jpeg"].isfinite().all())
    assert len(columns["term/jpeg"].unique()) > 5  # samples of a prompt differ


def test_noise_depends_on_prompt_sample_and_its_own_seed(sd3_folder: Path, policy: Policy) -> None:
    settings = config(sd3_folder)
    columns = run(policy, settings)
    assert same(columns, run(policy, replace(settings, seed=99)))  # the run's seed
    other = run(policy, replace(settings, eval=replace(settings.eval, seed=1)))
    assert not torch.equal(columns["term/jpeg"], other["term/jpeg"])
    # One sample a prompt: rows are batched otherwise, and are the same samples.
    fewer = run(policy, replace(settings, eval=replace(settings.eval, samples=1)))
    assert same({k: v[::2] for k, v in columns.items()}, fewer)


def test_rows_of_ranks_are_those_of_one(sd3_folder: Path, policy: Policy) -> None:
    """Ranks that cannot talk return their own rows."""
    settings = config(sd3_folder)
    parts = [run(policy, settings, World(rank=r, size=3)) for r in range(3)]
    assert [len(part["score"]) for part in parts] == [3, 3, 4]
    assert same(run(policy, settings), {k: torch.cat([part[k] for part in parts]) for k in parts[0]})


def test_first_samples_are_handed_out_once(sd3_folder: Path, policy: Policy) -> None:
    """Of each prompt the first of its two samples, on the rank that drew it, and no padding."""
    settings = config(sd3_folder)
    held = encode(prepare(settings), policy)
    got: list[tuple[int, Tensor]] = []
    for rank in range(3):
        world = World(rank=rank, size=3)
        evaluate(
            policy,
            policy.module,
            held,
            settings.sampler,
            micro_batch=ROWS,
            world=world,
            keep=lambda prompt, clip: got.append((prompt, clip)),
        )
    assert [prompt for prompt, _ in got] == [0, 1, 2, 3, 4]
    assert all(clip.dtype == torch.uint8 and clip.ndim == 4 for _, clip in got)
    assert not torch.equal(got[0][1], got[1][1])


def test_steps_are_those_of_the_stock_pipeline(sd3_folder: Path, policy: Policy) -> None:
    assert ode_steps(policy, None) == 28
    assert ode_steps(policy, 3) == 3


def test_a_scorer_that_fails_leaves_nan(sd3_folder: Path, policy: Policy) -> None:
    settings = config(sd3_folder)
    settings.eval.terms["broken"] = S.RewardTerm("tests.evaluation.test_run.broken")
    assert run(policy, settings)["term/broken"].isnan().all()


def test_clips_that_start_from_a_frame(wan_folder: Path) -> None:
    """The frame reaches the policy and the checker: the latter then says whether clips begin with it."""
    model = {"family": "wan", "frames": 5, "condition": S.Condition.first_frame}
    settings = setting.config(wan_folder, model=model, data={"source": "shapes_i2v"})
    settings.eval = S.EvalConfig(suite="shapes", prompts=3, steps=2)
    columns = run(setting.policy(settings), settings)
    assert bool(columns["degree/first_frame"].isfinite().all())
    assert bool(columns["degree/direction"].isfinite().any())


def broken(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Tensor:
    """A scorer that never answers."""
    raise RuntimeError("no")


def on_ranks(world: World) -> dict[str, Tensor]:
    """Rank 0 has two micro-batches, rank 1 padding alone and a column that rank 0 has not."""
    rows = [{"a": column(1, 2)}, {"a": column(3), "b": column(4)}]
    return _gather(rows if world.is_main else [{"c d": column()}])


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_two_processes_gather_the_same_table() -> None:
    columns = launch(on_ranks, 2)
    wanted = {"a": column(1, 2, 3), "b": column(-9, -9, 4), "c d": column(-9, -9, -9)}
    assert all(same(part, wanted) for part in columns)


def test_other_words_have_columns_of_their_own(sd3_folder: Path, policy: Policy) -> None:
    settings = config(sd3_folder, paraphrase="world")
    columns = run(policy, settings)
    own = {name: column for name, column in columns.items() if not name.startswith("reworded/")}
    assert same(run(policy, config(sd3_folder)), own)
    held = prepare(settings)
    assert held.reworded is not None
    batch, has = held.reworded
    assert [new != old for new, old in zip(batch.texts, held.batch.texts, strict=True)] == list(has)
    known = columns["reworded/score"].isfinite().reshape(-1, 2)
    assert known.all(1).tolist() == list(has)
    assert not torch.equal(columns["reworded/term/jpeg"], columns["term/jpeg"])


def test_other_words_that_nobody_wrote_are_said(sd3_folder: Path) -> None:
    with pytest.raises(ValueError, match="none of the 5 held-out prompts has such a field"):
        prepare(config(sd3_folder, paraphrase="recaption"))


def test_the_sampler_of_training_starts_from_the_same_noise(sd3_folder: Path, policy: Policy) -> None:
    """Without noise of its own, and with the steps and levels of the evaluation, it draws the same."""
    settings = config(sd3_folder)
    held = encode(prepare(settings), policy)
    found = {}
    for eta in (1e-6, 0.7):
        sampler = replace(settings.sampler, steps=2, eta=eta, window=S.WindowConfig(kind=S.WindowKind.all))
        plan = replace(
            sampling.make(policy, replace(settings, sampler=sampler), FIXED),
            seed=settings.eval.seed,
            samples_per_prompt=1,
            micro_batch=ROWS,
        )
        found[eta] = evaluate(
            policy, policy.module, held, settings.sampler, micro_batch=ROWS, world=World(), trained=plan
        )
    change = {
        eta: (f["train_sampler/term/jpeg"] / f["term/jpeg"] - 1).abs().max() for eta, f in found.items()
    }
    assert change[1e-6] < 2e-3  # a byte of a file
    assert change[0.7] > 1e-2


def test_what_was_drawn_is_not_drawn_again(sd3_folder: Path, policy: Policy, tmp_path: Path) -> None:
    settings = config(sd3_folder)
    held = encode(prepare(settings), policy)
    calls = []

    def module(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return policy.module(*args, **kwargs)

    def again(depends: dict[str, Any]) -> dict[str, Tensor]:
        drawn = Drawn(tmp_path, depends, World(), ROWS)
        return evaluate(policy, module, held, settings.sampler, micro_batch=ROWS, world=World(), drawn=drawn)

    stop = 5  # two steps for each of three micro-batches: inside of the last
    with pytest.raises(KeyboardInterrupt):
        again({"weights": "a"})
    stop, calls[:] = 0, []
    assert same(again({"weights": "a"}), run(policy, settings))
    assert len(calls) == 2
    calls.clear()
    again({"weights": "b"})
    assert len(calls) == 6
    Drawn(tmp_path, {}, World(), ROWS).remove()
    assert list(tmp_path.iterdir()) == []
