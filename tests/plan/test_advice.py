"""The smallest change that fits: which, in what order, and when nothing does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from rlvis.findings import Severity
from rlvis.plan.advice import Advice, Planner, Setup, advise, verdict
from rlvis.plan.judges import Judges
from rlvis.plan.memory import GIB, Memory, Part
from rlvis.plan.sharding import Sharding
from rlvis.schema import Dtype, LoraConfig
from tests import setting


class Formula:
    """A planner whose memory follows from the setup alone, in GiB, so that answers are known."""

    def __init__(self) -> None:
        self.asked = 0

    def memory(self, setup: Setup) -> Memory:
        self.asked += 1
        model, rows = setup.config.model, setup.config.train.micro_batch
        if model.vae_tiling:
            raise ValueError("no tiles here")
        weights = (10.0 if model.dtype is Dtype.float32 else 5.0) + (
            0 if model.lora else 40 / setup.cut.parts
        )
        active = rows * (1.0 if model.gradient_checkpointing else 4.0)
        return Memory((Part("weights", int(weights * GIB)),), (Part("train", int(active * GIB)),), ())


def advice(
    gib: float, *, gpus: int = 1, stage: int = 1, rows: int = 8, **model: Any
) -> tuple[tuple[str, ...], bool]:
    config = setting.config(Path("anywhere"), model=model, train={"micro_batch": rows})
    result = advise(cast(Planner, Formula()), Setup(config, Sharding(stage, gpus)), int(gib * GIB))
    assert (result.memory.total <= gib * GIB) is result.fits
    return result.words, result.fits


def test_nothing_is_asked_of_what_fits() -> None:
    assert advice(100) == ((), True)


def test_checkpointing_comes_first() -> None:
    assert advice(65) == (("model.gradient_checkpointing=true",), True)


def test_then_the_largest_micro_batch_that_fits() -> None:
    assert advice(58, gradient_checkpointing=True) == (("train.micro_batch=4",), True)


def test_sharding_needs_several_gpus() -> None:
    on_eight = advice(40, gpus=8, stage=0, gradient_checkpointing=True)
    assert on_eight == (("engine=zero1",), True)


def test_a_lora_is_the_last_resort() -> None:
    assert advice(30, gradient_checkpointing=True) == (("'model.lora={rank: 32, alpha: 64}'",), True)


def test_changes_are_added_up_where_one_is_not_enough() -> None:
    words, fits = advice(15, gradient_checkpointing=False)
    assert fits
    assert words[0] == "model.gradient_checkpointing=true"
    assert words[-1].startswith("'model.lora=")


def test_the_most_that_can_be_done_is_told() -> None:
    words, fits = advice(2)
    assert not fits
    assert "train.micro_batch=1" in words


def test_a_real_model_that_is_too_large(sd3_folder: Path) -> None:
    config = setting.config(sd3_folder, model={"height": 64, "width": 64}, train={"micro_batch": 64})
    planner = Planner(Judges((), ()))
    setup = Setup(config, Sharding(0, 1))
    whole = planner.memory(setup).total
    result = advise(planner, setup, whole - 2**20)
    assert result.fits
    assert result.words == ("model.gradient_checkpointing=true",)
    assert result.memory.total < whole


def test_bfloat16_brings_the_stage_it_needs() -> None:
    half = advice(10, rows=1, stage=0, lora=LoraConfig(), gradient_checkpointing=True)
    assert half == (("model.dtype=bfloat16", "engine=zero1"), True)


def test_an_offloaded_optimizer_is_told_with_its_stage() -> None:
    class Offloads(Formula):
        def memory(self, setup: Setup) -> Memory:
            return Memory((), (Part("x", (1 if setup.cut.offload_optimizer else 99) * GIB),), ())

    setup = Setup(setting.config(Path("anywhere")), Sharding(2, 4))
    (words,) = advise(cast(Planner, Offloads()), setup, 4 * GIB).words
    assert words.endswith('{"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}')


def test_the_verdict_says_what_is_missing_and_what_to_type() -> None:
    needed = Memory((Part("weights", 18 * GIB),), (Part("train", 2 * GIB),), ())
    smaller = Memory((), (Part("train", 4 * GIB),), ())
    gib = needed.total / GIB
    fits = verdict(needed, 24.0, Advice((), needed, True))
    assert (fits.severity, fits.what, fits.type) == (Severity.ok, f"fits: {gib:.1f} of 24 GiB", "")
    large = verdict(needed, 8.0, Advice(("engine=zero3", "model.vae_slicing=true"), smaller, True))
    assert large.severity is Severity.failure
    assert large.what == f"does not fit: {gib:.1f} of 8 GiB"
    assert large.type == "engine=zero3 model.vae_slicing=true"
    assert large.numbers == {"needed_gib": gib, "room_gib": 8.0, "changed_gib": smaller.total / GIB}
    assert "smallest change" in large.wanted
    assert "not enough" in verdict(needed, 2.0, Advice((), smaller, False)).wanted
    assert verdict(needed, None, None).type == "plan_gib=80"
