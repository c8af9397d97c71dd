"""What a family of one's own says of itself is known to the checks before any weight is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvis.checks.config import check
from rlvis.compose.command import compose
from rlvis.models import load
from rlvis.models.family import Family

FAMILY = """
from rlvis.models.policy import Policy

class Flow(Policy):
    pipeline_name, lora_targets = "ToyPipeline", ("to_q",)
    def geometry(self): raise AssertionError("nothing may be loaded")
    def embed(self, text): ...
    def truncated(self, text): ...
    def schedule(self, steps, shift=None, grid="model"): ...
    def denoise(self, module, x, time, embeds): ...
    def decode_chunk(self, latents): ...

class Diffusion(Flow):
    variance_preserving, prediction = True, "epsilon"

class Half(Policy):
    pipeline_name = "ToyPipeline"
    def geometry(self): ...
"""
NOWHERE = "model.path=/nowhere"  # whoever opened it would say so


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "families_of_a_user.py").write_text(FAMILY, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


def told(*words: str) -> list[str]:
    return [str(error) for error in check(compose([NOWHERE, *words]).typed())]


def test_its_path_decides_which_kernel_it_takes() -> None:
    flow, diffusion = (f"model.family=families_of_a_user.{name}" for name in ("Flow", "Diffusion"))
    assert told(flow) == []
    assert told(flow, "sampler=dance_sde") == []
    (error,) = told(diffusion)
    assert "sampler.kernel=sde is derived for flows" in error
    assert "model.family=families_of_a_user.Diffusion is a variance-preserving diffusion" in error
    assert "type sampler=ddim" in error
    assert told(diffusion, "sampler=ddim") == []
    (error,) = told(diffusion, "sampler=ddim", "sampler.shift=3")
    assert "own grid, which has no shift" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("model.guidance=3", "is not told a guidance scale; type model.guidance=null"),
        ("model.cfg_2=3", "has no second expert; type model.cfg_2=null"),
        (
            "model.family=families_of_a_user.Half",
            "it has no lora_targets, decode_chunk, denoise, embed, sched",
        ),
        ("model.family=families_of_a_user.Flows", "did you mean families_of_a_user.Flow?"),
        ("model.family=fluxx", "did you mean flux?"),
    ],
)
def test_what_it_does_not_take_is_refused_at_once(words: str, message: str) -> None:
    (error,) = told("model.family=families_of_a_user.Flow", words)
    assert message in error


def test_every_module_of_the_folder_is_a_family() -> None:
    for name in load.FAMILIES.names():
        family = load.family(name)
        assert issubclass(family, Family)
        assert family.text_encoders
        assert not set(family.text_encoders) & set(family.unused)
