"""What holds for every family, on tiny random weights of the real classes: the reference policy, gradient
checkpointing, both kinds of guidance, and two training steps through the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_flux, tiny_flux2, tiny_qwen_image, tiny_video, tiny_z_image
from tests.family import another_size, both_kinds_of_guidance, policy_of, reference_and_checkpointing
from tests.two_steps import two_steps


@dataclass(frozen=True)
class Case:
    """A family: what builds its checkpoint, the shape of a map, `model` options, more words of a run.

    guided: what builds one with classifier-free guidance, where that is another.
    """

    name: str
    build: Callable[[Path], Path]
    map: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    words: str = "model.gradient_checkpointing=false"
    guided: Callable[[Path], Path] | None = None


FRAMES = {"frames": 5, "max_tokens": 16}
RANK = "model.lora.rank=4"  # that of the options is above the width of these
LORA = f"{RANK} model.lora.alpha=8 model.gradient_checkpointing=false"
DDIM = "sampler=ddim sampler.steps=3 sampler.window.size=2 model.cfg_grad=conditional"
IMAGES = [
    Case("flux", tiny_flux.flux, (1, 4, 6), {"max_tokens": 16}, f"{RANK} model.max_tokens=8"),
    Case(
        *("flux2", tiny_flux2.flux2, (1, 4, 6), {"max_tokens": 16}),
        words=f"{RANK} model.height=32 model.width=48 model.cfg=1",
        guided=partial(tiny_flux2.flux2, klein=True),
    ),
    Case("qwen_image", tiny_qwen_image.qwen_image, (1, 4, 6), {"max_tokens": 24}, f"{RANK} model.cfg=2"),
    Case("z_image", tiny_z_image.z_image, (1, 4, 6), {"max_tokens": 32}, ""),
]
CLIPS = [
    Case("cogvideox", tiny_video.cogvideox, (2, 4, 6), {"frames": 5}, f"{LORA} {DDIM}"),
    Case("hunyuan_video", tiny_video.hunyuan_video, (2, 2, 4), FRAMES | {"width": 32}, LORA),
    # Alone, since the CPU's last bits depend on a row's place among others.
    Case(
        *("ltx", tiny_video.ltx, (2, 4, 8), FRAMES | {"height": 32, "width": 64}),
        words=f"{LORA} train.micro_batch=1",
    ),
]
ALL = [*IMAGES, *(pytest.param(case, marks=pytest.mark.slow) for case in CLIPS)]


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_reference_and_checkpointing(case: Case, lora: bool, tmp_path: Path) -> None:
    changes = case.options if lora else case.options | {"lora": None}
    reference_and_checkpointing(partial(policy_of, case.name, case.build(tmp_path)), **changes)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_cfg_grad(case: Case, tmp_path: Path) -> None:
    folder = (case.guided or case.build)(tmp_path)
    both_kinds_of_guidance(partial(policy_of, case.name, folder, **case.options))


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_the_same_weights_at_another_size(case: Case, tmp_path: Path) -> None:
    make = partial(policy_of, case.name, (case.guided or case.build)(tmp_path))
    size = {"height": 2 * case.options.get("height", 16), "width": 2 * case.options.get("width", 24)}
    another_size(make(**case.options), make(**case.options | size, cfg=2.0))


@pytest.mark.parametrize("case", [*IMAGES, *CLIPS], ids=lambda case: case.name)
def test_two_training_steps(case: Case, tmp_path: Path) -> None:
    options = {"height": 16, "width": 24} | case.options
    words = [f"model={case.name}", f"model.path={case.build(tmp_path / 'model')}"]
    words += [f"model.{key}={value}" for key, value in options.items()]
    advantages = two_steps([*words, *case.words.split()], tmp_path / "run")
    assert advantages.map is not None
    assert advantages.map.shape == (6, *case.map)  # a weight for each latent, not for each token
