"""Tiny random open-vocabulary detectors of transformers, saved as their repositories are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests import tiny

WIDTH = 32  # Grounding DINO normalises in 32 groups


def owlv2(folder: Path, seed: int = 0) -> Path:
    """OWLv2 that reads pictures of 32 x 32 in 4 patches."""
    from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor

    layer = {
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {"vocab_size": 514, "max_position_embeddings": tiny.TOKENS, "pad_token_id": 513}
    config = Owlv2Config(
        text_config=layer | text | {"bos_token_id": 512, "eos_token_id": 513},
        vision_config=layer | {"image_size": 32, "patch_size": 16},
        projection_dim=WIDTH,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        Owlv2ForObjectDetection(config).save_pretrained(folder)
    images = Owlv2ImageProcessor(size={"height": 32, "width": 32})
    Owlv2Processor(image_processor=images, tokenizer=_clip_tokenizer()).save_pretrained(folder)
    return folder


def grounding_dino(folder: Path, seed: int = 0) -> Path:
    """Grounding DINO on a Swin of two stages, with 5 queries."""
    from transformers import (
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "a", "photo", "of", "cat", "dog"]
    backbone = SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1],
        num_heads=[1, 2, 2],
        window_size=2,
        out_features=["stage2", "stage3"],
    )
    text = {"model_type": "bert", "vocab_size": len(words), "hidden_size": WIDTH, "num_hidden_layers": 1}
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text | {"num_attention_heads": 2, "intermediate_size": WIDTH},
        d_model=WIDTH,
        num_queries=5,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=WIDTH,
        decoder_ffn_dim=WIDTH,
        num_feature_levels=3,
        encoder_n_points=2,
        decoder_n_points=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"height": 64, "width": 64})
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    GroundingDinoProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def _clip_tokenizer() -> Any:
    """As tiny.clip_tokenizer, the special tokens last as in the original: OWL takes id 0 for no query."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: i for i, name in enumerate(names)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=tiny.TOKENS)
