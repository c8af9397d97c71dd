"""The configurations of the networks (networks.yaml), and tokenizers with one token a word."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


def configuration(asset: str) -> dict[str, Any]:
    """The arguments of an asset's networks, or of its one network."""
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="ascii")
    return dict(yaml.safe_load(text)[asset])


def stock(kind: Any) -> Any:
    """A class of diffusers, whose decorators hide from the type checker what it has."""
    return kind


def text_sizes(tokenizer: Any, *marks: str) -> dict[str, int]:
    """What a text encoder must know of its tokenizer: the vocabulary's size and the ids of the marks."""
    ids = {f"{mark}_token_id": getattr(tokenizer, f"{mark}_token_id") for mark in marks}
    return {"vocab_size": len(tokenizer), **ids}


def word_tokenizer(
    tokens: Iterable[str], template: str, longest: int, marks: dict[str, str], *, lower: bool = False
) -> Any:
    """One token a word.

    tokens: the vocabulary in order, marks included. template: where these stand, as in "$A </s>". longest:
    most tokens of a text. lower: capitals count as small letters. marks: which token is pad_token and so on.
    """
    vocabulary = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=marks["unk_token"]))
    if lower:
        backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    used = [(token, vocabulary[token]) for token in template.split() if token in vocabulary]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    return stock(PreTrainedTokenizerFast)(tokenizer_object=backend, model_max_length=longest, **marks)
