"""Scores of the reference policy on disk, keyed by everything that they depend on.

    CACHE/KEY/{settings.json, PROMPT.safetensors, PROMPT.json, ...}

KEY hashes weights, sizes, guidance, sampler, scorers (with their source files), seed and number of samples;
PROMPT hashes text and metadata. So a run with other settings never reads these scores, and one with the same
settings and any data set, order or number of processes does. Reward weights and names are not part of KEY:
raw scores do not depend on them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlvis import writing
from rlvis.flow.kernel import KERNELS
from rlvis.models.load import FAMILIES
from rlvis.models.source import resolve
from rlvis.named import Folder
from rlvis.records import Rewards
from rlvis.reward.facts import SCORERS
from rlvis.runs.redact import public
from rlvis.schema import Config, ModelConfig, plain, sample_values

FORMAT = 2  # raised when the same settings begin to mean other samples
READ = (".safetensors", ".json", ".txt", ".model")  # what a pipeline reads of a folder
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Table:
    """One file pair per prompt: Rewards [1, K_ref, R].

    names, weights: of the run's reward terms, which take the place of those that were saved.
    """

    folder: Path
    names: tuple[str, ...]
    weights: tuple[float, ...]

    def read(self, text: str, metadata: dict[str, Any]) -> Rewards | None:
        """The scores of a prompt, or None."""
        path = self.folder / name_of(text, metadata)
        if not path.with_name(path.name + ".json").exists():
            return None
        return Rewards.load(path).replace(names=self.names, weights=self.weights)

    def has(self, text: str, metadata: dict[str, Any]) -> bool:
        """Whether a prompt has at least one score: one that has none is worth another try."""
        cached = self.read(text, metadata)
        return cached is not None and bool(cached.valid.any())

    def write(self, text: str, metadata: dict[str, Any], rewards: Rewards) -> None:
        """Keep the scores [1, K_ref, R] of a prompt; .json is renamed last and makes them readable.

        A scorer's own noise is left out, because priors do not read it, and latency, which says nothing here.
        """
        name = name_of(text, metadata)
        aside = self.folder / f".{name}.{os.getpid()}"
        lean = rewards.replace(noise_var=None, noise_dof=None, latency=(0.0,) * len(rewards.latency))
        lean.save(aside)
        for end in (".safetensors", ".json"):
            aside.with_name(aside.name + end).rename(self.folder / (name + end))


def open_table(config: Config) -> Table:
    """The table of a configuration, its folder made; settings.json says what its key stands for.

    Reads all of the model's files, so one process does it and tells the others.

    Raises:
        ValueError: it cannot be known which weights a hub id stands for.
        OSError: the folder cannot be made.
    """
    content = settings(config)
    folder = Path(config.prior.cache).expanduser() / _hash(content)[:32]
    folder.mkdir(parents=True, exist_ok=True)
    with writing.aside(folder / "settings.json", shared=True) as part:
        part.write_text(json.dumps(public(content), indent=1) + "\n", encoding="utf-8")
    terms = config.reward.terms
    return Table(folder, tuple(terms), tuple(float(term.weight) for term in terms.values()))


def name_of(text: str, metadata: dict[str, Any]) -> str:
    """The hash of a prompt, 64 hexadecimal digits."""
    return _hash([text, metadata])


def number_of(text: str, metadata: dict[str, Any]) -> int:
    """A prompt as a number in 0 .. 2**63 - 1: it keys the noise, where training has the position in the data
    set, so that the same prompt gets the same samples in every data set.
    """
    return int(name_of(text, metadata)[:16], 16) >> 1


def settings(config: Config) -> dict[str, Any]:
    """Everything that the scores of a prompt depend on, as JSON values."""
    values, model = plain(config), sample_values(config.model)
    del model["path"], model["revision"]  # its weights say which it is
    return {
        "format": FORMAT,
        "model": model | {"weights": weights(config.model)},
        "sampler": sample_values(config.sampler),
        "reward": [
            {
                "scorer": term.scorer,
                "source": _source(SCORERS, term.scorer),
                "kwargs": told_term["kwargs"],
                "frames": told_term["frames"],
            }
            for term, told_term in zip(
                config.reward.terms.values(), values["reward"]["terms"].values(), strict=True
            )
        ],
        "own_code": {
            folder.key: _source(folder, name)
            for folder, name in ((FAMILIES, config.model.family), (KERNELS, config.sampler.kernel))
            if name not in folder.names()
        },
        "seed": config.seed,
        "samples": config.prior.samples,
    }


def weights(model: ModelConfig) -> dict[str, Any]:
    """Which weights `model` means: the files of a folder as {name: [bytes, SHA-256]}, or a hub id and commit.

    Raises:
        ValueError: the commit of a hub id is not known, because nothing of it was downloaded yet.
    """
    folder = Path(resolve(model.path))
    if folder.is_dir():
        return {"files": dict(_files(folder))}
    if model.revision is not None and COMMIT.fullmatch(model.revision):
        return {"hub": model.path, "commit": model.revision}
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model.path, "model_index.json", revision=model.revision)
    commit = Path(cached).parent.name if isinstance(cached, str) else ""
    if not COMMIT.fullmatch(commit):
        raise ValueError(
            f"prior.kind=reference: which weights model.path={model.path} stands for is not known here "
            f"(revision {model.revision or 'not set'}, not downloaded); type model.revision=COMMIT, 40 digits"
        )
    return {"hub": model.path, "commit": commit}


def _files(folder: Path) -> Iterator[tuple[str, list[Any]]]:
    for path in sorted(p for p in folder.rglob("*") if p.suffix in READ and p.is_file()):
        inside = path.relative_to(folder)
        if not any(part.startswith(".") for part in inside.parts):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            yield inside.as_posix(), [path.stat().st_size, digest]


def _source(folder: Folder, name: str) -> str | None:
    """SHA-256 of the file that an option is written in: the name stays when somebody edits the function."""
    module = folder.path(name).rpartition(".")[0]
    spec = find_spec(module) if module else None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
