"""LAION's aesthetic score of a picture, whatever its prompt: a small head on CLIP L/14's unit vector.

Unusual: the head called MLP has five linear layers and nothing between them, so it is one affine function of
the unit vector; its size is kept because its weights are published so. Both heads are pinned by their sha256.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import unquote

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlvis.reward import arguments, hub, pictures, weights
from rlvis.reward.contract import Scores
from rlvis.reward.facts import Facts, repository
from rlvis.schema.key import Key

PINNED = {"openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41"}

# Address and sha256 of the published heads.
HEADS = {
    "mlp": (
        "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/"
        "6934dd81792f086e613a121dbce43082cb8be85e/sac%2Blogos%2Bava1-l14-linearMSE.pth",
        "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
    ),
    "linear": (
        "https://github.com/LAION-AI/aesthetic-predictor/raw/"
        "6d122adad522ab246644d9dc1c6d7a3810ee255f/sa_0_4_vit_l_14_linear.pth",
        "2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba",
    ),
}


class Aesthetic:
    """Scores pictures with CLIP's picture half, in `precision`, and a float32 head, loaded once and frozen.

    Raises ValueError when weights are missing or do not fit.
    """

    def __init__(
        self,
        head: Annotated[
            str,
            Key(
                "mlp (sac+logos+ava1-l14-linearMSE) or linear (sa_0_4_vit_l_14_linear)", choices=tuple(HEADS)
            ),
        ] = "mlp",
        head_weights: Annotated[
            str | None, Key("the head's file or its folder; null: fetched from its repository", path=True)
        ] = None,
        path: arguments.Source = "openai/clip-vit-large-patch14",
        revision: arguments.Revision = None,
        device: arguments.Device = None,
        batch: arguments.Batch = 64,
        precision: arguments.Precision = "fp32",
    ) -> None:
        self.device, self.batch = weights.device(device), batch
        revision = revision or PINNED.get(path)
        from transformers import CLIPConfig, CLIPVisionModelWithProjection

        place = weights.folder(path, revision, ["config.json", "*.safetensors*"])
        config: Any = CLIPConfig.from_pretrained(place)
        config.vision_config.projection_dim = config.projection_dim  # said once, for both halves
        model = weights.pretrained(
            CLIPVisionModelWithProjection, path, place, precision, config=config.vision_config
        )
        self.model = model.to(self.device)
        self.size, self.dtype = model.config.image_size, weights.dtype(precision)
        address, digest = HEADS[head]
        if head_weights is None:
            place = hub.download(address, digest)
        else:
            place = weights.file(head_weights, unquote(address.rsplit("/", 1)[1]))
        self.head = network(head, model.config.projection_dim)
        weights.load(self.head, weights.state_dict(place), head_weights or address)
        self.head = self.head.eval().requires_grad_(False).to(self.device)

    @staticmethod
    def facts(kwargs: Mapping[str, Any]) -> Facts:
        return Facts((repository(kwargs, "path", "config.json", PINNED),))

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """The head's number for each sample, mean over its frames: float64 [B]; prompts play no part.

        images: uint8 [B, M, 3, Y, X].
        """
        return pictures.judge(images, self.batch, lambda frames, rows: self.score(frames))

    def score(self, images: Tensor) -> Tensor:
        """Of pictures uint8 [n, 3, Y, X]: float32 [n] on the device."""
        pixels = pictures.clip_input(images.to(self.device), self.size, "torchvision").to(self.dtype)
        vectors = F.normalize(self.model(pixel_values=pixels).image_embeds.float(), dim=-1)
        numbers: Tensor = self.head(vectors)[:, 0]
        return numbers


def network(head: str, width: int) -> nn.Module:
    """A head for unit vectors [n, width], its names as published: layers.0, 2, 4, 6, 7, or weight, bias."""
    return Stack(width) if head == "mlp" else nn.Linear(width, 1)


class Stack(nn.Module):
    """Five linear layers [n, width] -> [n, 1]; the gaps in their numbers are dropout, idle here.

    ImageReward's head has the same shape and names.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = {"0": (width, 1024), "2": (1024, 128), "4": (128, 64), "6": (64, 16), "7": (16, 1)}
        self.layers = nn.ModuleDict({place: nn.Linear(*size) for place, size in sizes.items()})

    def forward(self, vectors: Tensor) -> Tensor:
        for layer in self.layers.values():
            vectors = layer(vectors)
        return vectors


ENTRY = Aesthetic
