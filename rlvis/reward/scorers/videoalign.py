"""VideoAlign's VideoReward (arXiv 2501.13918): a Qwen2-VL-2B that rates a clip's visual quality (VQ), motion
quality (MQ) and alignment with its prompt (TA).

Unusual: clips go in as tensors with their frames per second, without a video file in between, whose encoder
would be judged too; and terms for several dimensions share one model and one forward pass.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from rlvis.reward import arguments, weights
from rlvis.reward.contract import Scores
from rlvis.reward.facts import Facts, repository
from rlvis.reward.judging import qwen
from rlvis.reward.judging.templates import Source, template
from rlvis.schema.key import Key

PINNED = {
    "KlingTeam/VideoReward": "4f26600130683e6f1de9f5d463887f28e8ef995c",
    "Qwen/Qwen2-VL-2B-Instruct": "895c3a49bc3fa70a340399125c650a463535e71c",
}
DIMENSIONS = ("VQ", "MQ", "TA")
TOKENS = tuple(f"<|{name}_reward|>" for name in DIMENSIONS)
CONFIG, WEIGHTS = "model_config.json", "checkpoint-*/model.pth"
LEAST = 128 * 28 * 28  # pixels of a frame; the most are in the configuration
MIN_FRAMES, MAX_FRAMES = 4, 768
# What the configuration must say for this code to be what it was trained with.
EXPECTED: dict[str, dict[str, Any]] = {
    "data_config": {
        "num_frames": None,
        "sample_type": "uniform",
        "prompt_template_type": "detailed_special",
        "eval_dim": list(DIMENSIONS),
    },
    "model_config": {"use_special_tokens": True},
}
INSTRUCTION = Source(
    "https://raw.githubusercontent.com/KwaiVGI/VideoAlign/219ab9db64c045e5181a2202d11f686439351292/"
    "prompt_template.py",
    ("DETAILED_PROMPT_WITH_SPECIAL_TOKEN",),
    "fdb6309bac618dd0c8b1b589d3a0970a974f7856eecbb355a190b2dce54af700",
)


class VideoAlign:
    """Scores clips in one dimension, or by the sum of all three.

    The trunk is bf16 as published, unless `precision` says otherwise, and the head float32. Raises ValueError
    when something cannot be had or does not fit.
    """

    def __init__(
        self,
        clip_fps: Annotated[
            float | None,  # null where model.fps is: see facts
            Key("of the clips, of which it looks at two a second", "frames a second", above=0, most=1000),
        ],
        dimension: Annotated[
            str, Key("quality, motion, alignment, or the sum", choices=(*DIMENSIONS, "overall"))
        ] = "overall",
        path: Annotated[
            str,
            Key(
                "repository or folder with model_config.json and checkpoint-N/model.pth (the highest N)",
                path=True,
            ),
        ] = "KlingTeam/VideoReward",
        revision: arguments.Revision = None,
        base: arguments.Base = "Qwen/Qwen2-VL-2B-Instruct",
        base_revision: arguments.Revision = None,
        normalise: Annotated[
            bool, Key("each dimension as a z-score, by the means and deviations in model_config.json")
        ] = True,
        template: arguments.Template = None,
        device: arguments.Device = None,
        batch: arguments.Clips = 4,
        precision: arguments.Precision = "bf16",
    ) -> None:
        assert clip_fps is not None
        revision, base_revision = revision or PINNED.get(path), base_revision or PINNED.get(base)
        self.dimension, self.fps, self.batch = dimension, float(clip_fps), batch
        self.judge = opened(path, revision, base, base_revision, template, device, precision)
        self.norms = self.judge.norms(path) if normalise else None

    @staticmethod
    def facts(kwargs: Mapping[str, Any]) -> Facts:
        if kwargs["clip_fps"] is None:
            raise ValueError(
                "clip_fps=null: it looks at two frames a second, so it must be told how fast the clips are; "
                "type model.fps=16, or the term's kwargs.clip_fps=16"
            )
        judge = repository(kwargs, "path", CONFIG, PINNED)
        return Facts((judge, repository(kwargs, "base", "config.json", PINNED)))

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Scores float64 [B] of clips uint8 [B, M, 3, Y, X]; a prompt with a special token is invalid.

        Raises ValueError when clips have fewer than two frames.
        """
        table = self.judge.rate(images, prompts, self.fps, self.batch)
        if self.norms is not None:
            table = (table - self.norms[0]) / self.norms[1]
        value = table.sum(1) if self.dimension == "overall" else table[:, DIMENSIONS.index(self.dimension)]
        valid = torch.isfinite(value)
        return Scores(value.nan_to_num(0.0), valid)


class Judge:
    """The opened model. Several scorers share one; it remembers the ratings that it gave last."""

    def __init__(self, config: Mapping[str, Any], trunk: qwen.Trunk, head: Tensor) -> None:
        self.config, self.trunk, self.head = config, trunk, head
        self._lock = threading.Lock()  # terms may be scored by threads
        self._last: tuple[bytes, Tensor] = (b"", torch.empty(0))

    def norms(self, path: str) -> tuple[Tensor, Tensor]:
        """Means and deviations of the three dimensions, float64 [3]. Raises ValueError without them."""
        given = self.config.get("inference_config") or {}
        try:
            mean, std = ([float(given[f"{d}_{w}"]) for d in DIMENSIONS] for w in ("mean", "std"))
        except KeyError as error:
            raise ValueError(
                f"videoalign: {CONFIG} of {path} has no {error} in inference_config; type normalise=false "
                "for raw ratings"
            ) from error
        return torch.tensor(mean).double(), torch.tensor(std).double()

    @torch.no_grad()
    def rate(self, clips: Tensor, prompts: Sequence[str], fps: float, batch: int) -> Tensor:
        """Raw ratings float64 [B, 3] (VQ, MQ, TA) of clips uint8 [B, M, 3, Y, X]; NaN: unreadable prompt."""
        with self._lock:
            content = hashlib.blake2b(f"{list(clips.shape)} {fps} {list(prompts)}\n".encode())
            content.update(clips.contiguous().numpy().data)
            if self._last[0] != content.digest():
                self._last = content.digest(), self._rate(clips, prompts, fps, batch)
            return self._last[1]

    def _rate(self, clips: Tensor, prompts: Sequence[str], fps: float, batch: int) -> Tensor:
        good = self.trunk.readable(prompts)
        table = torch.full((len(prompts), len(DIMENSIONS)), torch.nan, dtype=torch.float64)
        for start in range(0, len(good), batch):
            rows = good[start : start + batch]
            shown = [self.prepare(clips[i], fps) for i in rows]
            states = self.trunk.hidden([prompts[i] for i in rows], "video", shown)
            ratings = states @ self.head.T  # [n, tokens, 1 or 3]
            each = ratings[..., 0] if len(self.head) == 1 else ratings.diagonal(dim1=1, dim2=2)
            table[rows] = each.double().cpu()
        return table

    def prepare(self, clip: Tensor, fps: float) -> Tensor:
        """The frames that the judge looks at, at its size: uint8 [m, 3, y, x] from [M, 3, Y, X] at `fps`."""
        data = self.config["data_config"]
        positions = frames(len(clip), fps, float(data["fps"]))
        high, wide = clip.shape[-2:]
        size = qwen.fit(high, wide, LEAST, int(data["max_frame_pixels"]))
        shown: Tensor = resize(clip[positions], list(size), InterpolationMode.BICUBIC, antialias=True)
        return shown


def frames(count: int, fps: float, wanted: float) -> list[int]:
    """Positions of the frames to look at: `wanted` of them a second, an even number, at least 4 and at most
    768 where there are so many, spread evenly from the first to the last.

    Raises ValueError for fewer than two frames.
    """
    if count < 2:
        raise ValueError(
            f"videoalign: it rates clips, and the samples have {count} frame; use a video policy"
        )
    most = min(MAX_FRAMES, count) // 2 * 2
    number = round(min(max(count / fps * wanted, MIN_FRAMES), most) / 2) * 2
    return torch.linspace(0, count - 1, number).round().long().tolist()


@cache
def opened(
    path: str,
    revision: str | None,
    base: str,
    base_revision: str | None,
    given: str | None,
    device: str | None,
    precision: str,
) -> Judge:
    """The judge at `path`, opened once for all terms. Raises ValueError as VideoAlign does."""
    where = weights.device(device)
    instruction = template(given, INSTRUCTION, TOKENS, "videoalign")
    folder = weights.folder(path, revision, (CONFIG, WEIGHTS))
    config = read_config(folder / CONFIG, path)
    file = qwen.newest(folder, WEIGHTS)
    if file is None:
        raise ValueError(f"videoalign: {path} has no {WEIGHTS}")
    state = weights.state_dict(file)
    lora = config.get("peft_lora_config") or {}
    if any(".lora_" in name for name in state):
        state = qwen.merge(
            state, int(lora["lora_r"]), float(lora["lora_alpha"]), bool(lora.get("use_rslora"))
        )
    tensors, head = qwen.split(state)
    trunk = qwen.Trunk(base, base_revision, tensors, TOKENS, instruction, where, precision, "videoalign")
    ratings = head.get("weight")
    if (
        set(head) != {"weight"}
        or ratings is None
        or tuple(ratings.shape) not in {(n, trunk.width) for n in (1, 3)}
    ):
        shapes = {name: list(value.shape) for name, value in head.items()}
        raise ValueError(f"videoalign: {path} has a head {shapes}, wanted weight [1 or 3, {trunk.width}]")
    return Judge(config, trunk, ratings.float().to(where))


def read_config(file: Path, path: str) -> dict[str, Any]:
    """model_config.json. Raises ValueError when it is missing, or says that the model wants other inputs."""
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"videoalign: {path} has no readable {CONFIG}: {error}") from error
    for part, expected in EXPECTED.items():
        for key, value in expected.items():
            actual = config.get(part, {}).get(key)
            if actual != value:
                raise ValueError(
                    f"videoalign: {CONFIG} of {path} has {part}.{key}={actual!r}; only {value!r} is known"
                )
    return config


ENTRY = VideoAlign
