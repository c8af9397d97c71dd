"""Tiny random Qwen-VLs and judges tuned from them, under the names and in the layout of the originals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WIDTH, WORDS = 32, 264
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# What Qwen's template writes, in short.
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}"
    "{% else %}<|vision_start|><|{{ c['type'] }}_pad|><|vision_end|>{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}


def tokenizer() -> Any:
    """One token a byte, then Qwen's special tokens from id 256."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<|endoftext|>", eos_token="<|im_end|>", model_max_length=32768
    )


def qwen2_config() -> Any:
    """Of a Qwen2-VL with two layers in each tower; the vocabulary is padded, as the original's is."""
    from transformers import Qwen2VLConfig

    text = {
        "vocab_size": WORDS + 8,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "rope_parameters": ROPE,
    }
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": WIDTH, "num_heads": 2, "mlp_ratio": 2}
    ids = dict(zip(("vision_start_token_id", "vision_end_token_id"), (259, 260), strict=True))
    return Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=261, video_token_id=262, **ids
    )


def base(folder: Path) -> Path:
    """Configuration and processor of a Qwen2-VL, without weights."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    qwen2_config().save_pretrained(folder)
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(),
        tokenizer=tokenizer(),
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT,
    )
    processor.save_pretrained(folder)
    return folder


def published(tokens: int, seed: int = 0) -> dict[str, Tensor]:
    """A tuned Qwen2-VL with `tokens` new tokens under the names of transformers 4.45: visual.*, model.*."""
    from transformers import Qwen2VLForConditionalGeneration

    config = qwen2_config()
    config.text_config.vocab_size = len(tokenizer()) + tokens  # the originals cut the padding off
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(config)
        _rough(model)
    return {former(name): value.clone() for name, value in model.state_dict().items()}


def former(name: str) -> str:
    """What transformers 4.45 called a tensor of today's Qwen2VLForConditionalGeneration."""
    return (
        name.removeprefix("model.")
        if name.startswith("model.visual.")
        else name.replace("language_model.", "")
    )


def today(name: str) -> str:
    """What transformers calls a tensor of `published` today."""
    if name.startswith("visual."):
        return "model." + name
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def _rough(model: torch.nn.Module) -> None:
    """Larger weights: with fresh ones a token's state hardly depends on the others."""
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.normal_(std=1.5 * value[0].numel() ** -0.5)


def hpsv3(path: Path, seed: int = 0) -> Path:
    """HPSv3.safetensors: the tuned model and rm_head of Linear, ReLU, Dropout, Linear, ReLU, Linear."""
    from safetensors.torch import save_file

    state = published(1, seed)
    generator = torch.Generator().manual_seed(seed)
    for layer, (out, into) in {0: (1024, WIDTH), 3: (16, 1024), 5: (2, 16)}.items():
        state[f"rm_head.{layer}.weight"] = torch.randn(out, into, generator=generator) / into**0.5
        state[f"rm_head.{layer}.bias"] = torch.randn(out, generator=generator) / 10
    save_file(state, path)
    return path


def videoreward(folder: Path, seed: int = 0, rank: int = 4) -> Path:
    """model_config.json and checkpoint-7/model.pth: PEFT's names, LoRA beside the weights it changes."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, value in published(3, seed).items():
        tuned = name.startswith("model.layers.") and "_proj." in name
        layer, _, kind = name.rpartition(".")
        state["base_model.model." + (f"{layer}.base_layer.{kind}" if tuned else name)] = value
        if tuned and kind == "weight":
            for factor, size in (("A", (rank, value.shape[1])), ("B", (value.shape[0], rank))):
                key = f"base_model.model.{layer}.lora_{factor}.default.weight"
                state[key] = torch.randn(size, generator=generator) / 8
    state["base_model.model.rm_head.weight"] = torch.randn(1, WIDTH, generator=generator)
    (folder / "checkpoint-7").mkdir(parents=True)
    torch.save(state, folder / "checkpoint-7" / "model.pth")
    config = {
        "data_config": {
            "fps": 2.0,
            "num_frames": None,
            "max_frame_pixels": 200704,
            "sample_type": "uniform",
            "prompt_template_type": "detailed_special",
            "eval_dim": ["VQ", "MQ", "TA"],
        },
        "model_config": {"use_special_tokens": True, "output_dim": 1, "reward_token": "special"},
        "peft_lora_config": {"lora_enable": True, "lora_r": rank, "lora_alpha": 8, "use_rslora": False},
        "inference_config": {
            **{"VQ_mean": 3.6757, "VQ_std": 2.2476, "MQ_mean": 1.1646, "MQ_std": 1.3811},
            **{"TA_mean": 2.8105, "TA_std": 2.5121},
        },
    }
    (folder / "model_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def qwen3_embedding(folder: Path, seed: int = 0) -> Path:
    """A Qwen3-VL saved as Qwen3-VL-Embedding is: a generating model's names, one shard of safetensors."""
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    text = {
        "vocab_size": WORDS,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "rope_parameters": ROPE,
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    ids = {
        "image_token_id": 261,
        "video_token_id": 262,
        "vision_start_token_id": 259,
        "vision_end_token_id": 260,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **ids))
        _rough(model)
        model.save_pretrained(folder)
    size = {"shortest_edge": 1024, "longest_edge": 64 * 64}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=16, size=size),
        tokenizer=tokenizer(),
        video_processor=Qwen3VLVideoProcessor(size=size),
        chat_template=CHAT,
    )
    processor.save_pretrained(folder)
    return folder
