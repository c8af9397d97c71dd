"""Keyword arguments that many scorers take, with their meaning and domain."""

from __future__ import annotations

from typing import Annotated

from rlvis.schema.key import Key

Source = Annotated[str, Key("repository of the hub, folder or file with the weights", path=True)]
Revision = Annotated[
    str | None, Key("commit, tag or branch of the repository; null: the one it was written for")
]
Device = Annotated[str | None, Key("cpu, cuda or cuda:N; null: the GPU where there is one")]
Precision = Annotated[str, Key("of the weights", choices=("fp32", "bf16", "fp16"))]
Batch = Annotated[int, Key("of one forward", "frames", least=1, most=65536)]
Clips = Annotated[int, Key("of one forward", "clips", least=1, most=65536)]
Scale = Annotated[float, Key("factor of the score", above=0, most=1e9)]
Base = Annotated[
    str,
    Key(
        "repository or folder of the model that was tuned: its configuration and processor are read",
        path=True,
    ),
]
Template = Annotated[
    str | None, Key("file with the judge's instruction; null: its publisher's, fetched once", path=True)
]
Tokenizer = Annotated[str, Key("repository or folder with the tokenizer", path=True)]
