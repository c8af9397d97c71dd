"""VideoCLIP-XL (arXiv 2410.00741): the cosine between a clip of eight frames and a prompt to 248 tokens.

The weights are for non-commercial use (CC BY-NC-SA 4.0). Unusual: the frames are read together, with
attention between them; a clip shorter than eight frames is refused, not padded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlvis.reward import arguments, weights
from rlvis.reward.contract import Scores
from rlvis.reward.facts import Facts, repository
from rlvis.reward.judging.videoclip_model import VideoClipModel, sizes
from rlvis.reward.texts import CutWarning, captions

FILES = ("VideoCLIP-XL.safetensors", "VideoCLIP-XL.bin", "VideoCLIP-XL-v2.bin")
# Of ImageNet, in [0, 1]: the release does not take CLIP's.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class VideoClip:
    """Scores clips, and single pictures, with the released towers, loaded once and frozen.

    The scale of the release is 100, its precision fp32. Raises ValueError when weights are missing.
    """

    def __init__(
        self,
        path: arguments.Source = "alibaba-pai/VideoCLIP-XL",
        revision: arguments.Revision = None,
        scale: arguments.Scale = 100.0,
        device: arguments.Device = None,
        batch: arguments.Clips = 8,
        precision: arguments.Precision = "fp32",
    ) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        self.device, self.dtype = weights.device(device), weights.dtype(precision)
        self.scale, self.batch = scale, batch
        state = weights.state_dict(weights.file(path, FILES, revision))
        model = VideoClipModel(**sizes(state, path))
        weights.load(model, state, path)
        self.model = model.to(self.device, self.dtype).eval().requires_grad_(False)
        self.tokens = SimpleTokenizer(context_length=model.context)
        self.cut = CutWarning("videoclip")

    @staticmethod
    def facts(kwargs: Mapping[str, Any]) -> Facts:
        return Facts((repository(kwargs, "path", "VideoCLIP-XL.bin"),))

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Cosine of each sample with its prompt times scale: float64 [B] of uint8 [B, M, 3, Y, X].

        Raises ValueError for clips of two to seven frames.
        """
        unique, where = captions(prompts)
        texts = self.encode_texts(unique)[where]
        clips = [self.encode_clips(part) for part in torch.split(images, self.batch)]
        value = self.scale * (torch.cat(clips) * texts).sum(1)
        return Scores(value, torch.isfinite(value))

    def encode_clips(self, clips: Tensor) -> Tensor:
        """Unit vectors float64 [n, D] on the CPU, of uint8 [n, M, 3, Y, X]."""
        vectors = self.model.vision_model(self.prepare(clips).to(self.dtype))
        return F.normalize(vectors.double(), dim=-1).cpu()

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors float64 [n, D] on the CPU. What is longer than the context is cut (logged once)."""
        ids = self.tokens(list(texts))
        self.cut.open_clip(self.tokens, texts, ids)
        parts = [self.model.text_model(part.to(self.device)) for part in torch.split(ids, self.batch)]
        return F.normalize(torch.cat(parts).double(), dim=-1).cpu()

    def prepare(self, clips: Tensor) -> Tensor:
        """The model's input float32 [n, 8 or 1, 3, y, x], on the device, from uint8 [n, M, 3, Y, X].

        Frames at every M // 8; resized without regard to proportion and without smoothing, as OpenCV does
        (one level of 255 from it), since the release does.
        """
        chosen = clips[:, positions(clips.shape[1], self.model.frames)].to(self.device).float()
        side = self.model.side
        pixels = F.interpolate(chosen.flatten(0, 1), size=(side, side), mode="bilinear", align_corners=False)
        mean, std = (torch.tensor(v, device=self.device)[:, None, None] for v in (MEAN, STD))
        normal = (pixels.round() / 255 - mean) / std
        return normal.reshape(*chosen.shape[:2], 3, side, side)


def positions(count: int, wanted: int) -> list[int]:
    """Frames to look at of `count`: the first `wanted` at stride count // wanted; of a picture, itself.

    Raises ValueError when there are fewer than wanted, and not one.
    """
    if count == 1:
        return [0]
    if count < wanted:
        raise ValueError(
            f"videoclip reads {wanted} frames, and the samples have {count}; make longer clips, or choose "
            "one frame with reward.terms.NAME.frames=middle"
        )
    return list(range(0, count, count // wanted))[:wanted]


ENTRY = VideoClip
