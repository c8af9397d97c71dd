"""The two towers of VideoCLIP-XL, under the names of its released weights.

Unusual: the text tower keeps two tables of positions, of which CLIP's 77 hold the first 20 places and a
stretched one the rest (from Long-CLIP, arXiv 2403.15378); the picture tower sees the patches of all frames in
one sequence, with the position in time added to each. Sizes are read from the weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

KEPT = 20  # places that keep CLIP's positions
HEAD = 64  # width of an attention head, in both towers


class VideoClipModel(nn.Module):
    """text_model and vision_model. Args: see `sizes`."""

    def __init__(self, text: dict[str, int], vision: dict[str, int]) -> None:
        super().__init__()
        self.text_model = TextTower(**text)
        self.vision_model = VisionModel(**vision)
        self.context, self.frames = text["context"], vision["frames"]
        self.side = vision["grid"] * vision["patch"]


def sizes(state: Mapping[str, Tensor], where: str) -> dict[str, dict[str, int]]:
    """The arguments of VideoClipModel from the shapes of its weights. ValueError when one is missing."""
    try:
        words, width = state["text_model.token_embedding.weight"].shape
        tower = "vision_model.vision_encoder."
        patches = state[tower + "positional_embedding"].shape[0] - 1
        return {
            "text": {
                "words": words,
                "width": width,
                "layers": _layers(state, "text_model."),
                "context": state["text_model.positional_embedding"].shape[0],
                "out": state["text_model.text_projection"].shape[1],
            },
            "vision": {
                "width": state[tower + "conv1.weight"].shape[0],
                "layers": _layers(state, tower),
                "patch": state[tower + "conv1.weight"].shape[-1],
                "grid": round(patches**0.5),
                "frames": state[tower + "temporal_positional_embedding"].shape[1],
                "out": state[tower + "proj"].shape[1],
            },
        }
    except KeyError as error:
        raise ValueError(f"videoclip: {where} is not VideoCLIP-XL: it lacks {error}") from error


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    start = prefix + "transformer.resblocks."
    return 1 + max((int(k[len(start) :].split(".")[0]) for k in state if k.startswith(start)), default=-1)


class TextTower(nn.Module):
    """A causal transformer that is read at the end of the text."""

    def __init__(self, words: int, width: int, layers: int, context: int, out: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(words, width)
        self.positional_embedding = nn.Parameter(torch.zeros(context, width))
        self.positional_embedding_res = nn.Parameter(torch.zeros(context, width))
        self.transformer = _blocks(width, layers)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, out))
        self.logit_scale = nn.Parameter(torch.zeros(()))  # of training; the score's factor is fixed

    def forward(self, ids: Tensor) -> Tensor:
        """[n, out] of token ids [n, context]; the end of text has the highest id."""
        places = torch.cat([self.positional_embedding[:KEPT], self.positional_embedding_res[KEPT:]])
        x = self.token_embedding(ids) + places
        ahead = torch.full((ids.shape[1],) * 2, -torch.inf, dtype=x.dtype, device=x.device).triu(1)
        states: Tensor = self.ln_final(self.transformer(x, ahead))
        return states[torch.arange(len(ids), device=ids.device), ids.argmax(1)] @ self.text_projection


class VisionModel(nn.Module):
    """The picture tower with the temperature of its training beside it."""

    def __init__(self, **sizes: int) -> None:
        super().__init__()
        self.vision_encoder = VisionTower(**sizes)
        self.temp = nn.Parameter(torch.zeros(()))

    def forward(self, clips: Tensor) -> Tensor:
        """[n, out] of clips [n, frames or 1, 3, side, side]."""
        result: Tensor = self.vision_encoder(clips)
        return result


class VisionTower(nn.Module):
    """A transformer over the patches of all frames, read at its class token."""

    def __init__(self, width: int, layers: int, patch: int, grid: int, frames: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, width, (1, patch, patch), (1, patch, patch), bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(grid**2 + 1, width))
        self.temporal_positional_embedding = nn.Parameter(torch.zeros(1, frames, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = _blocks(width, layers)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, out))

    def forward(self, clips: Tensor) -> Tensor:
        """[n, out] of clips [n, frames or 1, 3, side, side]; a single frame has the mean of all times."""
        patches = self.conv1(clips.transpose(1, 2)).flatten(3)  # [n, width, frames, patches]
        time = self.temporal_positional_embedding[0]
        time = time.mean(0, keepdim=True) if clips.shape[1] == 1 else time
        x = patches.permute(0, 2, 3, 1) + self.positional_embedding[1:] + time[:, None]
        first = (self.class_embedding + self.positional_embedding[0]).expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([first, x.flatten(1, 2)], dim=1))
        state: Tensor = self.ln_post(self.transformer(x)[:, 0])
        return state @ self.proj


def _blocks(width: int, layers: int) -> nn.Module:
    """CLIP's transformer with its fast gate: forward(x [n, length, width], attn_mask) -> the same shape."""
    from open_clip.transformer import QuickGELU, Transformer

    blocks: nn.Module = Transformer(width, layers, max(width // HEAD, 1), act_layer=QuickGELU)
    return blocks
