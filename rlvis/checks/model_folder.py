"""Whether the folder of a checkpoint holds what its model_index.json lists: names, sizes, headers of files.

No weight is read and no library of models is needed, so a missing shard or tokenizer is told at once and not
by what a library makes of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

INDEX = "model_index.json"
VOCABULARY = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece*.model",
)
HEADER = 100 * 2**20  # bytes; the format allows no more


def folder_faults(folder: Path, unused: Sequence[str] = ()) -> list[str]:
    """What is missing or cut off, a sentence each; empty for a folder without model_index.json.

    unused: components that nobody reads.
    """
    if not (folder / INDEX).is_file():
        return []
    index = _json(folder / INDEX)
    if isinstance(index, str):
        return [index]
    entries = {name: entry for name, entry in index.items() if isinstance(entry, list) and len(entry) == 2}
    return [
        fault
        for name, (library, kind) in entries.items()
        if isinstance(library, str) and isinstance(kind, str) and name not in unused
        for fault in _component(folder / name, kind)
    ]


def _component(folder: Path, kind: str) -> Iterator[str]:
    """Faults of one component; kind: its class."""
    if not folder.is_dir():
        yield f"{folder.name}/ is missing, a {kind}"
    elif kind.endswith(("Tokenizer", "TokenizerFast")):
        if not any(any(folder.glob(name)) for name in VOCABULARY):
            yield f"{folder.name}/ has no vocabulary ({', '.join(VOCABULARY[:4])} or another)"
        yield from _configuration(folder / "tokenizer_config.json")
    elif kind.endswith("Scheduler"):
        yield from _configuration(folder / "scheduler_config.json")
    elif (
        (folder / "config.json").is_file() or any(folder.glob("*.safetensors*")) or any(folder.glob("*.bin*"))
    ):
        yield from _configuration(folder / "config.json")
        yield from _weights(folder)
    elif not any(folder.iterdir()):
        yield f"{folder.name}/ is empty, a {kind}"
    elif kind.endswith(("Model", "Encoder", "ModelWithProjection")) or kind.startswith("Autoencoder"):
        yield f"{folder.name}/config.json is missing, and so are its weights"


def _configuration(path: Path) -> Iterator[str]:
    if isinstance(fault := _json(path), str):
        yield fault


def _json(path: Path) -> dict[str, Any] | str:
    """The JSON object of a file, or what is wrong with it."""
    name = path.name if path.name == INDEX else f"{path.parent.name}/{path.name}"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{name} is missing"
    except (OSError, ValueError, RecursionError) as error:
        return f"{name} cannot be read ({' '.join(str(error).split())[:100]})"
    return value if isinstance(value, dict) else f"{name} holds a {type(value).__name__}, wanted an object"


def _weights(folder: Path) -> Iterator[str]:
    """Faults of the safetensors files of one component."""
    for listing in folder.glob("*.safetensors.index.json"):
        content = _json(listing)
        if isinstance(content, str):
            yield content
            continue
        shards = content.get("weight_map")
        named = {str(shard) for shard in shards.values()} if isinstance(shards, dict) else set()
        for shard in sorted(named):
            if not (folder / shard).is_file():
                yield f"{folder.name}/{shard} is missing, which {listing.name} lists"
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        pickles = sorted(
            path.name for end in ("bin", "pt", "pth", "ckpt") for path in folder.glob(f"*.{end}")
        )
        other = f" (it has {pickles[0]}, a pickle, which is not read)" if pickles else ""
        yield f"{folder.name}/ has no *.safetensors{other}"
    yield from (fault for path in found if (fault := _header(path)))


def _header(path: Path) -> str:
    """What is wrong with one safetensors file, by its header and its size."""
    name, size = f"{path.parent.name}/{path.name}", path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size, HEADER):
                return f"{name} is cut off or no safetensors file ({size} bytes)"
            header = json.loads(file.read(length))
        ends = [int(entry["data_offsets"][1]) for key, entry in header.items() if key != "__metadata__"]
    except OSError as error:
        return f"{name} cannot be read ({error.strerror or error})"
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return f"{name} is no safetensors file: its header cannot be read"
    wanted = 8 + length + max(ends, default=0)
    return "" if size == wanted else f"{name} has {size} bytes, and its header says {wanted}"
