"""HPSv2 and HPSv2.1: the cosine in a CLIP H/14 tuned on human preferences (Wu et al. 2023, arXiv:2306.09341).

Unusual: pictures are not cropped. The published transform brings the longest side to 224 and fills up with
black, on float tensors whose bicubic overshoot is not clipped; a stock open_clip transform differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlvis.reward import arguments, pictures, weights
from rlvis.reward.contract import Scores
from rlvis.reward.facts import Facts, repository
from rlvis.reward.texts import CutWarning
from rlvis.schema.key import Key

PINNED = {"xswu/HPSv2": "697403c78157020a1ae59d23f111aa58ced35b0a"}
FILES = {"v2.0": "HPS_v2_compressed", "v2.1": "HPS_v2.1_compressed"}
PARAMETERS = 986_109_441  # of ViT-H-14


class HPSv2:
    """Scores pictures with the H/14 of open_clip and the weights of one version, loaded once and frozen.

    The cosine is 0.2 to 0.38 for usual pictures. Raises ValueError when weights are missing or do not fit, or
    open_clip does not know the architecture.
    """

    def __init__(
        self,
        version: Annotated[str, Key("of the weights", choices=tuple(FILES))] = "v2.1",
        path: arguments.Source = "xswu/HPSv2",
        revision: arguments.Revision = None,
        architecture: Annotated[str, Key("open_clip's name of the network")] = "ViT-H-14",
        scale: arguments.Scale = 1.0,
        device: arguments.Device = None,
        batch: arguments.Batch = 64,
        precision: Annotated[
            str,
            Key(
                "amp: float16 autocast, as published; fp32: DiffusionNFT's",
                choices=("fp32", "bf16", "fp16", "amp"),
            ),
        ] = "amp",
    ) -> None:
        import open_clip

        if architecture not in open_clip.list_models():
            raise ValueError(f"hpsv2: open_clip knows no architecture {architecture!r}; published: ViT-H-14")
        self.device, self.batch, self.scale = weights.device(device), batch, scale
        self.amp = precision == "amp"
        names = [FILES[version] + end for end in (".safetensors", ".pt")]
        place = weights.file(path, names, revision or PINNED.get(path))
        state = weights.state_dict(place, key="state_dict")
        cast = "fp32" if self.amp else precision
        model = open_clip.create_model(
            architecture, precision=cast, device="cpu", pretrained_image=False, pretrained_text=False
        )
        weights.load(model, state, str(place))
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.dtype = weights.dtype(cast)
        self.size = int(model.visual.image_size[0])
        self.tokens = open_clip.get_tokenizer(architecture)
        self.cut = CutWarning("hpsv2")

    @staticmethod
    def facts(kwargs: Mapping[str, Any]) -> Facts:
        file = FILES[kwargs["version"]] + ".pt"
        # amp keeps float32 weights
        size = weights.gpu_bytes(PARAMETERS, kwargs["precision"])
        return Facts((repository(kwargs, "path", file, PINNED),), weights=size)

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Cosine of each sample with its prompt times scale, mean over its frames: float64 [B].

        images: uint8 [B, M, 3, Y, X].
        """
        cosine = pictures.cosines(self, prompts)
        return pictures.judge(images, self.batch, lambda *frames: self.scale * cosine(*frames))

    def encode_images(self, images: Tensor) -> Tensor:
        """Unit vectors float64 [n, D] on the CPU, of pictures uint8 [n, 3, Y, X]."""
        pixels = prepare(images.to(self.device), self.size).to(self.dtype)
        with torch.autocast(self.device.type, torch.float16, enabled=self.amp):
            vectors = self.model.encode_image(pixels)
        return F.normalize(vectors.to("cpu", torch.float64), dim=-1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors float64 [n, D] on the CPU. What is longer than the context is cut (logged once)."""
        ids = self.tokens(list(texts))
        self.cut.open_clip(self.tokens, texts, ids)
        parts = []
        for piece in torch.split(ids.to(self.device), self.batch):
            with torch.autocast(self.device.type, torch.float16, enabled=self.amp):
                parts.append(self.model.encode_text(piece).to("cpu", torch.float64))
        return F.normalize(torch.cat(parts), dim=-1)


def prepare(images: Tensor, size: int) -> Tensor:
    """The network's input float32 [n, 3, size, size] from uint8 [n, 3, Y, X]: resized, rims, normalised.

    A picture whose longest side is `size` already gets its rims too; the published transform leaves it as it
    is, which the network cannot take unless it is square.
    """
    pixels = images.float() / 255
    high, wide = pixels.shape[-2:]
    scale = size / max(high, wide)
    if scale != 1:
        # Python's round, half to even, as published; a sliver keeps a pixel.
        high, wide = (max(1, round(side * scale)) for side in (high, wide))
        pixels = F.interpolate(pixels, size=(high, wide), mode="bicubic", antialias=True)
    below, right = size - high, size - wide
    rims = (right // 2, right - right // 2, below // 2, below - below // 2)
    return pictures.normalise(F.pad(pixels, rims))


ENTRY = HPSv2
