"""Scores kept on disk by content (reward.cache=FOLDER): what was judged once is not judged again.

The key is a hash of all that a score may depend on: the pixels that the scorer sees, prompt, metadata, the
scorer's path, source file and kwargs, and the version of rlvis. What it cannot know is a judge that changes
behind an unchanged name (a model on a server, weights overwritten in place): empty the folder then. Failed
scores are never kept. One sqlite file, for any number of processes, of plain bytes: nothing is unpickled, and
what is damaged is left out and logged.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import math
import sqlite3
import struct
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import rlvis
from rlvis.reward.contract import Scorer, Scores, Term, or_nan
from rlvis.reward.frames import Chosen

log = logging.getLogger(__name__)

NAME = "scores.v2.sqlite"  # scores.sqlite held another layout, and is not read
WAIT = 30.0  # seconds for another process that writes
Entry = tuple[float, float, float]  # value, noise_var, noise_dof, the last two NaN where nothing is said
NUMBERS = struct.Struct("<3d")  # an entry as it is kept, behind a sum of itself and its key
SUM = 8  # bytes


class Store:
    """A folder of scores by key. Every call opens the file anew: safe between threads, processes and forks.

    Trouble with the file costs hits and never a run: it is logged once, and the scorer is asked.
    """

    def __init__(self, folder: Path | str) -> None:
        """Raises ValueError when the folder cannot be created."""
        self.path = Path(folder).expanduser() / NAME
        self._warned: set[str] = set()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"reward.cache={folder}: {error.strerror}: {error.filename}; type reward.cache=FOLDER where "
                "files can be written, or reward.cache=null"
            ) from error

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        """What is known of the keys; entries whose sum does not fit are left out."""
        entries: dict[bytes, Entry] = {}
        damaged = 0
        try:
            with closing(self._open()) as file:
                for key in keys:
                    row = file.execute("SELECT entry FROM scores WHERE key = ?", (key,)).fetchone()
                    if row is None:
                        continue
                    entry = _unpacked(key, row[0])
                    if entry is None:
                        damaged += 1
                    else:
                        entries[key] = entry
        except sqlite3.Error as error:
            self._warn(f"{error}: scores are made anew; if that stays so, remove the file")
        if damaged:
            self._warn(f"{damaged} damaged entries are left out, and made anew")
        return entries

    def put(self, entries: Mapping[bytes, Entry]) -> None:
        """Keep scores; a later one of the same key takes the place of the earlier."""
        rows = [(key, _packed(key, entry)) for key, entry in entries.items()]
        try:
            with closing(self._open()) as file, file:
                file.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            self._warn(f"{error}: {len(rows)} scores are not kept")

    def _open(self) -> sqlite3.Connection:
        file = sqlite3.connect(self.path, timeout=WAIT)
        try:
            file.execute("CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, entry BLOB) WITHOUT ROWID")
        except sqlite3.Error:
            file.close()
            raise
        return file

    def _warn(self, what: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            log.warning("reward.cache %s: %s", self.path, what)


class Cached:
    """A scorer whose scores are looked up first; it is asked for the others alone.

    identity: text of all that its scores depend on beside the sample (see `identity`).
    """

    def __init__(self, scorer: Scorer, store: Store, identity: str) -> None:
        self.scorer, self.store = scorer, store
        self.seed = hashlib.blake2b(identity.encode(), digest_size=32).digest()
        self._asked = self._hits = 0
        self._lock = threading.Lock()

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Scores of images uint8 [B, M, 3, Y, X]. Raises what the scorer raises, and ValueError where it
        gives another number of scores than it was asked for.
        """
        keys = [self.key(*row) for row in zip(images, prompts, metadata, strict=True)]
        known = self.store.get(keys)
        missing = [i for i, key in enumerate(keys) if key not in known]
        with self._lock:
            self._asked += len(keys)
            self._hits += len(keys) - len(missing)
        table = torch.tensor([known.get(key, (math.nan,) * 3) for key in keys], dtype=torch.float64)
        table, valid = table.reshape(-1, 3), torch.ones(len(keys), dtype=torch.bool)
        reason, extras = "", dict[str, Tensor]()
        if missing:
            fresh = self.scorer(
                images[missing], [prompts[i] for i in missing], [metadata[i] for i in missing]
            )
            columns = [fresh.value, fresh.valid, fresh.noise_var, fresh.noise_dof]
            if any(c is not None and tuple(c.shape) != (len(missing),) for c in columns):
                if len(missing) == len(keys):
                    return fresh  # the stage says what is wrong with it
                raise ValueError(
                    f"{len(missing)} samples that are not in reward.cache got scores of shape "
                    f"{list(fresh.value.shape)}"
                )
            table[missing], valid[missing] = _rows(fresh), fresh.valid.cpu().bool()
            reason, extras = fresh.reason, dict(fresh.extras)
            usable = [i for i in missing if valid[i] and table[i, 0].isfinite()]
            if usable:
                self.store.put({keys[i]: (*table[i].tolist(),) for i in usable})
        var, dof = (None if bool(column.isnan().all()) else column for column in table[:, 1:].unbind(1))
        return Scores(table[:, 0], valid, var, dof, reason, extras)

    def key(self, image: Tensor, prompt: str, metadata: Mapping[str, Any]) -> bytes:
        """The name of one sample's score, from its pixels uint8 [M, 3, Y, X], prompt and metadata."""
        words = [prompt, json.dumps(metadata, sort_keys=True, default=repr), list(image.shape)]
        digest = hashlib.blake2b(self.seed, digest_size=32)
        digest.update(json.dumps(words).encode())
        digest.update(image.contiguous().cpu().numpy().data)
        return digest.digest()

    def news(self) -> tuple[int, int]:
        """(samples asked for, those in the cache) since the last call."""
        with self._lock:
            counts = self._asked, self._hits
            self._asked = self._hits = 0
        return counts


def wrap(scorer: Scorer, name: str, store: Store, path: str, kwargs: Mapping[str, Any]) -> Scorer:
    """`scorer` behind the cache, or as it is where its scores must not be kept, which is logged.

    Args: name, of the term; path, kwargs, where it comes from (see `identity`).
    """
    reason = not_cached(scorer)
    if reason is not None:
        log.warning("reward.cache: scores of %s are not kept: %s", name, reason)
        return scorer
    return Cached(scorer, store, identity(path, kwargs))


def not_cached(scorer: Scorer) -> str | None:
    """Why a scorer (or the instance of a class that stands for one) says, by an attribute of this name, that
    its scores are not to be kept: they are drawn anew at each call, or depend on the call's other samples.
    """
    reason = getattr(getattr(scorer, "function", scorer), "not_cached", None)
    return None if reason is None else str(reason)


def identity(path: str, kwargs: Mapping[str, Any]) -> str:
    """What a scorer's scores depend on beside the sample: its dotted path, the source of its module where
    that is loaded here (not on a server), kwargs, and our version.
    """
    module = sys.modules.get(path.rpartition(".")[0])
    source = ""
    if module is not None:
        with suppress(OSError, TypeError):  # of no file
            source = inspect.getsource(module)
    code = hashlib.blake2b(source.encode(), digest_size=16).hexdigest()
    return json.dumps([path, code, dict(kwargs), rlvis.__version__], sort_keys=True, default=repr)


def bare(terms: Iterable[Term]) -> list[Term]:
    """The terms without their caches, for whoever asks again to see whether the answer is the same."""

    def inside(scorer: Scorer) -> Scorer:
        if isinstance(scorer, Chosen):
            return replace(scorer, scorer=inside(scorer.scorer))
        return scorer.scorer if isinstance(scorer, Cached) else scorer

    return [replace(term, scorer=inside(term.scorer)) for term in terms]


def metrics(terms: Iterable[Term]) -> dict[str, float]:
    """reward/TERM/cached since the last call, of the terms behind a cache that were asked at all."""
    rates = {}
    for term in terms:
        scorer = term.scorer.scorer if isinstance(term.scorer, Chosen) else term.scorer
        asked, hits = scorer.news() if isinstance(scorer, Cached) else (0, 0)
        if asked:
            rates[f"reward/{term.name}/cached"] = hits / asked
    return rates


def _rows(scores: Scores) -> Tensor:
    """Scores [n] as float64 [n, 3] on the CPU: value, noise_var, noise_dof."""
    columns = [or_nan(column, scores.value) for column in (scores.value, scores.noise_var, scores.noise_dof)]
    return torch.stack([column.detach().to("cpu", torch.float64) for column in columns], dim=1)


def _packed(key: bytes, entry: Entry) -> bytes:
    numbers = NUMBERS.pack(*entry)
    return _sum(key, numbers) + numbers


def _unpacked(key: bytes, content: Any) -> Entry | None:
    """An entry of `_packed`; None where anything else is there."""
    if not isinstance(content, bytes) or len(content) != SUM + NUMBERS.size:
        return None
    value, var, dof = NUMBERS.unpack(content[SUM:])
    return (value, var, dof) if content[:SUM] == _sum(key, content[SUM:]) else None


def _sum(key: bytes, numbers: bytes) -> bytes:
    return hashlib.blake2b(key + numbers, digest_size=SUM).digest()
