"""Encoded prompts on the disk, kept between runs: a text encoder is often larger than the denoiser.

A file holds the embedding of one prompt, the bits of a fresh encoding. Its name is a digest of everything
that the bits depend on: text, text encoders (commit of a hub repository, content of a folder's files), dtype,
length, libraries. Unusual: a file carries a checksum of its tensors, and one that does not fit is replaced.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvis import writing
from rlvis.models.source import resolve
from rlvis.schema import ModelConfig

log = logging.getLogger(__name__)

FORMAT = 1
SUM = "sha256"
LIBRARIES = ("diffusers", "torch", "transformers")
READ = ("text_encoder", "tokenizer", "processor", "model_index.json")  # starts of names in a folder
Embeds = dict[str, Tensor]


class EmbedCache:
    """The embeddings of one policy's text encoders below a folder.

    hits, misses: how many were read and encoded since it was opened.
    """

    def __init__(self, folder: Path | str, fingerprint: Mapping[str, Any]) -> None:
        """fingerprint: what the bits of an embedding depend on besides its text, as JSON can hold it."""
        self.folder = Path(folder).expanduser()
        self.fingerprint = dict(fingerprint)
        self.hits = self.misses = 0

    def path(self, text: str, negative: bool = False) -> Path:
        """The file of one prompt."""
        key = json.dumps({**self.fingerprint, "text": text, "negative": negative}, sort_keys=True)
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def get(self, text: str, make: Callable[[], Embeds], *, negative: bool = False) -> Embeds:
        """The embedding of `text`, each tensor on the CPU: read, or from `make` and written.

        A file that cannot be read or written is a warning; the embedding is then encoded, and not kept.
        """
        path = self.path(text, negative)
        kept = _read(path)
        if kept is not None:
            self.hits += 1
            return kept
        self.misses += 1
        embeds = {name: value.detach().cpu().contiguous() for name, value in make().items()}
        try:
            _write(path, embeds, text)
        except OSError as error:
            log.warning("embedding not kept: cannot write %s (%s); see model.embed_cache", path, error)
        return embeds


def identity(config: ModelConfig, device: torch.device, encoders: tuple[str, ...] = ()) -> dict[str, Any]:
    """What an embedding of this policy depends on besides its text; encoders: components that make it.

    Reads the text encoders' files where model.path is a folder, a second per GB or two.
    """
    where = resolve(config.path)
    return {
        "format": FORMAT,
        "family": config.family,
        "path": config.path,
        "encoders": (
            folder_digest(Path(where), encoders) if Path(where).is_dir() else _commit(where, config.revision)
        ),
        "max_tokens": config.max_tokens,
        "dtype": config.dtype,
        "device": device.type,
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def folder_digest(folder: Path, encoders: tuple[str, ...] = ()) -> str:
    """SHA-256 over names and contents of the text encoders' and tokenizers' files of a pipeline's folder."""
    # Folders are often links to a download elsewhere.
    paths = [Path(at) / name for at, _, names in os.walk(folder, followlinks=True) for name in names]
    whole = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in paths):
        if name.startswith(READ + encoders):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            whole.update(f"{name} {digest}\n".encode())
    return whole.hexdigest()


def _commit(repository: str, revision: str | None) -> str:
    """The commit of a hub repository that its files were just opened from."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(repository, "model_index.json", revision=revision)
    if not isinstance(file, str):
        raise ValueError(
            f"model.embed_cache: the files of model.path={repository} are not in the hub's cache on this "
            "machine, so their commit is not known; type model.embed_cache=null, or give a folder"
        )
    return Path(file).parent.name  # .../snapshots/COMMIT/model_index.json


def _read(path: Path) -> Embeds | None:
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            embeds = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            wanted = (file.metadata() or {}).get(SUM)
    except (OSError, SafetensorError) as error:
        log.warning("damaged embedding %s (%s): the prompt is encoded again", path, error)
        return None
    if _checksum(embeds) != wanted:
        log.warning("damaged embedding %s (its checksum does not fit): the prompt is encoded again", path)
        return None
    return embeds


def _write(path: Path, embeds: Embeds, text: str) -> None:
    """Written aside and renamed, so that another process never reads half a file."""
    from safetensors.torch import save

    with writing.aside(path, sync=False, shared=True) as part:
        part.write_bytes(save(embeds, metadata={SUM: _checksum(embeds), "text": text}))


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    whole = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        whole.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        whole.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()
