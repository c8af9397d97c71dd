"""Every method on every family, on tiny random pipelines: two training steps through the command line.

A few cells run by default, beside the ViPO cell of each family in tests/models; the rest is slow.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny, tiny_flux, tiny_flux2, tiny_qwen_image, tiny_sd, tiny_video, tiny_wan, tiny_z_image
from tests.two_steps import METHODS, two_steps

RANK = ["model.lora.rank=4", "model.lora.alpha=8"]
LORA = [*RANK, "model.gradient_checkpointing=false"]
# One branch a forward: with two, the CPU's last bits depend on a row's place among the others.
ONE_BRANCH = ["model.cfg_grad=conditional"]
DDIM = ["sampler=ddim", "sampler.steps=3", "sampler.window.size=2"]  # its window is all steps


def size(height: int, width: int, frames: int = 1, tokens: int | None = None) -> list[str]:
    words = [f"model.height={height}", f"model.width={width}"]
    words += [f"model.frames={frames}"] if frames > 1 else []
    return words + ([f"model.max_tokens={tokens}"] if tokens else [])


# Option of conf/model -> what saves a tiny pipeline of that kind, and the words that a run of it needs.
FAMILIES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "sd15": (tiny_sd.sd15, [*size(32, 32), *DDIM, *RANK]),
    "sdxl": (tiny_sd.sdxl, [*size(32, 32), *DDIM, *RANK]),
    "sd3": (tiny.sd3, [*size(16, 24, tokens=16), *ONE_BRANCH, *RANK]),
    "flux": (tiny_flux.flux, [*size(16, 24, tokens=8), *RANK]),
    "flux2": (tiny_flux2.flux2, [*size(32, 48, tokens=16), "model.cfg=1", *RANK]),
    "qwen_image": (tiny_qwen_image.qwen_image, [*size(16, 24, tokens=24), "model.cfg=2", *RANK]),
    "z_image": (tiny_z_image.z_image, [*size(16, 24, tokens=32), *RANK]),
    "wan": (tiny.wan, [*size(32, 32, 5, 16), *LORA, *ONE_BRANCH]),
    "wan_i2v": (
        tiny_wan.reading,
        [*size(32, 32, 5), *LORA, *ONE_BRANCH, "data=shapes_i2v", "data.path=null"],
    ),
    "wan22": (tiny_wan.experts, [*size(32, 32, 5, 16), *LORA, *ONE_BRANCH]),
    "hunyuan_video": (tiny_video.hunyuan_video, [*size(16, 32, 5, 16), *LORA]),
    "ltx": (tiny_video.ltx, [*size(32, 64, 5, 16), *LORA, "train.micro_batch=1"]),
    "cogvideox": (tiny_video.cogvideox, [*size(16, 24, 5), *LORA, *ONE_BRANCH, *DDIM]),
}
DEFAULT = {("sdxl", "grpo"), ("flux", "bpgo_vipo"), ("wan22", "bpgo"), ("hunyuan_video", "grpo")}
CELLS = [
    pytest.param(family, method, marks=[] if (family, method) in DEFAULT else pytest.mark.slow)
    for family in FAMILIES
    for method in METHODS
]


@pytest.mark.parametrize(("family", "method"), CELLS)
def test_every_method_trains_every_family(family: str, method: str, tmp_path: Path) -> None:
    make, words = FAMILIES[family]
    make(tmp_path / "model")
    advantages = two_steps(
        [f"model={family}", f"model.path={tmp_path / 'model'}", *words], tmp_path / "run", method
    )
    assert advantages.term.shape[0] == (2 if "bpgo" in method else 1)
