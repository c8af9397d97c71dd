"""Cosine between a picture and its prompt in any embedding model of transformers, of either kind.

Two towers (CLIP, SigLIP, SigLIP 2, ...): each has its features. One model that chats (Qwen3-VL-Embedding,
Qwen2-VL based ones, ...): a picture and a text are each put into its chat, and the state of a token is the
embedding. Unusual: sizes, means and templates are those of the model's processor, nothing is said here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlvis.reward import arguments, weights
from rlvis.reward.contract import Scores
from rlvis.reward.facts import Facts, repository
from rlvis.reward.texts import CutWarning, captions
from rlvis.schema.key import Key

PINNED = {"Qwen/Qwen3-VL-Embedding-2B": "9f2f7e710d6d81056aa5c0a4f04764fec6bb7bda"}
FILES = ("*.json", "*.txt", "*.jinja", "*.model", "*.safetensors")


class Embedding:
    """Scores pictures by scale times the cosine; a clip by the mean over its frames, or as a video.

    Raises ValueError when the model cannot be had, or embeds neither way.
    """

    def __init__(
        self,
        path: arguments.Source,
        revision: arguments.Revision = None,
        scale: arguments.Scale = 1.0,
        pooling: Annotated[
            str,
            Key(
                "of a model that chats: the last token's state, as Qwen3-VL-Embedding, or the mean of all",
                choices=("last", "mean"),
            ),
        ] = "last",
        instruction: Annotated[
            str | None, Key("system text of that chat for pictures and clips; null: the model's default")
        ] = None,
        query: Annotated[str | None, Key("system text for prompts; null: the model's default")] = None,
        clip_fps: Annotated[
            float | None,
            Key(
                "of clips that go in as videos, if the model chats; null: frame by frame",
                "frames a second",
                above=0,
                most=1000,
            ),
        ] = None,
        device: arguments.Device = None,
        batch: arguments.Batch = 16,
        precision: arguments.Precision = "bf16",
    ) -> None:
        from transformers import AutoModel

        place = weights.folder(path, revision or PINNED.get(path), FILES)
        self.processor, _ = weights.processor(place, f"embedding: path={path}")
        self.device = weights.device(device)
        self.model = weights.pretrained(AutoModel, path, place, precision).to(self.device)
        self.chats = not hasattr(self.model, "get_text_features")
        if self.chats and not getattr(self.processor, "chat_template", None):
            raise ValueError(
                f"embedding: path={path} is a {type(self.model).__name__} without features of texts and "
                "without a chat template; take a model with one of them, such as "
                "google/siglip2-so400m-patch14-384 or Qwen/Qwen3-VL-Embedding-2B"
            )
        if clip_fps is not None and not self.chats:
            raise ValueError(f"embedding: {type(self.model).__name__} sees pictures; type clip_fps=null")
        self.scale, self.pooling, self.fps, self.batch = scale, pooling, clip_fps, batch
        self.systems = {"media": instruction, "text": query}
        self.cut = CutWarning(f"embedding: {path}")

    @staticmethod
    def facts(kwargs: Mapping[str, Any]) -> Facts:
        return Facts((repository(kwargs, "path", "config.json", PINNED),))

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Scores float64 [B] of uint8 [B, M, 3, Y, X]."""
        unique, where = captions(prompts)
        texts = self.encode_texts(unique)[where]
        if self.fps is not None and images.shape[1] > 1:
            vectors = self.encode_media(images, "video")[:, None]
        else:
            vectors = self.encode_media(images.flatten(0, 1), "image").reshape(*images.shape[:2], -1)
        value = self.scale * (vectors * texts[:, None]).sum(-1).mean(1)
        return Scores(value, torch.isfinite(value))

    def encode_media(self, media: Tensor, kind: str) -> Tensor:
        """Unit vectors float64 [n, D] on the CPU, of uint8 pictures [n, 3, Y, X] (kind "image") or clips
        [n, M, 3, Y, X] ("video").
        """
        parts = []
        for part in torch.split(media, self.batch):
            if self.chats:
                parts.append(self._chat([[{"type": kind}]] * len(part), "media", {f"{kind}s": list(part)}))
                continue
            inputs = self.processor(images=list(part), return_tensors="pt").to(self.device)
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
            parts.append(_pooled(self.model.get_image_features(**inputs)))
        return _unit(parts)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors float64 [n, D] on the CPU. What is longer than two-tower models read is cut (logged
        once).
        """
        chunks = [texts[at : at + self.batch] for at in range(0, len(texts), self.batch)]
        if self.chats:
            return _unit([self._chat([[{"type": "text", "text": t}] for t in c], "text", {}) for c in chunks])
        length = min(
            self.model.config.text_config.max_position_embeddings, self.processor.tokenizer.model_max_length
        )
        self.cut.transformers(self.processor.tokenizer, texts, length)
        parts = []
        for chunk in chunks:
            # To full length, as SigLIP was trained, which has no mask; CLIP's reads up to the text's end.
            ids = self.processor(
                text=list(chunk),
                padding="max_length",
                max_length=length,
                truncation=True,
                return_tensors="pt",
            ).to(self.device)
            parts.append(_pooled(self.model.get_text_features(**ids)))
        return _unit(parts)

    def _chat(
        self, contents: list[list[dict[str, str]]], side: str, media: dict[str, list[Tensor]]
    ) -> Tensor:
        """Pooled states [n, D] of one conversation each."""
        system = self.systems[side]
        head = [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
        chats = [[*head, {"role": "user", "content": content}] for content in contents]
        texts = self.processor.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        options: dict[str, Any] = dict(media)
        if "videos" in media:
            options |= {
                "videos_kwargs": {"do_sample_frames": False, "video_metadata": self._clocks(media["videos"])}
            }
        inputs = self.processor(text=texts, padding=True, return_tensors="pt", **options).to(self.device)
        states = self.model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"]
        if self.pooling == "mean":
            mean: Tensor = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            return mean
        ends = mask.shape[1] - 1 - mask.flip(1).argmax(1)
        last: Tensor = states[torch.arange(len(states), device=states.device), ends]
        return last

    def _clocks(self, clips: Sequence[Tensor]) -> list[Any]:
        """When each frame of a clip is, as processors that write times into the text want to know."""
        from transformers.video_utils import VideoMetadata

        assert self.fps is not None
        return [
            VideoMetadata(
                total_num_frames=len(clip),
                fps=self.fps,
                duration=len(clip) / self.fps,
                frames_indices=list(range(len(clip))),
            )
            for clip in clips
        ]


def _pooled(output: Any) -> Tensor:
    """Features as a tensor, of transformers before and after they became an output with pooler_output."""
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features


def _unit(parts: Sequence[Tensor]) -> Tensor:
    return F.normalize(torch.cat(list(parts)).double(), dim=-1).cpu()


ENTRY = Embedding
