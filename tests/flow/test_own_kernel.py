"""A kernel of one's own by its dotted path: the page's text trains, and what is no kernel is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from unittest import mock

import pytest
import torch

from rlvis.checks.config import check
from rlvis.cli import main, one_run
from rlvis.compose.command import compose
from rlvis.flow import schedules
from rlvis.flow.kernel import KERNELS, Kernel
from rlvis.flow.transition import table

PAGE = Path(__file__).parents[2] / "docs" / "add_a_kernel.md"
SMALL = [
    "data.prompts_per_step=2",
    "data.samples_per_prompt=4",
    "sampler.steps=4",
    "train.steps=2",
    "train.micro_batch=4",
    "tracker.samples_every=0",
    "engine.device=cpu",
    "threads=1",
]
WRONG = """
import torch
from rlvis.flow.kernel import Coefficients, FlowPath, Path

def for_flows(path: FlowPath, eta): return path.renewed(eta * path.sigma[1:] / 2)
def levelless(path): return path.renewed(path.sigma[1:] / 2)
def other_arguments(path, strength): return path.renewed(strength * path.sigma[1:])
def single(path, eta): return path.renewed(eta * path.sigma[1:])._replace(std=path.sigma[1:].float())
def short(path, eta): return Coefficients(path.sigma, path.sigma, path.sigma)
def number(path, eta): return eta
def raises(path, eta): return path.sigmas
def negative(path, eta): return Coefficients(path.x0_x, path.x0_v, -eta * path.sigma[1:])
def infinite(path, eta): return Coefficients(path.x0_x / 0, path.x0_v, path.sigma[1:])
thing = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (tmp_path / "kernels_of_the_page.py").write_text(code, encoding="utf-8")
    (tmp_path / "kernels_of_a_user.py").write_text(WRONG, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def told(*words: str) -> list[str]:
    return [str(error) for error in check(compose(list(words)).typed())]


def test_the_page_s_kernel_trains_with_a_first_ratio_of_one(own: Path) -> None:
    words = ["sampler.kernel=kernels_of_the_page.longer_steps", "sampler.eta=0.5", f"run_dir={own / 'run'}"]
    with mock.patch.object(one_run, "write_report"):
        assert main(["train", *words, *SMALL]) == 0
    lines = [json.loads(line) for line in (own / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["ratio/max_deviation_first"] for line in lines] == [0.0, 0.0]
    assert all(line["update/grad_norm"] > 0 for line in lines)


def test_its_table_keeps_the_marginals_and_ends_without_noise(own: Path) -> None:
    grid = schedules.flow_match_euler(6, 3.0)
    steps = table(Kernel("kernels_of_the_page:longer_steps", eta=0.5), grid)
    sigma = grid.sigma.double()
    fresh = 0.5 * sigma[1:] * (1 - sigma[1:] / sigma[:-1]).sqrt()
    torch.testing.assert_close(steps.std[:-1], fresh[:-1], rtol=1e-12, atol=0)
    assert float(steps.std[-1]) == 0
    # Data in one point: x0 and eps are then known, and the next state has its level's noise.
    on_x = steps.x + steps.v / sigma[:-1]
    variance = (on_x * sigma[:-1]).square() + steps.std.square()
    torch.testing.assert_close(variance[:-1], sigma[1:-1].square(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other_arguments", r"its arguments do not fit: missing a required argument: 'strength'"),
        ("single", r"for 8 steps it returns \[8\] torch.float64, \[8\] torch.float64, \[8\] torch.float32"),
        ("short", r"for 8 steps it returns \[9\] torch.float64, \[9\]"),
        ("number", r"for 8 steps it returns float"),
        ("raises", r"it raises AttributeError: .*sigmas"),
        ("negative", r"step 0 of 8, from sigma 0.98 to .*std -0.6.*std >= 0 were wanted"),
        ("infinite", r"step 0 of 8, .*x inf"),
        ("thing", r"has a int called thing"),
    ],
)
def test_what_is_no_kernel_is_refused_with_the_signature_to_write(own: Path, name: str, message: str) -> None:
    (error,) = told(f"sampler.kernel=kernels_of_a_user.{name}")
    assert re.search(message, error), error
    assert KERNELS.contract in error


def test_what_a_kernel_says_of_itself_is_held(own: Path) -> None:
    diffusion = ["model=sd15", "engine=zero1", "sampler=ddim"]
    flows = "sampler.kernel=kernels_of_a_user.for_flows"
    assert told(flows) == []
    (error,) = told(*diffusion, flows)
    assert "derived for flows" in error
    assert "type sampler=ddim" in error
    assert told(*diffusion, "sampler.kernel=kernels_of_the_page.longer_steps") == []
    (error,) = told("sampler.kernel=kernels_of_the_page.longer_steps", "sampler.eta=1.5")
    assert "sampler.eta=1.5 with sampler.kernel=kernels_of_the_page.longer_steps: wanted at most 1" in error
    (error,) = told(flows, "sampler.noise=dance")
    assert "sampler.noise=dance does nothing" in error
    assert told("sampler.kernel=kernels_of_a_user.levelless") == []
    (error,) = told("sampler.kernel=kernels_of_a_user.levelless", "sampler.eta=0.3")
    assert "sampler.eta=0.3 does nothing" in error
    (error,) = told(flows, "sampler.eta=0")
    assert "adds no noise" in error


def test_a_misspelt_name_is_told_the_nearest() -> None:
    (error,) = told("sampler.kernel=sdee")
    assert error.startswith("sampler.kernel=sdee: did you mean sde?")


def test_every_module_of_the_folder_is_a_kernel() -> None:
    grid = schedules.unipc_flow(5, 3.0)
    assert KERNELS.names()
    assert all(table(Kernel(name), grid).steps == 5 for name in KERNELS.names())
