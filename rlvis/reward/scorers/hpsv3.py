"""HPSv3 (arXiv 2508.03789): a Qwen2-VL-7B that rates a picture and its prompt by human preference.

Unusual: the head also says how sure it is, and that can be passed on as the noise of the score. Scores are
those of the head, about -5 to 15, neither scaled nor clipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from rlvis.reward import arguments, pictures, weights
from rlvis.reward.contract import Scores
from rlvis.reward.facts import Facts, repository
from rlvis.reward.judging import qwen
from rlvis.reward.judging.templates import Source, template
from rlvis.schema.key import Key

PINNED = {
    "MizzenAI/HPSv3": "4f81e3e09edd82fe3c5f636444c721b592a735ca",
    "Qwen/Qwen2-VL-7B-Instruct": "eed13092ef92e448dd6875b2a00151bd3f7db0ac",
}
TOKEN = "<|Reward|>"
PIXELS = 256 * 28 * 28  # of every picture, whatever its size
INSTRUCTION = Source(
    "https://raw.githubusercontent.com/MizzenAI/HPSv3/bd0c5fcb5f587617b0169c07222ab78d01e2f3c2/hpsv3/dataset/"
    "data_collator_qwen.py",
    ("INSTRUCTION", "prompt_with_special_token"),
    "f6ee57479d4e9eee76b49c00dc962e1e696a5a2b3cc32cebd9b1fa76fe27502c",
)


class HPSv3:
    """Scores pictures with the released judge, loaded once and frozen; a clip by the mean over its frames.

    The trunk is bf16 as published, unless `precision` says otherwise, and the head float32. Raises ValueError
    when something cannot be had or does not fit.
    """

    def __init__(
        self,
        path: arguments.Source = "MizzenAI/HPSv3",
        revision: arguments.Revision = None,
        base: arguments.Base = "Qwen/Qwen2-VL-7B-Instruct",
        base_revision: arguments.Revision = None,
        template: arguments.Template = None,
        sigma: Annotated[bool, Key("give the head's variance as the score's noise")] = False,
        device: arguments.Device = None,
        batch: arguments.Batch = 8,
        precision: arguments.Precision = "bf16",
    ) -> None:
        revision, base_revision = revision or PINNED.get(path), base_revision or PINNED.get(base)
        self.device, self.batch, self.sigma = weights.device(device), batch, sigma
        instruction = _instruction(template)
        state = weights.state_dict(weights.file(path, "HPSv3.safetensors", revision), key="model")
        trunk, head = qwen.split(state)
        self.trunk = qwen.Trunk(
            base, base_revision, trunk, (TOKEN,), instruction, self.device, precision, "hpsv3"
        )
        self.head = nn.Sequential(
            nn.Linear(self.trunk.width, 1024),
            nn.ReLU(),
            nn.Dropout(0.05),
            nn.Linear(1024, 16),
            nn.ReLU(),
            nn.Linear(16, 2),
        )
        weights.load(self.head, head, f"{path}, {qwen.HEAD}*")
        self.head.float().to(self.device).eval().requires_grad_(False)

    @staticmethod
    def facts(kwargs: Mapping[str, Any]) -> Facts:
        judge = repository(kwargs, "path", "HPSv3.safetensors", PINNED)
        return Facts((judge, repository(kwargs, "base", "config.json", PINNED)))

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Scores float64 [B] of uint8 [B, M, 3, Y, X]; a prompt that contains a special token is invalid.

        noise_var, with sigma: the square of the mean standard deviation of a sample's frames, as if they
        erred together.
        """
        good = self.trunk.readable(prompts)
        count, frames = len(prompts), images.shape[1]
        table = torch.full((count, frames, 2), torch.nan, dtype=torch.float64)
        places = [(i, m) for i in good for m in range(frames)]
        for start in range(0, len(places), self.batch):
            part = places[start : start + self.batch]
            shown = self.prepare(torch.stack([images[i, m] for i, m in part]))
            states = self.trunk.hidden([prompts[i] for i, _ in part], "image", list(shown))
            rows, columns = zip(*part, strict=True)
            table[list(rows), list(columns)] = self.head(states[:, 0]).double().cpu()
        mean, deviation = table[..., 0].mean(1), table[..., 1].exp().mean(1)
        valid = torch.isfinite(mean)
        return Scores(mean.nan_to_num(0.0), valid, deviation.square() if self.sigma else None)

    def prepare(self, images: Tensor) -> Tensor:
        """Pictures uint8 [n, 3, Y, X] at the size that the judge reads, resized as PIL does: uint8."""
        high, wide = images.shape[-2:]
        size = qwen.fit(high, wide, PIXELS, PIXELS)
        pixels = pictures.resize(images.to(self.device).float(), size)
        return pixels.to("cpu", torch.uint8)


def _instruction(given: str | None) -> str:
    return template(given, INSTRUCTION, (TOKEN,), "hpsv3")


ENTRY = HPSv3
