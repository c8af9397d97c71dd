"""The plan through the command line; seconds by hand; keys that do not go together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rlvis.checks.domain import domain_errors
from rlvis.checks.plan import plan_errors
from rlvis.cli import main
from rlvis.plan import speed
from rlvis.plan.measure import Measured, Pass
from rlvis.plan.run import Here, plan
from rlvis.runtime import gpus
from rlvis.schema import Config, Dtype, OldLogProb
from tests import setting

FLOPS = Measured(Pass(1, flops=1e9), Pass(1, flops=1e12), Pass(1, flops=3e12), Pass(1, flops=5e11), 4)


def config(folder: Path = Path("anywhere"), **keys: object) -> Config:
    return replace(setting.config(folder), plan=True, **keys)  # type: ignore[arg-type]


def test_the_command_line_prints_a_plan(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        main(["train", "plan=true", "plan_gib=0.5", "plan_gpus=4", "plan_gpu=H100", "train.micro_batch=2"])
        == 0
    )
    out = capsys.readouterr().out
    assert "on 4 processes" in out
    for part in ("trained weights", "optimizer state", "train a micro-batch", "most on each GPU", "decoded"):
        assert part in out
    assert "does not fit" in out
    assert "not enough, but the most that changes here do" in out  # the context alone takes more
    assert "a step: about" in out
    assert "an assumed 40% of 67 on H100 (float32)" in out
    assert not list(tmp_path.iterdir())  # no run folder


def test_seconds_follow_from_operations_and_rate(sd3_folder: Path) -> None:
    """12 samples in micro-batches of 4 and 5 steps; 2 updates of 6 in 2 micro-batches, 4 transitions each."""
    settings = config(sd3_folder, plan_tflops=1.0)
    rate = speed.rate(settings, None)
    assert rate is not None
    seconds = speed.times(settings, FLOPS, 1, rate).stages
    wanted = {"encode": 3 * 1e9, "sample": 15 * 1e12, "decode": 3 * 5e11, "update": 16 * 3e12}
    assert seconds == pytest.approx({name: value / 1e12 for name, value in wanted.items()})
    again = replace(settings, advantage=replace(settings.advantage, old_logprob=OldLogProb.recompute))
    assert speed.operations(again, FLOPS, 1)["update"] == pytest.approx(16 * 3e12 + 12 * 1e12)
    two = speed.operations(settings, FLOPS, 2)
    assert two["sample"] == pytest.approx(10 * 1e12)
    assert two["encode"] == wanted["encode"]  # every process encodes all prompts


def test_speeds_are_those_of_the_named_gpu() -> None:
    assert gpus.match("NVIDIA A100-SXM4-80GB") == "A100"
    assert gpus.match("NVIDIA L40S") == "L40S"
    assert gpus.match("NVIDIA GeForce RTX 4090") == "RTX 4090"
    assert gpus.match("NVIDIA A1000") is None
    half = replace(config(), model=replace(config().model, dtype=Dtype.bfloat16))
    rate = speed.rate(half, "NVIDIA H200")
    assert rate is not None
    assert (rate.wide, rate.single) == pytest.approx((0.4 * 989e12, 0.4 * 67e12))
    assert speed.rate(replace(half, plan_gpu="L4"), "NVIDIA H200").wide == pytest.approx(0.4 * 121e12)  # type: ignore[union-attr]
    assert speed.rate(half, "a toaster") is None


def test_without_a_gpu_it_says_what_to_type(sd3_folder: Path) -> None:
    elsewhere = plan(config(sd3_folder), 1, Here(None, None))
    assert "plan_gib=80" in elsewhere
    assert "plan_tflops=N" in elsewhere
    here = plan(config(sd3_folder), 1, Here("NVIDIA H100 80GB HBM3", 79.6))
    assert "fits: " in here
    assert "of 79.6 GiB" in here


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"plan": False, "plan_gib": 80.0}, "does nothing with plan=false; type plan=true"),
        ({"dry_run": True}, "leave one out"),
        ({"plan_gpus": 0}, "wanted at least 1"),
        ({"plan_gib": -1.0}, "plan_gib=80"),
        ({"plan_tflops": 0.0}, "plan_tflops=400"),
        ({"plan_gpu": "H100", "plan_tflops": 1.0}, "does nothing with plan_tflops"),
        ({"plan_gpu": "toaster"}, "no speed is known"),
    ],
)
def test_keys_that_cannot_be(keys: dict[str, object], match: str) -> None:
    made = replace(config(), **keys)  # type: ignore[arg-type]
    (error,) = [
        *domain_errors(made, ("plan_gpus", "plan_gib", "plan_gpu", "plan_tflops")),
        *plan_errors(made),
    ]
    assert match in str(error)


def test_a_plan_of_itself_is_fine() -> None:
    assert list(plan_errors(config(plan_gpus=8, plan_gib=80.0, plan_gpu="H100"))) == []
