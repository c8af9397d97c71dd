"""ImageReward-v1.0: BLIP reads the caption while looking at the picture, and a head says how much people
would like it (Xu et al. 2023, arXiv:2304.05977).

Unusual: the network is transformers' BLIP with the published weights under other names; every published name
is either taken or in the list of those that the score does not use. The vision norms' epsilon is the
publisher's 1e-6, not transformers' 1e-5.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from rlvis.reward import arguments, pictures, weights
from rlvis.reward.contract import Scores
from rlvis.reward.facts import Facts, repository
from rlvis.reward.scorers.aesthetic import Stack
from rlvis.reward.texts import CutWarning, captions
from rlvis.schema.key import Key

PINNED = {
    "zai-org/ImageReward": "5736be03b2652728fb87788c9797b0570450ab72",
    "google-bert/bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
}
PARAMETERS = 446_206_689
NAMES = ("ImageReward.safetensors", "ImageReward.pt")
CONFIG = "med_config.json"
TOKENS = 35
# Of the raw number over the publisher's validation set: the score has mean 0 and deviation 1 there.
MEAN, STD = 0.16717362830052426, 1.0333394966054072

# Published name -> ours, the first pattern that fits.
RENAMED = (
    (r"blip\.visual_encoder\.cls_token", "vision.embeddings.class_embedding"),
    (r"blip\.visual_encoder\.pos_embed", "vision.embeddings.position_embedding"),
    (r"blip\.visual_encoder\.patch_embed\.proj\.(\w+)", r"vision.embeddings.patch_embedding.\1"),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.norm([12])\.(\w+)", r"vision.encoder.layers.\1.layer_norm\2.\3"),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.attn\.qkv\.(\w+)", r"vision.encoder.layers.\1.self_attn.qkv.\2"),
    (
        r"blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.(\w+)",
        r"vision.encoder.layers.\1.self_attn.projection.\2",
    ),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.mlp\.fc([12])\.(\w+)", r"vision.encoder.layers.\1.mlp.fc\2.\3"),
    (r"blip\.visual_encoder\.norm\.(\w+)", r"vision.post_layernorm.\1"),
    (r"blip\.text_encoder\.(.+)", r"text.\1"),
    (r"mlp\.(.+)", r"mlp.\1"),
)
# Published with it, and no part of the score: BLIP's contrastive projections, and a list of positions.
UNUSED = re.compile(r"blip\.(vision_proj|text_proj)\.\w+|blip\.text_encoder\.embeddings\.position_ids")


class ImageReward:
    """Scores pictures with one published file, loaded once and frozen.

    BLIP is fp32 as published, unless `precision` says otherwise, and the head float32. Raises ValueError when
    weights are missing or do not fit.
    """

    def __init__(
        self,
        path: Annotated[
            str,
            Key("repository or folder with ImageReward.pt (or .safetensors) and med_config.json", path=True),
        ] = "zai-org/ImageReward",
        revision: arguments.Revision = None,
        tokenizer: arguments.Tokenizer = "google-bert/bert-base-uncased",
        tokenizer_revision: arguments.Revision = None,
        device: arguments.Device = None,
        batch: arguments.Batch = 32,
        precision: arguments.Precision = "fp32",
    ) -> None:
        revision = revision or PINNED.get(path)
        tokenizer_revision = tokenizer_revision or PINNED.get(tokenizer)
        self.device, self.batch = weights.device(device), batch
        self.dtype = weights.dtype(precision)
        place = weights.file(path, NAMES, revision)
        beside = str(place.parent) if Path(path).expanduser().is_file() else path
        config = json.loads(weights.file(beside, CONFIG, revision).read_text(encoding="utf-8"))
        self.model = network(weights.state_dict(place), config, place)
        self.model.vision.to(self.dtype)
        self.model.text.to(self.dtype)
        self.model.to(self.device)
        self.size = int(self.model.vision.config.image_size)
        self.tokenizer = weights.tokenizer("BertTokenizer", tokenizer, tokenizer_revision)
        self.cut = CutWarning("imagereward")

    @staticmethod
    def facts(kwargs: Mapping[str, Any]) -> Facts:
        judge = repository(kwargs, "path", CONFIG, PINNED)
        words = repository(kwargs, "tokenizer", "vocab.txt", PINNED)
        return Facts((judge, words), weights=weights.gpu_bytes(PARAMETERS, kwargs["precision"]))

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """The score of each sample with its prompt, about -2 to 2, mean over its frames: float64 [B].

        images: uint8 [B, M, 3, Y, X].
        """
        unique, where = captions(prompts)
        ids, mask = self.read(unique)

        def score(frames: Tensor, rows: list[int]) -> Tensor:
            at = where[rows]
            return self.score(frames, ids[at].to(self.device), mask[at].to(self.device))

        return pictures.judge(images, self.batch, score)

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens and mask int64 [n, 35] of the texts. What is longer is cut (logged once)."""
        self.cut.transformers(self.tokenizer, texts, TOKENS)
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        return tokens["input_ids"], tokens["attention_mask"]

    def score(self, images: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """float32 [n] on the device, of pictures uint8 [n, 3, Y, X] and tokens with their mask [n, 35]."""
        pixels = pictures.clip_input(images.to(self.device), self.size, "torchvision").to(self.dtype)
        patches = self.model.vision(pixel_values=pixels).last_hidden_state
        text = self.model.text(input_ids=ids, attention_mask=mask, encoder_hidden_states=patches)
        raw: Tensor = self.model.mlp(text.last_hidden_state[:, 0].float())[:, 0]
        return (raw - MEAN) / STD


class Network(nn.Module):
    """Holds the three parts under the names of RENAMED."""

    def __init__(self, vision: nn.Module, text: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.vision, self.text, self.mlp = vision, text, mlp


def network(state: Mapping[str, Tensor], config: Mapping[str, Any], place: str | Path) -> Any:
    """The frozen network of a published state dict, float32 on the CPU.

    Args: state, by published names; config, of its med_config.json (the sizes of the text half; those of the
    vision half are read off the weights, with heads of 64 as in every BLIP); place, what errors call it.
    Raises ValueError for a name that is unknown or missing, and for another shape.
    """
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    ours = rename(state, place)
    patches = ours.get("vision.embeddings.patch_embedding.weight")
    positions = ours.get("vision.embeddings.position_embedding")
    inner = ours.get("vision.encoder.layers.0.mlp.fc1.weight")
    if patches is None or positions is None or inner is None:
        raise ValueError(f"{place} holds no vision transformer of BLIP (blip.visual_encoder.*)")
    width, patch = patches.shape[0], patches.shape[-1]
    vision = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=inner.shape[0],
        num_hidden_layers=sum(name.endswith("layer_norm1.weight") for name in ours),
        num_attention_heads=max(1, width // 64),
        image_size=math.isqrt(positions.shape[1] - 1) * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    taken = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "hidden_act",
        "layer_norm_eps",
    )
    try:
        sizes = {name: config[name] for name in taken}
    except KeyError as error:
        raise ValueError(f"{CONFIG} beside {place} says nothing of {error}") from error
    # is_decoder makes the layers that look at the picture; the forward is not causal unless asked.
    text = BlipTextConfig(**sizes, encoder_hidden_size=width, is_decoder=True)
    blip = Network(
        BlipVisionModel(vision), BlipTextModel(text, add_pooling_layer=False), Stack(text.hidden_size)
    )
    weights.load(blip, ours, str(place))
    return blip.eval().requires_grad_(False)


def rename(state: Mapping[str, Tensor], place: str | Path) -> dict[str, Tensor]:
    """The tensors under our names, those of UNUSED left out. Raises ValueError for an unknown name."""
    ours = {}
    for name, tensor in state.items():
        if UNUSED.fullmatch(name):
            continue
        rule = next(((p, new) for p, new in RENAMED if re.fullmatch(p, name)), None)
        if rule is None:
            raise ValueError(f"{place} has {name}, which is no part of ImageReward-v1.0")
        ours[re.sub(*rule, name)] = tensor
    return ours


ENTRY = ImageReward
