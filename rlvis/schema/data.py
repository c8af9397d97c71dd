"""Where prompts come from, and the size of a training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from omegaconf import MISSING

from rlvis.schema.key import Key


@dataclass
class DataConfig:
    """Where prompts come from, and the size of a training step."""

    source: Annotated[
        str,
        Key(
            "shapes, shapes_video or shapes_i2v; txt, jsonl, json, csv, parquet or i2v_pairs (files); hub",
            samples=True,
        ),
    ] = MISSING
    path: Annotated[str | None, Key("file, folder, or data set of the hub", path=True, samples=True)] = None
    revision: Annotated[str | None, Key("pinned commit or tag of a data set of the hub", samples=True)] = None
    split: Annotated[str, Key("which part of the prompts", samples=True)] = "train"
    heldout: Annotated[
        float,
        Key(
            "of the prompts of split=train that only split=heldout holds, by content",
            "share",
            least=0,
            below=1,
        ),
    ] = 0.0
    column: Annotated[str, Key("of the prompt; txt and the shapes world have no columns")] = "prompt"
    keep: Annotated[list[str] | None, Key("other columns, which rewards get as metadata; null: all")] = None
    image: Annotated[
        str,
        Key("column with the path of each prompt's first frame (data.source=i2v_pairs)"),
    ] = "image"
    quoted: Annotated[
        str | None, Key("metadata field for what the prompt has in double quotes; others are dropped")
    ] = None
    min_words: Annotated[int, Key("of a prompt", "words", least=0, most=10**6)] = 0
    max_words: Annotated[
        int | None, Key("of a prompt", "words", least=1, most=10**6, relation="at least data.min_words")
    ] = None
    min_ascii: Annotated[
        float,
        Key("of ASCII characters that a prompt has at least; 0.9 keeps English", "share", least=0, most=1),
    ] = 0.0
    drop: Annotated[str | None, Key("prompts in which this regular expression is found, in either case")] = (
        None
    )
    kinds: Annotated[
        list[str] | None, Key("of the shapes world's prompts (single, count, direction, ...); null: all")
    ] = None
    prompts_per_step: Annotated[
        int, Key("of a training step (P)", "prompts", least=1, most=10**6, usual=8, budget=True)
    ] = MISSING
    samples_per_prompt: Annotated[
        int,
        Key(
            "of each prompt: the group that is compared (K)",
            "samples",
            least=1,
            most=10**5,
            usual=8,
            budget=True,
        ),
    ] = MISSING
    shuffle: Annotated[
        bool, Key("draw prompts in an order of their own each epoch; false: in the file's")
    ] = True
