"""PickScore: a CLIP H/14 tuned on half a million choices of users between two pictures (Kirstain et al. 2023,
arXiv:2305.01569).

Unusual: what is called PickScore differs by more than a factor between codebases, so the variant is named;
each picture is compared with its caption only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlvis.reward import pictures, weights
from rlvis.reward.contract import Scores
from rlvis.reward.texts import CutWarning

TOKENS = 77
# (shift, scale) of value = (raw - shift) / scale, where raw = exp(logit_scale) cos, about 17 to 24.
VARIANTS = {"raw": (0.0, 1.0), "flow_grpo": (0.0, 26.0), "mixgrpo": (18.0, 8.0), "cosine": (0.0, 1.0)}


class PickScore:
    """Scores pictures with a CLIP of transformers, loaded once and frozen.

    Args: path, repository or folder of the model (safetensors), revision, its commit; tokenizer and
    tokenizer_revision, likewise; variant, "flow_grpo" (raw / 26, also DiffusionNFT), "mixgrpo" ((raw - 18) /
    8), "raw", or "cosine" (DanceGRPO, which compares every picture with the first caption: a defect, not
    copied); shift and scale, instead of the variant's, value = (x - shift) / scale; device, null: the GPU
    where there is one; batch, frames of one forward; precision, fp32 as published, bf16 or fp16.
    Raises ValueError when weights are missing or an argument is out of range.
    """

    def __init__(
        self,
        path: str = "yuvalkirstain/PickScore_v1",
        revision: str | None = None,
        tokenizer: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        tokenizer_revision: str | None = None,
        variant: str = "flow_grpo",
        shift: float | None = None,
        scale: float | None = None,
        device: str | None = None,
        batch: int = 64,
        precision: str = "fp32",
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"pickscore: variant={variant!r}, wanted {', '.join(VARIANTS)}")
        if scale == 0 or batch < 1:
            raise ValueError(f"pickscore: scale={scale} batch={batch}; wanted a scale but 0, a batch of 1 up")
        usual = VARIANTS[variant]
        self.shift = usual[0] if shift is None else shift
        self.scale = usual[1] if scale is None else scale
        self.device, self.batch = weights.device(device), batch
        from transformers import CLIPModel

        place = weights.folder(path, revision, ["config.json", "*.safetensors*"])
        model = weights.pretrained(CLIPModel, path, place, precision)
        self.tokenizer = weights.tokenizer("CLIPTokenizer", tokenizer, tokenizer_revision)
        self.logit_scale = 1.0 if variant == "cosine" else float(model.logit_scale.double().exp())
        self.model = model.to(self.device)
        self.size, self.dtype = model.config.vision_config.image_size, weights.dtype(precision)
        self.tokens = min(TOKENS, model.config.text_config.max_position_embeddings)
        self.cut = CutWarning("pickscore")

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """The variant's score of each sample with its prompt, mean over its frames: float64 [B].

        images: uint8 [B, M, 3, Y, X].
        """
        cosine = pictures.cosines(self, prompts)
        return pictures.judge(
            images, self.batch, lambda *frames: (self.logit_scale * cosine(*frames) - self.shift) / self.scale
        )

    def encode_images(self, images: Tensor) -> Tensor:
        """Unit vectors float64 [n, D] on the CPU, of pictures uint8 [n, 3, Y, X]."""
        pixels = pictures.clip_input(images.to(self.device), self.size, "transformers").to(self.dtype)
        return _unit(self.model.get_image_features(pixel_values=pixels))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors float64 [n, D] on the CPU. What is longer than the context is cut (logged once)."""
        self.cut.transformers(self.tokenizer, texts, self.tokens)
        parts = []
        for at in range(0, len(texts), self.batch):
            ids = self.tokenizer(
                list(texts[at : at + self.batch]),
                padding="max_length",
                truncation=True,
                max_length=self.tokens,
                return_tensors="pt",
            ).to(self.device)
            features = self.model.get_text_features(
                input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]
            )
            parts.append(_unit(features))
        return torch.cat(parts)


def _unit(features: Any) -> Tensor:
    """float64 unit vectors [n, D] on the CPU, of a tensor or of the output that carries it."""
    vectors = features if isinstance(features, Tensor) else features.pooler_output
    return torch.nn.functional.normalize(vectors.to("cpu", torch.float64), dim=-1)
