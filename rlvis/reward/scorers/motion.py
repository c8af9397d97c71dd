"""How clips move, from their pixels: smoothness and energy without weights, optical flow by RAFT with them.

Unusual: each of the three is raised by something nobody wants (a still clip is perfectly smooth, flicker is
full of energy), so use them as a second term, or as a sentinel, and not alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlvis.reward import arguments, weights
from rlvis.reward.contract import Scores
from rlvis.reward.facts import Facts
from rlvis.schema.key import Key

LEAST = {"smoothness": 3, "energy": 2, "flow": 2}  # frames that a measure needs
FILE = "raft_large_C_T_V2-1bb1363a.pth"
SIDE = 128  # pixels below which RAFT's coarsest correlations vanish


class Motion:
    """Scores clips by one measure, see smoothness, energy and Raft. Raises ValueError as that does."""

    def __init__(
        self,
        measure: Annotated[
            str, Key("what of the motion; flow: mean length of the optical flow", choices=tuple(LEAST))
        ] = "smoothness",
        stride: Annotated[
            int, Key("from one frame that is looked at to the next", "frames", least=1, most=16384)
        ] = 1,
        path: Annotated[
            str | None,
            Key("file of torchvision's raft_large or raft_small, for measure=flow alone", path=True),
        ] = None,
        steps: Annotated[int, Key("of RAFT", "iterations", least=1, most=1000)] = 20,
        device: arguments.Device = None,
        batch: Annotated[int, Key("of one forward of RAFT", "pairs of frames", least=1, most=65536)] = 8,
    ) -> None:
        self.measure, self.stride = measure, stride
        self.raft = Raft(path, steps, device, batch) if path is not None else None

    @staticmethod
    def facts(kwargs: Mapping[str, Any]) -> Facts:
        measure, path = kwargs["measure"], kwargs["path"]
        if (measure == "flow") != (path is not None):
            raise ValueError(
                f"measure={measure} with path={path}: flow needs torchvision's RAFT weights and the others "
                f"none; type measure=flow path=FILE with {FILE} of download.pytorch.org/models"
            )
        return Facts(weights=0 if path is None else Facts().weights)

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Scores float64 [B] of clips uint8 [B, M, 3, Y, X]. Raises ValueError when M is too small."""
        clips = images[:, :: self.stride]
        least = LEAST[self.measure]
        if clips.shape[1] < least:
            raise ValueError(
                f"motion: {self.measure} needs {least} frames, and the samples have {clips.shape[1]} at "
                f"stride {self.stride}; use it with a policy that makes clips"
            )
        if self.raft is not None:
            value = torch.stack([self.raft(clip) for clip in clips])
        else:
            measure = smoothness if self.measure == "smoothness" else energy
            value = torch.stack([measure(clip) for clip in clips])
        return Scores(value, torch.isfinite(value))


def smoothness(clip: Tensor) -> Tensor:
    """1 - mean |x_t - (x_{t-1} + x_{t+1}) / 2| over inner frames, pixels and channels, x in [0, 1]: float64
    [] in [0, 1] from uint8 [M, 3, Y, X]. As VBench's motion smoothness, with a straight line between the
    neighbours in place of a learned interpolation. 1: still, or everything fades evenly.
    """
    # Frame by frame: a whole clip in floating point, three times over, is gigabytes.
    errors = [
        (now.float() - (before.float() + after.float()) / 2).abs().mean(dtype=torch.float64)
        for before, now, after in zip(clip[:-2], clip[1:-1], clip[2:], strict=True)
    ]
    return 1 - torch.stack(errors).mean() / 255


def energy(clip: Tensor) -> Tensor:
    """Mean |x_{t+1} - x_t| over pairs of frames, pixels and channels, x in [0, 1]: float64 [] in [0, 1] from
    uint8 [M, 3, Y, X]. 0: still.
    """
    changes = [
        (after.float() - before.float()).abs().mean(dtype=torch.float64) for before, after in pairwise(clip)
    ]
    return torch.stack(changes).mean() / 255


class Raft:
    """Mean length of the optical flow (arXiv 2003.12039), in pixels from one frame to the next.

    Args: path, a state dict of torchvision's raft_large or raft_small; steps, device, batch as for Motion.
    Raises ValueError when the file is neither.
    """

    def __init__(self, path: str, steps: int = 20, device: str | None = None, batch: int = 8) -> None:
        from torchvision.models.optical_flow import raft_large, raft_small

        state = weights.state_dict(weights.file(path, FILE))
        first = "feature_encoder.convnormrelu.0.weight"
        if first not in state:
            raise ValueError(
                f"motion: path={path} is not torchvision's RAFT: it lacks {first}; those of princeton-vl "
                f"have other names, take {FILE} of download.pytorch.org/models"
            )
        large = state[first].shape[0] == 64
        model: nn.Module = (raft_large if large else raft_small)(weights=None, progress=False)
        weights.load(model, state, path)
        self.steps, self.batch, self.device = steps, batch, weights.device(device)
        self.model = model.to(self.device).eval().requires_grad_(False)

    def __call__(self, clip: Tensor) -> Tensor:
        """float64 [] from uint8 [M, 3, Y, X]; small pictures are enlarged, and their flow scaled back."""
        high, wide = clip.shape[-2:]
        scale = max(1.0, SIDE / min(high, wide))
        pixels = clip.to(self.device).float() / 127.5 - 1
        if scale > 1:
            size = (round(high * scale), round(wide * scale))
            pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
        tall, broad = pixels.shape[-2:]
        pixels = F.pad(pixels, (0, -broad % 8, 0, -tall % 8), mode="replicate")
        lengths = []
        for start in range(0, len(clip) - 1, self.batch):
            stop = min(start + self.batch, len(clip) - 1)
            flow = self.model(pixels[start:stop], pixels[start + 1 : stop + 1], num_flow_updates=self.steps)[
                -1
            ]
            lengths.append(flow[:, :, :tall, :broad].norm(dim=1).mean((1, 2), dtype=torch.float64))
        return torch.cat(lengths).mean().cpu() / scale


ENTRY = Motion
