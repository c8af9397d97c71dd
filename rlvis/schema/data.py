"""Where prompts come from, and the size of a training step."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class DataConfig:
    """Where prompts come from, and the size of a training step."""

    # shapes | shapes_video | shapes_i2v | txt | jsonl | json | csv | parquet | hub | i2v_pairs
    source: str = MISSING
    path: str | None = None  # file, folder, or hub data set
    revision: str | None = None  # pinned commit or tag of a hub data set
    split: str = "train"
    heldout: float = 0.0  # share of the prompts of split=train that only split=heldout holds, by content
    column: str = "prompt"  # of the prompt; txt and the shapes world have no columns
    keep: list[str] | None = None  # other columns, which rewards get as metadata; null: all
    image: str = "image"  # i2v_pairs: column with the path of each prompt's first frame
    quoted: str | None = None  # metadata field for what the prompt has in double quotes; others are dropped
    min_words: int = 0
    max_words: int | None = None
    min_ascii: float = 0.0  # least share of ASCII characters; 0.9 keeps English
    drop: str | None = None  # prompts in which this regular expression is found, in either case
    kinds: list[str] | None = None  # of the shapes world's prompts (single, count, direction, ...); null: all
    prompts_per_step: int = MISSING  # P
    samples_per_prompt: int = MISSING  # K, the group
    shuffle: bool = True
