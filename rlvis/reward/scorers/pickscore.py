"""PickScore: a CLIP H/14 tuned on half a million choices of users between two pictures (Kirstain et al. 2023,
arXiv:2305.01569).

Unusual: what is called PickScore differs by more than a factor between codebases, so the variant is named;
each picture is compared with its caption only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from rlvis.reward import arguments, pictures, weights
from rlvis.reward.contract import Scores
from rlvis.reward.facts import Facts, repository
from rlvis.reward.texts import CutWarning
from rlvis.schema.key import Key

PINNED = {
    "yuvalkirstain/PickScore_v1": "a4e4367c6dfa7288a00c550414478f865b875800",
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "1c2b8495b28150b8a4922ee1c8edee224c284c0c",
}
PARAMETERS = 986_109_441  # of a CLIP H/14
TOKENS = 77
# (shift, scale) of value = (raw - shift) / scale, where raw = exp(logit_scale) cos, about 17 to 24.
VARIANTS = {"raw": (0.0, 1.0), "flow_grpo": (0.0, 26.0), "mixgrpo": (18.0, 8.0), "cosine": (0.0, 1.0)}


class PickScore:
    """Scores pictures with a CLIP of transformers, loaded once and frozen.

    Variants: flow_grpo (raw / 26, also DiffusionNFT), mixgrpo ((raw - 18) / 8), raw, or cosine (DanceGRPO,
    which compares every picture with the first caption: a defect, not copied). Raises ValueError when weights
    are missing.
    """

    def __init__(
        self,
        path: arguments.Source = "yuvalkirstain/PickScore_v1",
        revision: arguments.Revision = None,
        tokenizer: arguments.Tokenizer = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        tokenizer_revision: arguments.Revision = None,
        variant: Annotated[str, Key("whose scale the score has", choices=tuple(VARIANTS))] = "flow_grpo",
        shift: Annotated[
            float | None,
            Key("in (x - shift) / scale of the raw score; null: the variant's", least=-1e9, most=1e9),
        ] = None,
        scale: Annotated[float | None, Key("the other; null: the variant's", above=0, most=1e9)] = None,
        device: arguments.Device = None,
        batch: arguments.Batch = 64,
        precision: arguments.Precision = "fp32",
    ) -> None:
        revision = revision or PINNED.get(path)
        tokenizer_revision = tokenizer_revision or PINNED.get(tokenizer)
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

    @staticmethod
    def facts(kwargs: Mapping[str, Any]) -> Facts:
        judge = repository(kwargs, "path", "config.json", PINNED)
        words = repository(kwargs, "tokenizer", "vocab.json", PINNED)
        return Facts((judge, words), weights=weights.gpu_bytes(PARAMETERS, kwargs["precision"]))

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


ENTRY = PickScore
