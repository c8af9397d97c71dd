"""Tiny random FLUX.2 pipelines of the real diffusers classes, dev and klein."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests import tiny

WIDTH = 8  # of the text models, which must be deep: the pipelines read layers up to 30
PLAIN = "{% for m in messages %}a {{ m['content'] }} and{% endfor %}"
PARTS = "a {{ messages[-1]['content'][0]['text'] }} and"


def flux2(folder: Path, *, klein: bool = False, distilled: bool = False, seed: int = 0) -> Path:
    """Save a Flux2Pipeline or a Flux2KleinPipeline: 4 latent channels, sides are multiples of 8 pixels."""
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Pipeline,
        Flux2Transformer2DModel,
    )

    with tiny.seeded(seed):
        transformer = Flux2Transformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * WIDTH,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=not klein,
        )
        vae: Any = AutoencoderKLFlux2(**tiny.FACTOR_4)
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2.0)
        tokenizer = tiny.word_tokenizer()
        tokenizer.chat_template = PLAIN if klein else PARTS
        pieces: dict[str, Any] = {
            "transformer": tiny.rough(transformer),
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            "vae": tiny.rough(vae),
            "tokenizer": tokenizer,
            "text_encoder": qwen3() if klein else mistral3(),
        }
        pipe = Flux2KleinPipeline(**pieces, is_distilled=distilled) if klein else Flux2Pipeline(**pieces)
    pipe.save_pretrained(folder)
    return folder


def language_model(layers: int) -> dict[str, Any]:
    """The sizes of a tiny language model."""
    return tiny.language_model(WIDTH, layers, 1, head_dim=WIDTH, max_position_embeddings=512)


def qwen3() -> torch.nn.Module:
    """klein's text model; the last layer that is read is 27."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**language_model(28))).eval()


def mistral3() -> torch.nn.Module:
    """dev's text model; the last layer that is read is 30. Its eyes are not used."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    vision = {
        "model_type": "pixtral",
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 16,
        "patch_size": 8,
    }
    text = {"model_type": "mistral", **language_model(31)}
    return Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision)).eval()
